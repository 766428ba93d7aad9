"""The ladders that ``--pot-calibrate`` has measured on this machine, in pytest's cache: how far known changes move a reference.

A ladder is found again only by what can change it: the content of the reference, the prompts, the metric, and how scores are
computed, and the device that ran. Nothing is found by a name, which may stand for another model by now.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import pytest

from pytest_pot.baseline.provenance import digest_of_prompts
from pytest_pot.core.config import ScoringConfig
from pytest_pot.core.hashing import digest
from pytest_pot.engines.registry import content, device_of
from pytest_pot.prompts.prompt import Prompt
from pytest_pot.prompts.tokenization import EncodedPrompts

__all__ = ["by_content", "by_files", "keep_ladder", "known_ladder", "where_it_runs"]

_KEY = "pot/ladders"
_MOST = 50
"""Ladders that are kept, the latest."""
_NO_MATTER = ("batch_size", "path", "server_concurrency", "server_timeout", "allow_tensors", "every_position")
"""Settings that change scores by rounding at most, or that are the candidate's."""

Identity = Mapping[str, Any]


def by_files(files: Mapping[str, str]) -> Identity | None:
    """A reference, by the digests of its files; None where there are none."""
    return {"files": dict(files)} if files else None


def by_content(model: Any) -> Identity | None:
    """A reference in memory; None where its content does not tell all of it."""
    identity = None if model is None else content(model)
    return None if identity is None else {"content": dict(identity)}


def where_it_runs(scoring: ScoringConfig, model: Any) -> ScoringConfig:
    """``scoring`` with the device of ``model`` where it names none: precision may depend on it."""
    return replace(scoring, device=device_of(model) or "auto") if scoring.device == "auto" else scoring


def keep_ladder(
    config: pytest.Config,
    scoring: ScoringConfig,
    prompts: Sequence[Prompt],
    identities: Iterable[Identity | None],
    rungs: Sequence[tuple[str, float]],
) -> None:
    """Keep ``rungs``, names and scores, for gates on a reference that is one of ``identities``.

    ``scoring``: as :func:`where_it_runs` gives it, here and in :func:`known_ladder`.
    """
    kept = _kept(config)
    for identity in identities:
        if identity is not None:
            key = _key(scoring, prompts, identity)
            kept.pop(key, None)
            kept[key] = [[name, score] for name, score in rungs]
    if kept and getattr(config, "cache", None) is not None:
        config.cache.set(_KEY, dict(list(kept.items())[-_MOST:]))


def known_ladder(
    config: pytest.Config, scoring: ScoringConfig, prompts: EncodedPrompts, identify: Callable[[], Identity | None]
) -> tuple[tuple[str, float], ...]:
    """The rungs that were kept for a gate's reference, the smallest first; none where there are none.

    ``identify``: gives what tells the reference from any other; called only where ladders are kept.
    """
    kept = _kept(config)
    identity = identify() if kept else None
    if identity is None:
        return ()
    rungs = kept.get(_key(scoring, prompts.prompts, identity), [])
    return tuple(sorted(((str(name), float(score)) for name, score in rungs), key=lambda rung: rung[1]))


def _kept(config: pytest.Config) -> dict[str, Any]:
    """The ladders by their keys, the latest last."""
    cache = getattr(config, "cache", None)  # -p no:cacheprovider
    kept = None if cache is None else cache.get(_KEY, None)
    return kept if isinstance(kept, dict) else {}


def _key(scoring: ScoringConfig, prompts: Sequence[Prompt], identity: Identity) -> str:
    settings = {name: value for name, value in asdict(scoring).items() if name not in _NO_MATTER}
    settings["device"] = scoring.device.partition(":")[0]  # one GPU rounds as another
    parts = {"reference": dict(identity), "prompts": digest_of_prompts(prompts), "config": settings}
    return digest([json.dumps(parts, sort_keys=True).encode()])
