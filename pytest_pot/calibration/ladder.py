"""What a score means for your own model: score copies of it, changed in known ways, and put limits between the changes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pytest_pot.core.brief import Brief
from pytest_pot.engines.distributions import Floats
from pytest_pot.gates.verdict.limits import Verdict, identity_limits
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
"""The changes that :func:`calibrate` tries by default: names from :mod:`pytest_pot.calibration.perturbations`."""

MEANT_TO_PASS = {"half": ("bf16", "fp16"), "int8": ("int8 per row",), "int4": ("int4 in groups",)}
"""The changes that a limit of each kind should let pass."""

_MIN_SEPARATION = 1.5
"""A limit separates only changes whose scores differ by this factor; closer ones pass or fail by the choice of prompts."""

_RESAMPLES = 10_000


@dataclass(frozen=True, repr=False)
class Rung(Brief):
    """One known change, and the scores it leads to."""

    name: str
    scores: Floats
    """[n_prompts], of the gated metric."""
    metrics: dict[str, float]

    @property
    def mean(self) -> float:
        return float(self.scores.mean())

    @property
    def cv(self) -> float:
        """Coefficient of variation: the standard deviation over prompts, divided by the mean."""
        return float(self.scores.std(ddof=1) / self.mean) if self.mean > 0 and len(self.scores) > 1 else 0.0


@dataclass(frozen=True, repr=False)
class Proposal(Brief):
    """A limit between the changes that should pass and the smallest change that is clearly larger."""

    kind: str
    highest: Rung
    """The largest of the changes that should pass."""
    next: Rung
    """The smallest change that is clearly larger."""
    others: Sequence[Rung] = ()
    """Changes of other kinds that are smaller than ``highest``, or too close to it for a limit in between."""
    metric: str = "tv"

    @property
    def limit(self) -> float:
        """The geometric mean of ``highest`` and ``next``, to the three digits shown."""
        return float(f"{np.sqrt(self.highest.mean * self.next.mean):.3g}")

    def passing(self) -> list[Rung]:
        """All of the ``others`` that a gate with this limit lets pass."""
        return [rung for rung in self.others if self._passes(rung)]

    def near(self) -> list[Rung]:
        """The ``others`` that it does not, but so close to the limit that they may pass on other prompts."""
        return [rung for rung in self.others if not self._passes(rung)]

    def _passes(self, rung: Rung) -> bool:
        limits = identity_limits(self.metric, max_score=self.limit)
        return limits.verdict(rung.mean, float(rung.scores.max())) is Verdict.SAME

    @property
    def separation(self) -> float:
        """``next`` / ``highest``: how many times larger the next change is."""
        return self.next.mean / self.highest.mean

    def false_alarms(self) -> float:
        """The share of resampled suites on which ``highest`` would fail. Each has as many prompts as were scored."""
        return self._failure_rate(self.highest)

    def misses(self) -> float:
        """The share of resampled suites on which ``next`` would pass."""
        return 1.0 - self._failure_rate(self.next)

    def _failure_rate(self, rung: Rung) -> float:
        """The share of bootstrap suites on which ``rung`` exceeds the limit, or the default limit for one prompt."""
        limits = identity_limits(self.metric, max_score=self.limit)
        generator = np.random.default_rng(0)
        n, n_failed = len(rung.scores), 0
        for _ in range(_RESAMPLES // 1000):  # in blocks, to keep 10,000 × 257 numbers out of memory
            suites = rung.scores[generator.integers(0, n, (1000, n))]
            failures = (suites.mean(axis=1) > limits.max_score) | (suites.max(axis=1) > limits.max_prompt_score)
            n_failed += int(failures.sum())
        return n_failed / _RESAMPLES


@dataclass(frozen=True, repr=False)
class Calibration(Brief):
    """The ladder of one model."""

    metric: str
    n_prompts: int
    label: str
    noise_floor: float | None
    rungs: Sequence[Rung]
    """The smallest change first."""
    left_out: dict[str, str]
    """Changes that do not apply to this model, with the reason."""

    def proposals(self) -> list[Proposal]:
        """One limit for each kind of which a change was measured, and of which a larger change would be caught.

        Limits that are not above the noise floor are left out."""
        proposals = []
        for kind, highest in self._highest():
            larger, smaller = self._others(kind, highest)
            if larger:
                next_rung = min(larger, key=lambda rung: rung.mean)
                proposals.append(Proposal(kind, highest, next_rung, smaller, self.metric))
        return [proposal for proposal in proposals if proposal.limit > (self.noise_floor or 0.0)]

    def without_limit(self) -> list[tuple[str, Rung]]:
        """The kinds for which no limit can be proposed, since nothing that was tried is clearly larger, and their largest
        change."""
        return [(kind, highest) for kind, highest in self._highest() if not self._others(kind, highest)[0]]

    def _highest(self) -> list[tuple[str, Rung]]:
        """The largest change that each kind is meant to let pass."""
        measured = {kind: [rung for rung in self.rungs if rung.name in names] for kind, names in MEANT_TO_PASS.items()}
        highest = {kind: max(rungs, key=lambda rung: rung.mean) for kind, rungs in measured.items() if rungs}
        return [(kind, rung) for kind, rung in highest.items() if rung.mean > 0]

    def _others(self, kind: str, highest: Rung) -> tuple[list[Rung], list[Rung]]:
        """The changes of other kinds: those that are clearly larger than ``highest``, and the rest."""
        others = [rung for rung in self.rungs if rung.name not in MEANT_TO_PASS[kind]]
        larger = [rung for rung in others if rung.mean >= _MIN_SEPARATION * highest.mean]
        return larger, [rung for rung in others if rung.mean < _MIN_SEPARATION * highest.mean]


def calibrate(
    scorer: TeacherForcedScorer,
    reference: Any,
    prompts: Sequence[str | Prompt],
    tokenizer: Any,
    *,
    names: Iterable[str] = STANDARD,
    tell: Callable[[str], None] | None = None,
) -> Calibration:
    """Score changed copies of ``reference`` against it. Only one copy is in memory at a time.

    Args:
        names: the changes to try, keys of :data:`pytest_pot.calibration.perturbations.PERTURBATIONS`.
        tell: called with the name of each change before it is tried.

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
