"""No page names an option, key, marker, hook or command that the code does not have, and tables have the code's numbers."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest

from pot_docs.tables import commands_of
from pytest_pot.__main__ import _parser
from pytest_pot.core.config import PRESETS
from pytest_pot.core.names import METRICS
from pytest_pot.gates.verdict.limits import TOLERANCES, identity_limits
from pytest_pot.plugin import fixtures, hookspecs
from pytest_pot.plugin.argument_help import ARGUMENT_HELP
from pytest_pot.plugin.markers import MARKERS
from pytest_pot.plugin.options import API_KEY, ENVIRONMENT, FLAGS, INI_KEYS, OPTIONS, option_flag
from tests.docs.blocks import ROOT, pages

FLAG_NAMES = {option_flag(name) for name in (*OPTIONS, *FLAGS, "calibrate")}
KEY_NAMES = {f"pot_{name}" for name in OPTIONS} | INI_KEYS.keys()
PROPERTIES = {
    f"pot_{key.value}"
    for folder in ("gates", "report")
    for path in (ROOT / "pytest_pot" / folder).rglob("*.py")
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    if isinstance(node, ast.Dict)
    for key in node.keys
    if isinstance(key, ast.Constant) and isinstance(key.value, str)
}
"""User properties of a test, which JUnit reports have: the keys of what gates and reports tell."""
POT_NAMES = PROPERTIES | KEY_NAMES | MARKERS.keys() | {name for name in fixtures.__all__ if name.startswith("pot_")}
NO_NAMES = {"pot_identiy": "a misspelt marker", "pot_update": "said to be no ini key", "pot_docs": "the package in docs/_ext"}
VARIABLES = {*ENVIRONMENT.values(), API_KEY, "POT_VLLM_PYTHON"}

KINDS: Mapping[str, object] = {
    "argument": ARGUMENT_HELP.keys(),
    "fixture": POT_NAMES,
    "hook": set(hookspecs.__all__),
    "ini key": KEY_NAMES,
    "marker": MARKERS.keys(),
    "metric": set(METRICS),
    "option": FLAG_NAMES,
    "preset": PRESETS.keys(),
    "tolerance": TOLERANCES.keys(),
}
"""What the first column of a table holds, by its header, and the names that there are."""


def _prompt_limit(limit: float) -> float:
    return round(identity_limits(max_score=limit).max_prompt_score, 9)


def _problems(text: str) -> Iterator[str]:
    """What a page says that the code does not."""
    # An ending is left out where a page names several options by a wildcard or a pattern, as in --pot-*.
    yield from (f"no option {name}" for name in re.findall(r"--pot-[a-z][a-z-]*[a-z]", text) if name not in FLAG_NAMES)
    for name in re.findall(r"(?<![\w/-])pot_[a-z][a-z_]*[a-z]\b(?!\.)", text):
        if name not in POT_NAMES | NO_NAMES.keys():
            yield f"no ini key, marker or fixture {name}"
    hooks = re.findall(r"\bpytest_pot_[a-z_]+[a-z]\b", text)
    yield from (f"no hook {name}" for name in hooks if name not in hookspecs.__all__)
    yield from (f"no variable {name}" for name in re.findall(r"\bPOT_[A-Z_]+[A-Z]\b", text) if name not in VARIABLES)
    commands = commands_of(_parser())
    for name in re.findall(r"python -m pytest_pot ([a-z]+)", text):
        if name not in commands:
            yield f"no command {name}"
    yield from (f"no {name}" for name in set(re.findall(r"\bpytest_pot(?:\.\w+)+", text)) if not _resolves(name))
    for header, rows in _tables(text):
        yield from _table_problems(header, rows)


def _resolves(dotted: str) -> bool:
    """Whether a module, or an attribute of one, has this name."""
    parts = dotted.split(".")
    for end in range(len(parts), 0, -1):
        name = ".".join(parts[:end])
        try:
            if find_spec(name) is None:
                continue
        except ModuleNotFoundError:
            continue
        value: object = import_module(name)
        for attribute in parts[end:]:
            if not hasattr(value, attribute):
                return False
            value = getattr(value, attribute)
        return True
    return False


def _tables(text: str) -> Iterator[tuple[list[str], list[list[str]]]]:
    """The header and the rows of each table."""
    for block in re.findall(r"(?:^\|.*\n)+", f"{text}\n", re.MULTILINE):
        cells = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in block.splitlines()]
        yield [cell.lower() for cell in cells[0]], cells[2:]


def _table_problems(header: list[str], rows: list[list[str]]) -> Iterator[str]:
    if header[0] == "`max_score` on `tv`":
        for row in rows:
            limit = _prompt_limit(float(row[0].split()[0]))
            if float(row[-1]) != limit:
                yield f"the limit for one prompt at {row[0]} is {limit:g}, not {row[-1]}"
    if header[1:] == ["tv", "tolerance"]:
        for _, tv, tolerance in rows:
            yield from _wrong_tolerance(max(map(float, re.findall(r"\d[\d.]*", tv.partition(",")[0]))), tolerance)
    known = KINDS.get(header[0])
    if known is None:
        return
    assert hasattr(known, "__contains__")
    for row in rows:
        for name in re.findall(r"`([^`=]+)(?:=[^`]*)?`", row[0].partition(" (")[0]):
            if name not in known:
                yield f"no {header[0]} {name}"
            elif header[0] in ("preset", "tolerance"):
                yield from _wrong_numbers(name, dict(zip(header[1:], row[1:], strict=True)))


def _wrong_tolerance(measured: float, advice: str) -> Iterator[str]:
    """Advice for a score that was measured: the tightest tolerance that it is within, one that it is above, or a limit."""
    limits = list(TOLERANCES.items())
    tightest = next((name for name, limit in limits if measured <= limit), None)
    named = re.match(r"(above )?`(\w+)`", advice)
    if named is not None and named[1] and measured <= TOLERANCES[named[2]]:
        yield f"{measured} is not above {named[2]}"
    if named is not None and not named[1] and named[2] != tightest:
        yield f"the tightest tolerance for {measured} is {tightest}, not {named[2]}"
    for limit in re.findall(r"max_score=([\d.]+)", advice):
        if float(limit) <= measured:
            yield f"{measured} is above max_score={limit}"


def _wrong_numbers(name: str, cells: Mapping[str, str]) -> Iterator[str]:
    """Numbers of a preset or a tolerance that are not the code's."""
    for_one = cells.get("limit for one prompt")
    if name in TOLERANCES and for_one is not None and float(for_one) != (limit := _prompt_limit(TOLERANCES[name])):
        yield f"the limit of {name} for one prompt is {limit:g}, not {for_one}"
    if name in TOLERANCES and "limit" in cells and float(cells["limit"]) != TOLERANCES[name]:
        yield f"the limit of {name} is {TOLERANCES[name]}, not {cells['limit']}"
    if name not in PRESETS:
        return
    preset = PRESETS[name]
    values = {"batch": preset.batch_size, "positions": preset.positions_per_prompt, "max length": preset.max_length}
    for column, value in values.items():
        if column in cells and cells[column] != str(value):
            yield f"{column} of {name} is {value}, not {cells[column]}"
    numbers = re.findall(r"\d+", cells.get("compares", ""))
    if numbers and numbers != [str(preset.top_k)]:
        yield f"{name} compares {preset.top_k} tokens, not {numbers[0]}"


