"""Rows of gates as the plugin makes them, with any scores and texts."""

from __future__ import annotations

import random
from typing import Any

from pytest_pot.gates.latency.latency_report import Check, LatencyReport, Outcome
from pytest_pot.gates.verdict.details import ScoreDetails, TokenScore
from pytest_pot.gates.verdict.limits import TOLERANCES
from pytest_pot.scoring.position_statistics import DELTA_P_PERCENTILES, PERCENTILES, DeltaP, with_text_keys

METRICS = ("tv", "kl")


def score_row(name: str = "test_it", *, score: float = 0.03, limit: float = 0.01, **values: Any) -> dict[str, Any]:
    """A gate ``pot_identity`` with details; ``values`` replace or add some."""
    random_ = random.Random(repr(name))
    scores = [score * random_.uniform(0.5, 1.5) for _ in range(8)]
    percentiles = with_text_keys({key: score * key / 50 for key in PERCENTILES})
    delta_p = DeltaP(-0.2, 2.0, {key: 0.04 * (key - 60) for key in DELTA_P_PERCENTILES})
    details: ScoreDetails = {
        "prompt_scores": [
            {"prompt": i, "kind": "prose", "text": f"Prompt {i}", "score": value, "positions": 20, "truncated": False}
            for i, value in enumerate(scores)
        ],
        "percentiles": dict.fromkeys(METRICS, percentiles),
        "delta_p": delta_p.to_dict(),
        "same_top": {"share": 0.94, "standard_error": 0.01},
        "by_position": {"mean": [score] * 20, "prompts": [8] * 20},
        "worst_prompts": [
            {
                "prompt": 3,
                "kind": "prose",
                "score": max(scores),
                "context": "The old mill",
                "context_cut": False,
                "tokens": [token(f" word{i}", score) for i in range(20)],
            }
        ]
        * 3,
        "scale": {
            "metric": "tv",
            "score": score,
            "limit": limit,
            "floor": 0.0,
            "tolerances": [{"name": name, "value": value} for name, value in TOLERANCES.items()],
            "ladder": [{"name": "bf16", "value": 0.004}],
        },
    }
    passed = score <= limit
    row: dict[str, Any] = {
        "test": f"test_file.py::{name}",
        "gate": "pot_identity",
        "reference": "models/reference",
        "candidate": "models/candidate",
        "preset": "auto",
        "metric": "tv",
        "limit": limit,
        "score": score,
        "max_prompt_score": max(scores),
        "max_prompt_limit": 0.1,
        "verdict": "SAME" if passed else "DIFFERENT",
        "passed": passed,
        "prompts": 8,
        "kinds": {"prose": score, "code": score / 2},
        "tv": score,
        "kl": score / 2,
        "conditions": "preset auto, 8 prompts",
        "notes": [],
        "warnings": [],
        **details,
    }
    if not passed:
        row |= {"what_changed": ["all 12 matrices rounded to 8 bits"], "where_it_starts": ["model.embed (Embedding)"]}
    return {**row, **values}


def token(text: str, score: float = 0.2) -> TokenScore:
    """A token of a continuation."""
    return {
        "text": text,
        "id": 42,
        "score": score,
        "reference": 0.25,
        "candidate": 0.0004,
        "reference_choice": {"text": text, "id": 1, "probability": 0.25},
        "candidate_choice": {"text": " other", "id": 2, "probability": 0.5},
    }


def latency_row(name: str = "test_speed", *, slowdown: float = 1.1, limit: float = 1.25, **values: Any) -> dict[str, Any]:
    """A gate ``pot_latency`` with details."""
    reference = tuple(0.2 + 0.01 * i for i in range(10))
    outcome = Outcome.PASS if slowdown <= limit else Outcome.FAIL
    report = LatencyReport(
        what="score",
        candidate=tuple(slowdown * time for time in reference),
        reference=reference,
        checks=(Check("max_slowdown", "slowdown", slowdown, slowdown, limit, outcome),),
        n_prompts=1,
        n_tokens=38,
    )
    row = {
        "test": f"test_file.py::{name}",
        "gate": "pot_latency",
        "reference": "models/reference",
        "candidate": "models/candidate",
        "preset": "auto",
        "metric": "slowdown",
        "limit": limit,
        "score": slowdown,
        "verdict": str(report.verdict),
        "passed": outcome is Outcome.PASS,
        "gated": True,
        "latency": report.to_dict(),
    }
    return {**row, **values}


def error_row(message: str = "the model cannot be loaded", **values: Any) -> dict[str, Any]:
    """A gate that came to no verdict."""
    return {**_bare("test_error"), "verdict": "ERROR", "passed": False, "error": message, **values}


def skipped_row(reason: str = "workers run side by side", **values: Any) -> dict[str, Any]:
    """A gate that did not run."""
    return {**_bare("test_skipped"), "verdict": "SKIPPED", "passed": None, "reason": reason, **values}


def _bare(name: str) -> dict[str, Any]:
    identification = ("test", "gate", "reference", "candidate", "preset", "metric", "limit")
    return {key: score_row(name)[key] for key in identification}
