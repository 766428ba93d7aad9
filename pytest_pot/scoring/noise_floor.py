"""The noise floor: the distance of a model from itself, between a run in the batches of a gate and a run alone.

Another batch shape sums in another order, so rounding differs. A limit below the noise floor cannot tell a changed model from
an unchanged one. The exception is a limit of 0, if both models run in exactly the same way.

A gate's own batches are one side of the comparison: some of its prompts, the probes, run once more, each alone. So the shapes
are those of the gate, with the padding that prompts have there, and the cost is that of a few prompts.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from math import isfinite
from statistics import fmean
from typing import Any

from pytest_pot.core.config import ScoringConfig
from pytest_pot.core.text import count
from pytest_pot.engines.base import Engine, Room
from pytest_pot.engines.tokens import Tokens

__all__ = ["FloorKey", "NoiseFloor", "Probes", "as_texts", "choose_probes", "floor_key", "known_floor", "remember", "shortened"]

_SHARE = 0.04
"""The share of the cost of a run that probes may have, by what batches cost: below the 5 % that we promise, because costs are
estimates."""
_MOST = 4
"""Probes at most: further ones would make the mean little more precise."""
_FEWEST_TOKENS = 8
"""Texts are shortened to no fewer tokens: a forward pass over one token costs hardly less."""


@dataclass(frozen=True)
class NoiseFloor:
    """How far a model is from itself in another batch shape."""

    value: float
    """Mean of the gated metric over the probes, in its unit."""
    role: str
    """Whose it is: ``"reference"`` or ``"candidate"``."""
    n_prompts: int
    """How many prompts ran alone."""
    n_positions: int
    """How many of their positions were compared."""
    largest_batch: int
    """Prompts of the largest batch that they ran in."""

    @property
    def how(self) -> str:
        """How it was measured, for people."""
        in_batch = f"a batch of {self.largest_batch}" if self.n_prompts == 1 else f"batches of up to {self.largest_batch}"
        compared = f"{count(self.n_prompts, 'prompt')} ({count(self.n_positions, 'position')})"
        return f"measured on {compared}, run alone and in {in_batch}"


class Probes:
    """Prompts that run alone as well, and how far each is from itself in its batch."""

    def __init__(self, roles: Sequence[str], indices: Iterable[int]) -> None:
        """``roles``: the models that run them alone: ``"reference"``, ``"candidate"``. ``indices``: of the prompts."""
        self.roles = tuple(roles)
        self.indices = frozenset(indices)
        self._values: dict[str, list[tuple[float, int, int]]] = {role: [] for role in roles}

    def of(self, batch: Sequence[int]) -> list[int]:
        """Those in ``batch``, unless they are alone there."""
        return [index for index in batch if index in self.indices] if self.roles and len(batch) > 1 else []

    def add(self, role: str, value: float, n_positions: int, n_batch: int) -> None:
        """Note the distance of one prompt, in a batch of ``n_batch`` prompts."""
        self._values[role].append((value, n_positions, n_batch))

    @property
    def floors(self) -> list[NoiseFloor]:
        """That of each model; without those that no probe ran for, or that are not finite."""
        floors = []
        for role, noted in self._values.items():
            values, positions, batches = zip(*noted, strict=True) if noted else ((), (), ())
            if values and isfinite(value := fmean(values)):
                floors.append(NoiseFloor(value, role, len(values), sum(positions), max(batches)))
        return floors


def choose_probes(batches: Sequence[Sequence[int]], tokens: Sequence[Tokens] | Mapping[int, Tokens], room: Room) -> list[int]:
    """The prompts that run once more, alone: a few of usual length from different batches, if they are cheap, else a short one.

    A prompt is never cut: a shorter forward pass may run other kernels than any of the gate's, and round far more coarsely. In
    bfloat16 on a CPU, 31 tokens alone were at a distance of 0.012 from their batch, and 33 at 0. Empty where each prompt runs
    alone anyway.

    Args:
        batches: the prompt indices of each batch that will run.
        tokens: of the prompts.
        room: what batches cost.
    """
    lengths = {index: len(tokens[index].ids) for batch in batches for index in batch}
    together = [index for batch in batches if len(batch) > 1 for index in batch]
    if not together:
        return []
    in_order = sorted(lengths[index] for index in together)
    usual, short = in_order[len(in_order) // 2], in_order[(len(in_order) - 1) // 4]
    distance = {index: (abs(lengths[index] - usual), index) for index in together}
    # Of each batch one first: on a CPU, often all of one batch round alike, and none of another.
    ranks = {
        index: rank for batch in batches if len(batch) > 1 for rank, index in enumerate(sorted(batch, key=distance.__getitem__))
    }
    nearest = sorted(together, key=lambda index: (ranks[index], distance[index]))
    budget = _SHARE * sum(room.cost(len(batch) * max(lengths[index] for index in batch)) for batch in batches)
    costs = accumulate(room.cost(lengths[index]) for index in nearest)
    affordable = [index for index, cost in zip(nearest[:_MOST], costs, strict=False) if cost <= budget]
    # Of those that cost no more than a short one: where each costs the same, one of usual length.
    return sorted(affordable) or [next(index for index in nearest if room.cost(lengths[index]) <= room.cost(short))]


def as_texts(texts: Mapping[int, Sequence[int]], config: ScoringConfig, limit: int | None) -> dict[int, Tokens]:
    """Texts as prompts whose last tokens are compared: to measure the floor, nothing has to be continued.

    Texts of one token are left out. ``limit``: the longest sequence that the model takes.
    """
    longest = min(config.max_length, limit or config.max_length)
    tokens = {}
    for index, ids in texts.items():
        kept = tuple(ids[:longest])
        if len(kept) > 1:
            tokens[index] = Tokens(kept, max(1, len(kept) - config.positions_per_prompt))
    return tokens


def shortened(batch: Mapping[int, Tokens], config: ScoringConfig, room: Room, cost: float) -> dict[int, Tokens]:
    """The beginnings of the texts of ``batch``, so short that the batch and one text alone are a small share of ``cost``.

    Short forward passes, as a model that reads token by token runs them.
    """
    length = (_SHARE * cost - 2 * room.fixed) / (len(batch) + 1)
    return as_texts({index: text.ids[: max(_FEWEST_TOKENS, int(length))] for index, text in batch.items()}, config, None)


FloorKey = tuple[object, ...]
"""What a floor depends on beside the model."""

_KNOWN: weakref.WeakKeyDictionary[Any, dict[FloorKey, NoiseFloor]] = weakref.WeakKeyDictionary()
"""Floors of the models of this process. They are about the same for batches of about one size, so that a suite of many gates on
one model measures once."""


def floor_key(engine: Engine, config: ScoringConfig, tokens: Sequence[Tokens] | Mapping[int, Tokens]) -> FloorKey:
    """What a model's floor depends on: its weights, how it runs, and roughly how many prompts there are and how long they
    are."""
    prompts = list(tokens.values()) if isinstance(tokens, Mapping) else list(tokens)
    mean_length = sum(len(prompt.ids) for prompt in prompts) // len(prompts)
    fields = config.top_k, config.tail, config.batch_size, config.temperature, config.metric, config.path
    stamp = getattr(engine, "weights_stamp", None)
    return (engine.label, stamp, *fields, len(prompts).bit_length(), mean_length.bit_length())


def known_floor(engine: Engine, role: str, key: FloorKey) -> NoiseFloor | None:
    """The floor of this model that was measured under ``key``, in whichever role."""
    try:
        floor = _KNOWN.get(_model_of(engine), {}).get(key)
    except TypeError:  # an engine of one's own may allow no weak references, or no hashes
        return None
    return None if floor is None else replace(floor, role=role)


def remember(floor: NoiseFloor, engine: Engine, key: FloorKey) -> None:
    """Keep ``floor`` for :func:`known_floor`."""
    try:
        _KNOWN.setdefault(_model_of(engine), {})[key] = floor
    except TypeError:
        return


def _model_of(engine: Engine) -> Any:
    return getattr(engine, "source", engine)
