"""What changed between two runs, gate by gate: verdicts, scores beyond noise, limits, and gates that are new or gone."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from pytest_pot.core.text import number
from pytest_pot.report.gate_words import reason, title
from pytest_pot.report.saved_report import SavedReport

__all__ = ["GateChange", "ReportDiff", "compare_reports"]

_Gate = Mapping[str, Any]

_LATENCY = "pot_latency"
_SETTINGS = ("reference", "candidate", "preset", "metric", "path", "confidence")
"""What was asked for. Where any of these differs, two scores are not of the same thing."""
_LIMITS = {"limit": "limit", "max_prompt_limit": "limit for one prompt"}


@dataclass(frozen=True)
class GateChange:
    """One gate that both runs have."""

    test: str
    gate: str
    metric: str
    verdicts: tuple[str, str]
    """Old and new."""
    verdict_changed: bool
    """Whether the verdict differs, or whether the gate passed."""
    reason: str
    """Why the new run's gate passed or failed, in one line."""
    scores: tuple[float, float] | None = None
    """Where both have one."""
    moved: bool = False
    """Whether the scores can be compared and differ by more than noise."""
    noise: float = 0.0
    """By how much scores may differ by noise alone, in the metric's unit."""
    limits: dict[str, tuple[float | None, float | None]] = field(default_factory=dict)
    """Those that changed, by what they are called."""
    settings: dict[str, tuple[Any, Any]] = field(default_factory=dict)
    """What was asked for and changed, so that the scores cannot be compared."""

    @property
    def ratio(self) -> float | None:
        """The new score over the old one; None where that is 0 or they cannot be compared."""
        return None if self.scores is None or self.settings or not self.scores[0] else self.scores[1] / self.scores[0]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {**asdict(self), "ratio": self.ratio}


@dataclass(frozen=True)
class ReportDiff:
    """What changed from an old report to a new one."""

    changes: tuple[GateChange, ...]
    """Of the gates that both have, those of which something changed."""
    n_unchanged: int
    new: tuple[tuple[str, str, str], ...]
    """Gates that only the new report has: test, gate, verdict."""
    gone: tuple[tuple[str, str, str], ...]
    environment: dict[str, tuple[Any, Any]]
    """Versions and machine, where they differ."""

    @property
    def verdict_changed(self) -> bool:
        """Whether the verdict of any gate that both have changed, for better or worse."""
        return any(change.verdict_changed for change in self.changes)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        listed = {
            name: [dict(zip(("test", "gate", "verdict"), entry, strict=True)) for entry in getattr(self, name)]
            for name in ("new", "gone")
        }
        return {
            "schema": 1,
            "verdict_changed": self.verdict_changed,
            "changes": [change.to_dict() for change in self.changes],
            "n_unchanged": self.n_unchanged,
            **listed,
            "environment": self.environment,
        }


def compare_reports(old: SavedReport, new: SavedReport) -> ReportDiff:
    """Compare the gates of two runs.

    Gates belong together that have the same test, with its parameters, the same worker where each worker ran all tests, and the
    same marker. Of several such, first those with the same models and settings, then those in the same place.
    """
    pairs, gone, added = _pairs(old.gates, new.gates)
    changes = [_change(*pair) for pair in pairs]
    kept = [change for change in changes if change.verdict_changed or change.moved or change.limits or change.settings]
    facts = {"pytest-pot": (old.version, new.version)}
    facts |= {name: (old.run[name], new.run[name]) for name in old.run if name in new.run and name != "started"}
    return ReportDiff(
        tuple(kept),
        len(changes) - len(kept),
        _listed(added),
        _listed(gone),
        {name: pair for name, pair in facts.items() if pair[0] != pair[1]},
    )


def _listed(gates: Iterable[_Gate]) -> tuple[tuple[str, str, str], ...]:
    return tuple((title(gate), gate["gate"], gate["verdict"]) for gate in gates)


