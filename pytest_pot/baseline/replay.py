"""Making a recording, and standing in for the reference with it: :class:`Recording` is an engine that runs no model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np

from pytest_pot.baseline.baseline import Baseline, Recorded
from pytest_pot.baseline.provenance import config_differences, tokenizer_differences, tokenizer_digests
from pytest_pot.core.config import ScoringConfig
from pytest_pot.core.errors import PotError
from pytest_pot.engines.base import Engine
from pytest_pot.engines.distributions import Ints, TopK
from pytest_pot.prompts.prompt import Prompt, shorten
from pytest_pot.prompts.tokenization import Tokens, tokenise
from pytest_pot.scoring.baseline_comparison import Overlap, compare
from pytest_pot.scoring.batching import Batches, Progress
from pytest_pot.scoring.comparison import check_finite
from pytest_pot.scoring.metrics import renormalised

__all__ = ["Changes", "Pass", "Recording", "as_compared", "changes", "check_fits", "record", "refuse_stale", "stale_parts"]


@dataclass(frozen=True)
class Pass:
    """What one pass of the reference over a suite left."""

    positions: Recorded
    vocab_size: int
    batch_size: int
    """Prompts per forward at the end."""


def record(
    config: ScoringConfig,
    reference: Engine,
    prompts: Sequence[Prompt],
    tokens: Sequence[Tokens],
    progress: Progress | None,
) -> Pass:
    """All positions of ``prompts``, in the form that they have in a file.

    Raises:
        PotError: a log-probability is NaN or infinite, or one prompt alone does not fit into memory.
    """
    vocab_size = 0

    def work(batch: Sequence[int]) -> list[Recorded]:
        nonlocal vocab_size
        top = reference.top_k([tokens[index] for index in batch], config.top_k)
        check_finite(top, "reference", prompts, tokens, batch)
        vocab_size = top.vocab_size
        if config.tail == "renormalise":
            top = renormalised(top)
        ends = np.cumsum([0, *(tokens[index].n_positions for index in batch)])
        return [Recorded.of(top.rows(start, stop), config.temperature).copy() for start, stop in pairwise(ends.tolist())]

    batches: Batches[Recorded] = Batches(config, tokens, progress, [reference])
    positions = Recorded.concatenate(list(batches.run(work).values()))
    return Pass(positions, vocab_size, batches.size)


def as_compared(prompt: Prompt, tokens: Tokens, tokenizer: Any) -> Prompt:
    """``prompt`` with as much of its continuation as is compared; without one where the reference drew it."""
    if prompt.continuation is None:
        return prompt
    return replace(prompt, continuation=tokenizer.decode(list(tokens.targets)))


@dataclass(frozen=True)
class Changes:
    """What a new recording changes of an old one."""

    things: list[str]
    """A line for each part that the recordings do not share: configuration, tokenizer, prompts."""
    overlap: Overlap | None
    """How far the old one is from the new one; None where they share no position."""

    def __str__(self) -> str:
        if self.overlap is None:
            told = "the old file has no position in common with it"
        else:
            told = f"tv of the old file against it {self.overlap.metrics['tv']:.3g}, {self.overlap.n_positions} positions"
        return "; ".join([told, *self.things])


def changes(old: Baseline, new: Baseline) -> Changes:
    """What ``new`` changes of ``old``."""
    things = config_differences(old.config, new.config)
    things += tokenizer_differences(old.provenance.tokenizer, new.provenance.tokenizer)
    if old.provenance.prompts != new.provenance.prompts:
        things += prompt_differences(old, new.prompts, None) or ["prompts: other continuations now"]
    try:
        return Changes(things, compare(new, old))
    except PotError:
        return Changes(things, None)


class Recording:
    """A recorded reference in the place of a live one; an :class:`~pytest_pot.engines.base.Engine`."""

    max_positions = None

    def __init__(self, baseline: Baseline, note: str = "recorded") -> None:
        """A batch is of ``baseline.tokens``, the very objects. ``note`` goes with the label: where the numbers are from."""
        self._baseline = baseline
        self._note = note
        # By identity: of two prompts that are the same, each was recorded in its own batch, and rounded there.
        self._rows = {id(tokens): rows for tokens, rows in zip(baseline.tokens, pairwise(baseline.starts), strict=True)}

    @property
    def label(self) -> str:
        return ", ".join(filter(None, (self._baseline.provenance.label, self._note)))

    def top_k(self, batch: Sequence[Tokens], k: int | None) -> TopK:  # noqa: ARG002 - a recording has the k it was made with
        return TopK.concatenate([self._baseline.top_k(*self._rows[id(tokens)]) for tokens in batch])

    def at(self, batch: Sequence[Tokens], ids: Ints | int) -> TopK:
        """The first ``ids`` of the vocabulary, where all of it was recorded; no other ids are known than those recorded."""
        top = self.top_k(batch, None)
        if not isinstance(ids, int) or top.log_probs.shape[1] < top.vocab_size:
            raise PotError("a recording knows the ids that it was made with, and no others")
        return top.in_order().first(ids)

    def sample(self, contexts: Sequence[Sequence[int]], n_tokens: int, seed: int) -> list[list[int]]:  # noqa: ARG002
        raise PotError("a recording cannot continue a prompt: its tokens are those that were recorded")


def check_fits(baseline: Baseline, candidate: Engine) -> None:
    """Raise :class:`PotError` where a recorded sequence is longer than the candidate takes."""
    longest = max(len(tokens.ids) for tokens in baseline.tokens)
    if candidate.max_positions is not None and longest > candidate.max_positions:
        raise PotError(
            f"{baseline.source} holds sequences of up to {longest} tokens, and the candidate takes {candidate.max_positions}: "
            f"record it with max_length={candidate.max_positions}"
        )


def refuse_stale(baseline: Baseline, config: ScoringConfig, tokenizer: Any, prompts: Sequence[Prompt] | None) -> None:
    """Raise :class:`PotError`, with a line for each part that differs, unless ``baseline`` was made with all of these."""
    differ = stale_parts(baseline, config, tokenizer, prompts)
    if differ:
        raise PotError("\n".join([f"{baseline.source} was recorded with something else:", *(f"  {line}" for line in differ)]))


def stale_parts(baseline: Baseline, config: ScoringConfig, tokenizer: Any, prompts: Sequence[Prompt] | None) -> list[str]:
    """A line for each thing that ``baseline`` was recorded with and that is another one now."""
    recorded = baseline.provenance.tokenizer
    tokenizers = tokenizer_differences(recorded, tokenizer_digests(tokenizer, recorded))
    lines = config_differences(baseline.config, config) + tokenizers
    if prompts is not None:
        lines += prompt_differences(baseline, prompts, None if tokenizers else tokenizer)
    return lines


def prompt_differences(baseline: Baseline, prompts: Sequence[Prompt], tokenizer: Any | None) -> list[str]:
    """A line for each prompt that is not the recorded one; with ``tokenizer``, by the ids that are compared.

    What stands in a continuation beyond the recorded positions was never compared, and may change.
    """
    recorded = baseline.prompts
    if len(recorded) != len(prompts):
        return [f"prompts: {len(recorded)} recorded, {len(prompts)} now{_first_other(recorded, prompts)}"]
    lines = []
    encoded = None if tokenizer is None else tokenise(tokenizer, prompts)
    for index, (old, new) in enumerate(zip(recorded, prompts, strict=True)):
        if old.text != new.text:
            lines.append(f"prompt {index}: {_quoted(old.text)} recorded, {_quoted(new.text)} now")
        elif encoded is not None and not _is_end(_context(baseline.tokens[index]), encoded[index][0]):
            lines.append(f"prompt {index}: {_quoted(old.text)} comes to other tokens now")
        elif (old.continuation is None) != (new.continuation is None):
            lines.append(f"prompt {index}: continuation {_drawn(old)} recorded, {_drawn(new)} now")
        elif encoded is not None and new.continuation is not None:
            tokens = baseline.tokens[index]
            ids = tuple((encoded[index][1] or [])[: baseline.config.positions_per_prompt])
            if ids != tokens.targets:
                lines.append(f"prompt {index}: continuation {_drawn(old)} recorded, {_drawn(new)} now")
    return lines


def _context(tokens: Tokens) -> tuple[int, ...]:
    return tokens.ids[: tokens.prompt_len]


def _is_end(part: tuple[int, ...], whole: Sequence[int]) -> bool:
    """Whether ``part`` is what a cut on the left leaves of ``whole``."""
    return tuple(whole[-len(part) :]) == part


def _first_other(recorded: Sequence[Prompt], prompts: Sequence[Prompt]) -> str:
    texts, now = [prompt.text for prompt in recorded], [prompt.text for prompt in prompts]
    gone = [text for text in texts if text not in now]
    new = [text for text in now if text not in texts]
    told = [f"{what} {_quoted(some[0])}" for what, some in (("without", gone), ("new is", new)) if some]
    return f" ({', '.join(told)})" if told else ""


def _drawn(prompt: Prompt) -> str:
    return "drawn by the reference" if prompt.continuation is None else _quoted(prompt.continuation)


def _quoted(text: str) -> str:
    return f"'{shorten(text, 40)}'"
