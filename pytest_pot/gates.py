"""Gates: the settings of a marker and the models of a test in, a verdict with its evidence out."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pytest_pot.errors import PotError
from pytest_pot.prompts import Prompt, as_prompts
from pytest_pot.settings import Settings
from pytest_pot.tokens import check_same_encoding
from pytest_pot.verdict import DistinctLimit, Verdict

if TYPE_CHECKING:
    from pytest_pot.baseline import Baseline
    from pytest_pot.scorer import TeacherForcedScorer
    from pytest_pot.scores import ScoreReport

__all__ = ["GateInputs", "GateResult", "PotResult", "Taken", "run_gate"]


@dataclass(frozen=True)
class GateInputs:
    """What one gate compares, resolved from marker, options and fixtures before the test's call phase."""

    reference: Any
    """A live model; None where ``recording`` stands in for it."""
    candidate: Any
    tokenizer: Any
    candidate_tokenizer: Any
    """The candidate's own, to be checked against ``tokenizer``; None where it has none, or the user chose one for both."""
    prompts: Sequence[str | Prompt]
    names: tuple[str, str]
    """Reference and candidate, as people call them."""
    recording: Callable[[TeacherForcedScorer], Taken] | None = None
    """Gives the recorded reference, or raises :class:`PotError` where it cannot be used."""


@dataclass(frozen=True)
class Taken:
    """A recorded reference, known to be of the gate's tokenizer, prompts and configuration."""

    baseline: Baseline
    note: str
    """How it came to be here: ``"recorded"``, ``"cached"``, or nothing where the reference has just been run."""


@dataclass(frozen=True)
class GateResult:
    """What a gate found."""

    settings: Settings
    names: tuple[str, str]
    report: ScoreReport
    verdict: Verdict

    @property
    def passed(self) -> bool:
        return self.verdict is (Verdict.DIFFERENT if isinstance(self.settings.limits, DistinctLimit) else Verdict.SAME)

    @property
    def limit(self) -> float:
        """The limit on the suite's score."""
        return self.settings.limits.score


@dataclass
class PotResult:
    """The fixture ``pot_result``: what the gates of this test found, filled in before the test's body runs."""

    gates: list[GateResult] = field(default_factory=list)
    """One per marker, in the order they ran."""

    @property
    def verdict(self) -> Verdict:
        """The first gate's verdict."""
        return self._first.verdict

    @property
    def report(self) -> ScoreReport:
        """The first gate's :class:`~pytest_pot.scores.ScoreReport`."""
        return self._first.report

    @property
    def _first(self) -> GateResult:
        if not self.gates:
            raise PotError("there is no result yet: a gate runs after all fixtures are set up, just before the test's body")
        return self.gates[0]


def run_gate(settings: Settings, inputs: GateInputs, progress: Callable[[int, int], None]) -> GateResult:
    """Score the candidate as ``settings`` ask and decide.

    Raises:
        PotError: the models cannot be compared; such a gate has no verdict and never passes.
    """
    from pytest_pot.scorer import TeacherForcedScorer

    scorer = TeacherForcedScorer(settings.config, progress=progress)
    prompts = as_prompts(inputs.prompts, or_builtin=True)
    if inputs.recording is None:
        report = scorer.score_batch(
            inputs.reference,
            inputs.candidate,
            prompts,
            inputs.tokenizer,
            candidate_tokenizer=inputs.candidate_tokenizer,
        )
    else:
        started = time.perf_counter()
        if inputs.candidate_tokenizer is not None:
            check_same_encoding(prompts, inputs.tokenizer, inputs.candidate_tokenizer)
        taken = inputs.recording(scorer)
        report = scorer.score_fresh(taken.baseline, inputs.candidate, inputs.tokenizer, started=started, note=taken.note)
    limits = settings.limits
    return GateResult(settings, inputs.names, report, limits.verdict(report.mean, report.max))
