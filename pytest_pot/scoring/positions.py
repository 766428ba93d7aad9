"""Errors about one position: which prompt of the suite it is in."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from pytest_pot.core.errors import PotError
from pytest_pot.core.text import shorten
from pytest_pot.engines.base import PositionError
from pytest_pot.prompts.prompt import Prompt

__all__ = ["named_prompts"]


@contextmanager
def named_prompts(prompts: Sequence[Prompt] | Mapping[int, Prompt], batch: Sequence[int]) -> Iterator[None]:
    """Name the prompt in errors of an engine, which knows only its index in ``batch``, the prompt indices of a batch."""
    try:
        yield
    except PositionError as error:
        index = batch[error.prompt or 0]
        text = shorten(prompts[index].text, 40)
        raise PotError(f"{error.what}, at prompt {index} ({text!r}), position {error.position}") from None
