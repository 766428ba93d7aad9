"""The markers as functions, which editors complete and type checkers check: ``from pytest_pot import markers``.

    @markers.identity(tolerance="int8", reference="models/reference")
    def test_it(): ...

They return what ``pytest.mark.pot_identity(...)`` and its kin do, and may stand wherever those may: on tests, classes and
parameters, and in ``pytestmark``. An argument that is left out, or None, comes from the options and the fixtures.
"""

from __future__ import annotations

import inspect
from ast import literal_eval
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from textwrap import fill
from typing import Any, Literal, TypeAlias, TypedDict, Unpack

import pytest

from pytest_pot.plugin.argument_help import ARGUMENT_HELP, ArgumentHelp
from pytest_pot.prompts.prompt import Prompt

__all__ = [
    "DistinctArguments",
    "Dtype",
    "IdentityArguments",
    "LatencyArguments",
    "Metric",
    "Preset",
    "Tolerance",
    "distinct",
    "identity",
    "latency",
]

Preset: TypeAlias = Literal["auto", "balanced", "accurate", "fastest", "single", "original"]
Metric: TypeAlias = Literal["tv", "jsd", "kl", "kl_reverse", "delta_ce", "top1_flip"]
Tolerance: TypeAlias = Literal["identical", "numeric", "half", "int8", "int4"]
Dtype: TypeAlias = Literal["auto", "float32", "float16", "bfloat16", "float64"]


class _CommonArguments(TypedDict, total=False):
    """What all markers take."""

    reference: str | Path | None
    candidate: str | Path | None
    prompts: str | Path | Sequence[str | Prompt] | None
    key: str | None
    preset: Preset | None
    max_length: int | None
    positions: int | None
    batch_size: int | Literal["auto"] | None
    candidate_dtype: Dtype | None


class _ScoreArguments(_CommonArguments, total=False):
    """What markers on a score take."""

    metric: Metric | None
    tolerance: Tolerance | None
    confidence: float | None
    max_outliers: float | None
    path: Literal["prefill", "decode"] | None
    max_tail: float | None


class IdentityArguments(_ScoreArguments, total=False):
    """What :func:`identity` takes."""

    max_score: float | None
    max_prompt_score: float | None


class DistinctArguments(_ScoreArguments, total=False):
    """What :func:`distinct` takes."""

    min_score: float | None


class LatencyArguments(_CommonArguments, total=False):
    """What :func:`latency` takes. At least one limit."""

    budget_ms: float | None
    max_slowdown: float | None
    min_tokens_per_s: float | None
    max_memory_mb: float | None
    max_memory_ratio: float | None
    per: Literal["prompt", "batch", "token"] | None
    stat: Literal["median", "p95"] | None
    what: Literal["score", "prefill", "decode"] | None
    new_tokens: int | None
    max_seconds: float | None


def identity(**arguments: Unpack[IdentityArguments]) -> pytest.MarkDecorator:
    """``pytest.mark.pot_identity``: fail unless the candidate is the SAME model as its reference."""
    mark: pytest.MarkDecorator = pytest.mark.pot_identity(**_given(arguments))
    return mark


def distinct(**arguments: Unpack[DistinctArguments]) -> pytest.MarkDecorator:
    """``pytest.mark.pot_distinct``: fail unless the candidate is DIFFERENT from its reference."""
    mark: pytest.MarkDecorator = pytest.mark.pot_distinct(**_given(arguments))
    return mark


def latency(**arguments: Unpack[LatencyArguments]) -> pytest.MarkDecorator:
    """``pytest.mark.pot_latency``: fail if the candidate is slower, or takes more memory, than it may."""
    mark: pytest.MarkDecorator = pytest.mark.pot_latency(**_given(arguments))
    return mark


def _given(arguments: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in arguments.items() if value is not None}


def _describe(function: Callable[..., pytest.MarkDecorator], arguments: type) -> None:
    """Show help(), editors and documentation every argument with its meaning, where they would see ``**arguments``."""
    hints = {name: annotation for kind in reversed(arguments.__mro__) for name, annotation in _annotations(kind).items()}
    keywords = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=_default(name), annotation=annotation)
        for name, annotation in hints.items()
    ]
    signature = inspect.Signature(keywords, return_annotation=pytest.MarkDecorator)
    function.__signature__ = signature  # type: ignore[attr-defined]
    function.__doc__ = "\n".join([f"{function.__doc__}\n", "Args:", *(_described(name, ARGUMENT_HELP[name]) for name in hints)])


def _default(name: str) -> object:
    """The argument's default if it is a value, and None if options and fixtures decide."""
    try:
        return literal_eval(ARGUMENT_HELP[name].default)
    except (SyntaxError, ValueError):
        return None


def _described(name: str, argument: ArgumentHelp) -> str:
    """An argument in a docstring, indented."""
    meaning = f"{argument.text[0].upper()}{argument.text[1:]}. Default: {argument.default}."
    line = f"{name} ({argument.type}): {meaning}"
    return fill(line, 100, initial_indent=" " * 4, subsequent_indent=" " * 8, break_on_hyphens=False)


def _annotations(kind: type) -> dict[str, Any]:
    return {name: getattr(hint, "__forward_arg__", hint) for name, hint in vars(kind).get("__annotations__", {}).items()}


_describe(identity, IdentityArguments)
_describe(distinct, DistinctArguments)
_describe(latency, LatencyArguments)
