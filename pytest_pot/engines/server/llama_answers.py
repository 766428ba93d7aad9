"""What a llama-server's answers say, with everything checked that could make them say something else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pytest_pot.core.errors import PotError
from pytest_pot.engines.server.answers import Row

__all__ = ["Facts", "facts_of", "generated", "parse"]

_LEAST = float(np.log(np.finfo(np.float32).smallest_subnormal))
"""llama.cpp computes probabilities in float32, and gives the lowest number of all where one is less than any float32 above
0. We take the largest value that it can have, so that divergences stay lower bounds."""
_NO_PROBABILITY = float(np.finfo(np.float32).min)


@dataclass(frozen=True)
class Facts:
    """What a server said of itself."""

    n_slots: int
    n_ctx: int
    """The most tokens that a slot holds."""
    n_ctx_trained: int | None
    """The most tokens that the model was trained on."""
    vocab_size: int
    build: str | None
    file_type: str | None
    """How the weights are kept: ``"Q4_1"``."""
    identity: Mapping[str, Any]
    """What tells this model from another one that the same server might run."""


def facts_of(models: Any, props: Any, name: str, adapters: Any) -> Facts:
    """From what ``/v1/models``, ``/props`` and ``/lora-adapters`` answered.

    Raises:
        PotError: they lack what is needed.
    """
    try:
        entry = next((each for each in models["data"] if each["id"] == name), None)
        if entry is None:
            raise PotError(f"it has no model {name!r}, but {', '.join(str(each['id']) for each in models['data'])}")
        meta, settings = entry["meta"], props["default_generation_settings"]
        build, kind = props.get("build_info"), meta.get("ftype") or props.get("model_ftype")
        return Facts(
            n_slots=_at_least_1(props["total_slots"]),
            n_ctx=_at_least_1(settings["n_ctx"]),
            n_ctx_trained=meta.get("n_ctx_train"),
            vocab_size=_at_least_1(meta["n_vocab"]),
            build=None if build is None else str(build),
            file_type=None if kind is None else str(kind),
            identity={
                "model": name,
                "path": props.get("model_path"),
                "build": build,
                **{key: meta.get(key) for key in ("n_vocab", "n_params", "size", "n_embd", "ftype")},
                "n_ctx": settings["n_ctx"],
                "adapters": [(each.get("path"), each.get("scale")) for each in adapters],
            },
        )
    except (LookupError, TypeError, ValueError, AttributeError):
        raise PotError(
            "it does not tell its slots, its context and its vocabulary (/props and /v1/models); is it a llama-server, with a "
            "model loaded, and not an old one?"
        ) from None


def parse(body: Any, ids: Sequence[int], forced: int, k: int) -> Row | None:
    """The row in an answer to ``ids`` with the token ``forced``, whose log-probability is the target's.

    None where there are no log-probabilities, as for a token that is a part of a UTF-8 character.

    Raises:
        PotError: the answer is about other ids, or its log-probabilities are not what was asked for.
    """
    _check_read(body, ids)
    sampled = body.get("tokens")
    if sampled and list(sampled) != [forced]:
        raise PotError(f"the token {forced} was forced, and {list(sampled)[:3]} came: is it in the server's vocabulary?")
    entries = body.get("completion_probabilities")
    if not entries:
        return None
    try:
        entry = entries[0]
        if "top_probs" in entry:
            raise PotError("it tells probabilities after sampling, not the model's: start it without post_sampling_probs")
        came, target, top = entry["id"], _log_prob(entry["logprob"]), entry["top_logprobs"]
        row = Row([int(each["id"]) for each in top], [_log_prob(each["logprob"]) for each in top], target)
    except (LookupError, TypeError, ValueError):
        raise PotError(f"completion_probabilities are not as expected: {str(entries)[:300]}") from None
    if came != forced:
        raise PotError(f"the token {forced} was forced, and the log-probability of {came} came")
    if len(row.ids) < k:
        raise PotError(f"{k} log-probabilities were asked for (n_probs), and {len(row.ids)} came")
    return row


def generated(body: Any, context: Sequence[int], n_tokens: int) -> list[int]:
    """The tokens in an answer to ``context``.

    Raises:
        PotError: the answer is about other ids, or has not ``n_tokens`` tokens.
    """
    _check_read(body, context)
    tokens = body.get("tokens")
    if not isinstance(tokens, list) or len(tokens) != n_tokens or not all(isinstance(each, int) for each in tokens):
        raise PotError(f"{n_tokens} tokens were to be generated, and this came: {str(tokens)[:200]}")
    return tokens


def _check_read(body: Any, ids: Sequence[int]) -> None:
    """Refuse an answer about other ids than ``ids``."""
    if not isinstance(body, dict):
        raise PotError(f"its answer is no JSON object: {str(body)[:300]}")
    read = body.get("tokens_evaluated")
    if read != len(ids):
        raise PotError(f"{len(ids)} token ids were sent, and it read {read}: it adds a token (BOS?), or cuts the prompt")


def _log_prob(value: Any) -> float:
    """``value``, or the least there is where llama.cpp rounded a probability to 0. Other values are checked with all others."""
    if value is None:
        return float("nan")
    number = float(value)
    return _LEAST if number <= _NO_PROBABILITY else number


def _at_least_1(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(value)
    return value
