"""The markers as functions, which editors complete and type checkers check: ``from pytest_pot import markers``.

    @markers.identity(tolerance="int8", reference="models/reference")
    def test_it(): ...

They return what ``pytest.mark.pot_identity(...)`` and its kin do, and may stand wherever those may: on tests, classes and
parameters, and in ``pytestmark``. An argument that is left out, or None, comes from the options and the fixtures.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias, TypedDict, Unpack

import pytest

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
    """The trusted model: a folder, a hub id, a .gguf file, a server, package.module:factory, or a recorded reference."""
    candidate: str | Path | None
    """The model under test, named in the same way."""
    prompts: str | Path | Sequence[str | Prompt] | None
    """A JSON Lines file beside the test, a list of texts or prompts, or "added-tokens"."""
    key: str | None
    """Draws the prompts from this secret instead."""
    preset: Preset | None
    """How models are compared, by name; "auto" by default."""
    max_length: int | None
    """The most tokens of prompt and continuation; the preset's by default."""
    positions: int | None
    """The most tokens of a continuation that are compared; the preset's by default."""
    batch_size: int | Literal["auto"] | None
    """Prompts per forward pass; the preset's by default."""
    candidate_dtype: Dtype | None
    """The precision of the candidate, where it is not that of the reference."""


class _ScoreArguments(_CommonArguments, total=False):
    """What markers on a score take."""

    metric: Metric | None
    """What limits are on; "tv" by default."""
    tolerance: Tolerance | None
    """A limit by name, on "tv"; "half" by default."""
    confidence: float | None
    """Draws prompts until the verdict is safe at this confidence, such as 0.95; all prompts are scored by default."""
    max_outliers: float | None
    """With confidence: the share of prompts above the limit for one prompt that SAME claims not to be reached; 0.05."""
    path: Literal["prefill", "decode"] | None
    """How the candidate reads: in one pass, "prefill", by default, or token by token through its cache."""
    max_tail: float | None
    """The largest mean probability outside the compared tokens at which the gate may pass; 0.25 by default."""


class IdentityArguments(_ScoreArguments, total=False):
    """What :func:`identity` takes."""

    max_score: float | None
    """The limit on the mean score, in place of a tolerance."""
    max_prompt_score: float | None
    """The limit on the score of each prompt; ten times the limit on the mean by default, and less near 1."""


class DistinctArguments(_ScoreArguments, total=False):
    """What :func:`distinct` takes."""

    min_score: float | None
    """The score that has to be exceeded, in place of a tolerance."""


class LatencyArguments(_CommonArguments, total=False):
    """What :func:`latency` takes. At least one limit."""

    budget_ms: float | None
    """The most milliseconds of the candidate, per ``per``."""
    max_slowdown: float | None
    """The most time of the candidate, as a multiple of the reference's, timed side by side."""
    min_tokens_per_s: float | None
    """The fewest tokens per second that the candidate reads or, with what="decode", generates."""
    max_memory_mb: float | None
    """The most memory of the candidate with its weights, in megabytes of 10^6 bytes."""
    max_memory_ratio: float | None
    """The most memory of the candidate, as a multiple of the reference's."""
    per: Literal["prompt", "batch", "token"] | None
    """What budget_ms is for; "prompt" by default."""
    stat: Literal["median", "p95"] | None
    """The statistic of the times that budget_ms limits; "median" by default."""
    what: Literal["score", "prefill", "decode"] | None
    """What is timed: the scoring of a batch, "score", by default, a bare forward pass, or generation."""
    new_tokens: int | None
    """With what="decode": tokens to generate per prompt; 8 by default."""
    max_seconds: float | None
    """The most seconds for measuring; 120 by default."""


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


def _tell_signature(function: Callable[..., pytest.MarkDecorator], arguments: type) -> None:
    """Show help() and documentation every argument by its name, where they would see ``**arguments``."""
    hints = {name: annotation for kind in reversed(arguments.__mro__) for name, annotation in _annotations(kind).items()}
    keywords = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)
        for name, annotation in hints.items()
    ]
    signature = inspect.Signature(keywords, return_annotation=pytest.MarkDecorator)
    function.__signature__ = signature  # type: ignore[attr-defined]


def _annotations(kind: type) -> dict[str, Any]:
    return {name: getattr(hint, "__forward_arg__", hint) for name, hint in vars(kind).get("__annotations__", {}).items()}


_tell_signature(identity, IdentityArguments)
_tell_signature(distinct, DistinctArguments)
_tell_signature(latency, LatencyArguments)
