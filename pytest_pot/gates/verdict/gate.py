"""Gates: the settings of a marker and the models of a test in, a verdict with its evidence out."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pytest_pot.core.errors import PotError
from pytest_pot.gates.latency.gate import LatencyResult, run_latency_gate
from pytest_pot.gates.latency.settings import LatencySettings
from pytest_pot.gates.verdict.limits import DistinctLimit, Verdict
from pytest_pot.plugin.options import GateSettings, Settings
from pytest_pot.prompts.prompt import Prompt, as_prompts
from pytest_pot.prompts.tokenization import check_same_encoding

if TYPE_CHECKING:
    from pytest_pot.baseline.baseline import Baseline
    from pytest_pot.gates.latency.statistics import LatencyReport
    from pytest_pot.gates.verdict.sequential import Decision
    from pytest_pot.scoring.score_report import ScoreReport
    from pytest_pot.scoring.scorer import TeacherForcedScorer

__all__ = ["GateInputs", "GateResult", "PotResult", "Taken", "run_gate"]


@dataclass(frozen=True)
class GateInputs:
    """What one gate compares, resolved from marker, options and fixtures before the test's call phase."""

    reference: Any
    """A live model, which is going to be run; None where what it says is recorded, or is not asked for."""
    candidate: Any
    tokenizer: Any
    candidate_tokenizer: Any
    """The candidate's own, to be checked against ``tokenizer``; None where it has none, or the user chose one for both."""
    prompts: Sequence[str | Prompt]
    names: tuple[str | None, str]
    """Reference and candidate, as people call them; no reference where none is asked for."""
    recording: Callable[[TeacherForcedScorer], Taken] | None = None
    """Gives the recorded reference, or raises :class:`PotError` where it cannot be used."""
    endless: bool = False
    """The prompts are drawn at random from more than could ever be scored, in an order that is random already."""


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
    names: tuple[str | None, str]
    report: ScoreReport
    verdict: Verdict
    decision: Decision | None = None
    """With a confidence: how the verdict was reached, score by score."""
    noise_floor: float | None = None
    """How far the same model is from itself, run another way; None where that could not be measured."""
    pool: int | None = None
    """How many prompts there were to draw from; None where there is no end of them."""

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

    gates: list[GateResult | LatencyResult] = field(default_factory=list)
    """One per marker, in the order they ran."""

    @property
    def verdict(self) -> Verdict:
        """The verdict of the first gate on a score."""
        return self._first.verdict

    @property
    def report(self) -> ScoreReport:
        """Its :class:`~pytest_pot.scoring.score_report.ScoreReport`."""
        return self._first.report

    @property
    def decision(self) -> Decision | None:
        """Its :class:`~pytest_pot.gates.verdict.sequential.Decision`; None without a confidence."""
        return self._first.decision

    @property
    def latency(self) -> LatencyReport | None:
        """What the first gate on latency measured; None where no such gate has run."""
        return next((gate.report for gate in self.gates if isinstance(gate, LatencyResult)), None)

    @property
    def _first(self) -> GateResult:
        first = next((gate for gate in self.gates if isinstance(gate, GateResult)), None)
        if first is None:
            raise PotError(
                "there is no score here: only pot_identity and pot_distinct have one; pot_latency has .latency"
                if self.gates
                else "there is no result yet: a gate runs after all fixtures are set up, just before the test's body"
            )
        return first


def run_gate(settings: GateSettings, inputs: GateInputs, progress: Callable[[int, int], None]) -> GateResult | LatencyResult:
    """Do what ``settings`` ask and decide.

    Raises:
        PotError: the models cannot be compared; such a gate has no verdict and never passes.
    """
    if isinstance(settings, LatencySettings):
        return run_latency_gate(settings, inputs, progress)
    assert isinstance(settings, Settings)
    return _score(settings, inputs, progress)


def _score(settings: Settings, inputs: GateInputs, progress: Callable[[int, int], None]) -> GateResult:
    """Score the candidate, and hold the score against its limits."""
    from pytest_pot.scoring.scorer import TeacherForcedScorer

    scorer = TeacherForcedScorer(settings.config, progress=progress)
    prompts = as_prompts(inputs.prompts, or_builtin=True)
    floor = _floor(settings, inputs, prompts, scorer)
    started = time.perf_counter()
    taken = None
    if inputs.recording is not None:
        if inputs.candidate_tokenizer is not None:
            check_same_encoding(prompts, inputs.tokenizer, inputs.candidate_tokenizer)
        taken = inputs.recording(scorer)
    decision, pool = None, None
    if settings.confidence is not None:
        report, decision, pool = _decided(settings, inputs, prompts, taken, scorer, started)
    elif taken is not None:
        report = scorer.score_fresh(taken.baseline, inputs.candidate, inputs.tokenizer, started=started, note=taken.note)
    else:
        report = scorer.score_batch(
            inputs.reference,
            inputs.candidate,
            prompts,
            inputs.tokenizer,
            candidate_tokenizer=inputs.candidate_tokenizer,
        )
    verdict = settings.limits.verdict(report.mean, report.max) if decision is None else decision.verdict
    return GateResult(settings, inputs.names, report, verdict, decision, floor, pool)


def _floor(settings: Settings, inputs: GateInputs, prompts: Sequence[Prompt], scorer: TeacherForcedScorer) -> float | None:
    """The noise floor, of the reference, or of the candidate where no reference is run.

    Raises:
        PotError: the limit is below it, and not 0.
    """
    model, role = (inputs.candidate, "candidate") if inputs.reference is None else (inputs.reference, "reference")
    floor = scorer.noise_floor(model, prompts, inputs.tokenizer, role=role)
    if floor is not None and 0 < settings.limits.score < floor:
        raise PotError(
            f"the limit {settings.limits.score:.3g} on {settings.config.metric} is below the noise floor {floor:.3g}: that far "
            f"is the {role} from itself when it is run in another batch shape. Raise the limit above it; or ask for 0, which "
            "the same weights reach where both models run in the very same way"
        )
    return floor


def _decided(
    settings: Settings,
    inputs: GateInputs,
    prompts: Sequence[Prompt],
    taken: Taken | None,
    scorer: TeacherForcedScorer,
    started: float,
) -> tuple[ScoreReport, Decision, int | None]:
    """With a confidence: prompts are scored until the verdict is safe. The report, the decision, and the pool's size."""
    pool = None if inputs.endless else len(prompts)
    seed = None if inputs.endless else 0
    if taken is None:
        test = settings.sequential_test(pool)
        report, decision = scorer.decide(
            inputs.reference,
            inputs.candidate,
            prompts,
            inputs.tokenizer,
            test,
            candidate_tokenizer=inputs.candidate_tokenizer,
            seed=seed,
        )
        return report, decision, pool
    if settings.limits.score > 0:
        test = settings.sequential_test(pool)
        report = scorer.draw_fresh(
            taken.baseline, inputs.candidate, inputs.tokenizer, test, seed=seed, started=started, note=taken.note
        )
        return report, test.decision(), pool
    # A recording was made in batches by length, and drawn in another order the same model would round otherwise: what asks
    # for 0 is scored whole, in the batches that were recorded.
    report = scorer.score_fresh(taken.baseline, inputs.candidate, inputs.tokenizer, started=started, note=taken.note)
    test = settings.sequential_test(len(prompts))
    test.update(report.scores.tolist())
    return report, test.decision(), len(prompts)
