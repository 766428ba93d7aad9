"""Gates: the settings of a marker and the models of a test in, a verdict with its evidence out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pytest_pot.errors import PotError
from pytest_pot.prompts import Prompt
from pytest_pot.settings import Settings
from pytest_pot.verdict import DistinctLimit, Verdict

if TYPE_CHECKING:
    from pytest_pot.scores import ScoreReport

__all__ = ["GateInputs", "GateResult", "PotResult", "run_gate"]


@dataclass(frozen=True)
class GateInputs:
    """What one gate compares, resolved from marker, options and fixtures before the test's call phase."""

    reference: Any
    candidate: Any
    tokenizer: Any
    candidate_tokenizer: Any
    """The candidate's own, to be checked against ``tokenizer``; None where it has none, or the user chose one for both."""
    prompts: Sequence[str | Prompt]
    names: tuple[str, str]
    """Reference and candidate, as people call them."""


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

    report = TeacherForcedScorer(settings.config, progress=progress).score_batch(
        inputs.reference,
        inputs.candidate,
        inputs.prompts,
        inputs.tokenizer,
        candidate_tokenizer=inputs.candidate_tokenizer,
    )
    limits = settings.limits
    return GateResult(settings, inputs.names, report, limits.verdict(report.mean, report.max))
