"""The details of a gate on latency, for its template."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pytest_pot.core.text import number
from pytest_pot.report.html.svg import Figure
from pytest_pot.report.html.time_plots import times_plot

__all__ = ["LatencyView", "latency_view"]

_WORKS = {"score": "scoring forward pass", "prefill": "bare forward pass", "decode": "greedy decoding"}
_REQUESTS = {"first_token": "to the first token", "per_token": "per token after it"}


@dataclass(frozen=True)
class LatencyView:
    """All parts are ready to be shown; plots are SVG."""

    checks: list[list[str]]
    """Limit, figure, bound, limit and outcome of each."""
    times: list[tuple[str, list[str]]]
    """What was timed, and in ms: median, lowest and highest."""
    memory: list[tuple[str, str, str]]
    """Role, peak and weights, in MB."""
    memory_kind: str
    timed: str
    plots: list[tuple[str, str]]
    """Title and SVG."""

    template = "latency.html"


def latency_view(report: Mapping[str, Any], name: str) -> LatencyView:
    """Lay out a :meth:`~pytest_pot.gates.latency.latency_report.LatencyReport.to_dict`; ids begin with ``name``."""
    memories = [(role, report[key]) for role, key in (("reference", "reference_memory"), ("candidate", "memory"))]
    known = [(role, memory) for role, memory in memories if memory is not None]
    work = _WORKS.get(report["what"], report["what"])
    repeats = f", {report['repeats']} runs per timing" if report["repeats"] > 1 else ""
    return LatencyView(
        checks=[_check(check) for check in report["checks"]],
        times=[(what, _summary(values)) for what, values in _series(report).items()],
        memory=[(role, f"{memory['bytes'] / 1e6:.0f}", f"{memory['weights'] / 1e6:.0f}") for role, memory in known],
        memory_kind=known[0][1]["kind"] if known else "",
        timed=f"{work}, {len(report['candidate'])} timings{repeats}, {report['elapsed_s']:.0f} s in all",
        plots=_plots(report, name),
    )


def _check(check: Mapping[str, Any]) -> list[str]:
    sign = ">=" if check["at_least"] else "<="
    figures = ["–" if check[key] is None else number(check[key]) for key in ("point", "bound")]
    return [check["name"], *figures, f"{sign} {number(check['limit'])}", check["outcome"]]


def _series(report: Mapping[str, Any]) -> dict[str, Sequence[float]]:
    """All that was timed, in seconds, by what it is."""
    roles = (("reference", "reference", "reference_lead", "reference_requests"), ("candidate", "candidate", "lead", "requests"))
    series: dict[str, Sequence[float]] = {}
    for role, key, lead, requests in roles:
        after = ", after the first token" if report[lead] or report[requests] else ""
        series[f"{role}{after}"] = report[key] or ()
        series[f"{role}, to the first token"] = report[lead]
        for figure, words in _REQUESTS.items() if report[requests] else ():
            series[f"{role}, each request {words}"] = report[requests][figure]
    return {what: values for what, values in series.items() if values}


def _summary(values: Sequence[float]) -> list[str]:
    return [number(1000 * value) for value in (statistics.median(values), min(values), max(values))]


def _plots(report: Mapping[str, Any], name: str) -> list[tuple[str, str]]:
    plots: dict[str, Figure] = {}
    models = {role: [1000 * value for value in report[role]] for role in ("reference", "candidate") if report[role]}
    if models:
        plots["times"] = times_plot(models, "ms per timing")
    if report["lead"]:
        leads = {"reference": report["reference_lead"], "candidate": report["lead"]}
        in_ms = {role: [1000 * value for value in values] for role, values in leads.items() if values}
        plots["leads"] = times_plot(in_ms, "ms to the first token")
    if report["ratios"]:
        limit = next((check["limit"] for check in report["checks"] if check["limit_name"] == "max_slowdown"), None)
        plots["pairs"] = times_plot({"candidate / reference": report["ratios"]}, "ratio, pair by pair", limit)
    return [(plot.title, plot.svg(f"{name}-{key}")) for key, plot in plots.items()]
