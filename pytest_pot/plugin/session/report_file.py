"""The files that ``--pot-report`` names: checked before the tests run, and written after them."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from pytest_pot.core.errors import PotError
from pytest_pot.plugin.options import option_values

__all__ = ["check_report_files", "obstacle", "write_reports"]

_Rows = Sequence[dict[str, Any]]


def check_report_files(config: pytest.Config) -> None:
    """Find out now, and not after the last test, that a report cannot be written.

    Raises:
        pytest.UsageError: it cannot; the message says why, with a line for each file. What changes while the tests run is found
            by :func:`write_reports`.
    """
    targets = option_values(config, "report")
    if not targets or config.option.collectonly:
        return
    source = "--pot-report" if config.getoption("pot_report") else "pot_report"
    messages = []
    for index, target in enumerate(targets):
        reason = obstacle(config.invocation_params.dir / target) or _collision(config, target, targets[:index])
        if reason is not None:
            messages.append(f"{source}={target!r} cannot be written: {reason}")
    if messages:
        raise pytest.UsageError(*messages)


def obstacle(path: Path) -> str | None:
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


def _collision(config: pytest.Config, target: str, others: Sequence[str]) -> str | None:
    """Why ``target`` cannot be written beside ``others``; None where it can."""
    path = config.invocation_params.dir / target
    for other in others:
        taken = config.invocation_params.dir / other
        if os.path.realpath(path) == os.path.realpath(taken) or _same_file(path, taken):
            return f"{other!r} is the same file" if other != target else "it is named twice"
        for one, above in ((path, taken), (taken, path)):
            if Path(os.path.realpath(one)).is_relative_to(os.path.realpath(above)):
                return f"of {target!r} and {other!r}, one is a folder of the other"
    return None


def _same_file(one: Path, other: Path) -> bool:
    """Whether two names are of one file, as where a file system does not tell upper case from lower case."""
    try:
        return os.path.samefile(one, other)
    except OSError:
        return False


def write_reports(config: pytest.Config, rows: _Rows, started: float) -> tuple[list[Path], list[str]]:
    """Write each report that the run asks for, also where another one cannot be written.

    Args:
        rows: of all gates.
        started: when the run began, in seconds since the epoch.

    Returns:
        the files that were written, and a message for each that could not be; no part of such a file is left behind.
    """
    written, errors = [], []
    for target in option_values(config, "report"):
        path = config.invocation_params.dir / target
        try:
            _write(path, rows, started)
            written.append(path)
        except PotError as error:
            errors.append(str(error))
    return written, errors


def _write(path: Path, rows: _Rows, started: float) -> None:
    try:
        # Names of files, and so of tests, may hold bytes that are no text.
        content = _renderer(path, started)(rows).encode("utf-8", "backslashreplace")
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            path.write_bytes(content)
        except OSError:
            if path.is_file():
                with suppress(OSError):
                    path.unlink()
            raise
    except Exception as error:  # of any kind: another kind of gate may report what no report has a form for
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
        raise PotError(f"the report {path} could not be written: {reason}") from error


def _renderer(path: Path, started: float) -> Callable[[_Rows], str]:
    """What makes the text of a report, by the ending of its file."""
    from pytest_pot.report.run_facts import run_facts

    if path.suffix == ".json":
        from pytest_pot.report.json_report import json_report

        return lambda rows: json_report(rows, run_facts(started))
    if path.suffix == ".html":
        from pytest_pot.report.html.page import html_report

        return lambda rows: html_report(rows, run_facts(started))
    from pytest_pot.report.markdown import markdown_report

    return markdown_report
