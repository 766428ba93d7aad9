"""The generated reference names everything that the code has."""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
from typing import Any

import pytest

import pytest_pot
from pot_docs.markdown import table, text
from pot_docs.schema import schema_tables
from pot_docs.tables import GENERATED, commands_of
from pytest_pot.__main__ import _parser
from pytest_pot.core.config import PRESETS
from pytest_pot.core.names import DEFAULT_PRESET, METRICS
from pytest_pot.gates.latency.limits import LatencyLimits
from pytest_pot.gates.latency.settings import LatencySettings
from pytest_pot.gates.verdict.limits import (
    DEFAULT_MAX_OUTLIERS,
    DEFAULT_MAX_TAIL,
    DEFAULT_TOLERANCE,
    TOLERANCE_USES,
    TOLERANCES,
)
from pytest_pot.plugin import fixtures, hookspecs
from pytest_pot.plugin.argument_help import ARGUMENT_HELP
from pytest_pot.plugin.markers import MARKERS
from pytest_pot.plugin.options import API_KEY, ENVIRONMENT, FLAGS, INI_KEYS, OPTIONS, option_flag
from tests.docs.blocks import ROOT


def _rows(name: str) -> list[list[str]]:
    """The cells of the generated tables, without their headers."""
    lines = [line for line in GENERATED[name]() if line.startswith("|")]
    rows = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
    return [row for row, below in zip(rows, [*rows[1:], []], strict=True) if set(row) != {"---"} and set(below) != {"---"}]


def _names(name: str) -> list[str]:
    return [match[1] for row in _rows(name) if (match := re.match(r"`([^`]+)`", row[0]))]


def test_all_options_keys_and_variables() -> None:
    assert _names("options") == [option_flag(name) for name in OPTIONS]
    assert [row[1] for row in _rows("options")] == [f"`pot_{name}`" for name in OPTIONS]
    assert _names("flags") == [option_flag(name) for name in (*FLAGS, "calibrate")]
    assert _names("ini-keys") == list(INI_KEYS)
    assert _names("environment") == [*ENVIRONMENT.values(), API_KEY]


def test_all_markers_with_all_their_arguments() -> None:
    lines = list(GENERATED["markers"]())
    assert [line for line in lines if line.startswith("#")] == [f"## {name}" for name in MARKERS]
    assert _names("markers") == [argument for marker in MARKERS.values() for argument in marker.gate.arguments]


def test_metrics_presets_and_tolerances() -> None:
    assert _names("metrics") == list(METRICS)
    assert _names("presets") == list(PRESETS)
    assert _names("tolerances") == list(TOLERANCES) == list(TOLERANCE_USES)
    assert [float(row[1]) for row in _rows("tolerances")] == list(TOLERANCES.values())
    assert [row[0] for row in _rows("presets") if "default" in row[0]] == [f"`{DEFAULT_PRESET}` (default)"]


def test_fixtures_and_hooks() -> None:
    headings = {line.removeprefix("## ") for line in GENERATED["fixtures"]() if line.startswith("## ")}
    assert headings == {name for name in fixtures.__all__ if name.startswith("pot_")}
    assert next(iter(line for line in GENERATED["fixtures"]() if line)) == "## pot_reference"
    assert [line for line in GENERATED["hooks"]() if "autofunction" in line] == [
        f".. autofunction:: pytest_pot.plugin.hookspecs.{name}" for name in hookspecs.__all__
    ]


def test_commands_and_the_api() -> None:
    commands = commands_of(_parser())
    assert {"inspect", "compare", "explain"} <= commands.keys()
    shown = "\n".join(GENERATED["commands"]())
    for name, (parser, _) in commands.items():
        assert f"## python -m pytest_pot {name}" in shown
        assert all(option in shown for action in parser._actions for option in action.option_strings)
    api = "\n".join(GENERATED["api"]())
    assert all(f":: pytest_pot.{name}\n" in api for name in pytest_pot.__all__ if name not in ("__version__", "markers"))
    typed = [line for line in GENERATED["typed-markers"]() if "autofunction" in line]
    assert typed == [f".. autofunction:: pytest_pot.markers.{name.removeprefix('pot_')}" for name in MARKERS]


def test_every_generator_is_on_a_page() -> None:
    pages = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "docs").glob("**/*.md"))
    assert set(re.findall(r"^```\{generated\} (\S+)$", pages, re.MULTILINE)) == set(GENERATED)


