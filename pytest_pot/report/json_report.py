"""The JSON report, for programs."""

from __future__ import annotations

import json
from collections.abc import Sequence

from pytest_pot.core.version import __version__
from pytest_pot.report.table import Row

__all__ = ["json_report"]


def json_report(rows: Sequence[Row]) -> str:
    """All gates as one JSON document."""
    document = {"pytest_pot": __version__, "gates": [dict(row) for row in rows]}
    return json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
