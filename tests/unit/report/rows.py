"""Rows of gates as a run gives them, made by hand: for reports that take any number of any kind."""

from __future__ import annotations

from typing import Any

_DELTA_P = ("0", "0.1", "1", "5", "10", "25", "50", "75", "90", "95", "99", "99.9", "100")
DELTA_P = {"mean": -1.5, "rms": 2.5, "percentiles": {name: index - 6.0 for index, name in enumerate(_DELTA_P)}}
PERCENTILES = dict.fromkeys(("0", "1", "5", "10", "50", "90", "95", "99", "99.9", "100"), 0.01)


def score_row(test: str = "test_it.py::test_it", text: str = "text", **changes: Any) -> dict[str, Any]:
    """The row of a gate on a score that failed, with ``text`` wherever strangers' text can be."""
    token = {
        "text": text,
        "id": 7,
        "score": 0.5,
        "reference": 0.5,
        "candidate": 0.25,
        "reference_choice": {"text": text, "id": 7, "probability": 0.5},
        "candidate_choice": {"text": text, "id": 8, "probability": 0.4},
    }
    row = {
        "test": test,
        "gate": "pot_identity",
        "reference": text,
        "candidate": text,
        "preset": "auto",
        "metric": "tv",
        "limit": 0.01,
        "score": 0.25,
        "max_prompt_score": 0.5,
        "max_prompt_limit": 0.1,
        "verdict": "DIFFERENT",
        "passed": False,
        "prompts": 1,
        "positions": 1,
        "path": "prefill",
        "truncated": 0,
        "tail_mass": 0.02,
        "unseen": None,
        "noise_floor": 1e-6,
        "noise_floor_measured": "alone",
        "kinds": {text: 0.25},
        "ms_per_prompt": 1.5,
        "batches": 1,
        "largest_batch_prompts": 1,
        "largest_batch_tokens": 9,
        "batches_planned_with": None,
        "reference_ran": text,
        "candidate_ran": text,
        "conditions": text,
        "notes": [text],
        "warnings": [text],
        "prompt_scores": [{"prompt": 0, "kind": text, "text": text, "score": 0.25, "positions": 1, "truncated": False}],
        "percentiles": {"tv": PERCENTILES, "kl": PERCENTILES},
        "delta_p": DELTA_P,
        "same_top": {"share": 0.5, "standard_error": 0.1},
        "by_position": {"mean": [0.25], "prompts": [1]},
        "worst_prompts": [
            {"prompt": 0, "kind": text, "score": 0.25, "context": text, "context_cut": False, "tokens": [token]},
        ],
        "scale": {"metric": "tv", "score": 0.25, "limit": 0.01, "floor": 1e-6, "tolerances": [], "ladder": []},
        "headline": text,
        "what_changed": [text] * 40,
        "where_it_starts": [text],
    }
    return {**row, **changes}


def passing_row(test: str = "test_it.py::test_same", text: str = "text", **changes: Any) -> dict[str, Any]:
    """The row of a gate on a score that passed."""
    row = score_row(test, text, score=0.005, verdict="SAME", passed=True)
    for name in ("headline", "what_changed", "where_it_starts"):
        del row[name]
    return {**row, **changes}


def error_row(test: str = "test_it.py::test_error", text: str = "text", **changes: Any) -> dict[str, Any]:
    """The row of a gate that came to no verdict."""
    names = ("gate", "reference", "candidate", "preset", "metric", "limit")
    row = {name: score_row(text=text)[name] for name in names}
    return {"test": test, **row, "verdict": "ERROR", "passed": False, "error": text, **changes}


def skipped_row(test: str = "test_it.py::test_skipped", text: str = "text", **changes: Any) -> dict[str, Any]:
    """The row of a gate that was not run."""
    row = error_row(test, text)
    del row["error"]
    return {**row, "verdict": "SKIPPED", "passed": None, "reason": text, **changes}


def latency_row(test: str = "test_it.py::test_fast", text: str = "text", **changes: Any) -> dict[str, Any]:
    """The row of a gate on latency that failed, as reports in files show it."""
    row = {
        "test": test,
        "gate": "pot_latency",
        "reference": text,
        "candidate": text,
        "preset": "auto",
        "metric": "slowdown",
        "limit": 1.25,
        "score": 1.5,
        "bound": 1.4,
        "verdict": "fail",
        "passed": False,
        "gated": True,
        "checks": {"max_slowdown": {"found": 1.5, "outcome": "fail"}},
        "what": "score",
        "prompts": 3,
        "timings": 20,
        "iqr": 0.03,
        "candidate_ms": 15.0,
        "reference_ms": 10.0,
        "conditions": text,
        "notes": [text],
        "warnings": [],
        "headline": text,
    }
    return {**row, **changes}
