"""What a score means for a model of one's own: the model against itself, changed in known ways, and limits between them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pytest_pot.engines.distributions import Floats
from pytest_pot.gates.verdict.limits import identity_limits
from pytest_pot.prompts.prompt import Prompt
from pytest_pot.scoring.scorer import TeacherForcedScorer

__all__ = ["MEANT_TO_PASS", "STANDARD", "Calibration", "Proposal", "Rung", "calibrate"]

STANDARD = (
    "bf16",
    "fp16",
    "int8 per row",
    "int8 per tensor",
    "int4 in groups",
    "pruned 1 %",
    "pruned 5 %",
    "pruned 20 %",
    "layers swapped",
)
"""The changes that are tried, by the names that :mod:`pytest_pot.calibration.perturbations` gives them."""

MEANT_TO_PASS = {"half": ("bf16", "fp16"), "int8": ("int8 per row",), "int4": ("int4 in groups",)}
"""What a limit of that kind is to let pass."""

_APART = 1.5
"""How many times larger a change must be for a limit to stand between; nearer ones pass or fail by the prompts' luck."""

_RESAMPLES = 10_000


@dataclass(frozen=True)
class Rung:
    """One known change, and what it does to the scores."""

    name: str
    scores: Floats
    """[n_prompts], of the gated metric."""
    metrics: dict[str, float]

    @property
    def mean(self) -> float:
        return float(self.scores.mean())

    @property
    def cv(self) -> float:
        """Standard deviation over prompts, in means."""
        return float(self.scores.std(ddof=1) / self.mean) if self.mean > 0 and len(self.scores) > 1 else 0.0


@dataclass(frozen=True)
class Proposal:
    """A limit between what it is to let pass and the smallest change that is clearly larger."""

    kind: str
    highest: Rung
    """The largest of the changes that are meant to pass."""
    next: Rung | None
    """The smallest change that is clearly larger; None where there is none."""
    others: Sequence[Rung] = ()
    """Changes of other kinds that are no larger, or too near to it for a limit in between."""
    metric: str = "tv"

    @property
    def limit(self) -> float:
        """The geometric middle, to the three digits that are shown; twice the highest where nothing is above it."""
        above = self.next.mean if self.next is not None else 4.0 * self.highest.mean
        return float(f"{np.sqrt(self.highest.mean * above):.3g}")

    def passing(self) -> list[Rung]:
        """Those of the others that are within the limit."""
        return [rung for rung in self.others if rung.mean <= self.limit]

    def near(self) -> list[Rung]:
        """Those of the others that are above the limit, by less than a factor that prompts drawn anew would keep."""
        return [rung for rung in self.others if rung.mean > self.limit]

    @property
    def separation(self) -> float | None:
        """How many times larger the next change is."""
        return None if self.next is None else self.next.mean / self.highest.mean

    def false_alarms(self) -> float:
        """The share of suites, of as many prompts drawn anew from those scored, on which the highest would fail."""
        return self._failing(self.highest)

    def misses(self) -> float | None:
        """The share of such suites on which the next larger change would pass."""
        return None if self.next is None else 1.0 - self._failing(self.next)

    def _failing(self, rung: Rung) -> float:
        """By bootstrap, with the limit for one prompt at its default."""
        limits = identity_limits(self.metric, max_score=self.limit)
        generator = np.random.default_rng(0)
        n, failed = len(rung.scores), 0
        for _ in range(_RESAMPLES // 1000):  # in parts: 10,000 × 257 numbers at once are not needed
            drawn = rung.scores[generator.integers(0, n, (1000, n))]
            beyond = (drawn.mean(axis=1) > limits.max_score) | (drawn.max(axis=1) > limits.max_prompt_score)
            failed += int(beyond.sum())
        return failed / _RESAMPLES


@dataclass(frozen=True)
class Calibration:
    """The ladder of one model."""

    metric: str
    n_prompts: int
    label: str
    noise_floor: float | None
    rungs: Sequence[Rung]
    """The smallest change first."""
    left_out: dict[str, str]
    """Changes that this model has nothing for, with the reason."""

    def proposals(self) -> list[Proposal]:
        """A limit of each kind that has something to let pass; none that would be below the noise floor."""
        found = []
        for kind, names in MEANT_TO_PASS.items():
            passing = [rung for rung in self.rungs if rung.name in names and rung.mean > 0]
            if passing:
                highest = max(passing, key=lambda rung: rung.mean)
                others = [rung for rung in self.rungs if rung.name not in names]
                larger = [rung for rung in others if rung.mean >= _APART * highest.mean]
                below = [rung for rung in others if rung.mean < _APART * highest.mean]
                found.append(Proposal(kind, highest, min(larger, key=lambda rung: rung.mean, default=None), below, self.metric))
        return [proposal for proposal in found if proposal.limit > (self.noise_floor or 0.0)]


def calibrate(
    scorer: TeacherForcedScorer,
    reference: Any,
    prompts: Sequence[str | Prompt],
    tokenizer: Any,
    *,
    names: Iterable[str] = STANDARD,
    tell: Callable[[str], None] | None = None,
) -> Calibration:
    """Score changed copies of ``reference`` against it; one copy is in memory at a time.

    Args:
        names: keys of :data:`pytest_pot.calibration.perturbations.PERTURBATIONS`.
        tell: called with a change's name before it is tried.

    Raises:
        PotError: as :meth:`TeacherForcedScorer.score_batch`.
    """
    from pytest_pot.calibration.perturbations import NotApplicable, perturb

    floor = scorer.noise_floor(reference, prompts, tokenizer)
    baseline = scorer.record(reference, prompts, tokenizer)
    rungs, left_out = [], {}
    for name in names:
        if tell is not None:
            tell(name)
        try:
            changed = perturb(reference, name)
        except NotApplicable as reason:
            left_out[name] = str(reason)
            continue
        report = scorer.score_baseline(baseline, changed, tokenizer)
        del changed
        rungs.append(Rung(name, report.scores, report.metrics))
    return Calibration(
        metric=scorer.config.metric,
        n_prompts=baseline.n_prompts,
        label=baseline.provenance.label,
        noise_floor=floor,
        rungs=sorted(rungs, key=lambda rung: rung.mean),
        left_out=left_out,
    )
