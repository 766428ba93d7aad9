"""Whether an answer has the form that the protocol asks for: types, shapes, finite numbers, ids of the vocabulary."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np

from pytest_pot.core.text import count, some_of
from pytest_pot.engines.distributions import UNKNOWN_VOCAB, TopK
from pytest_pot.engines.tokens import Tokens

__all__ = ["Call", "named_row", "structure_problems"]

_FLOATS = ("log_probs", "log_tail", "targets", "top_log_probs", "log_normalisers")
_INTS = ("ids", "top_ids")
_CELLS = ("ids", "log_probs")
_OPTIONAL = ("ids", "log_tail")


@dataclass(frozen=True)
class Call:
    """What an engine was asked."""

    name: str
    """For people: ``"top_k(8 prompts, k=20)"``."""
    batch: Sequence[Tokens]
    fewest: int
    """The fewest ids per position that the answer may have."""
    most: int
    vocab_size: int
    may_not_know_size: bool = False
    """Whether an answer may say :data:`~pytest_pot.engines.server.answers.UNKNOWN_VOCAB` as the size of its vocabulary."""

    @property
    def n(self) -> int:
        return sum(tokens.n_positions for tokens in self.batch)

    @property
    def places(self) -> list[tuple[int, int]]:
        """Prompt and position of each row."""
        return [(index, j) for index, tokens in enumerate(self.batch) for j in range(tokens.n_positions)]


def named_row(call: Call, row: int) -> str:
    """A row of an answer, for people."""
    index, j = call.places[row]
    return f"prompt {index}, position {j}"


def structure_problems(top: object, call: Call) -> list[str]:
    """What is wrong with the form of ``top``; with the most basic alone, where the rest follows from it."""
    if not isinstance(top, TopK):
        return [f"{call.name} returned {_kind(top)}: return a pytest_pot.engines.distributions.TopK"]
    return _types(top, call) or _shapes(top, call) or _finite(top, call) or _ids(top, call)


def _types(top: TopK, call: Call) -> list[str]:
    problems = []
    for field in fields(TopK):
        value, name = getattr(top, field.name), field.name
        if name == "vocab_size" or (value is None and name in _OPTIONAL):
            continue
        if not isinstance(value, np.ndarray):
            problems.append(f"{call.name} returned {_kind(value)} as {name}: it has to be a NumPy array")
        elif name in _FLOATS and value.dtype != np.float64:
            problems.append(
                f"{call.name} returned {name} in {value.dtype}: it has to be float64. Convert logits before you normalise "
                "them, "
                "so that small tails keep their digits"
            )
        elif name in _INTS and value.dtype.kind not in "iu":
            problems.append(f"{call.name} returned {name} in {value.dtype}: ids have to be integers, int64 for example")
        elif name == "clear" and value.dtype != np.bool_:
            problems.append(
                f"{call.name} returned clear in {value.dtype}: it has to be bool, True where the likeliest id leads the "
                "second "
                "by more than rounding"
            )
    if isinstance(top.vocab_size, bool) or not isinstance(top.vocab_size, int | np.integer):
        problems.append(f"{call.name} returned {_kind(top.vocab_size)} as vocab_size: it has to be an int")
    elif top.vocab_size != call.vocab_size and not (call.may_not_know_size and top.vocab_size == UNKNOWN_VOCAB):
        problems.append(
            f"{call.name} returned vocab_size {top.vocab_size}, but the model has logits for {call.vocab_size} ids. Count "
            "the "
            "columns of the logits, not the tokenizer's entries: vocabularies are often padded"
        )
    return problems


def _shapes(top: TopK, call: Call) -> list[str]:
    shape = top.log_probs.shape
    if len(shape) != 2:
        return [f"{call.name} returned log_probs of shape {shape}: it has to be [positions, ids], here ({call.n}, {call.most})"]
    if shape[0] != call.n:
        return [
            f"{call.name} returned {count(shape[0], 'row')} for {count(call.n, 'position')}{_why_rows(shape[0], call)}. A "
            "row is "
            "a token of a continuation, one prompt after the other: sum(len(t.ids) - t.prompt_len for t in batch) of them"
        ]
    problems = []
    if not call.fewest <= shape[1] <= call.most:
        expected = f"{call.most}" if call.fewest == call.most else f"{call.fewest} to {call.most}"
        problems.append(f"{call.name} returned {count(shape[1], 'id')} at each position instead of {expected}")
    for field in fields(TopK):
        value = getattr(top, field.name)
        expected_shape = shape if field.name in _CELLS else shape[:1]
        if isinstance(value, np.ndarray) and value.shape != expected_shape:
            problems.append(f"{call.name} returned {field.name} of shape {value.shape}: it has to be {expected_shape}")
    return problems


def _why_rows(rows: int, call: Call) -> str:
    known = {
        sum(len(tokens.ids) for tokens in call.batch): "as many as there are tokens: choose the positions of the continuations",
        call.n - len(call.batch): "one too few for each prompt: the first token of a continuation is predicted by the last of "
        "its prompt",
        call.n + len(call.batch): "one too many for each prompt: nothing is compared with what comes after the last token",
        sum(len(tokens.ids) - 1 for tokens in call.batch): "as many as there are tokens to predict: leave out those of prompts",
        len(call.batch): "as many as there are prompts",
        len(call.batch) * max(tokens.n_positions for tokens in call.batch): "as many as if all continuations had the length of "
        "the longest: leave out the padding",
    }
    return f" ({known[rows]})" if rows in known else ""


def _finite(top: TopK, call: Call) -> list[str]:
    problems = []
    for name in _FLOATS:
        value = getattr(top, name)
        if value is None or np.isfinite(value).all():
            continue
        rows = np.unique(np.argwhere(~np.isfinite(value))[:, 0])
        example = value[rows[0]]
        shown = example if np.ndim(example) == 0 else example[~np.isfinite(example)][0]
        problems.append(
            f"{call.name} returned {shown} in {name} at {named_row(call, int(rows[0]))}, and at {len(rows)} of {call.n} "
            "positions "
            "something that is not finite. "
            + (
                "NaN comes from an overflow, from inf - inf, or from an attention mask that masks everything"
                if np.isnan(shown)
                else "Where a cell has no probability at all, use EMPTY_CELL of pytest_pot.engines.distributions"
            )
        )
    return problems


def _ids(top: TopK, call: Call) -> list[str]:
    problems = []
    for name in _INTS:
        ids = getattr(top, name)
        if ids is None:
            continue
        outside = (ids < 0) | (ids >= call.vocab_size)
        if outside.any():
            row = int(np.argwhere(outside)[0][0])
            wrong = sorted({int(each) for each in ids[outside]})
            hint = ""
            if wrong[0] == wrong[-1] == call.vocab_size:
                hint = ". Do they count from 1?"
            elif wrong[0] == wrong[-1] == -1:
                hint = ". If -1 stands for an id that is not known, return fewer columns: every cell needs an id"
            problems.append(
                f"{call.name} returned the {name} {some_of([str(each) for each in wrong])} at {named_row(call, row)} and "
                f"{count(int(outside.any(axis=-1).sum()) if ids.ndim > 1 else int(outside.sum()), 'position')} in all: the "
                f"vocabulary has 0 to {call.vocab_size - 1}{hint}"
            )
    if not problems and top.ids is not None:
        ordered = np.sort(top.ids, axis=1)
        twice = (ordered[:, 1:] == ordered[:, :-1]).any(axis=1)
        if twice.any():
            row = int(np.argmax(twice))
            repeated = ordered[row, 1:][ordered[row, 1:] == ordered[row, :-1]][0]
            problems.append(
                f"{call.name} returned the id {repeated} twice at {named_row(call, row)} (and at {int(twice.sum())} of "
                f"{call.n} "
                "positions some id): each cell is another id, or its probability counts twice"
            )
    return problems


def _kind(value: object) -> str:
    return "None" if value is None else f"a {type(value).__module__}.{type(value).__qualname__}".replace("a builtins.", "a ")
