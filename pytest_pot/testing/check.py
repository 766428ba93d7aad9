"""Check an engine against the model that it serves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from pytest_pot.core.errors import InvalidArgument, PotError
from pytest_pot.core.text import printable
from pytest_pot.engines.registry import embedding_rows, max_positions
from pytest_pot.prompts.prompt import Prompt
from pytest_pot.testing.calls import answers_of, check_answers, check_widths
from pytest_pot.testing.case import Case
from pytest_pot.testing.given_ids import check_given_ids
from pytest_pot.testing.oracle import Oracle
from pytest_pot.testing.problems import EngineProblems
from pytest_pot.testing.readings import check_readings
from pytest_pot.testing.sampling import check_sampling
from pytest_pot.testing.texts import tokens_of

__all__ = ["TOLERANCE", "check_engine"]

TOLERANCE = 0.03
"""The mean total variation between an engine and its model that rounding explains."""

_METHODS = ("top_k", "sample")


def check_engine(
    engine: Any,
    model: nn.Module,
    tokenizer: Any,
    *,
    prompts: Sequence[str | Prompt] | None = None,
    tolerance: float = TOLERANCE,
) -> None:
    """Check that ``engine`` does what :class:`~pytest_pot.engines.base.Engine` asks for, and says what ``model`` says.

    The model reads each prompt alone, without padding or a cache, and its logits are normalised in float64. Where the engine
    says something else, the known mistakes are tried, and the one that explains the difference is named.

    Args:
        engine: what ``top_k``, ``sample`` and, where it has them, ``at``, ``decode`` and ``reading`` are called of.
        model: the model that it serves: any module whose forward returns logits [batch, length, vocab]. Not changed.
        tokenizer: encodes the prompts.
        prompts: the texts to ask about; by default eight short ones of different lengths. Where a prompt has no continuation,
            its last tokens are.
        tolerance: the mean total variation that rounding may cause, between 0 and 1. The default is enough for an engine that
            computes in bfloat16; one with weights in 8 or 4 bit is farther from a float32 model. A mistake that explains a
            difference four times better than no mistake is named even below it.

    Raises:
        EngineProblems: something is wrong. It lists all that was found, the most basic first, and is an AssertionError.
        PotError: ``model`` returns no logits, ``tokenizer`` belongs to another model, or ``prompts`` cannot be used.
    """
    if not isinstance(model, nn.Module):
        raise InvalidArgument(f"model is {type(model).__name__}, not a torch.nn.Module: give the model that the engine serves")
    if isinstance(tolerance, bool) or not isinstance(tolerance, int | float) or not 0 < tolerance < 1:
        raise InvalidArgument(f"tolerance is {tolerance!r}: give a number between 0 and 1, such as {TOLERANCE}")
    name = type(engine).__name__
    problems = _members(engine, model)
    if problems.fatal:
        raise EngineProblems(name, problems.texts)
    limits = [int(each) for each in (engine.max_positions, max_positions(model)) if each is not None]
    batch = tokens_of(tokenizer, prompts, min(limits, default=None))
    _refuse_other_tokenizer(model, max(max(tokens.ids) for tokens in batch))
    oracle = Oracle(model, batch)
    case = Case(engine, oracle, tokenizer, float(tolerance), float(tolerance), problems.texts)
    _check(case, exact=_is_exact(model))
    if case.problems:
        raise EngineProblems(f"{name} ({printable(engine.label)})", list(dict.fromkeys(case.problems))) from case.cause


def _check(case: Case, *, exact: bool) -> None:
    answers = answers_of(case)
    if answers is None:
        return
    case.right = check_answers(case, answers, exact=exact)
    if case.right:
        before = len(case.problems)
        check_widths(case)
        if len(case.problems) == before and case.gives_ids:
            check_given_ids(case)
        if len(case.problems) == before:
            check_readings(case)
    check_sampling(case)


class _Members:
    """What is wrong with the attributes and methods of an engine."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.fatal = False
        """Whether nothing can be asked."""


def _members(engine: Any, model: nn.Module) -> _Members:
    found = _Members()
    for method in _METHODS:
        if not callable(getattr(engine, method, None)):
            found.texts.append(f"it has no method {method}: see Engine in pytest_pot.engines.base")
            found.fatal = True
    for attribute in ("max_positions", "label"):
        try:
            getattr(engine, attribute)
        except Exception as error:  # a property may raise anything
            found.texts.append(f"its attribute {attribute} raised {type(error).__name__}: {error}")
            found.fatal = True
    if found.fatal:
        return found
    if not isinstance(engine.label, str) or not engine.label.strip():
        found.texts.append(
            f"label is {engine.label!r}: it has to be a text that says where and in which precision the model runs, such as "
            "'float32 on cpu'"
        )
        found.fatal = not isinstance(engine.label, str)
    own, limit = engine.max_positions, max_positions(model)
    if own is not None and (isinstance(own, bool) or not isinstance(own, int | np.integer) or own < 2):
        found.texts.append(
            f"max_positions is {own!r}: it has to be the longest sequence in tokens, or None where there is no limit"
        )
        found.fatal = True
    elif limit is not None and (own is None or own > limit):
        found.texts.append(
            f"max_positions is {own}, and the model takes {limit} tokens at most (its config says so): longer prompts "
            "would be "
            "sent to it instead of being cut"
        )
    return found


def _refuse_other_tokenizer(model: nn.Module, highest: int) -> None:
    """Raise :class:`PotError` if the model has no row for the highest id of the prompts; on a GPU, it would end the process."""
    rows = embedding_rows(model)
    if rows is not None and highest >= rows:
        raise PotError(f"the tokenizer gives id {highest}, but the model has {rows} embeddings: it belongs to another model")


def _is_exact(model: nn.Module) -> bool:
    """Whether all weights are float32 or finer, so that bfloat16 explains nothing."""
    return all(parameter.dtype in (torch.float32, torch.float64) for parameter in model.parameters())
