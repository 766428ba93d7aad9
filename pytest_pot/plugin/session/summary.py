"""The session's results: collected from test reports, shown as one table, and written to files if asked."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from pytest_pot.core.text import printable_lines, to_copy, wrapped
from pytest_pot.plugin.options import option
from pytest_pot.plugin.pytest_internals import WIDTH, terminal_width
from pytest_pot.plugin.session.details import STEP_SUMMARY
from pytest_pot.plugin.session.html_rows import add_to_html_row, html_page, remove_from_html_row
from pytest_pot.plugin.session.item_properties import details_on
from pytest_pot.plugin.session.notes import NOTES
from pytest_pot.plugin.session.start import session_start

__all__ = ["SessionResults"]


class SessionResults:
    """A plugin for the process that prints: the only one, or the controller of many workers."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._rows: dict[tuple[str, str | None], list[dict[str, Any]]] = {}  # by test, and by worker where all run all tests
        # Reports with gates for the page of pytest-html.
        self._on_page: dict[tuple[str, str | None], pytest.TestReport] = {}
        self._each = config.getoption("dist", None) == "each"
        self._written: list[Path] = []
        self._errors: list[str] = []  # why reports could not be written
        self._no_step_summary: str | None = None  # why GitHub's file could not be written
        self._recorded: dict[str, None] = {}  # lines, in their order
        self._not_gated: dict[str, set[str]] = {}  # tests, by the line that says why

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        node.workerinput[WIDTH] = terminal_width(self._config)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        worker = getattr(report, "worker_id", None) if self._each else None
        if report.when == "setup" and (earlier := self._on_page.pop((report.nodeid, worker), None)) is not None:
            remove_from_html_row(earlier)  # of a test that is run again
        if report.when == "teardown" and report.failed:
            for row in self._rows.get((report.nodeid, worker), ()):
                row["outcome"] = "error"
        if not report.user_properties:
            return
        from pytest_pot.report.properties import NOT_GATED, RECORDED, rows_of, with_details

        self._recorded.update((str(line), None) for name, line in report.user_properties if name == RECORDED)
        for name, line in report.user_properties:
            if name == NOT_GATED:
                self._not_gated.setdefault(str(line), set()).add(report.nodeid)
        if report.when == "call" or report.failed:
            rows = with_details(rows_of(report.nodeid, report.user_properties, worker), details_on(report))
            rows = [{**row, "outcome": _outcome(report)} for row in rows]
            if rows:  # of a test that was run again, those of the last run
                self._rows[report.nodeid, worker] = rows
                if html_page(self._config) and (report.nodeid, worker) not in self._on_page:
                    self._on_page[report.nodeid, worker] = report
                    add_to_html_row(report, rows)

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int | pytest.ExitCode) -> None:
        ran = exitstatus not in (pytest.ExitCode.USAGE_ERROR, pytest.ExitCode.INTERNAL_ERROR)
        if self._config.option.collectonly or not ran:
            return
        if self._rows and os.environ.get(STEP_SUMMARY):
            from pytest_pot.plugin.session.step_summary import append_step_summary

            self._no_step_summary = append_step_summary(self._all_rows())
        if option(self._config, "report") is None:
            return
        from pytest_pot.plugin.session.report_file import write_reports

        self._written, errors = write_reports(self._config, self._all_rows(), session_start(self._config))
        if errors:  # raised any further, one would end the run before the summary
            self._errors = [f"pot: {error}" for error in errors]
            if exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
                self._errors[-1] += f". The exit status is {int(pytest.ExitCode.INTERNAL_ERROR)} for that reason alone"
            session.exitstatus = pytest.ExitCode.INTERNAL_ERROR

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        rows = self._all_rows()
        notes = [_not_gated(line, len(tests)) for line, tests in self._not_gated.items()]
        if terminalreporter.verbosity > 0:
            notes += [f"pot: {line}" for line in self._config.stash[NOTES].lines]
        told = bool(self._written or self._errors or self._no_step_summary or self._recorded or notes)
        with_table = bool(rows) and terminalreporter.verbosity >= 0
        if not (told or with_table):
            return
        from pytest_pot.report.table import summary_table, what_ran

        width = terminal_width(self._config)
        terminalreporter.write_sep("=", "pot")
        for line in summary_table(rows, width) if with_table else ():
            terminalreporter.write(line.text)
            terminalreporter.line(line.verdict, **({} if line.colour is None else {line.colour: True}))
        if not rows:
            terminalreporter.write_line("no gate ran")
        if terminalreporter.verbosity > 0:
            messages = self._config.getoption("tbstyle", "auto") != "no"  # which tell the same of gates that failed
            for text in what_ran([row for row in rows if not (messages and _has_message(row))], width):
                terminalreporter.write_line(text)
        for recorded in self._recorded:  # names of files are copied, so these are not wrapped
            terminalreporter.write_line(printable_lines(recorded))
        for note in notes:
            terminalreporter.write_line(wrapped(printable_lines(note), width))
        for path in self._written:
            terminalreporter.write_line(printable_lines(f"pot: written to {to_copy(path)}"))
        if self._no_step_summary is not None:
            terminalreporter.write_line(wrapped(printable_lines(f"pot: {self._no_step_summary}"), width), yellow=True)
        for error in self._errors:
            terminalreporter.write_line(wrapped(printable_lines(error), width), red=True)

    def _all_rows(self) -> list[dict[str, Any]]:
        return [row for rows in self._rows.values() for row in rows]


def _not_gated(reason: str, tests: int) -> str:
    return f"pot: {reason}; {tests} test{'s' * (tests > 1)}"


def _has_message(row: Mapping[str, Any]) -> bool:
    """Whether pytest prints a failure message of the row's gate."""
    return row["passed"] is False and row["outcome"] != "xfailed"


def _outcome(report: pytest.TestReport) -> str:
    """What became of the test: pytest's own word for it."""
    if hasattr(report, "wasxfail"):
        return "xfailed" if report.skipped else "xpassed"
    return "error" if report.failed and report.when != "call" else report.outcome
