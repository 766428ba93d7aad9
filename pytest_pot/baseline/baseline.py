"""The recorded reference: a :class:`~pytest_pot.engines.distributions.TopK` for every position of a suite,
and where it came from.

A recording is lossless. Logits have float32 precision at most (except those of float64 models); only values computed from
them need float64. So a recording holds the logits at the compared ids and the float64 log-sum-exp of each position, and
recomputing the log-probabilities from these gives the same bits. A model is at distance 0 from its own recording.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from pytest_pot.baseline.atomic_write import Pieces, write_pieces
from pytest_pot.baseline.file_format import FORMAT, Arrays, pieces, reading_errors, unpack
from pytest_pot.baseline.file_validation import Malformed, batches_of, check_count, check_recorded, check_text, tokens_of
from pytest_pot.baseline.naming import is_baseline
from pytest_pot.baseline.provenance import Provenance
from pytest_pot.baseline.recorded import Recorded, position_starts
from pytest_pot.baseline.weights_arrays import weights_arrays, weights_in
from pytest_pot.core.brief import Brief
from pytest_pot.core.config import ScoringConfig
from pytest_pot.core.errors import InvalidArgument, PotError
from pytest_pot.core.files import FILE, kind_of_file
from pytest_pot.core.git_files import refuse_git_leftovers
from pytest_pot.core.names import RECORDED_SUFFIX
from pytest_pot.core.text import quoted
from pytest_pot.engines.distributions import TopK
from pytest_pot.engines.tokens import Tokens
from pytest_pot.engines.weights import WeightsPrint
from pytest_pot.prompts.prompt import Prompt

__all__ = ["Baseline"]


@dataclass(frozen=True, eq=False, repr=False)
class Baseline(Brief):
    """A recorded reference: its distributions on a suite of prompts, to score candidates without running it again."""

    config: ScoringConfig
    prompts: Sequence[Prompt]
    """The prompts; a continuation is cut to the part that is compared, and None if the reference sampled it."""
    tokens: Sequence[Tokens]
    """The ids that the reference read, prompt by prompt; a candidate reads the same ids."""
    recorded: Recorded = field(repr=False)
    """All positions, prompt by prompt."""
    vocab_size: int
    batch_size: int
    """Prompts per forward pass at the end of the recording; less than configured if memory ran out."""
    provenance: Provenance
    source: str = "the recording"
    """The file that it was loaded from, for messages."""
    batches: Sequence[Sequence[int]] = ()
    """The prompts of each forward pass of the recording, in the order in which they ran: in the same batches, the same model
    gives the same bits. Empty if the file is older than this."""
    weights_print: WeightsPrint | None = field(default=None, repr=False)
    """What is kept of the reference's weights, so that a failing gate can say what changed. None if its engine has none to
    show, or if the file is older than this."""

    @property
    def n_prompts(self) -> int:
        return len(self.prompts)

    @property
    def n_positions(self) -> int:
        return len(self.recorded)

    @property
    def starts(self) -> list[int]:
        """The index of each prompt's first position, then the total number of positions."""
        return position_starts(self.tokens)

    def top_k(self, start: int = 0, stop: int | None = None) -> TopK:
        """The distributions at the positions ``start`` to ``stop`` - 1, by default all."""
        part = self.recorded.rows(start, self.n_positions if stop is None else stop)
        return part.top_k(self.config.temperature, self.vocab_size)

    def over_all(self, start: int = 0, stop: int | None = None) -> TopK:
        """:meth:`top_k` normalised over the whole vocabulary, even if it was recorded with ``tail="renormalise"``."""
        top = self.top_k(start, stop)
        if self.config.tail == "bucket" or top.log_tail is None:
            return top
        share = np.log1p(-np.minimum(top.tail_mass, 1.0 - np.finfo(np.float64).eps))
        return replace(
            top,
            log_probs=top.log_probs + share[:, None],
            targets=top.targets + share,
            top_log_probs=top.top_log_probs + share,
            log_normalisers=top.log_normalisers - share,
        )

    def to_bytes(self) -> bytes:
        """The content of the file; equal recordings give equal bytes.

        Raises:
            PotError: a prompt's text cannot be written as UTF-8.
        """
        return b"".join(self.pieces())

    def pieces(self) -> Pieces:
        """:meth:`to_bytes` in parts, which are views of the recording where that is possible.

        Raises:
            PotError: a prompt's text cannot be written as UTF-8.
        """
        return pieces(_arrays(self), _document(self))

    def save(self, path: str | Path) -> Path:
        """Write the file ``path``, whose name must end in ``.pot.safetensors``.

        The write is atomic: a temporary file beside ``path`` is written first and then renamed. Equal recordings give equal
        bytes.

        Raises:
            InvalidArgument: the name has another ending.
            PotError: the file cannot be written.
        """
        if not is_baseline(path):
            raise InvalidArgument(
                f"the name of a recording must end in {RECORDED_SUFFIX}, and {quoted(str(path), 200)} does not"
            )
        return write_pieces(self.pieces(), Path(path))

    @staticmethod
    def load(path: str | Path) -> Baseline:
        """Read the recording in the file ``path`` and check all of it: the file may come from an untrusted source.

        A file of 64 MB or more (one of the whole vocabulary) is not copied into memory: as long as the baseline is used, it may
        be replaced or deleted, but not overwritten in place.

        Raises:
            PotError: the file does not exist, is damaged, or holds values that no recording can have; the message says where.
        """
        path = Path(path)
        kind = kind_of_file(path)
        if kind != FILE:
            raise PotError(f"there is no recording {path}" if kind is None else f"the recording {path} is {kind}, not a file")
        refuse_git_leftovers("cannot read the recording", [path])
        with reading_errors(path):
            arrays, document = unpack(path)
            return _baseline(arrays, document, str(path))


