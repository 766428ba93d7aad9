"""What batches show of the prompts that run alone as well, to be compared with that."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate

from pytest_pot.engines.tensors import Distributions
from pytest_pot.engines.tokens import Tokens
from pytest_pot.scoring.noise_floor import Probes

__all__ = ["ProbedRows"]


class ProbedRows:
    """What a batch showed of its probes, collected while the parts of the batch are compared."""

    def __init__(self, probes: Probes, batch: Sequence[int], tokens: Sequence[Tokens]) -> None:
        self._roles = probes.roles
        self._rows: dict[int, tuple[int, int]] = {}
        """By prompt index, the positions of the batch to keep."""
        if indices := probes.of(batch):
            n_positions = dict(zip(batch, (each.n_positions for each in tokens), strict=True))
            starts = dict(zip(batch, accumulate(n_positions.values(), initial=0), strict=False))
            self._rows = {index: (starts[index], starts[index] + n_positions[index]) for index in indices}
        self._parts: dict[tuple[str, int], list[Distributions]] = {}
        self._done = 0

    def add(self, **parts: Distributions) -> None:
        """The next positions of the batch, by role."""
        n = len(next(iter(parts.values())))
        for index, (first, last) in self._rows.items():
            rows = max(0, first - self._done), min(n, last - self._done)
            for role in self._roles if rows[0] < rows[1] else ():
                part = parts[role].rows(*rows)
                # A view would keep all of a whole vocabulary's part in memory.
                part = part.copy() if part.ids is None else part
                if "reference" in parts:  # which of its first choices are clear, only a reference knows
                    part = replace(part, clear=parts["reference"].rows(*rows).clear)
                self._parts.setdefault((role, index), []).append(part)
        self._done += n

    @property
    def distributions(self) -> dict[tuple[str, int], Distributions]:
        """By role and prompt index."""
        return {key: Distributions.concatenate(parts) for key, parts in self._parts.items()}
