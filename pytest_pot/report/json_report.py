"""The JSON report, for programs."""

from __future__ import annotations

import json
from collections.abc import Sequence

from pytest_pot.core.version import __version__
from pytest_pot.report.table import Row

__all__ = ["json_report", "printable_json"]


def json_report(rows: Sequence[Row]) -> str:
    """All gates as one JSON document."""
    document = {"pytest_pot": __version__, "gates": [dict(row) for row in rows]}
    return printable_json(document) + "\n"


def printable_json(value: object) -> str:
    """``value`` as indented JSON; what :func:`~pytest_pot.core.text.printable` escapes is escaped as JSON does, ``\\u009b``."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    # Line feeds are those of the indentation: json.dumps has escaped all others.
    return "".join(c if c.isprintable() or c == "\n" else json.dumps(c)[1:-1] for c in text)
