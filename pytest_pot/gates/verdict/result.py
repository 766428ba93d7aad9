"""What a gate on a score found, as data. How it is told is in ``explain``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_pot.core.brief import Brief
from pytest_pot.gates.verdict.limits import DistinctLimit, Verdict
from pytest_pot.gates.verdict.settings import ScoreSettings

if TYPE_CHECKING:  # these need numpy
    from pytest_pot.gates.verdict.sequential import Decision
    from pytest_pot.scoring.diagnosis.diagnosis import Diagnosis
    from pytest_pot.scoring.noise_floor import NoiseFloor
    from pytest_pot.scoring.score_report import ScoreReport

__all__ = ["ScoreOutcome"]


@dataclass(frozen=True, repr=False)
class ScoreOutcome(Brief):
    """A verdict and its evidence."""

    settings: ScoreSettings
    names: tuple[str | None, str]
    """Reference and candidate, as people call them."""
    report: ScoreReport
    verdict: Verdict
    decision: Decision | None = None
    """With a confidence: how the verdict was reached, score by score."""
    floor: NoiseFloor | None = None
    """How far the same model is from itself in another batch shape, and how that was measured; None where it could not be."""
    pool: int | None = None
    """With a confidence: how many prompts there were to draw from; None where there is no end of them."""

    notes: tuple[str, ...] = ()
    """What a reader of a green run should know, one line each."""
    warnings: tuple[str, ...] = ()
    """What to warn of if the gate passes, one line each."""
    diagnosis: Diagnosis | None = None
    """What changed and where it starts; None where the gate passed, or the user turned it off."""

    @property
    def noise_floor(self) -> float | None:
        """:attr:`floor` in the metric's unit."""
        return None if self.floor is None else self.floor.value

    @property
    def passed(self) -> bool:
        return self.verdict is (Verdict.DIFFERENT if isinstance(self.settings.limits, DistinctLimit) else Verdict.SAME)

    @property
    def limit(self) -> float:
        """The limit on the suite's score."""
        return self.settings.limits.score
