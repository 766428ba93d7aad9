"""Which prompts models are compared on: the one rule, for gates and for ``--pot-calibrate``.

The first of these that there is: prompts in the marker; a key in the marker or the options; a fixture ``pot_prompts`` of the
suite; ``--pot-prompts``; the hook ``pytest_pot_prompts``; the built-in suite."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from pytest_pot.core.errors import InvalidArgument, PotError
from pytest_pot.core.text import quoted
from pytest_pot.core.user_code import raised_in
from pytest_pot.plugin.options import option
from pytest_pot.plugin.paths import option_path
from pytest_pot.prompts.added_tokens import named_prompts
from pytest_pot.prompts.builtin import builtin_prompts
from pytest_pot.prompts.jsonl import load_prompts
from pytest_pot.prompts.prompt import Prompt, as_prompts_or_none

__all__ = ["PromptRequest", "choose_prompts", "default_prompts"]

_DRAWN = 32
_DRAWN_AT_MOST = 256
"""Prompts drawn by a key: for a suite that is scored whole, and until a verdict is safe."""


@dataclass(frozen=True)
class PromptRequest:
    """What asks for prompts: a gate, or a command."""

    prompts: Path | Sequence[Prompt] | None = None
    """Named in the marker: a file, or the prompts."""
    key: str | None = field(default=None, repr=False)
    """Draws them, where the marker names none."""
    sequential: bool = False
    """Whether they are drawn from only until the verdict is safe, so that more of them do not cost more."""


def choose_prompts(
    wanted: PromptRequest, config: pytest.Config, fixture: Callable[[], Any], *, overridden: bool = False
) -> Sequence[str | Prompt]:
    """The prompts for ``wanted``.

    Args:
        fixture: gives the value of ``pot_prompts``.
        overridden: whether that fixture is the suite's.

    Raises:
        PotError: a file cannot be read, or the fixture returned something else than prompts.
    """
    if isinstance(wanted.prompts, Path):
        return load_prompts(wanted.prompts)
    if wanted.prompts is not None:
        return wanted.prompts
    if wanted.key is not None:
        from pytest_pot.prompts.challenges import challenge_prompts, challenge_sample

        return challenge_sample(wanted.key, _DRAWN_AT_MOST) if wanted.sequential else challenge_prompts(wanted.key, _DRAWN)
    if wanted.sequential and not (overridden or _names_prompts(config)):
        return builtin_prompts(None)  # more to draw from than what is scored whole by default
    value = fixture()
    if isinstance(value, str):
        if os.path.exists(value):
            return load_prompts(value)
        named = named_prompts(value)
        if named is None:
            raise PotError(
                f"the fixture pot_prompts returned {quoted(value, 200)}: that is no list of prompts, and there is no "
                f"such file beside the fixture or in {config.rootpath}"
            )
        return named
    try:
        with raised_in("the fixture pot_prompts"):  # its value may be made while it is read
            return as_prompts_or_none(value)
    except InvalidArgument as error:
        raise PotError(f"the fixture pot_prompts: {error}") from error


def default_prompts(config: pytest.Config) -> list[Prompt]:
    """The prompts of pytest-pot's own fixture ``pot_prompts``: those of the option, the hook, or the built-in suite.

    Raises:
        PotError: the file cannot be read, or a hook returned something else than prompts.
    """
    path = option_path(config, "prompts")
    if path is not None:
        named = None if os.path.exists(path) else named_prompts(path)
        return load_prompts(path) if named is None else named
    try:
        with raised_in("the hook pytest_pot_prompts"):
            results = [prompts for prompts in config.hook.pytest_pot_prompts(config=config) if prompts is not None]
            return [prompt for prompts in results for prompt in as_prompts_or_none(prompts)] if results else builtin_prompts()
    except InvalidArgument as error:
        raise PotError(f"the hook pytest_pot_prompts: {error}") from error


def _names_prompts(config: pytest.Config) -> bool:
    """Whether an option or a hook names prompts, in place of the built-in ones."""
    return option(config, "prompts") is not None or bool(config.hook.pytest_pot_prompts.get_hookimpls())
