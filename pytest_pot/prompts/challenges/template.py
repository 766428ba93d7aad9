"""A prompt with slots, and how amounts and times are written in it.

Figures are computed in integers (cents, minutes, watt-hours), so that all machines round the same way.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from string import Template as Text
from typing import Any

from pytest_pot.prompts.prompt import Prompt

__all__ = ["Template", "Values", "clock", "comma", "money"]

Values = Mapping[str, Any]


@dataclass(frozen=True)
class Template:
    """A prompt with slots."""

    kind: str
    slots: Mapping[str, Sequence[object]]
    """The values that each slot may have, each once. A slot's name is part of its draw: renaming it changes the prompts."""
    body: str
    """Text and continuation, with ``‖`` between them and ``$name`` for a slot or a figure."""
    figures: Callable[[Values], Values] = lambda _: {}
    """Computes further values for the body, by name, from the values of the slots."""

    @property
    def size(self) -> int:
        """How many different prompts the template can make."""
        return math.prod(len(choices) for choices in self.slots.values())

    def fill(self, values: Values) -> Prompt:
        """The prompt with one value in each slot.

        Raises:
            KeyError: a slot has no value.
        """
        text, continuation = Text(self.body).substitute({**values, **self.figures(values)}).split("‖")
        return Prompt(text, continuation, self.kind)


def money(cents: int) -> str:
    """Cents as an amount with a decimal point: 1234 is 12.34."""
    return f"{cents // 100}.{cents % 100:02}"


def comma(cents: int) -> str:
    """Cents as an amount with a decimal comma, as in continental Europe: 1234 is 12,34."""
    return f"{cents // 100},{cents % 100:02}"


def clock(minutes: int) -> str:
    """Minutes since midnight as a time of day: 75 is 01:15."""
    return f"{minutes // 60:02}:{minutes % 60:02}"
