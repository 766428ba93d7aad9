"""One gate as a piece of HTML, for pages of others: its figures and, of a score, its place on a scale."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from contextlib import suppress
from html import escape

from pytest_pot.core.text import number, shorten
from pytest_pot.report.gate_words import Row, is_own_kind, limit_words, models, reason, score_words, status
from pytest_pot.report.html.scale_plot import scale_plot
from pytest_pot.scoring.score_text import delta_p_text, same_top_text

__all__ = ["gate_fragment"]

_WIDTH = 600
"""Of the plot, in its own units and in pixels."""
_TEXT, _LINES = 500, 8
"""Characters of a text, and lines of what changed, that are shown."""
_PERCENTILES = {"50": "median", "90": "90%", "99": "99%", "99.9": "99.9%", "100": "max"}
_STYLE = (
    ".pot-gate td,.pot-gate th{text-align:left;vertical-align:top;padding:2px 12px 2px 0;white-space:normal}"
    ".pot-gate svg{display:block;width:100%;max-width:600px;background:#fff;fill:#1c2128;font:11.5px sans-serif}"
    ".pot-gate path{fill:none;stroke:#57606d}.pot-gate .am{text-anchor:middle}.pot-gate .ae{text-anchor:end}"
    ".pot-gate .halo{paint-order:stroke;stroke:#fff;stroke-width:4px}.pot-gate .strong{font-weight:650}"
    ".pot-gate .limit{stroke:#ad2018;stroke-width:2;stroke-dasharray:5 3}"
    # Rows of pytest-html that repeat what the row of the test has.
    'tbody[id$="::teardown"] .pot-gate,tbody.rerun .pot-gate{display:none}'
    ".pot-gate .passes{fill:#d8eedf}.pot-gate .fails{fill:#f9dcd8}.pot-gate .score{stroke:#fff;stroke-width:2}"
)
"""The page around is someone else's, so the rules name our own element only."""


def gate_fragment(row: Row) -> str:
    """A table of the figures of ``row``, and the plot. All text is escaped, and nothing in it loads or runs anything."""
    facts = _facts(row)
    plot = ""
    # Another kind of gate may mean other things by these names; a fault of ours must show.
    foreign = () if is_own_kind(row) else (AttributeError, LookupError, TypeError, ValueError)
    with suppress(*foreign):
        facts |= _more_facts(row)
        plot = _plot(row)
    shown = {name: value for name, value in facts.items() if value}
    rows = "".join(f"<tr><th>{_text(name)}</th><td>{_text(value)}</td></tr>" for name, value in shown.items())
    return f'<div class="pot-gate"><style>{_STYLE}</style><table>{rows}</table>{plot}</div>'


def _facts(row: Row) -> dict[str, str]:
    """What the table says, by name; what is empty is left out."""
    gate = str(row["gate"])
    return {
        gate: f"{row['verdict']} ({status(row)})",
        "candidate vs reference": models(row),
        "score": f"{score_words(row)}, limit {limit_words(row)}" if score_words(row) else "",
        "reason": reason(row),
    }


def _more_facts(row: Row) -> dict[str, str]:
    """What gates of our own kinds have beside."""
    return {
        "what changed": "\n".join(map(str, row.get("what_changed", ())[:_LINES])),
        "where it starts": "\n".join(map(str, row.get("where_it_starts", ())[:_LINES])),
        **_spread(row),
        "conditions": str(row.get("conditions", "")),
    }


def _spread(row: Row) -> dict[str, str]:
    percentiles: Mapping[str, float] | None = row.get("percentiles", {}).get(row["metric"])
    if percentiles is None:
        return {}
    return {
        "over positions": ", ".join(f"{words} {number(percentiles[name])}" for name, words in _PERCENTILES.items()),
        "Δp": delta_p_text(row["delta_p"]),
        "same top p": same_top_text(**row["same_top"]),
    }


def _text(value: str) -> str:
    return "<br>".join(escape(shorten(line, _TEXT)) for line in value.split("\n"))


def _plot(row: Row) -> str:
    """The score on its scale; empty where the row has none."""
    scale = row.get("scale")
    if scale is None:
        return ""
    figure = scale_plot(scale, above=row["gate"] == "pot_distinct", width=_WIDTH)
    # The page has the fragments of many gates, and an id may be there once.
    name = hashlib.sha256("\0".join(str(row.get(key)) for key in ("worker", "test", "gate", "score")).encode()).hexdigest()
    return figure.svg(f"pot-{name[:12]}")
