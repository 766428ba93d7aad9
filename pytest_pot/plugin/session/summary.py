"""The session's results: collected from test reports, shown as one table, and written to a file if asked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pytest_pot.core.text import printable_lines
from pytest_pot.plugin.options import option

__all__ = ["SessionResults"]


class SessionResults:
    """A plugin for the process that prints: the only one, or the controller of many workers."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._rows: dict[str, list[dict[str, Any]]] = {}
        self._written: Path | None = None
        self._recorded: dict[str, None] = {}  # lines, in their order
        self._not_gated: dict[str, set[str]] = {}  # tests, by the line that says why

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if not report.user_properties:
            return
        from pytest_pot.report.properties import NOT_GATED, RECORDED, rows_of

        self._recorded.update((str(line), None) for name, line in report.user_properties if name == RECORDED)
        for name, line in report.user_properties:
            if name == NOT_GATED:
                self._not_gated.setdefault(str(line), set()).add(report.nodeid)
        if report.when == "call" or report.failed:
            rows = rows_of(report.nodeid, report.user_properties)
            if rows:
                self._rows[report.nodeid] = rows  # the last run of a test that was run again

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, exitstatus: int | pytest.ExitCode) -> None:
        target = option(self._config, "report")
        ran = exitstatus not in (pytest.ExitCode.USAGE_ERROR, pytest.ExitCode.INTERNAL_ERROR)
        if target is None or self._config.option.collectonly or not ran:
            return
        from pytest_pot.report.json_report import json_report
        from pytest_pot.report.markdown import markdown_report

        path = self._config.invocation_params.dir / target
        write = json_report if path.suffix == ".json" else markdown_report
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(write(self._all_rows()), encoding="utf-8")
        self._written = path

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        rows = self._all_rows()
        notes = [*self._recorded, *(_not_gated(line, len(tests)) for line, tests in self._not_gated.items())]
        if not rows and self._written is None and not notes:
            return
        if terminalreporter.verbosity < 0 and self._written is None and not notes:
            return
        from pytest_pot.report.table import summary_table, what_ran

        terminalreporter.write_sep("=", "pot")
        for line in summary_table(rows) if rows else ["no gate ran"]:
            terminalreporter.write_line(line)
        for line in what_ran(rows) if terminalreporter.verbosity > 0 else ():
            terminalreporter.write_line(line)
        for line in notes:
            terminalreporter.write_line(printable_lines(line))
        if self._written is not None:
            terminalreporter.write_line(f"written to {self._written}")

    def _all_rows(self) -> list[dict[str, Any]]:
        return [row for rows in self._rows.values() for row in rows]


def _not_gated(reason: str, tests: int) -> str:
    return f"{reason}; {tests} test{'s' * (tests > 1)}"