def _arrays(baseline: Baseline) -> Arrays:
    recorded = baseline.recorded
    token_type = np.uint16 if baseline.vocab_size <= 1 << 16 else np.uint32
    arrays = {
        "tokens": np.array([index for tokens in baseline.tokens for index in tokens.ids], dtype=token_type),
        "lengths": np.array([[t.prompt_len, t.n_positions, t.truncated] for t in baseline.tokens], dtype=np.uint32),
        "ids": recorded.ids,
        "values": recorded.values,
        "target_values": recorded.target_values,
        "log_normalisers": recorded.log_normalisers,
        "log_tail": recorded.log_tail,
        "clear": recorded.clear.astype(np.uint8),
    }
    present = {name: np.ascontiguousarray(array) for name, array in arrays.items() if array is not None}
    return {**present, **weights_arrays(baseline.weights_print)}


def _document(baseline: Baseline) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "config": asdict(baseline.config),
        "vocab_size": baseline.vocab_size,
        "batch_size": baseline.batch_size,
        "provenance": baseline.provenance.to_dict(),
        "prompts": [_entry(prompt) for prompt in baseline.prompts],
        **({"batches": [list(batch) for batch in baseline.batches]} if baseline.batches else {}),
    }


def _entry(prompt: Prompt) -> list[str | None]:
    """A prompt in the file. A chat's messages are one text, because a template may see the order of keys, which is not kept."""
    entry = [prompt.text, prompt.continuation, prompt.kind]
    return entry if prompt.messages is None else [*entry, json.dumps(prompt.messages, ensure_ascii=False)]


def _prompt(text: str, continuation: str | None, kind: str | None, messages: str | None = None) -> Prompt:
    return Prompt(text, continuation, kind, messages=None if messages is None else json.loads(messages))


def _baseline(arrays: Arrays, document: Mapping[str, Any], source: str) -> Baseline:
    field_names = {field.name for field in fields(ScoringConfig)}
    config = ScoringConfig(**{name: value for name, value in document["config"].items() if name in field_names})
    prompts = tuple(_prompt(*entry) for entry in document["prompts"])
    for index, prompt in enumerate(prompts):
        check_text(f"prompt {index}", f"{prompt.text}{prompt.continuation}{prompt.kind}")
    tokens = tokens_of(arrays["tokens"], arrays["lengths"])
    recorded = Recorded(
        ids=arrays.get("ids"),
        values=arrays["values"],
        target_values=arrays["target_values"],
        log_normalisers=arrays["log_normalisers"],
        log_tail=arrays.get("log_tail"),
        clear=arrays["clear"].astype(np.bool_),
    )
    baseline = Baseline(
        config=config,
        prompts=prompts,
        tokens=tokens,
        recorded=recorded,
        vocab_size=check_count(document, "vocab_size"),
        batch_size=check_count(document, "batch_size"),
        provenance=_provenance(document["provenance"]),
        source=source,
        batches=batches_of(document, len(prompts)),
        weights_print=weights_in(arrays),
    )
    if len(prompts) != len(tokens):
        raise Malformed(f"it has the texts of {len(prompts)} prompts, but the tokens of {len(tokens)}")
    check_recorded(recorded, tokens, config, baseline.vocab_size)
    return baseline


def _provenance(entries: Mapping[str, Any]) -> Provenance:
    provenance = Provenance(**entries)
    for name in ("reference", "prompts", "label", "machine"):
        check_text(f"provenance.{name}", getattr(provenance, name))
    if provenance.weights is not None:
        check_text("provenance.weights", provenance.weights)
    for name in ("files", "tokenizer", "libraries"):
        for key, value in getattr(provenance, name).items():
            check_text(f"provenance.{name}.{key}", value)
    return provenance
