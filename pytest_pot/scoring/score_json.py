"""A score's figures in plain JSON types."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from pytest_pot.core.config import ScoringConfig
from pytest_pot.engines.base import ModelDescription
from pytest_pot.scoring.position_statistics import with_text_keys
from pytest_pot.scoring.score_figures import ScoreFigures

__all__ = ["SCHEMA", "as_json"]

SCHEMA = 1
"""The version of the form."""


def as_json(figures: ScoreFigures) -> dict[str, Any]:
    """``figures`` in plain JSON types.

    The schema, ``report/schema/score_report.schema.json``, allows no other keys: change both together, and :data:`SCHEMA` where
    a reader of the version before would not understand the result.
    """
    change = figures.delta_p
    return {
        "schema": SCHEMA,
        "metric": figures.metric,
        "mean": figures.mean,
        "max": figures.max,
        "metrics": figures.metrics,
        "kinds": figures.kinds,
        "percentiles": {name: with_text_keys(figures.percentiles(name)) for name in figures.divergences},
        "delta_p": None if change is None else change.to_dict(),
        "same_top": figures.same_top._asdict(),
        "tail_mass": figures.tail_mass,
        "unseen": None if figures.unseen is None else dict(zip(("reference", "candidate"), figures.unseen, strict=True)),
        "n_ids": figures.n_ids,
        "n_prompts": figures.n_prompts,
        "n_positions": figures.n_positions,
        "n_truncated": figures.n_truncated,
        "elapsed_s": figures.elapsed_s,
        "ms_per_prompt": figures.ms_per_prompt,
        "batch_size": figures.batch_size,
        "batches": [{"prompts": prompts, "tokens": tokens} for prompts, tokens in figures.batch_shapes],
        "batches_planned_with": figures.planned_with,
        "reference": figures.labels[0],
        "candidate": figures.labels[1],
        "ran": dict(zip(("reference", "candidate"), (ran and _plain(ran) for ran in figures.ran), strict=True)),
        "config": _plain(figures.config),
        "scores": figures.scores.tolist(),
        "positions": [values.tolist() for values in figures.positions],
        "prompts": [
            {
                "index": index,
                "text": prompt.text,
                "kind": prompt.kind,
                "prompt_tokens": tokens.prompt_len,
                "continuation": list(tokens.targets),
                "truncated": tokens.truncated,
            }
            for index, prompt, tokens in zip(figures.indices, figures.prompts, figures.tokens, strict=True)
        ],
        "worst": [asdict(position) for position in figures.worst(5)],
    }


def _plain(values: ScoringConfig | ModelDescription) -> dict[str, Any]:
    """The fields by name, with lists where Python has tuples."""
    return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(values).items()}
