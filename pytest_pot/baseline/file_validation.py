"""Checks that every valid recording passes: texts, counts, matching shapes, ids in the vocabulary, probabilities.

Each check raises :class:`Malformed` and says where it failed. The checks take plain arrays, so that a file is checked before
a :class:`~pytest_pot.Baseline` is built from it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pytest_pot.baseline.recorded import Recorded, position_starts
from pytest_pot.core.config import ScoringConfig
from pytest_pot.engines.distributions import Flags, certainly_clear
from pytest_pot.engines.tokens import Tokens

__all__ = [
    "WEIGHTS",
    "WEIGHTS_INDEX",
    "Malformed",
    "batches_of",
    "check_count",
    "check_header",
    "check_prompts",
    "check_recorded",
    "check_text",
    "check_weights_shapes",
    "tokens_of",
]

WEIGHTS, WEIGHTS_INDEX = "weights", "weights_index"
"""The two tensors that hold what is kept of the reference's weights."""
_WEIGHTS_BYTES, _MOST_WEIGHTS, _MOST_INDEX = 52, 1 << 20, 1 << 26
"""Bytes per tensor of the model; the most tensors; the most bytes of their names and so on."""

_DTYPES = {
    "tokens": ("U16", "U32"),
    "lengths": ("U32",),
    "ids": ("U16", "U32"),
    "values": ("F32", "F64"),
    "target_values": ("F32", "F64"),
    "log_normalisers": ("F64",),
    "log_tail": ("F64",),
    "clear": ("U8",),
    WEIGHTS: ("U8",),
    WEIGHTS_INDEX: ("U8",),
}
_OPTIONAL = ("ids", "log_tail", WEIGHTS, WEIGHTS_INDEX)
_MOST_TOKENS = 1 << 17
"""The most tokens per prompt, with its continuation, that a file may claim."""

_ROUNDING = 1e-5
"""How far above 1 the sum of the probabilities at a position may be: far above float32 rounding, far below any tolerance."""
_SHORTFALL = 1e-3
"""How far below 1 the sum may be: a server rounds its log-probabilities to few digits."""

_TARGET_ROUNDING = 1e-4
"""How far, in nats, the continuation token's log-probability may be from that of the same id among the likeliest ids."""

_CELLS_AT_ONCE = 1 << 20
"""Cells that are converted to float64 at a time, to limit memory."""


class Malformed(Exception):
    """Says what is wrong with a file; the reader names the file and raises a :class:`~pytest_pot.PotError` instead."""


def check_prompts(document: Mapping[str, Any]) -> int:
    """Check that the metadata has a list of prompts; how many."""
    prompts = document.get("prompts")
    if not isinstance(prompts, list) or not prompts:
        raise Malformed("its metadata has no list of prompts")
    return len(prompts)


def check_header(tensors: Mapping[str, tuple[str, tuple[int, ...]]], n_prompts: int) -> None:
    """Check the type and shape of every tensor before memory is allocated: a sparse file can claim any size."""
    names = set(tensors)
    missing, unknown = set(_DTYPES) - set(_OPTIONAL) - names, names - set(_DTYPES)
    if missing or unknown:
        raise Malformed(f"the tensor {min(missing or unknown)!r} is {'missing' if missing else 'not part of a recording'}")
    for name, (dtype, _) in tensors.items():
        if dtype not in _DTYPES[name]:
            raise Malformed(f"the tensor {name!r} has the type {dtype}, not {' or '.join(_DTYPES[name])}")
    shapes = {name: shape for name, (_, shape) in tensors.items()}
    n = shapes["log_normalisers"][0] if len(shapes["log_normalisers"]) == 1 else 0
    ids = shapes["tokens"][0] if len(shapes["tokens"]) == 1 else 0
    if shapes["lengths"] != (n_prompts, 3) or not 0 < n < ids <= _MOST_TOKENS * n_prompts:
        claimed = shapes["lengths"][0] if shapes["lengths"] else 0
        raise Malformed(f"it claims {ids} tokens and {n} positions of {claimed} prompts, but has {n_prompts} texts")
    for name, shape in shapes.items():
        if 0 in shape:
            raise Malformed(f"the tensor {name!r} has the shape {list(shape)}: it is empty")
        if name not in ("tokens", "lengths", WEIGHTS, WEIGHTS_INDEX) and (
            shape[:1] != (n,) or len(shape) != 1 + (name in ("ids", "values"))
        ):
            raise Malformed(f"the tensor {name!r} has the shape {list(shape)}, but there are {n} positions")
    check_weights_shapes(shapes.get(WEIGHTS), shapes.get(WEIGHTS_INDEX))


