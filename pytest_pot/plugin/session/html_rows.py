"""Each gate's figures and plot in the row of its test on the page of pytest-html, where that plugin makes one (``--html``)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

__all__ = ["add_to_html_row", "html_page", "remove_from_html_row"]

_PIECES = "pot_pieces"
"""The attribute of a test's report with what we added."""


def html_page(config: pytest.Config) -> bool:
    """Whether pytest-html makes a page in this run."""
    return bool(config.getoption("htmlpath", None))


def add_to_html_row(report: pytest.TestReport, rows: Sequence[dict[str, Any]]) -> None:
    """Add the gates of a test, as ``rows``, to what pytest-html shows below the row of ``report``.

    It reads the attribute ``extras`` of a test's reports once the last of them has come, and shows what it finds on any of them
    in each row of the test: one more for a teardown that failed, and for each time that the test was run again. The fragment's
    style hides it there. What the test itself puts there stays.
    """
    from pytest_html import extras

    from pytest_pot.report.fragment import gate_fragment

    shown = getattr(report, "extras", [])
    # Its page is written as UTF-8, which has no form for bytes of a file's name that are no text.
    pieces = (gate_fragment(row).encode("utf-8", "backslashreplace").decode() for row in rows)
    ours = [extras.html(piece) for piece in pieces]
    report.extras = [*shown, *ours]  # type: ignore[attr-defined]
    setattr(report, _PIECES, ours)


def remove_from_html_row(report: pytest.TestReport) -> None:
    """Take away what :func:`add_to_html_row` added: the test is run again, and its rows would show the gates of all runs."""
    ours = {id(piece) for piece in getattr(report, _PIECES, [])}
    report.extras = [piece for piece in getattr(report, "extras", []) if id(piece) not in ours]  # type: ignore[attr-defined]
