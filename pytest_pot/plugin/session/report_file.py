"""The file that ``--pot-report`` names: checked before the tests run, and written after them."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from pytest_pot.core.errors import PotError
from pytest_pot.plugin.options import option

__all__ = ["check_report_file", "write_report"]


def check_report_file(config: pytest.Config) -> None:
    """Find out now, and not after the last test, that the report cannot be written.

    Raises:
        pytest.UsageError: it cannot; the message says why. What changes while the tests run is found by :func:`write_report`.
    """
    target = option(config, "report")
    if target is None or config.option.collectonly:
        return
    reason = _obstacle(config.invocation_params.dir / target)
    if reason is not None:
        source = "--pot-report" if config.getoption("pot_report") is not None else "pot_report"
        raise pytest.UsageError(f"{source}={target!r} cannot be written: {reason}")


def _obstacle(path: Path) -> str | None:
    """Why ``path`` cannot be written; None where it can. Nothing is changed or left behind."""
    if os.path.isdir(path):
        return "that is a folder; name a file in it"
    if os.path.lexists(path) and not os.path.isfile(path):
        return "there is something that is no regular file"
    if os.path.isfile(path):
        try:
            path.open("ab").close()
        except OSError as error:
            return error.strerror or str(error)
        return None
    folder = next(parent for parent in path.parents if os.path.lexists(parent))
    if not os.path.isdir(folder):
        return f"{folder} is no folder"
    try:
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        return f"no file can be made in {folder}: {error.strerror or error}"
    return None


def write_report(config: pytest.Config, target: str, rows: Sequence[dict[str, Any]]) -> Path:
    """Write the report on ``rows``, and return where it is.

    Raises:
        PotError: it cannot be written; no part of it is left behind.
    """
    from pytest_pot.report.json_report import json_report
    from pytest_pot.report.markdown import markdown_report

    path = config.invocation_params.dir / target
    render = json_report if path.suffix == ".json" else markdown_report
    if path.suffix == ".html":
        from pytest_pot.report.html.page import html_report

        render = html_report
    try:
        # Names of files, and so of tests, may hold bytes that are no text.
        content = render(rows).encode("utf-8", "backslashreplace")
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            path.write_bytes(content)
        except OSError:
            if path.is_file():
                with suppress(OSError):
                    path.unlink()
            raise
    except (OSError, TypeError, ValueError) as error:  # also what another kind of gate reports that JSON has no form for
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise PotError(f"the report {path} could not be written: {reason}") from error
    return path
