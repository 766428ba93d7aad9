"""What timing gives: :class:`LatencyReport`, the times and each limit held against them."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from pytest_pot.engines.base import PeakMemory

__all__ = ["Check", "LatencyReport", "Outcome"]


class Outcome(StrEnum):
    """What the timings say of a limit."""

    PASS = "pass"
    FAIL = "fail"
    INCONCLUSIVE = "inconclusive"
    """The estimate is beyond the limit and its bound is not; or there was no time for enough timings."""


@dataclass(frozen=True)
class Check:
    """One limit, and what was found."""

    limit_name: str
    """The argument of the marker: ``"max_slowdown"``."""
    name: str
    """What is limited, with its unit: ``"slowdown"``, ``"ms per prompt"``."""
    point: float | None
    """The estimate; None where nothing could be timed."""
    bound: float | None
    """The one-sided 95 % bound on the side of the limit that convicts; the figure itself where it is no statistic."""
    limit: float
    outcome: Outcome
    at_least: bool = False
    """Whether the limit is the least that the figure may be, rather than the most."""
    settled: bool = True
    """Whether more timings could hardly change the outcome."""


@dataclass(frozen=True)
class LatencyReport:
    """Timings of a candidate, and of a reference beside it; times in seconds per run."""

    what: str
    candidate: tuple[float, ...]
    """The candidate's times, one per timing (the median of ``repeats`` runs)."""
    reference: tuple[float, ...] | None
    """The reference's, each taken next to the candidate's of the same index; None where there is none."""
    checks: tuple[Check, ...]
    n_prompts: int
    """Prompts in the batch that was timed."""
    n_tokens: int
    """Tokens of one run: of its prompts with their continuations, or those that it generates."""
    n_truncated: int = 0
    """Prompts that were cut on the left to fit."""
    repeats: int = 1
    """The candidate's runs per timing: as many as make it long enough to be measured well."""
    lead: tuple[float, ...] = ()
    """With ``what="decode"``: the candidate's times to the first token."""
    reference_lead: tuple[float, ...] = ()
    memory: PeakMemory | None = None
    reference_memory: PeakMemory | None = None
    threads: int | None = None
    """Threads that torch computed with on the CPU."""
    usual_threads: int | None = None
    """And those that it is set to: more, where other processes held some of the cores."""
    label: str = ""
    """Where and in which precision the models ran."""
    elapsed_s: float = 0.0
    capped: bool = False
    """Whether time ran out before the last look."""

    @property
    def verdict(self) -> Outcome:
        """FAIL where a limit is broken, INCONCLUSIVE where one may be, else PASS."""
        return self.decisive.outcome

    @property
    def decisive(self) -> Check:
        """The first check with the worst outcome."""
        return min(self.checks, key=lambda check: _SEVERITY.index(check.outcome))

    @property
    def ratios(self) -> tuple[float, ...]:
        """Candidate over reference, pair by pair."""
        return tuple(c / r for c, r in zip(self.candidate, self.reference or (), strict=bool(self.reference)))

    @property
    def n_pairs(self) -> int:
        """Pairs of timings; 0 where there is no reference."""
        return len(self.reference or ())

    @property
    def slowdown(self) -> float | None:
        """The median of the ratios."""
        return statistics.median(self.ratios) if self.ratios else None

    @property
    def iqr(self) -> float:
        """The interquartile range over the median: of the ratios, or of the candidate's times where there is no reference."""
        return interquartile(self.ratios or self.candidate)

    @property
    def ms_per_prompt(self) -> float | None:
        """The median of the candidate's times."""
        return 1000 * statistics.median(self.candidate) / self.n_prompts if self.candidate else None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        checks = [{**asdict(check), "outcome": str(check.outcome)} for check in self.checks]
        lists = ("candidate", "reference", "lead", "reference_lead")
        given = {name: None if getattr(self, name) is None else list(getattr(self, name)) for name in lists}
        derived = ("n_pairs", "slowdown", "iqr", "ms_per_prompt")
        return {
            **asdict(self),
            **given,
            "checks": checks,
            "verdict": str(self.verdict),
            "ratios": list(self.ratios),
            **{name: getattr(self, name) for name in derived},
        }


def interquartile(values: Sequence[float]) -> float:
    """The interquartile range over the median; 0 where there are not two values."""
    if len(values) < 2:
        return 0.0
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return (high - low) / middle


_SEVERITY = (Outcome.FAIL, Outcome.INCONCLUSIVE, Outcome.PASS)
