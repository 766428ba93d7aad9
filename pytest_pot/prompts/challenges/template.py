"""A prompt with slots, and how amounts and times are written in it.

Figures are worked out in whole numbers (cents, minutes, watt-hours), so that no machine rounds another way.
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
    """What each slot may hold, every value once. The order of the slots is the order of the draws."""
    body: str
    """Text and continuation, with ``‖`` between them and ``$name`` for a slot or a figure."""
    figures: Callable[[Values], Values] = lambda _: {}
    """What follows from the values of the slots, by name."""

    @property
    def size(self) -> int:
        """How many different prompts it makes."""
        return math.prod(len(choices) for choices in self.slots.values())

    def fill(self, values: Values) -> Prompt:
        """The prompt with one value in each slot."""
        text, continuation = Text(self.body).substitute({**values, **self.figures(values)}).split("‖")
        return Prompt(text, continuation, self.kind)


def money(cents: int) -> str:
    """With a point: 1234 is 12.34."""
    return f"{cents // 100}.{cents % 100:02}"


def comma(cents: int) -> str:
    """As on the continent: 1234 is 12,34."""
    return f"{cents // 100},{cents % 100:02}"


def clock(minutes: int) -> str:
    """Minutes since midnight: 75 is 01:15."""
    return f"{minutes // 60:02}:{minutes % 60:02}"
