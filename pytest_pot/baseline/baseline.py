"""The recorded reference: a :class:`~pytest_pot.engines.distributions.TopK` for every position of a suite,
and where it came from.

A recording loses nothing. A model's logits are short numbers (float32 at most, but for float64 models), and only what is
made of them is long: so the logits at the compared ids are kept, with the float64 log-sum-exp of each position, and what is
computed from them again is the same to the last bit. A model is at distance 0 from its own recording.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from pytest_pot.baseline.atomic_write import write_bytes
from pytest_pot.baseline.file_format import FORMAT, Arrays, pack, reading_errors, unpack
from pytest_pot.baseline.naming import is_baseline
from pytest_pot.baseline.provenance import Provenance
from pytest_pot.baseline.recorded import Recorded, position_starts
from pytest_pot.baseline.validation import Malformed, check_count, check_recorded, check_text, tokens_of
from pytest_pot.core.config import ScoringConfig
from pytest_pot.core.errors import InvalidArgument, PotError
from pytest_pot.core.names import RECORDED_SUFFIX
from pytest_pot.engines.distributions import TopK
from pytest_pot.engines.tokens import Tokens
from pytest_pot.prompts.prompt import Prompt

__all__ = ["Baseline"]


@dataclass(frozen=True, eq=False)
class Baseline:
    """A reference that was run once: its distributions on a suite of prompts, to score candidates against without it."""

    config: ScoringConfig
    prompts: Sequence[Prompt]
    """The texts; of a continuation, the part that is compared, and None where the reference drew it."""
    tokens: Sequence[Tokens]
    """The ids that the reference read, prompt by prompt; a candidate reads the same."""
    recorded: Recorded = field(repr=False)
    """All positions, prompt by prompt."""
    vocab_size: int
    batch_size: int
    """Prompts per forward at the end of the recording; less than asked for where memory ran out."""
    provenance: Provenance
    source: str = "the baseline"
    """The file that it came from, for messages."""

    @property
    def n_prompts(self) -> int:
        return len(self.prompts)

    @property
    def n_positions(self) -> int:
        return len(self.recorded)

    @property
    def starts(self) -> list[int]:
        """Where each prompt's positions begin, and where the last one's end."""
        return position_starts(self.tokens)

    def top_k(self, start: int = 0, stop: int | None = None) -> TopK:
        """The distributions at the positions ``start`` to ``stop``, by default all."""
        part = self.recorded.rows(start, self.n_positions if stop is None else stop)
        return part.top_k(self.config.temperature, self.vocab_size)

    def over_all(self, start: int = 0, stop: int | None = None) -> TopK:
        """:meth:`top_k` normalised over the whole vocabulary, also where the tail was renormalised."""
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
        """The content of the file; the same for the same recording.

        Raises:
            PotError: a prompt's text cannot be written as UTF-8.
        """
        return pack(_arrays(self), _document(self))

    def save(self, path: str | Path) -> Path:
        """Write the file ``path``, whose name must end in ``.pot.safetensors``.

        The file is there whole or not at all: it is written beside its place and then moved there. The same recording
        always makes the same bytes.

        Raises:
            InvalidArgument: the name has another ending.
            PotError: the file cannot be written.
        """
        if not is_baseline(path):
            raise InvalidArgument(
                f"the baseline's name {str(path)!r} must end in {RECORDED_SUFFIX}, which is how a reference is told from it"
            )
        return write_bytes(self.to_bytes(), Path(path))

    @staticmethod
    def load(path: str | Path) -> Baseline:
        """The recording in the file ``path``, checked: it may come from anywhere.

        Raises:
            PotError: there is no such file, or it is damaged, or holds what no recording holds; the message says where.
        """
        path = Path(path)
        if not path.is_file():
            raise PotError(f"there is no baseline {path}")
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
    return {name: np.ascontiguousarray(array) for name, array in arrays.items() if array is not None}


def _document(baseline: Baseline) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "config": asdict(baseline.config),
        "vocab_size": baseline.vocab_size,
        "batch_size": baseline.batch_size,
        "provenance": baseline.provenance.to_dict(),
        "prompts": [[prompt.text, prompt.continuation, prompt.kind] for prompt in baseline.prompts],
    }


def _baseline(arrays: Arrays, document: Mapping[str, Any], source: str) -> Baseline:
    known = {field.name for field in fields(ScoringConfig)}
    config = ScoringConfig(**{name: value for name, value in document["config"].items() if name in known})
    prompts = tuple(Prompt(*entry) for entry in document["prompts"])
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
    )
    if len(prompts) != len(tokens):
        raise Malformed(f"it has the texts of {len(prompts)} prompts and the tokens of {len(tokens)}")
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
