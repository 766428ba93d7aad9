"""The outcome of a gate on latency, as data; ``explain`` makes messages of it."""

from __future__ import annotations

from dataclasses import dataclass

from pytest_pot.core.brief import Brief
from pytest_pot.gates.latency.latency_report import LatencyReport, Outcome
from pytest_pot.gates.latency.settings import LatencySettings

__all__ = ["LatencyOutcome"]


@dataclass(frozen=True, repr=False)
class LatencyOutcome(Brief):
    """A report on timings, and whether the gate passes."""

    settings: LatencySettings
    names: tuple[str | None, str]
    """Reference (None if none was run) and candidate."""
    report: LatencyReport
    notes: tuple[str, ...] = ()
    """What a reader of a green run should know, one line each."""
    inherited: tuple[str, ...] = ()
    """What to warn of if the gate passes, apart from the figures themselves."""

    @property
    def verdict(self) -> Outcome:
        return self.report.verdict

    @property
    def passed(self) -> bool:
        if not self.settings.gates:
            return True
        failing = (Outcome.FAIL, Outcome.INCONCLUSIVE) if self.settings.inconclusive_fails else (Outcome.FAIL,)
        return self.verdict not in failing

    @property
    def doubtful(self) -> bool:
        """Whether the gate passes although it is inconclusive."""
        return self.passed and self.settings.gates and self.verdict is Outcome.INCONCLUSIVE
