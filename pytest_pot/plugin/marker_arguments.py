"""From a marker's arguments to a gate. Every usage error is found here, while tests are collected."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from pytest_pot.baseline.naming import is_baseline
from pytest_pot.core.config import ScoringConfig
from pytest_pot.core.errors import InvalidArgument, PotError
from pytest_pot.core.names import DEFAULT_PRESET
from pytest_pot.core.text import quoted
from pytest_pot.engines.server.address import is_server, parse
from pytest_pot.gates.base import CONFIG_ARGUMENTS, Gate, GateSettings, ReferenceUse
from pytest_pot.plugin.markers import MARKERS
from pytest_pot.plugin.options import check_field, option, overrides, run_options
from pytest_pot.plugin.paths import existing, option_path, placed
from pytest_pot.plugin.pytest_internals import is_overridden
from pytest_pot.prompts.added_tokens import named_prompts
from pytest_pot.prompts.jsonl import check_regular
from pytest_pot.prompts.prompt import Prompt, as_prompts

__all__ = ["gates_of"]

_ALIKE = 0.8
"""How alike a misspelt argument and the one that was meant are at least: more than ``min_score`` and ``max_score`` are."""


def gates_of(item: pytest.Item, marks: Iterable[pytest.Mark]) -> list[Gate]:
    """The gates that ``marks`` on ``item`` ask for.

    Raises:
        InvalidArgument: an argument has no meaning; the message names the marker and the choices.
    """
    return [_gate(item, mark) for mark in marks]


def _gate(item: pytest.Item, mark: pytest.Mark) -> Gate:
    gate_type = MARKERS[mark.name].gate
    names = ", ".join(gate_type.arguments)
    try:
        if mark.args:
            raise InvalidArgument(f"takes keyword arguments only, not {mark.args[0]!r}; they are {names}")
        for name in mark.kwargs:
            if name not in gate_type.arguments:
                near = difflib.get_close_matches(name, gate_type.arguments, n=1, cutoff=_ALIKE)
                choices = f"did you mean {near[0]!r}?" if near else f"the arguments are {names}"
                raise InvalidArgument(f"unknown argument {quoted(name, 80)}; {choices}")
        arguments = {name: value for name, value in mark.kwargs.items() if value is not None}
        settings = _settings(item, mark.name, arguments)
        gate = gate_type.from_arguments(settings, arguments, run_options(item.config))
        _check_reference(item, gate, arguments)
        return gate
    except PotError as error:
        raise InvalidArgument(f"{mark.name}: {error}") from error


def _settings(item: pytest.Item, marker: str, arguments: Mapping[str, Any]) -> GateSettings:
    """What the arguments that all markers share, and the options, ask of the gate.

    Raises:
        InvalidArgument: one of them has no meaning; the message names the choices.
    """
    preset = arguments.get("preset", option(item.config, "preset") or DEFAULT_PRESET)
    changes = overrides(item.config)
    for name, field in CONFIG_ARGUMENTS.items():
        if name in arguments:
            check_field(name, arguments[name])
            changes[field] = arguments[name]
    config = ScoringConfig.preset(preset, **changes)
    candidate_dtype = arguments.get("candidate_dtype", option(item.config, "candidate_dtype"))
    if candidate_dtype is not None:
        check_field("candidate_dtype", candidate_dtype)
    if "prompts" in arguments and "key" in arguments:
        raise InvalidArgument("prompts and key both name the prompts; give one")
    reference = arguments.get("reference")
    bases = [item.path.parent, item.config.rootpath]
    return GateSettings(
        gate=marker,
        preset=preset,
        config=config,
        reference=None if is_baseline(reference) else _spec("reference", reference, bases),
        baseline=Path(placed(str(reference), bases)) if is_baseline(reference) else None,
        candidate=_candidate(arguments.get("candidate"), bases),
        candidate_dtype=candidate_dtype,
        prompts=_prompts(arguments.get("prompts"), bases),
        key=_key(arguments.get("key")) if "key" in arguments or "prompts" in arguments else option(item.config, "key"),
    )


def _check_reference(item: pytest.Item, gate: Gate, arguments: Mapping[str, Any]) -> None:
    """Refuse a recorded reference where the gate has to run one, or needs none."""
    use = gate.uses_reference
    settings = gate.settings
    if use is ReferenceUse.NONE and settings.baseline is not None:
        gate.refuse_recording(str(arguments["reference"]))
    if use is not ReferenceUse.LIVE:
        return
    recorded: str | Path | None = settings.baseline
    if settings.reference is None and recorded is None and not is_overridden(item, "pot_reference"):
        named = option_path(item.config, "reference") or option_path(item.config, "baseline")
        recorded = named if is_baseline(named) else None
    if recorded is not None:
        gate.refuse_recording(Path(recorded).name)


def _spec(name: str, value: object, bases: Sequence[Path]) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str | Path) or not str(value):
        raise InvalidArgument(
            f"{name}={value!r} must name a model: a folder or hub id, an ONNX graph, a .gguf file, a server's URL, or "
            f"package.module:factory; a model that is already in memory comes from the fixture pot_{name}"
        )
    if is_server(str(value)):
        parse(str(value))  # a password would be shown in reports
    return existing(str(value), bases)


def _candidate(value: object, bases: Sequence[Path]) -> str | None:
    if is_baseline(value):
        raise InvalidArgument(
            f"candidate={str(value)!r} is a recording, and a gate runs its candidate; python -m pytest_pot compare scores two "
            "recordings against each other"
        )
    return _spec("candidate", value, bases)


def _prompts(value: object, bases: Sequence[Path]) -> Path | Sequence[Prompt] | None:
    if value is None:
        return None
    if isinstance(value, list | tuple):
        return tuple(as_prompts(value, or_builtin=True))
    if not isinstance(value, str | Path):
        raise InvalidArgument(f"prompts={value!r} must be a JSON Lines file, a list of prompts or 'added-tokens'")
    path = Path(existing(str(value), bases))
    if not os.path.exists(path):
        named = named_prompts(str(value))
        if named is None:
            raise InvalidArgument(f"prompts={quoted(str(value), 200)}: no such file beside the test or in {bases[-1]}")
        return tuple(named)
    check_regular(path)
    return path


def _key(value: object) -> str | None:
    if value is not None and (not isinstance(value, str) or not value):
        what = "empty" if isinstance(value, str) else type(value).__name__  # not the value: it is a secret
        raise InvalidArgument(f"the key must be a string that is not empty, and it is {what}")
    return value
