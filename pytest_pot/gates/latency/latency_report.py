"""The result of timing: :class:`LatencyReport`, the times and the check of each limit."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from pytest_pot.core.brief import Brief
from pytest_pot.engines.base import PeakMemory

__all__ = ["Check", "LatencyReport", "Outcome", "RequestFigures", "quantile"]


class Outcome(StrEnum):
    """The result of checking one limit."""

    PASS = "pass"
    FAIL = "fail"
    INCONCLUSIVE = "inconclusive"
    """The estimate is beyond the limit but its bound is not; or there was no time for enough timings."""


@dataclass(frozen=True)
class Check:
    """One limit, and the figure that was measured for it."""

    limit_name: str
    """The marker's argument: ``"max_slowdown"``."""
    name: str
    """The figure that is limited, with its unit: ``"slowdown"``, ``"ms per prompt"``."""
    point: float | None
    """The estimate; None if there were too few timings."""
    bound: float | None
    """The one-sided 95 % bound that must be beyond the limit for a failure; for memory, the figure itself."""
    limit: float
    outcome: Outcome
    at_least: bool = False
    """Whether the limit is a minimum, not a maximum."""
    settled: bool = True
    """Whether more timings are unlikely to change the outcome."""


@dataclass(frozen=True, repr=False)
class RequestFigures(Brief):
    """What requests to a server took whose tokens were streamed, in seconds."""

    first_token: tuple[float, ...]
    """From sending a request until its first token was there, one per request of every timing."""
    per_token: tuple[float, ...]
    """Between one token and the next, averaged over a request, one per request of every timing. Of a candidate's request whose
    tokens all came at once, an upper bound; a reference's are left out everywhere but in ``batches``."""
    slowest: tuple[float, ...]
    """The longest time per token of each timing's requests."""
    batches: tuple[float, ...]
    """From the first token of any request until all had ended, one per timing."""
    n_at_once: int = 0
    """How many requests had all their tokens at once."""


@dataclass(frozen=True, repr=False)
class LatencyReport(Brief):
    """Timings of a candidate, and of a reference beside it, in seconds per run."""

    what: str
    candidate: tuple[float, ...]
    """The candidate's times, one per timing (the median of ``repeats`` runs). With ``requests``, the time after its
    first token of the request whose first token came last, when all prompts had been read."""
    reference: tuple[float, ...] | None
    """The reference's times, each measured next to the candidate's at the same index; None without a reference."""
    checks: tuple[Check, ...]
    n_prompts: int
    """Prompts in the timed batch."""
    n_tokens: int
    """Tokens per run: those of the prompts with their continuations, or the generated ones that are timed."""
    n_truncated: int = 0
    """Prompts that were cut on the left to fit."""
    repeats: int = 1
    """The candidate's runs per timing: enough to make a timing long enough to measure well."""
    lead: tuple[float, ...] = ()
    """With ``what="decode"``: the candidate's times to the first token."""
    reference_lead: tuple[float, ...] = ()
    requests: RequestFigures | None = None
    """The candidate's times request by request, with ``what="decode"`` on a server."""
    reference_requests: RequestFigures | None = None
    remote: tuple[str, ...] = ()
    """The roles whose times have a network in them: ``"candidate"``, ``"reference"``, both or none. Not those that run in a
    process that pytest-pot started."""
    memory: PeakMemory | None = None
    reference_memory: PeakMemory | None = None
    threads: int | None = None
    """CPU threads that torch computed with."""
    usual_threads: int | None = None
    """CPU threads that torch is set to; more than ``threads`` if other processes were using some of the cores."""
    label: str = ""
    """The precision and device of the models."""
    elapsed_s: float = 0.0
    capped: bool = False
    """Whether time ran out before the last look at the timings."""

    @property
    def verdict(self) -> Outcome:
        """FAIL if a limit is violated, else INCONCLUSIVE if one may be, else PASS."""
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
        """Pairs of timings; 0 without a reference."""
        return len(self.reference or ())

    @property
    def slowdown(self) -> float | None:
        """The median of the ratios; None without a reference."""
        return statistics.median(self.ratios) if self.ratios else None

    @property
    def iqr(self) -> float:
        """Interquartile range / median of the ratios, or of the candidate's times without a reference."""
        return interquartile(self.ratios or self.candidate)

    @property
    def ms_per_prompt(self) -> float | None:
        """The median of the candidate's times, in milliseconds per prompt. With ``requests``, they are times of one prompt."""
        prompts = 1 if self.requests is not None else self.n_prompts
        return 1000 * statistics.median(self.candidate) / prompts if self.candidate else None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        checks = [{**asdict(check), "outcome": str(check.outcome)} for check in self.checks]
        lists = ("candidate", "reference", "lead", "reference_lead")
        times = {name: None if getattr(self, name) is None else list(getattr(self, name)) for name in lists}
        requests = {name: _plain(getattr(self, name)) for name in ("requests", "reference_requests")}
        derived = ("n_pairs", "slowdown", "iqr", "ms_per_prompt")
        return {
            **asdict(self),
            **times,
            **requests,
            "remote": list(self.remote),
            "checks": checks,
            "verdict": str(self.verdict),
            "ratios": list(self.ratios),
            **{name: getattr(self, name) for name in derived},
        }


def _plain(figures: RequestFigures | None) -> dict[str, Any] | None:
    if figures is None:
        return None
    return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(figures).items()}


def quantile(values: Sequence[float], share: float) -> float:
    """The smallest of ``values`` that at least ``share`` of them do not exceed; for 0.5, their median."""
    return statistics.median(values) if share == 0.5 else sorted(values)[math.ceil(share * len(values)) - 1]


def interquartile(values: Sequence[float]) -> float:
    """Interquartile range / median; 0 for fewer than two values."""
    if len(values) < 2:
        return 0.0
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return (high - low) / middle


_SEVERITY = (Outcome.FAIL, Outcome.INCONCLUSIVE, Outcome.PASS)