def check_weights_shapes(weights: tuple[int, ...] | None, index: tuple[int, ...] | None) -> None:
    """Check the sizes of what is kept of the weights; None for a tensor that is not there."""
    if weights is None and index is None:
        return
    if weights is None or index is None:
        raise Malformed(f"it has only one of the tensors {WEIGHTS!r} and {WEIGHTS_INDEX!r}")
    if len(weights) != 2 or weights[1] != _WEIGHTS_BYTES or weights[0] > _MOST_WEIGHTS:
        raise Malformed(f"the tensor {WEIGHTS!r} has the shape {list(weights)}, not [tensors, {_WEIGHTS_BYTES}]")
    if len(index) != 1 or index[0] > _MOST_INDEX:
        raise Malformed(f"the tensor {WEIGHTS_INDEX!r} has the shape {list(index)}, not that of at most {_MOST_INDEX} bytes")


def check_text(name: str, value: object) -> None:
    """Raise :class:`Malformed` unless ``value`` is a string that can be encoded as UTF-8."""
    if not isinstance(value, str):
        raise Malformed(f"{name} is {type(value).__name__}, not a string")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise Malformed(f"{name} is not valid text: it has half of a character (a lone surrogate)") from error


def check_count(document: Mapping[str, Any], name: str) -> int:
    """``document[name]``; raise :class:`Malformed` unless it is a whole number from 1 to 2^31 - 1."""
    value = document[name]
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value < 1 << 31:
        raise Malformed(f"{name} is {value!r}, not a count")
    return value


def batches_of(document: Mapping[str, Any], n_prompts: int) -> tuple[tuple[int, ...], ...]:
    """The batches in ``document``, as prompt indices, or none; raise :class:`Malformed` unless each prompt is in one."""
    batches = document.get("batches", [])
    if not isinstance(batches, list) or not all(isinstance(batch, list) and batch for batch in batches):
        raise Malformed("batches is not a list of lists of prompts")
    indices = [index for batch in batches for index in batch]
    for index in indices:
        if isinstance(index, bool) or not isinstance(index, int) or not 0 <= index < n_prompts:
            raise Malformed(f"batches has the prompt {index!r}, but there are {n_prompts} prompts")
    if batches and sorted(indices) != list(range(n_prompts)):
        twice = len(indices) - len(set(indices))
        missing = sorted(set(range(n_prompts)) - set(indices))
        what = f"prompt {missing[0]} is in no batch" if missing else f"{twice} of its entries occur twice"
        raise Malformed(f"batches must have each prompt once, but {what}")
    return tuple(tuple(batch) for batch in batches)


def tokens_of(ids: npt.NDArray[Any], lengths: npt.NDArray[Any]) -> tuple[Tokens, ...]:
    """Split ``ids`` [ids] into prompts by ``lengths`` [prompts, 3]; raise :class:`Malformed` unless they agree."""
    if ids.ndim != 1 or lengths.ndim != 2 or lengths.shape[1] != 3 or not len(lengths):
        raise Malformed(f"tokens and lengths have the shapes {ids.shape} and {lengths.shape}, not [ids] and [prompts, 3]")
    counts = lengths.astype(np.int64)
    for index, (context, positions, cut) in enumerate(counts.tolist()):
        if context < 1 or positions < 1 or cut > 1:
            raise Malformed(f"prompt {index} claims {context} tokens and {positions} positions")
    if counts[:, :2].sum() != len(ids):
        raise Malformed(f"the prompts claim {counts[:, :2].sum()} tokens in all, but there are {len(ids)}")
    prompts: list[Tokens] = []
    start = 0
    flat = ids.tolist()
    for context, positions, cut in counts.tolist():
        stop = start + context + positions
        prompts.append(Tokens(tuple(flat[start:stop]), context, truncated=bool(cut)))
        start = stop
    return tuple(prompts)


