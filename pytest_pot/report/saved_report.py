"""A JSON report read back from its file, for programs of ours that compare reports."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytest_pot.core.errors import PotError
from pytest_pot.core.text import shorten
from pytest_pot.report.json_report import SCHEMA

__all__ = ["SavedReport", "load_report"]

_TEXTS = ("test", "gate", "verdict", "preset", "metric")
"""What every gate has, as text."""
_NAMES = ("reference", "candidate", "worker", "path")
"""What a gate may have, as text."""
_NUMBERS = ("score", "limit", "max_prompt_limit", "noise_floor", "iqr", "prompts", "positions", "confidence")


@dataclass(frozen=True)
class SavedReport:
    """What a report says."""

    version: str
    """Of the pytest-pot that wrote it."""
    run: Mapping[str, Any]
    """When and with what the run was made; empty in reports of versions that did not say."""
    gates: tuple[Mapping[str, Any], ...]


def load_report(path: Path) -> SavedReport:
    """Read a report that ``--pot-report=x.json`` wrote; of older versions too, which had no ``"schema"``.

    Raises:
        PotError: it cannot be read, is no such report, or is in a form that only a newer version knows.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise PotError(f"the report {path} cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise PotError(f"the report {path} is no JSON: {error}") from error
    if not isinstance(document, dict) or not isinstance(document.get("pytest_pot"), str):
        raise PotError(f"{path} is no JSON report of pytest-pot: write one with --pot-report=gates.json")
    schema = document.get("schema")
    if schema is not None and (not isinstance(schema, int) or isinstance(schema, bool) or schema < 1):
        raise PotError(f"the report {path} is damaged: its schema is {shorten(repr(schema), 40)}")
    if schema is not None and schema > SCHEMA:
        version = shorten(document["pytest_pot"], 40)
        raise PotError(
            f"the report {path} was written by pytest-pot {version}, in schema {schema}; this version reads {SCHEMA} at most: "
            "install that version of pytest-pot to compare it"
        )
    run, gates = document.get("run", {}), document.get("gates")
    if not isinstance(gates, list) or not isinstance(run, dict):
        raise PotError(f"the report {path} is damaged: it has no list of gates")
    for index, gate in enumerate(gates):
        fault = _fault(gate)
        if fault is not None:
            raise PotError(f"the report {path} is damaged: gate {index} {fault}")
    return SavedReport(document["pytest_pot"], run, tuple(gates))


def _fault(gate: Any) -> str | None:
    """What is wrong with a gate, for what a comparison reads of it; None where nothing is."""
    if not isinstance(gate, dict):
        return "is no object"
    for name in _TEXTS:
        if not isinstance(gate.get(name), str):
            return f"has no text as {name!r}"
    if not isinstance(gate.get("passed"), bool | None):
        return "has no true, false or null as 'passed'"
    for name in _NAMES:
        if not isinstance(gate.get(name), str | None):
            return f"has no text as {name!r}"
    for name in _NUMBERS:
        value = gate.get(name)
        if value is not None and not _is_finite(value):
            return f"has no finite number as {name!r}"
    return _prompts_fault(gate.get("prompt_scores", []))


def _is_finite(value: Any) -> bool:
    try:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:  # an integer that no float can hold
        return False


def _prompts_fault(prompts: Any) -> str | None:
    kinds = (("prompt", int), ("text", str), ("positions", int))
    fine = isinstance(prompts, list) and all(
        isinstance(entry, dict) and all(isinstance(entry.get(name), kind) for name, kind in kinds) for entry in prompts
    )
    return None if fine else "has scores of prompts in another form"