def _pairs(old: Sequence[_Gate], new: Sequence[_Gate]) -> tuple[list[tuple[_Gate, _Gate]], list[_Gate], list[_Gate]]:
    """The gates that belong together, in the new report's order; those of ``old`` that are gone; those that are new."""
    earlier: dict[tuple[Any, ...], list[_Gate]] = defaultdict(list)
    for gate in old:
        earlier[_key(gate)].append(gate)
    partners: dict[int, _Gate] = {}
    for same_settings in (True, False):
        for index, gate in enumerate(new):
            candidates = earlier[_key(gate)]
            if index in partners or not candidates:
                continue
            found = next((each for each in candidates if not same_settings or not _settings(each, gate)), None)
            if found is not None:
                partners[index] = found
                # By identity: two gates of a test may be equal.
                del candidates[next(place for place, each in enumerate(candidates) if each is found)]
    pairs = [(partners[index], gate) for index, gate in enumerate(new) if index in partners]
    return pairs, [gate for gates in earlier.values() for gate in gates], [g for i, g in enumerate(new) if i not in partners]


def _key(gate: _Gate) -> tuple[Any, ...]:
    return gate.get("worker"), gate["test"], gate["gate"]


def _settings(old: _Gate, new: _Gate) -> dict[str, tuple[Any, Any]]:
    pairs = {name: (old.get(name), new.get(name)) for name in _SETTINGS}
    # A gate that came to no verdict does not tell all of them.
    whole = old.get("score") is not None and new.get("score") is not None
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1] and (whole or None not in pair)}


def _change(old: _Gate, new: _Gate) -> GateChange:
    verdicts = old["verdict"], new["verdict"]
    settings = _settings(old, new) | _prompt_changes(old, new)
    scores = None if old.get("score") is None or new.get("score") is None else (float(old["score"]), float(new["score"]))
    noise = 0.0 if scores is None else _noise(old, new, scores)
    return GateChange(
        test=title(new),
        gate=new["gate"],
        metric=new["metric"],
        verdicts=verdicts,
        verdict_changed=verdicts[0] != verdicts[1] or old["passed"] != new["passed"],
        reason=reason(new),
        scores=scores,
        moved=scores is not None and not settings and _differ(scores, noise),
        noise=noise,
        limits={
            words: (old.get(name), new.get(name))
            for name, words in _LIMITS.items()
            if name in old and name in new and old.get(name) != new.get(name)
        },
        settings=settings,
    )


def _differ(scores: tuple[float, float], noise: float) -> bool:
    """Whether two scores differ by more than noise, and in the digits that are shown."""
    return abs(scores[0] - scores[1]) > noise and number(scores[0]) != number(scores[1])


def _noise(old: _Gate, new: _Gate, scores: tuple[float, float]) -> float:
    """By how much two scores may differ by noise: the larger noise floor; of times, the spread of single timings."""
    if new["gate"] == _LATENCY:
        return max(float(gate.get("iqr") or 0) * score for gate, score in zip((old, new), scores, strict=True))
    return max(float(gate.get("noise_floor") or 0) for gate in (old, new))


def _prompt_changes(old: _Gate, new: _Gate) -> dict[str, tuple[Any, Any]]:
    """Whether other prompts were compared: other texts or, where all are scored, another number of them or of positions."""
    if new["gate"] == _LATENCY:
        return {}
    before, after = (
        {entry["prompt"]: (entry["text"], entry["positions"]) for entry in gate.get("prompt_scores", ())} for gate in (old, new)
    )
    n_other = sum(before[index] != after[index] for index in before.keys() & after.keys())
    if n_other:
        return {"prompts": (f"{len(before)} prompts", f"{len(after)} prompts, {n_other} of them other ones")}
    if "confidence" in old and "confidence" in new:  # how many are scored depends on the scores
        return {}
    return {
        name: (old[name], new[name])
        for name in ("prompts", "positions")
        if old.get(name) is not None and new.get(name) is not None and old[name] != new[name]
    }