def check_recorded(recorded: Recorded, tokens: Sequence[Tokens], config: ScoringConfig, vocab_size: int) -> None:
    """Raise :class:`Malformed`, naming the prompt and the position, unless ``recorded`` is a possible recording.

    Args:
        recorded: the distributions at all positions of ``tokens``, prompt by prompt.
        config: the configuration in the file.
    """
    _check_shapes(recorded, tokens, config, vocab_size)
    _check_tokens(tokens, vocab_size)
    _check_cuts(tokens, config.max_length)
    suite = _Suite(recorded, position_starts(tokens), config, vocab_size)
    targets = np.array([token for prompt in tokens for token in prompt.targets])
    width = max(1, _CELLS_AT_ONCE // recorded.values.shape[1])
    with np.errstate(all="ignore"):  # forged values may overflow; they are refused for what comes out
        for start in range(0, len(recorded), width):
            _check_positions(suite, targets[start : start + width], start)


@dataclass(frozen=True)
class _Suite:
    """A recording, and what its positions are checked against."""

    recorded: Recorded
    starts: Sequence[int]
    config: ScoringConfig
    vocab_size: int


def _check_shapes(recorded: Recorded, tokens: Sequence[Tokens], config: ScoringConfig, vocab_size: int) -> None:
    n = sum(prompt.n_positions for prompt in tokens)
    whole = config.top_k is None
    k = vocab_size if whole else min(config.top_k or 0, vocab_size)
    if not whole and recorded.values.ndim == 2 and 0 < recorded.values.shape[1] < k:
        k = recorded.values.shape[1]  # the reference's engine did not tell more
    expected: dict[str, tuple[int, ...] | None] = {
        "ids": None if whole else (n, k),
        "values": (n, k),
        "target_values": (n,),
        "log_normalisers": (n,),
        "log_tail": None if k == vocab_size else (n,),
        "clear": (n,),
    }
    for name, shape in expected.items():
        array: npt.NDArray[np.generic] | None = getattr(recorded, name)
        actual = None if array is None else array.shape
        if actual != shape:
            raise Malformed(
                f"the tensor {name!r} is {_shape(actual)}, but must be {_shape(shape)} for {n} positions with "
                f"top_k={config.top_k} of {vocab_size} ids"
            )


def _shape(shape: tuple[int, ...] | None) -> str:
    return "absent" if shape is None else f"of shape {list(shape)}"


def _check_tokens(tokens: Sequence[Tokens], vocab_size: int) -> None:
    for index, prompt in enumerate(tokens):
        if max(prompt.ids) >= vocab_size:
            raise Malformed(f"prompt {index} has the token {max(prompt.ids)}, outside the vocabulary of {vocab_size} ids")


def _check_cuts(tokens: Sequence[Tokens], max_length: int) -> None:
    """Prompts are cut to one length, the largest that fits: all cut ones have the same length, and none is longer."""
    longest = max(range(len(tokens)), key=lambda index: len(tokens[index].ids))
    length = len(tokens[longest].ids)
    if length > max_length:
        raise Malformed(f"prompt {longest} has {length} tokens with its continuation, but max_length is {max_length}")
    for index, prompt in enumerate(tokens):
        if prompt.truncated and len(prompt.ids) < length:
            raise Malformed(
                f"prompt {index} was cut on the left to {len(prompt.ids)} tokens with its continuation, but prompt {longest} "
                f"has {length}: a prompt is cut only where it has to be"
            )


def _check_positions(suite: _Suite, targets: npt.NDArray[np.int64], start: int) -> None:
    """Check the positions from ``start`` on, one for each of ``targets``, the ids of the continuation."""
    part = suite.recorded.rows(start, start + len(targets))
    top = part.top_k(suite.config.temperature, suite.vocab_size)

    def refuse_where(wrong: Flags | np.bool_, what: str) -> None:
        if np.any(wrong):
            row = start + int(np.argmax(wrong))
            prompt = int(np.searchsorted(suite.starts, row, side="right")) - 1
            raise Malformed(f"prompt {prompt}, position {row - suite.starts[prompt]}: {what}")

    finite = np.isfinite(top.log_probs).all(axis=1) & np.isfinite(top.targets)
    if top.log_tail is not None:
        finite &= np.isfinite(top.log_tail)
    refuse_where(~finite, "a log-probability is NaN or infinite")
    tail = np.zeros(len(top)) if top.log_tail is None else np.exp(np.minimum(top.log_tail, 1.0))
    renormalised = suite.config.tail == "renormalise"
    refuse_where(tail > 1.0 + _ROUNDING, "the probabilities sum to more than 1")
    total = np.exp(np.minimum(top.log_probs, 1.0)).sum(axis=1) + (0.0 if renormalised else tail)
    refuse_where(total > 1.0 + _ROUNDING, "the probabilities sum to more than 1")
    refuse_where(total < 1.0 - _SHORTFALL, "the probabilities sum to less than 1")
    refuse_where(
        ~top.clear & certainly_clear(top),
        "the likeliest token leads the second by more than rounding error, but is marked as if it did not, so that top1_flip "
        "would not count it",
    )
    if top.ids is None:
        listed = top.log_probs[np.arange(len(top)), targets]
        refuse_where(np.abs(listed - top.targets) > _TARGET_ROUNDING, "the continuation's token has two log-probabilities")
        return
    refuse_where((top.ids >= suite.vocab_size).any(axis=1), f"an id is outside the vocabulary of {suite.vocab_size} ids")
    refuse_where((np.diff(top.log_probs, axis=1) > 0).any(axis=1), "the ids are not sorted from the likeliest down")
    ordered = np.sort(top.ids, axis=1)
    refuse_where((ordered[:, 1:] == ordered[:, :-1]).any(axis=1), "an id occurs twice")
    is_target = top.ids == targets[:, None]
    listed = np.where(is_target, top.log_probs, top.targets[:, None])
    differs = (np.abs(listed - top.targets[:, None]) > _TARGET_ROUNDING).any(axis=1)
    refuse_where(differs, "the continuation's token has two log-probabilities")
    in_tail = ~is_target.any(axis=1)
    refuse_where(
        in_tail & (np.exp(np.minimum(top.targets, 1.0)) * ((1.0 - tail) if renormalised else 1.0) > tail + _ROUNDING),
        "the continuation's token is more probable than the whole tail",
    )