def test_every_argument_is_described_and_none_that_there_is_not() -> None:
    taken = {argument for marker in MARKERS.values() for argument in marker.gate.arguments}
    assert set(ARGUMENT_HELP) == taken
    assert not [name for name, help_ in ARGUMENT_HELP.items() if help_.text.endswith(".")]


def _default(owner: type[Any], name: str) -> object:
    return next(field.default for field in dataclasses.fields(owner) if field.name == name)


@pytest.mark.parametrize(
    ("argument", "default"),
    [
        ("max_outliers", DEFAULT_MAX_OUTLIERS),
        ("max_tail", DEFAULT_MAX_TAIL),
        ("tolerance", repr(DEFAULT_TOLERANCE)),
        ("preset", repr(DEFAULT_PRESET)),
        ("metric", repr(PRESETS[DEFAULT_PRESET].metric)),
        ("path", repr(PRESETS[DEFAULT_PRESET].path)),
        ("per", repr(_default(LatencyLimits, "per"))),
        ("stat", repr(_default(LatencyLimits, "stat"))),
        ("what", repr(_default(LatencySettings, "what"))),
        ("new_tokens", _default(LatencySettings, "new_tokens")),
        ("max_seconds", f"{_default(LatencySettings, 'max_seconds'):g}"),
    ],
)
def test_a_default_is_that_of_the_code(argument: str, default: object) -> None:
    assert re.search(rf"(^|else ){re.escape(str(default))}$", ARGUMENT_HELP[argument].default)


def test_the_options_that_an_argument_falls_back_to_exist() -> None:
    named = re.findall(r"--pot-[a-z-]+", " ".join(help_.default for help_ in ARGUMENT_HELP.values()))
    assert set(named) <= {option_flag(name) for name in OPTIONS}
    assert all(f"pot_{name}" in fixtures.__all__ for name in ("reference", "candidate", "prompts"))


def test_a_schema_becomes_a_table_for_each_object() -> None:
    schema = json.loads("""{
        "description": "The report.", "required": ["gates"],
        "properties": {
            "version": {"const": "1", "description": "of <this> | form"},
            "gates": {"type": "array", "items": {"$ref": "#/$defs/gate"}},
            "scale": {"type": "object", "properties": {"score": {"type": ["number", "null"]}}}
        },
        "$defs": {"gate": {"description": "One gate.", "properties": {"verdict": {"enum": ["SAME", "DIFFERENT"]}}}}
    }""")
    assert list(schema_tables(schema)) == [
        "The report.",
        "",
        "| field | type | meaning |",
        "| --- | --- | --- |",
        r'| `version` | `"1"`, optional | of \<this\> \| form |',
        "| `gates` | array of [gate](#gate) |  |",
        "| `scale` | object, optional |  |",
        "| `scale.score` | number or null, optional |  |",
        "",
        "### gate",
        "",
        "One gate.",
        "",
        "| field | type | meaning |",
        "| --- | --- | --- |",
        '| `verdict` | `"SAME"`, `"DIFFERENT"`, optional |  |',
    ]


def test_a_text_of_the_code_shows_the_same_characters() -> None:
    assert text("`a*b` of *c*") == r"`a*b` of \*c\*"
    assert text("give --pot-max-tail=0.5 or pot_x, a *.pot.safetensors or 'auto' [a|b]_") == (
        r"give `--pot-max-tail=0.5` or `pot_x`, a `*.pot.safetensors` or `'auto'` \[a\|b\]\_"
    )
    assert table(["a"], [["b"]]) == ["| a |", "| --- |", "| b |"]


def test_hooks_and_fixtures_have_docstrings() -> None:
    assert all(inspect.getdoc(getattr(hookspecs, name)) for name in hookspecs.__all__)


@pytest.mark.parametrize("name", MARKERS)
def test_the_function_of_a_marker_tells_of_each_argument(name: str) -> None:
    function = getattr(pytest_pot.markers, name.removeprefix("pot_"))
    told = " ".join((inspect.getdoc(function) or "").split())
    for argument in MARKERS[name].gate.arguments:
        help_ = ARGUMENT_HELP[argument]
        assert f"{argument} ({help_.type}): {help_.text[0].upper()}{help_.text[1:]}. Default: {help_.default}." in told


def test_pages_are_in_the_order_of_their_index_and_none_is_missing() -> None:
    for folder in ("how-to", "explanation", "reference"):
        index = (ROOT / "docs" / folder / "index.md").read_text(encoding="utf-8")
        listed = re.findall(r"^[\w-]+$", index.partition("{toctree}")[2], re.MULTILINE)
        assert sorted(listed) == sorted(path.stem for path in (ROOT / "docs" / folder).glob("*.md") if path.stem != "index")
