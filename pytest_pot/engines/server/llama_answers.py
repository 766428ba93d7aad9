"""What a llama-server's answers say, with everything checked that could make them say something else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pytest_pot.core.text import shorten
from pytest_pot.engines.server.answers import Row

__all__ = ["Facts", "UnusableAnswer", "facts_of", "generated", "likeliest", "log_prob_of", "normalised", "parse"]

_LEAST = float(np.log(np.finfo(np.float32).smallest_subnormal))
"""llama.cpp computes probabilities in float32, and gives the lowest number of all where one is less than any float32 above
0. We take the largest value that it can have, so that divergences stay lower bounds."""
_NO_PROBABILITY = float(np.finfo(np.float32).min)
_MOST = float(np.log1p(-(2.0**-23)))
"""What the likeliest ids may sum to, so that a tail is left that float32 can tell from 0."""
_ROUNDING = 0.01
"""How far the sum of a vocabulary's probabilities may be off, as a logarithm. More is no rounding, and is refused."""


class UnusableAnswer(Exception):
    """An answer is no evidence. The message goes on where the server was named: ``"read 6 of the 5 ids…"``."""


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
        UnusableAnswer: they lack what is needed.
    """
    try:
        entry = next(each for each in models["data"] if each["id"] == name or name in each.get("aliases", ()))
        meta, settings = entry["meta"], props["default_generation_settings"]
        build, kind = props.get("build_info"), meta.get("ftype") or props.get("model_ftype")
        return Facts(
            n_slots=_at_least_1(props["total_slots"]),
            n_ctx=_at_least_1(settings["n_ctx"]),
            n_ctx_trained=meta.get("n_ctx_train"),
            vocab_size=_at_least_1(meta["n_vocab"]),
            build=None if build is None else str(build),
            file_type=None if kind is None else str(kind).removeprefix("all "),
            identity={
                "model": name,
                "path": props.get("model_path"),
                "build": build,
                **{key: meta.get(key) for key in ("n_vocab", "n_params", "size", "n_embd", "ftype")},
                "n_ctx": settings["n_ctx"],
                "adapters": [(each.get("path"), each.get("scale")) for each in adapters],
            },
        )
    except (LookupError, TypeError, ValueError, AttributeError, StopIteration):
        raise UnusableAnswer(
            "does not tell its slots, its context and its vocabulary (/props and /v1/models). Is it a llama-server, not too "
            "old, and with the model loaded?"
        ) from None


def parse(body: Any, ids: Sequence[int], forced: int, k: int) -> Row | None:
    """The row in an answer to ``ids`` with the token ``forced``, whose log-probability is the target's.

    None where there are no log-probabilities, as for a token that is a part of a UTF-8 character.

    Raises:
        UnusableAnswer: the answer is about other ids, or its log-probabilities are not what was asked for.
    """
    _check_read(body, ids)
    sampled = body.get("tokens")
    if sampled and list(sampled) != [forced]:
        raise UnusableAnswer(f"was to sample the token {forced} and sampled {list(sampled)[:3]}: is that id in its vocabulary?")
    entries = body.get("completion_probabilities")
    if not entries:
        return None
    try:
        entry = entries[0]
        if "top_probs" in entry:
            raise UnusableAnswer("tells probabilities after sampling, not the model's, although post_sampling_probs is off")
        came, target, top = entry["id"], _log_prob(entry["logprob"]), entry["top_logprobs"]
        row = Row([each["id"] for each in top], [_log_prob(each["logprob"]) for each in top], target)
    except (LookupError, TypeError):
        raise UnusableAnswer(f"answered with unknown completion_probabilities: {shorten(str(entries), 200)}") from None
    if came != forced:
        raise UnusableAnswer(f"was asked for the log-probability of the token {forced} and told that of {came}")
    if len(row.ids) < k:
        raise UnusableAnswer(f"was asked for {k} likeliest ids (n_probs) and told {len(row.ids)}")
    return row


def log_prob_of(target: int, row: Row, first: Row) -> float | None:
    """The log-probability of ``target`` in ``row``, on the scale of ``first``, which tells fewer ids of the same position; None
    where it is not there.

    The scales differ because llama.cpp sums in float32, most likely first as far as it tells them.
    """
    rank = next((rank for rank, each in enumerate(row.ids) if each == target), None)
    try:
        return None if rank is None else row.log_probs[rank] + (first.log_probs[0] - row.log_probs[0])
    except TypeError:
        raise UnusableAnswer(
            f"told what is no number as the log-probability of the token {target}, or of the likeliest"
        ) from None


def likeliest(row: Row, k: int) -> Row:
    """The first ``k`` ids of ``row``."""
    return Row(row.ids[:k], row.log_probs[:k], row.target)


def normalised(row: Row, *, whole: bool) -> Row:
    """``row`` with probabilities that sum to 1 if it is the ``whole`` vocabulary, and to less than 1 otherwise.

    llama.cpp's sum to some 1.0002: it adds the unlikely ones to a sum in float32, where they vanish. Where a few ids have
    nearly all of the probability, that would leave nothing for the tail, or less than nothing.
    """
    if not {type(value) for value in (*row.log_probs, row.target)} <= {float, int}:
        return row  # what is no number is refused with all others
    log_probs = np.array(row.log_probs, dtype=np.float64)
    with np.errstate(invalid="ignore"):
        excess = float(np.logaddexp.reduce(log_probs)) - (0.0 if whole else _MOST)
    if not np.isfinite(excess) or abs(excess) > _ROUNDING or (excess <= 0 and not whole):
        return row
    return Row(row.ids, (log_probs - excess).tolist(), row.target - excess)


def generated(body: Any, context: Sequence[int], n_tokens: int) -> list[int]:
    """The tokens in an answer to ``context``.

    Raises:
        UnusableAnswer: the answer is about other ids, or has not ``n_tokens`` tokens.
    """
    _check_read(body, context)
    tokens = body.get("tokens")
    if not isinstance(tokens, list) or len(tokens) != n_tokens or not all(isinstance(each, int) for each in tokens):
        raise UnusableAnswer(f"was to generate {n_tokens} tokens and answered {shorten(str(tokens), 200)}")
    return tokens


def _check_read(body: Any, ids: Sequence[int]) -> None:
    """Refuse an answer about other ids than ``ids``."""
    if not isinstance(body, dict):
        raise UnusableAnswer(f"answered {shorten(str(body), 200)}, which is no JSON object")
    read = body.get("tokens_evaluated")
    if read != len(ids):
        raise UnusableAnswer(f"read {read} tokens where {len(ids)} ids were sent: it adds a token (BOS?), or cuts the prompt")


def _log_prob(value: Any) -> Any:
    """``value``, or the least there is where llama.cpp rounded a probability to 0. Whether it is a number is checked with all
    others."""
    return _LEAST if isinstance(value, float) and value <= _NO_PROBABILITY else value


def _at_least_1(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(value)
    return value
