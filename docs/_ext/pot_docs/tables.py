"""The reference, from the code: one function for each ``{generated}`` block, which returns lines of Markdown.

A name in a block that is not in :data:`GENERATED` is an error of the build."""

from __future__ import annotations

import argparse
import ast
import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from itertools import pairwise
from types import ModuleType
from typing import Any

import pytest_pot
from pot_docs.markdown import code, table, text
from pot_docs.schema import report_fields
from pytest_pot.__main__ import _parser
from pytest_pot.core.brief import Brief
from pytest_pot.core.config import PRESETS
from pytest_pot.core.names import DEFAULT_PRESET, METRICS
from pytest_pot.gates.verdict.limits import DEFAULT_TOLERANCE, TOLERANCE_METRIC, TOLERANCE_USES, TOLERANCES
from pytest_pot.plugin import fixtures, hookspecs
from pytest_pot.plugin.argument_help import ARGUMENT_HELP
from pytest_pot.plugin.markers import MARKERS
from pytest_pot.plugin.options import API_KEY, CALIBRATE, ENVIRONMENT, FLAGS, INI_KEYS, OPTIONS, option_flag
from pytest_pot.scoring import metrics as metrics_module

__all__ = ["GENERATED", "commands_of"]


def markers() -> Iterator[str]:
    """Every marker with all of its arguments."""
    for name, marker in MARKERS.items():
        yield from ("", f"## {name}", "", f"{_sentence(marker.summary)}", "")
        rows = []
        for argument in marker.gate.arguments:
            help_ = ARGUMENT_HELP[argument]
            types = " or ".join(map(code, re.split(r" \| (?![^\[]*\])", help_.type)))
            # One column for both, so that a phone shows the meaning as well.
            rows.append([f"{code(argument)}<br>{types}", text(help_.text), _default(help_.default)])
        yield from table(["argument", "meaning", "default"], rows)


def _default(default: str) -> str:
    """A value as code; words as they are."""
    return code(default) if re.fullmatch(r"'[\w-]+'|[\d.]+", default) else text(default)


def options() -> list[str]:
    rows = [[code(option_flag(name)), code(f"pot_{name}"), text(help_)] for name, help_ in OPTIONS.items()]
    return table(["option", "ini key", "meaning"], rows)


def flags() -> list[str]:
    pairs = {**FLAGS, "calibrate": CALIBRATE}
    return table(["option", "meaning"], [[code(option_flag(name)), text(help_)] for name, help_ in pairs.items()])


def ini_keys() -> list[str]:
    rows = []
    for key, (kind, default, help_) in INI_KEYS.items():
        shown = code(str(default).lower()) if default else "none"
        rows.append([code(key), kind, shown, text(help_.removesuffix(" (default: none)"))])
    return table(["ini key", "type", "default", "meaning"], rows)


def environment() -> list[str]:
    rows = [[code(variable), f"the option {code(option_flag(name))}"] for name, variable in ENVIRONMENT.items()]
    return table(["variable", "stands for"], [*rows, [code(API_KEY), "the key for a server; it is in no output"]])


def fixture_list() -> Iterator[str]:
    found = {name: getattr(fixtures, name) for name in fixtures.__all__ if name.startswith("pot_")}
    for name, fixture in sorted(found.items(), key=lambda item: int(item[1]._get_wrapped_function().__code__.co_firstlineno)):
        yield from ("", f"## {name}", "")
        yield f"Scope: {fixture._fixture_function_marker.scope}."
        yield from ("", *(text(part) + "\n" for part in inspect.cleandoc(fixture.__doc__).replace("``", "").split("\n\n")))


def hook_list() -> Iterator[str]:
    for name in hookspecs.__all__:
        yield from ("", f"## {name}", "", *_rst(f".. autofunction:: pytest_pot.plugin.hookspecs.{name}"))


def metric_list() -> list[str]:
    """The table at the top of the module that computes them."""
    rows = re.findall(r"^``(\w+)`` +(.+)$", inspect.cleandoc(metrics_module.__doc__ or ""), re.MULTILINE)
    assert tuple(name for name, _ in rows) == METRICS, "the docstring of scoring/metrics.py does not list all metrics"
    formulas = [re.sub(r"``(.+?)``", lambda match: code(match[1]), formula) for _, formula in rows]
    return table(
        ["metric", "at one position"], [[code(name), formula] for (name, _), formula in zip(rows, formulas, strict=True)]
    )


