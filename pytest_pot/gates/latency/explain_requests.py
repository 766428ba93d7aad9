"""What the messages and properties of a gate on latency say of servers: single requests, and the network in the times."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from pytest_pot.core.text import number
from pytest_pot.gates.latency.latency_report import LatencyReport, RequestFigures, quantile
from pytest_pot.gates.latency.result import LatencyOutcome

__all__ = ["request_advice", "request_notes", "request_properties"]

_HIGH = 0.95


def request_notes(outcome: LatencyOutcome) -> list[str]:
    """One line for each server whose tokens were streamed, and one on the network; empty without servers."""
    side_by_side = min(outcome.report.n_prompts, outcome.settings.config.server_concurrency)
    lines = [
        _line(role, _per_token(times, outcome.report), figures, outcome.report, side_by_side)
        for role, times, figures in _by_role(outcome.report)
    ]
    return [*lines, *_network(outcome)]


def _by_role(report: LatencyReport) -> Iterator[tuple[str, Sequence[float], RequestFigures]]:
    for role, times, figures in (
        ("reference", report.reference, report.reference_requests),
        ("candidate", report.candidate, report.requests),
    ):
        if times and figures is not None:
            yield role, times, figures


def _per_token(times: Sequence[float], report: LatencyReport) -> list[float]:
    """Seconds per token when all prompts had been read, one per timing."""
    steps = report.n_tokens // report.n_prompts
    return [time / steps for time in times]


def _line(role: str, all_read: Sequence[float], figures: RequestFigures, report: LatencyReport, side_by_side: int) -> str:
    first, later = figures.first_token, figures.per_token
    rate, low = (number(report.n_tokens / quantile(figures.batches, share)) for share in (0.5, _HIGH))
    together, held_up = "", ""
    if report.n_prompts > 1:
        together = f" of {side_by_side} requests side by side"
        held_up = f", {_ms(all_read, 0.5)} ms once all prompts were read"
    return (
        f"{role}: {_ms(first, 0.5)} ms to the first token (p95 {_ms(first, _HIGH)}), then {_ms(later, 0.5)} ms per token "
        f"(p95 {_ms(later, _HIGH)}){held_up}; {rate} tokens per second{together} (95% of runs at least {low}); "
        f"{len(first)} requests{_at_once(role, figures)}"
    )


def _at_once(role: str, figures: RequestFigures) -> str:
    if not figures.n_at_once:
        return ""
    if role == "reference":
        return f", without {figures.n_at_once} whose tokens all came at once, so that their time per token is not known"
    return f"; the tokens of {figures.n_at_once} all came at once, and their time per token has that to the first one in it"


def _ms(times: Sequence[float], share: float) -> str:
    return number(1000 * quantile(times, share))


def _network(outcome: LatencyOutcome) -> list[str]:
    report = outcome.report
    if not report.remote:
        return []
    if report.reference is None:
        return ["the network between here and the server is in the times"]
    if len(report.remote) == 2:
        return ["the network between here and each server is in the times"]
    [role] = report.remote
    other = "reference" if role == "candidate" else "candidate"
    return [f"the network between here and the server is in the {role}'s times, and not in the {other}'s"]


def request_advice(report: LatencyReport) -> str:
    """What to do where a limit on the time of a server is violated."""
    if report.reference is not None:
        return (
            "what to do: the requests took turns, so a busy network or machine here does not explain it; check what else each "
            "server was doing, and where it runs; or, if the candidate is meant to be slower, raise max_slowdown"
        )
    return (
        "what to do: an absolute limit suits one server under one load, and one network; look whether others were using it, "
        "compare with a server of the reference (max_slowdown=1.25), or measure without failing (--pot-latency=report)"
    )


def request_properties(report: LatencyReport) -> dict[str, Any]:
    """Figures of single requests, as JSON types; ``tokens_per_s_p95`` is what 95 % of runs reach."""
    properties: dict[str, Any] = {"remote": list(report.remote)} if report.remote else {}
    for role, times, figures in _by_role(report):
        prefix = "" if role == "candidate" else "reference_"
        for name, share in (("", 0.5), ("_p95", _HIGH)):
            properties[f"{prefix}first_token{name}_ms"] = 1000 * quantile(figures.first_token, share)
            properties[f"{prefix}per_token{name}_ms"] = 1000 * quantile(figures.per_token, share)
            properties[f"{prefix}per_token_all_read{name}_ms"] = 1000 * quantile(_per_token(times, report), share)
            properties[f"{prefix}tokens_per_s{name}"] = report.n_tokens / quantile(figures.batches, share)
        properties[f"{prefix}requests"] = len(figures.first_token)
        properties[f"{prefix}requests_at_once"] = figures.n_at_once
    return properties
