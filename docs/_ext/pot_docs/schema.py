"""Tables of the fields of reports, from the JSON Schemas in ``pytest_pot/report/schema``."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from importlib.resources import files
from typing import Any

from pot_docs.markdown import code, table, text

__all__ = ["report_fields", "schema_tables"]

Schema = Mapping[str, Any]


def report_fields() -> Iterator[str]:
    """The tables of every schema file in the package."""
    folder = files("pytest_pot.report") / "schema"
    names = sorted(entry.name for entry in folder.iterdir() if entry.name.endswith(".json")) if folder.is_dir() else []
    for name in names:
        schema = json.loads((folder / name).read_text(encoding="utf-8"))
        yield from ("", f"## {schema.get('title', name)}", "")
        yield from schema_tables(schema)


def schema_tables(schema: Schema) -> Iterator[str]:
    """A table for the document, and one for each of its definitions."""
    if "description" in schema:
        yield from (text(schema["description"]), "")
    yield from _fields(schema)
    for name, definition in schema.get("$defs", {}).items():
        yield from ("", f"### {name}", "")
        if "description" in definition:
            yield from (text(definition["description"]), "")
        yield from _fields(definition)


def _fields(schema: Schema) -> list[str]:
    rows = list(_rows(schema, ""))
    if rows:
        return table(["field", "type", "meaning"], rows)
    return [f"Type: {_type(schema)}."]


def _rows(schema: Schema, prefix: str) -> Iterator[list[str]]:
    """A row for each property, and below an object or a list of objects for each of its own."""
    required = schema.get("required", ())
    for name, field in schema.get("properties", {}).items():
        kind = _type(field) + ("" if name in required else ", optional")
        yield [code(prefix + name), kind, text(field.get("description", ""))]
        yield from _rows(field, f"{prefix}{name}.")
        items = field.get("items")
        if isinstance(items, Mapping):
            yield from _rows(items, f"{prefix}{name}[].")


def _type(field: Schema) -> str:
    if "$ref" in field:
        return str(field["$ref"]).rpartition("/")[2]
    if "enum" in field:
        return ", ".join(code(json.dumps(value)) for value in field["enum"])
    if "const" in field:
        return code(json.dumps(field["const"]))
    for key in ("anyOf", "oneOf", "allOf"):
        if key in field:
            return " or ".join(_type(choice) for choice in field[key])
    kinds = field.get("type", "any")
    kinds = kinds if isinstance(kinds, list) else [kinds]
    named = " or ".join(kinds)
    items = field.get("items")
    return f"{named} of {_type(items)}" if "array" in kinds and isinstance(items, Mapping) else named