def preset_list() -> list[str]:
    fields = ("top_k", "tail", "batch_size", "positions_per_prompt", "max_length", "every_position")
    rows = []
    for name, preset in PRESETS.items():
        default = " (default)" if name == DEFAULT_PRESET else ""
        rows.append([code(name) + default, *(code(str(getattr(preset, field))) for field in fields)])
    return table(["preset", *map(code, fields)], rows)


def tolerance_list() -> list[str]:
    rows = []
    for name, limit in TOLERANCES.items():
        default = " (default)" if name == DEFAULT_TOLERANCE else ""
        rows.append([code(name) + default, f"{limit:g}", TOLERANCE_USES[name]])
    return table(["tolerance", f"limit on {code(TOLERANCE_METRIC)}", "meant for"], rows)


def commands() -> Iterator[str]:
    """Every command of ``python -m pytest_pot`` with its arguments, from its parser."""
    for name, (parser, summary) in commands_of(_parser()).items():
        yield from ("", f"## python -m pytest_pot {name}", "", _sentence(parser.description or summary), "")
        usage = " ".join(parser.format_usage().split()).removeprefix("usage: ")
        yield from ("```text", usage, "```", "")
        rows = []
        for action in parser._actions:
            label = ", ".join(action.option_strings) or str(action.metavar or action.dest)
            rows.append([code(label), text(action.help or "a recording")])
        yield from table(["argument", "meaning"], rows)


def commands_of(parser: argparse.ArgumentParser) -> Mapping[str, tuple[argparse.ArgumentParser, str]]:
    """The commands' parsers and summaries by name."""
    groups = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    return {
        choice.dest: (group.choices[choice.dest], choice.help or "") for group in groups for choice in group._choices_actions
    }


def python_api() -> Iterator[str]:
    """Every public name, by Sphinx's autodoc."""
    for name in pytest_pot.__all__:
        if name.startswith("__"):
            continue
        value: Any = getattr(pytest_pot, name)
        if inspect.ismodule(value):
            continue  # the typed markers, which have a generator of their own
        yield from ("", f"## {name}", "")
        if inspect.isclass(value):
            # ScoreReport has its fields from a class that is not public; what comes from Python's own classes is not shown.
            inherited = ["   :inherited-members: Brief"] if issubclass(value, Brief) else []
            yield from _rst(f".. autoclass:: pytest_pot.{name}", "   :members:", "   :undoc-members:", *inherited)
        elif callable(value):
            yield from _rst(f".. autofunction:: pytest_pot.{name}")
        else:
            documented = _docstring(import_module(f"pytest_pot.{pytest_pot._MODULES[name]}"), name)
            yield from _rst(f".. py:data:: pytest_pot.{name}", "", *(f"   {line}" for line in documented.splitlines()))


def typed_markers() -> Iterator[str]:
    """The markers as functions."""
    for name in MARKERS:
        yield from _rst(f".. autofunction:: pytest_pot.markers.{name.removeprefix('pot_')}")


def _docstring(module: ModuleType, name: str) -> str:
    """The string below the assignment of ``name`` in a module."""
    body = ast.parse(inspect.getsource(module)).body
    for statement, below in pairwise(body):
        targets = statement.targets if isinstance(statement, ast.Assign) else [getattr(statement, "target", None)]
        if any(isinstance(target, ast.Name) and target.id == name for target in targets):
            if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant):
                return inspect.cleandoc(str(below.value.value))
            break
    raise LookupError(f"{module.__name__}.{name} has no docstring")


def testing_kit() -> list[str]:
    return _rst(".. autofunction:: pytest_pot.testing.check_engine", "", ".. autoexception:: pytest_pot.testing.EngineProblems")


def _rst(*lines: str) -> list[str]:
    return ["```{eval-rst}", *lines, "```"]


def _sentence(words: str) -> str:
    """``words`` with a capital and a full stop."""
    return text(words[0].upper() + words[1:]) + ("" if words.endswith(".") else ".")


GENERATED: Mapping[str, Callable[[], Iterator[str] | list[str]]] = {
    "markers": markers,
    "options": options,
    "flags": flags,
    "ini-keys": ini_keys,
    "environment": environment,
    "fixtures": fixture_list,
    "hooks": hook_list,
    "metrics": metric_list,
    "presets": preset_list,
    "tolerances": tolerance_list,
    "commands": commands,
    "api": python_api,
    "typed-markers": typed_markers,
    "testing": testing_kit,
    "report-fields": report_fields,
}
"""The generators by the name that a ``{generated}`` block gives."""
