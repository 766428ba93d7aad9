"""Each gate's figures and plot in the row of its test on the page of pytest-html, where that plugin makes one (``--html``)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

__all__ = ["add_to_html_row", "html_page"]


def html_page(config: pytest.Config) -> bool:
    """Whether pytest-html makes a page in this run."""
    return bool(config.getoption("htmlpath", None))


def add_to_html_row(report: pytest.TestReport, rows: Sequence[dict[str, Any]]) -> None:
    """Add the gates of a test, as ``rows``, to what pytest-html shows below the row of ``report``.

    It reads the attribute ``extras`` of a test's reports once the last of them has come. What the test itself puts there stays.
    """
    from pytest_html import extras

    from pytest_pot.report.fragment import gate_fragment

    shown = getattr(report, "extras", [])
    # Its page is written as UTF-8, which has no form for bytes of a file's name that are no text.
    pieces = (gate_fragment(row).encode("utf-8", "backslashreplace").decode() for row in rows)
    report.extras = [*shown, *map(extras.html, pieces)]  # type: ignore[attr-defined]
