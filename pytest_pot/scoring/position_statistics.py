"""How figures are spread over positions, in the words of people who quantise: percentiles, Δp, same top p."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np

from pytest_pot.engines.distributions import Floats, TopK

__all__ = ["DELTA_P_PERCENTILES", "PERCENTILES", "DeltaP", "SameTop", "delta_p", "percentiles", "same_top", "with_text_keys"]

PERCENTILES: tuple[float, ...] = (0, 1, 5, 10, 50, 90, 95, 99, 99.9, 100)
"""The percentiles of a metric that reports show."""
DELTA_P_PERCENTILES: tuple[float, ...] = (0, 0.1, 1, 5, 10, 25, 50, 75, 90, 95, 99, 99.9, 100)
"""Those of Δp, whose two sides matter alike: the ones that llama.cpp prints."""


@dataclass(frozen=True)
class DeltaP:
    """The change of the probability of the continuation's token, candidate minus reference, over all positions."""

    mean: float
    """In percentage points."""
    rms: float
    """Root of the mean square, in percentage points."""
    percentiles: Mapping[float, float]
    """In percentage points, by :data:`DELTA_P_PERCENTILES`."""

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types; the keys of ``percentiles`` are strings: ``"99.9"``."""
        return {**asdict(self), "percentiles": with_text_keys(self.percentiles)}


class SameTop(NamedTuple):
    """The share of positions at which both models have the same likeliest token."""

    share: float
    """0 to 1."""
    standard_error: float | None
    """Over prompts, since the positions of one prompt are not independent; None with fewer than two prompts."""


def percentiles(values: Floats, which: tuple[float, ...] = PERCENTILES) -> dict[float, float]:
    """The percentiles ``which`` of ``values`` [n], with linear interpolation between neighbours.

    The q-th is at index ``(n - 1) q / 100`` of the sorted values, as in llama.cpp (``percentile`` in
    tools/perplexity/perplexity.cpp).
    """
    return dict(zip(which, np.percentile(values, which).tolist(), strict=True))


def delta_p(reference: Sequence[TopK], candidate: Sequence[TopK]) -> DeltaP:
    """Δp of the targets, one :class:`~pytest_pot.engines.distributions.TopK` per prompt."""
    before, after = (
        np.exp(np.minimum(np.concatenate([top.targets for top in models]), 0.0)) for models in (reference, candidate)
    )
    change = 100.0 * (after - before)
    return DeltaP(float(change.mean()), float(np.sqrt(np.square(change).mean())), percentiles(change, DELTA_P_PERCENTILES))


def same_top(reference: Sequence[TopK], candidate: Sequence[TopK]) -> SameTop:
    """Same top p, and its error: that of a ratio of sums over prompts (Cochran, Sampling Techniques, 1977, section 6.4)."""
    same = [a.top_ids == b.top_ids for a, b in zip(reference, candidate, strict=True)]
    hits, sizes = (np.array([f(flags) for flags in same], dtype=np.float64) for f in (np.sum, len))
    share, n = float(hits.sum() / sizes.sum()), len(same)
    if n < 2:
        return SameTop(share, None)
    residuals = (hits - share * sizes) / sizes.mean()
    return SameTop(share, float(np.sqrt(np.square(residuals).sum() / (n * (n - 1)))))


def with_text_keys(values: Mapping[float, float]) -> dict[str, float]:
    """Percentiles as JSON has them."""
    return {f"{key:g}": value for key, value in values.items()}