@pytest.mark.parametrize("path", pages(), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_page_names_what_there_is(path: Path) -> None:
    assert list(_problems(path.read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("give --pot-limit=3", "no option --pot-limit"),
        ("`pot_limits = 3`", "no ini key, marker or fixture pot_limits"),
        ("@pytest.mark.pot_same(x=1)", "no ini key, marker or fixture pot_same"),
        ("the hook `pytest_pot_models`", "no hook pytest_pot_models"),
        ("set POT_SECRET", "no variable POT_SECRET"),
        ("`python -m pytest_pot show a`", "no command show"),
        ("`pytest_pot.testing.check_engines`", "no pytest_pot.testing.check_engines"),
        ("| metric | x |\n|---|---|\n| `tv` | 1 |\n| `kld` | 2 |", "no metric kld"),
        ("| tolerance | limit |\n|---|---|\n| `half` | 0.02 |", "the limit of half is 0.01, not 0.02"),
        ("| preset | batch |\n|---|---|\n| `auto` (default) | 4 |", "batch of auto is auto, not 4"),
        ("| preset | compares |\n|---|---|\n| `single` | the 60 likeliest |", "single compares 50 tokens, not 60"),
        (
            "| tolerance | limit for one prompt |\n|---|---|\n| `int8` | 0.3 |",
            "the limit of int8 for one prompt is 0.31, not 0.3",
        ),
        (
            "| `max_score` on `tv` | limit |\n|---|---|\n| 0.08 (`int8`) | 0.8 |",
            "the limit for one prompt at 0.08 (`int8`) is 0.31, not 0.8",
        ),
        ("| option | |\n|---|---|\n| `--pot-path`, `--pot-way` | |", "no option --pot-way"),
        (
            "| x | tv | tolerance |\n|---|---|---|\n| a | 0.02 to 0.09 | `int8` |",
            "the tightest tolerance for 0.09 is int4, not int8",
        ),
        ("| x | tv | tolerance |\n|---|---|---|\n| a | 0.009 | `int8` |", "the tightest tolerance for 0.009 is half, not int8"),
        ("| x | tv | tolerance |\n|---|---|---|\n| a | 0.07 | above `int8` |", "0.07 is not above int8"),
        ("| x | tv | tolerance |\n|---|---|---|\n| a | 0.1, noise 0.2 | set `max_score=0.1` |", "0.1 is above max_score=0.1"),
    ],
)
def test_what_is_not_there_is_found(text: str, problem: str) -> None:
    assert problem in list(_problems(text))


def test_what_is_there_is_not_complained_of() -> None:
    text = """--pot-* and pot_*, `--pot-max-length=3`, `pot_cache = false`, `pytest_pot_gate`, POT_KEY, `pot_what_changed`,
        `python -m pytest_pot inspect x`, `pytest_pot.testing.check_engine`, pytest_pot/plugin/options.py, base.pot.safetensors
    """
    table = "| preset | compares | batch | positions |\n|---|---|---|---|\n| `fastest` | the 50 likeliest | 8 | 16 |\n"
    assert list(_problems(f"{text}\n{table}")) == []
