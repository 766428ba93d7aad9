"""The messages of a gate on latency: the headline, what was timed, and what to do."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from pytest_pot.core.text import number, printable
from pytest_pot.engines.base import PeakMemory
from pytest_pot.gates.latency.explain_requests import request_advice, request_notes, request_properties
from pytest_pot.gates.latency.latency_report import Check, LatencyReport, Outcome
from pytest_pot.gates.latency.limits import REFERENCE_LIMITS
from pytest_pot.gates.latency.result import LatencyOutcome

__all__ = ["explain", "headline", "properties"]

_WORKS = {"score": "scoring forward", "prefill": "bare forward", "decode": "greedy decoding"}
_BINS = 8
_BAR = 24


def headline(outcome: LatencyOutcome) -> str:
    """The figure against its limit, in one line."""
    return f"{outcome.settings.gate}: {_headline(outcome.report, outcome.report.decisive)}"


def explain(outcome: LatencyOutcome, verbosity: int = 0) -> str:
    """Why a gate failed or is inconclusive: the figure and its limit, what was timed, and what to do.

    ``verbosity`` below 0 gives the headline only; above 0 adds a histogram of the times.
    """
    report, decisive = outcome.report, outcome.report.decisive
    if verbosity < 0:
        return headline(outcome)
    lines = [headline(outcome), printable(f"  {_models(outcome)}; {_conditions(outcome)}")]
    lines += [f"  {_comparison(check)}: {check.outcome}" for check in report.checks if check is not decisive]
    if decoding := _decoding(outcome):
        lines.append(f"  {decoding}")
    lines += [printable(f"  {note}") for note in request_notes(outcome)]
    if report.memory is not None:
        lines.append(f"  {_memory(report, report.memory)}")
    if verbosity > 0 and report.candidate:
        lines += _histogram(report)
    return "\n".join([*lines, f"  {_advice(outcome, decisive)}"])


def _headline(report: LatencyReport, check: Check) -> str:
    if check.point is None:
        timings = f"{_timings(report)} in {report.elapsed_s:.0f} s"
        return f"inconclusive: only {timings}, too few to measure {check.name}"
    if check.limit_name.startswith("max_memory"):
        return f"{_comparison(check)} ({_memory(report, report.memory)})" if report.memory is not None else _comparison(check)
    evidence = f"({_bound(check)}, {_timings(report)}; {_times(report)})"
    if check.outcome is Outcome.INCONCLUSIVE:
        when = " when time ran out" if report.capped else ""
        return f"inconclusive: {_comparison(check)}, but its bound was within the limit{when} {evidence}"
    return f"{_comparison(check)} {evidence}"


def _comparison(check: Check) -> str:
    """``slowdown 1.41x > 1.25x``."""
    if check.point is None:
        return check.name
    beyond = check.point < check.limit if check.at_least else check.point > check.limit
    sign = ("<" if beyond else ">=") if check.at_least else (">" if beyond else "<=")
    figure, limit = _figure(check, check.point), _figure(check, check.limit)
    return f"{check.name} {figure} {sign} {limit}" if _is_ratio(check) else f"{figure} {check.name} {sign} {limit}"


def _bound(check: Check) -> str:
    return f"95% bound {_figure(check, check.bound)}" if check.bound is not None else "no bound"


def _figure(check: Check, value: float) -> str:
    if not _is_ratio(check):
        return number(value)
    # Enough digits to show that the figure differs from its limit.
    digits = next((n for n in range(2, 7) if round(value, n) != round(check.limit, n)), 2)
    return f"{value:.{digits}f}x"


def _is_ratio(check: Check) -> bool:
    return check.limit_name in REFERENCE_LIMITS


def _timings(report: LatencyReport) -> str:
    if report.reference is not None:
        return f"{report.n_pairs} pairs"
    return f"{len(report.candidate)} timings"


def _times(report: LatencyReport) -> str:
    spread = _spread(report)
    candidate = f"candidate {_ms(report.candidate)}"
    return f"{candidate}, {spread}" if report.reference is None else f"reference {_ms(report.reference)}, {candidate}, {spread}"


def _spread(report: LatencyReport) -> str:
    return f"IQR {report.iqr:.0%}"


def _ms(times: Sequence[float]) -> str:
    return f"{number(1000 * statistics.median(times))} ms"


def _models(outcome: LatencyOutcome) -> str:
    reference, candidate = outcome.names
    return f"candidate {candidate}" if reference is None else f"reference {reference}, candidate {candidate}"


def _conditions(outcome: LatencyOutcome) -> str:
    report, settings = outcome.report, outcome.settings
    doing = "scoring" if report.what == "score" and report.remote else _WORKS[report.what]
    work = f"{doing} of {report.n_prompts} prompt{'s' * (report.n_prompts > 1)}, {report.n_tokens} tokens"
    if report.n_truncated:
        work += f", {report.n_truncated} cut on the left"
    repeated = f", {report.repeats} runs per timing" if report.repeats > 1 else ""
    threads = f", {report.threads} thread{'s' * (report.threads != 1)}" if report.threads else ""
    if report.threads != report.usual_threads:
        threads += f" ({report.usual_threads} threads were slower; other processes are using the cores)"
    return f"{work}{repeated}; preset {settings.preset}, {report.label}{threads}, {report.elapsed_s:.0f} s"


def _decoding(outcome: LatencyOutcome) -> str:
    """What models in this process took; :func:`request_notes` has what servers did."""
    steps = outcome.settings.new_tokens - 1
    report = outcome.report
    parts = []
    for role, lead, times, requests in (
        ("reference", report.reference_lead, report.reference, report.reference_requests),
        ("candidate", report.lead, report.candidate, report.requests),
    ):
        if lead and times and requests is None:
            each = number(1000 * statistics.median(times) / steps)
            parts.append(f"{role} {_ms(lead)} to the first token, then {each} ms per step of {report.n_prompts} tokens")
    return "; ".join(parts)


def _memory(report: LatencyReport, memory: PeakMemory) -> str:
    parts = [f"candidate {_megabytes(memory)}"]
    if report.reference_memory is not None:
        parts.insert(0, f"reference {_megabytes(report.reference_memory)}")
    return f"peak memory, {memory.kind}: {', '.join(parts)}"


def _megabytes(peak: PeakMemory) -> str:
    return f"{peak.bytes / 1e6:.0f} MB ({peak.weights / 1e6:.0f} of weights)"


def _histogram(report: LatencyReport) -> list[str]:
    """The lines of a histogram of the times, both models on one scale."""
    series = {"candidate": report.candidate}
    if report.reference is not None:
        series = {"reference": report.reference, **series}
    ms = {role: [1000 * time for time in times] for role, times in series.items()}
    low, high = min(map(min, ms.values())), max(map(max, ms.values()))
    width = (high - low) / _BINS or 1.0
    counts = {role: [0] * _BINS for role in ms}
    for role, values in ms.items():
        for value in values:
            counts[role][min(int((value - low) / width), _BINS - 1)] += 1
    most = max(max(bins) for bins in counts.values())
    lines = ["  " + " " * 22 + "  ".join(role.ljust(_BAR + 4) for role in ms).rstrip()]
    for index in range(_BINS):
        edges = f"{number(low + index * width)} to {number(low + (index + 1) * width)} ms"
        bars = [_bar(bins[index], most).ljust(_BAR + 4) for bins in counts.values()]
        lines.append(f"  {edges:>20}  {'  '.join(bars)}".rstrip())
    return lines


def _bar(count: int, most: int) -> str:
    return f"{'█' * max(1, round(_BAR * count / most))} {count}" if count else ""


def _advice(outcome: LatencyOutcome, check: Check) -> str:
    if check.point is None or outcome.report.capped:
        return (
            f"what to do: raise max_seconds (now {outcome.settings.max_seconds:g}), or time less: fewer or shorter prompts, "
            "preset='single'"
        )
    if check.outcome is Outcome.INCONCLUSIVE:
        again = "again on a less busy machine, or time more or longer prompts"
        if outcome.report.remote:
            again = "again while others use the server less, or time more tokens (what='decode', new_tokens=64)"
        return (
            f"what to do: the times vary too much ({_spread(outcome.report)}) for {_timings(outcome.report)} to decide; run it "
            f"{again}"
        )
    if check.limit_name.startswith("max_memory"):
        return (
            "what to do: other processes do not affect this figure; if the candidate is meant to need so much, raise the limit"
        )
    if outcome.report.remote:
        return request_advice(outcome.report)
    if _is_ratio(check):
        return (
            "what to do: both ran side by side, so other processes do not explain it; check the candidate's layers, dtype and "
            f"attention kernel, or, if it is meant to be slower, raise {check.limit_name}"
        )
    return (
        "what to do: an absolute limit suits one machine, and only while it is idle; on a slower or shared one, compare with a "
        "reference (max_slowdown=1.25) or measure without failing (--pot-latency=report)"
    )


def properties(outcome: LatencyOutcome) -> dict[str, Any]:
    """The outcome as JSON types, without the individual times."""
    report, decisive = outcome.report, outcome.report.decisive
    leads = {"first_token_ms": report.lead, "reference_first_token_ms": report.reference_lead}
    medians = {"candidate_ms": report.candidate, "reference_ms": report.reference or (), **leads}
    memories = {"memory_mb": report.memory, "reference_memory_mb": report.reference_memory}
    return {
        "score": decisive.point,
        "bound": decisive.bound,
        "verdict": str(outcome.verdict),
        "passed": outcome.passed,
        "gated": outcome.settings.gates,
        "checks": {check.limit_name: {"found": check.point, "outcome": str(check.outcome)} for check in report.checks},
        "what": report.what,
        "prompts": report.n_prompts,
        "tokens": report.n_tokens,
        "truncated": report.n_truncated,
        "timings": len(report.candidate),
        "repeats": report.repeats,
        "iqr": report.iqr,
        "slowdown": report.slowdown,
        **{name: 1000 * statistics.median(times) for name, times in medians.items() if times},
        **request_properties(report),
        **{name: peak.bytes / 1e6 for name, peak in memories.items() if peak is not None},
        "candidate_ran": report.label,
        "conditions": _conditions(outcome),
        "notes": [*outcome.notes, *request_notes(outcome)],
        "warnings": list(outcome.inherited),
        "threads": report.threads,
        "elapsed_s": report.elapsed_s,
        "ms_per_prompt": report.ms_per_prompt,
    }
