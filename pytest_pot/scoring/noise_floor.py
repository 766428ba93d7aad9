"""The noise floor: the distance of a model from itself, between a run in the batches of a gate and a run alone.

Another batch shape sums in another order, so rounding differs. A limit below the noise floor cannot tell a changed model from
an unchanged one. The exception is a limit of 0, if both models run in exactly the same way.

A gate's own batches are one side of the comparison: some of its prompts run once more, each alone. So the shapes are those of
the gate, with the padding that prompts have there, and the cost is that of a few prompts.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from statistics import fmean
from typing import Any

from pytest_pot.core.config import ScoringConfig
from pytest_pot.core.text import count
from pytest_pot.engines.base import Engine, Room
from pytest_pot.engines.tokens import Tokens

__all__ = ["NoiseFloor", "Probes", "as_texts", "choose_probes", "known_floor", "remember"]

_SHARE = 0.025
"""The share of the cost of a run that probes may have, by what batches cost: a prompt alone takes up to twice its share of a
batch, so that this is at most 5 % of the time."""
_MOST = 4


@dataclass(frozen=True)
class NoiseFloor:
    """How far a model is from itself in another batch shape."""

    value: float
    """Mean of the gated metric over the probes, in its unit."""
    role: str
    """Whose it is: ``"reference"`` or ``"candidate"``."""
    n_prompts: int
    """How many prompts ran alone."""
    largest_batch: int
    """Prompts of the largest batch that they ran in."""

    @property
    def how(self) -> str:
        """How it was measured, for people."""
        prompts = "one prompt" if self.n_prompts == 1 else count(self.n_prompts, "prompt")
        return f"measured on {prompts} alone and in batches of up to {self.largest_batch}"


class Probes:
    """Prompts that run alone as well, and how far each is from itself in its batch."""

    def __init__(self, roles: Sequence[str], indices: Sequence[int]) -> None:
        """``roles``: the models that run them alone: ``"reference"``, ``"candidate"``."""
        self.roles = tuple(roles)
        self.indices = frozenset(indices)
        self._values: dict[str, list[float]] = {role: [] for role in roles}
        self._largest_batch = 0

    def of(self, batch: Sequence[int]) -> list[int]:
        """Those in ``batch``, unless they are alone there."""
        return [index for index in batch if index in self.indices] if len(batch) > 1 else []

    def add(self, role: str, value: float, n_batch: int) -> None:
        """Note the distance of one prompt, in a batch of ``n_batch`` prompts."""
        self._values[role].append(value)
        self._largest_batch = max(self._largest_batch, n_batch)

    @property
    def floors(self) -> list[NoiseFloor]:
        """That of each model; without those that no probe ran for, or that are not finite."""
        floors = [
            NoiseFloor(fmean(values), role, len(values), self._largest_batch) for role, values in self._values.items() if values
        ]
        return [floor for floor in floors if isfinite(floor.value)]


def choose_probes(tokens: Mapping[int, Tokens], config: ScoringConfig, room: Room) -> list[int]:
    """The prompts that run once more, alone: of usual length, as far as they are cheap, else the shortest one.

    Empty where each prompt runs alone anyway, or where there is only one.

    Args:
        tokens: by prompt index, all that will run.
        config: its batch size.
        room: what batches cost.
    """
    if len(tokens) < 2 or config.batch_size == 1 or config.every_position:
        return []
    lengths = {index: len(prompt.ids) for index, prompt in tokens.items()}
    budget = _SHARE * sum(lengths.values())
    usual = sorted(lengths.values())[len(lengths) // 2]
    probes: list[int] = []
    cost = 0
    for index in sorted(lengths, key=lambda index: (abs(lengths[index] - usual), index)):
        further = room.cost(lengths[index])
        if cost + further <= budget and len(probes) < _MOST:
            probes.append(index)
            cost += further
    return sorted(probes) or [min(lengths, key=lambda index: (lengths[index], index))]


def as_texts(texts: Sequence[Sequence[int]], config: ScoringConfig, limit: int | None) -> dict[int, Tokens]:
    """Texts as prompts whose last tokens are compared: to measure the floor, nothing has to be continued.

    Texts of one token are left out. ``limit``: the longest sequence that the model takes.
    """
    longest = min(config.max_length, limit or config.max_length)
    tokens = {}
    for index, ids in enumerate(texts):
        kept = tuple(ids[:longest])
        if len(kept) > 1:
            tokens[index] = Tokens(kept, max(1, len(kept) - config.positions_per_prompt))
    return tokens


_KNOWN: weakref.WeakKeyDictionary[Any, dict[tuple[object, ...], NoiseFloor]] = weakref.WeakKeyDictionary()
"""Floors of the models of this process, by what they depend on. They are of one size for batches of about one size, so that a
suite of many gates on one model measures once."""


def known_floor(engine: Engine, role: str, config: ScoringConfig, tokens: Mapping[int, Tokens]) -> NoiseFloor | None:
    """The floor of this model that was measured in batches of about this size."""
    try:
        return _KNOWN.get(_model_of(engine), {}).get(_key(engine, role, config, tokens))
    except TypeError:  # an engine of one's own may allow no weak references, or no hashes
        return None


def remember(floor: NoiseFloor, engine: Engine, config: ScoringConfig, tokens: Mapping[int, Tokens]) -> None:
    """Keep ``floor`` for :func:`known_floor`."""
    try:
        _KNOWN.setdefault(_model_of(engine), {})[_key(engine, floor.role, config, tokens)] = floor
    except TypeError:
        return


def _model_of(engine: Engine) -> Any:
    return getattr(engine, "source", engine)


def _key(engine: Engine, role: str, config: ScoringConfig, tokens: Mapping[int, Tokens]) -> tuple[object, ...]:
    n_tokens = sum(len(prompt.ids) for prompt in tokens.values())
    sizes = len(tokens).bit_length(), (n_tokens // len(tokens)).bit_length()
    fields = config.top_k, config.tail, config.batch_size, config.temperature, config.metric, config.path
    return (engine.label, role, *fields, *sizes)
