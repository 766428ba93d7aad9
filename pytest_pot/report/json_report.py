"""The JSON report, for programs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from pytest_pot.core.version import __version__
from pytest_pot.report.gate_words import Row

__all__ = ["SCHEMA", "SCHEMA_FILE", "json_report", "printable_json"]

SCHEMA = 1
"""The version of the document's form. Another form that readers of this one would misread gets the next number."""
SCHEMA_FILE = Path(__file__).parent / "schema" / "report.schema.json"
"""The JSON Schema of the document."""


def json_report(rows: Sequence[Row], run: Mapping[str, str | None]) -> str:
    """All gates as one JSON document; ``run`` is what :func:`~pytest_pot.report.run_facts.run_facts` gives."""
    document = {"schema": SCHEMA, "pytest_pot": __version__, "run": dict(run), "gates": [dict(row) for row in rows]}
    return printable_json(document) + "\n"


def printable_json(value: object) -> str:
    """``value`` as indented JSON; what :func:`~pytest_pot.core.text.printable` escapes is escaped as JSON does, ``\\u009b``."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    # Line feeds are those of the indentation: json.dumps has escaped all others.
    return "".join(c if c.isprintable() or c == "\n" else json.dumps(c)[1:-1] for c in text)
