"""The summary of a step on GitHub: the Markdown report, added to the file that GitHub shows on the page of a job."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pytest_pot.plugin.session.details import STEP_SUMMARY
from pytest_pot.plugin.session.report_file import obstacle

__all__ = ["append_step_summary"]

_MOST = 1 << 20
"""Bytes that a step may write, with all that is in its file already: where there are more, GitHub shows none of them (Workflow
commands for GitHub Actions, "Step isolation and limits"). It also counts what later commands of the step add."""
_SPARE = 4096
"""Bytes that are left for them."""


def append_step_summary(rows: Sequence[dict[str, Any]]) -> str | None:
    """Add the report on ``rows`` to the file that the environment names; nothing where it names none, or no gate ran.

    Returns:
        why that could not be done; None where there is nothing to say.
    """
    target = os.environ.get(STEP_SUMMARY)
    if not target or not rows:
        return None
    path = Path(target)
    try:
        reason = obstacle(path) or _append(path, rows)
    except Exception as error:  # of any kind: another kind of gate may report what Markdown has no form for
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
    return None if reason is None else f"the step summary {path} ({STEP_SUMMARY}) has no report of the gates: {reason}"


def _append(path: Path, rows: Sequence[dict[str, Any]]) -> str | None:
    from pytest_pot.report.markdown import markdown_report

    with path.open("a+b", buffering=0) as file:  # or what could not be written stays in a buffer
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 2))
        ending = file.read()
        # A block of Markdown ends at an empty line.
        between = b"" if not size or ending == b"\n\n" else b"\n" if ending.endswith(b"\n") else b"\n\n"
        report = markdown_report(rows, _MOST - _SPARE - size - len(between)).encode("utf-8", "backslashreplace")
        if not report:
            return f"it has {size} bytes already, and GitHub shows no more than {_MOST}"
        try:
            rest = memoryview(between + report)
            while rest:
                rest = rest[file.write(rest) :]
        except OSError:
            file.truncate(size)
            raise
    return None
