"""Whether a recording is still valid: made with the configuration, tokenizer and prompts that a gate has now."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pytest_pot.baseline.baseline import Baseline
from pytest_pot.baseline.provenance import config_differences, tokenizer_differences, tokenizer_digests
from pytest_pot.core.config import ScoringConfig
from pytest_pot.core.errors import PotError
from pytest_pot.core.text import quoted
from pytest_pot.engines.tokens import Tokens
from pytest_pot.prompts.prompt import Prompt
from pytest_pot.prompts.tokenization import Encoded, EncodedPrompts

__all__ = ["prompt_differences", "refuse_other_prompts", "refuse_stale", "stale_parts"]

_WIDTH = 40
"""Characters of a text that a message quotes."""


def refuse_stale(baseline: Baseline, config: ScoringConfig, prompts: EncodedPrompts) -> None:
    """Raise :class:`PotError`, with a line per difference, unless ``baseline`` was recorded with these settings and prompts."""
    _refuse(baseline, stale_parts(baseline, config, prompts))


def refuse_other_prompts(baseline: Baseline, config: ScoringConfig, tokenizer: Any) -> None:
    """As :func:`refuse_stale`, where the prompts are those of ``baseline``: check configuration and tokenizer only."""
    _refuse(baseline, config_differences(baseline.config, config) + _tokenizer_parts(baseline, tokenizer))


def stale_parts(baseline: Baseline, config: ScoringConfig, prompts: EncodedPrompts) -> list[str]:
    """A line per difference between what ``baseline`` was recorded with and what a gate has now."""
    tokenizers = _tokenizer_parts(baseline, prompts.tokenizer)
    lines = config_differences(baseline.config, config) + tokenizers
    return lines + prompt_differences(baseline, prompts.prompts, None if tokenizers else prompts.ids)


def prompt_differences(baseline: Baseline, prompts: Sequence[Prompt], encoded: Sequence[Encoded] | None) -> list[str]:
    """A line for each prompt that differs from the recorded one; with ``encoded``, its ids are compared too.

    A continuation may change beyond the recorded positions: that part was never compared.
    """
    recorded = baseline.prompts
    if len(recorded) != len(prompts):
        return [f"prompts: {len(recorded)} recorded, {len(prompts)} now{_first_difference(recorded, prompts)}"]
    lines = []
    for index, (old, new) in enumerate(zip(recorded, prompts, strict=True)):
        if old.text != new.text:
            lines.append(f"prompt {index}: {quoted(old.text, _WIDTH)} recorded, {quoted(new.text, _WIDTH)} now")
        elif encoded is not None and not _is_end(_context(baseline.tokens[index]), encoded[index][0]):
            lines.append(f"prompt {index}: {quoted(old.text, _WIDTH)} has other tokens now")
        elif (old.continuation is None) != (new.continuation is None):
            lines.append(f"prompt {index}: continuation {_continuation(old)} recorded, {_continuation(new)} now")
        elif encoded is not None and new.continuation is not None:
            tokens = baseline.tokens[index]
            ids = tuple((encoded[index][1] or [])[: baseline.config.positions_per_prompt])
            if ids != tokens.targets:
                lines.append(f"prompt {index}: continuation {_continuation(old)} recorded, {_continuation(new)} now")
    return lines


def _refuse(baseline: Baseline, differences: Sequence[str]) -> None:
    if differences:
        lines = [f"{baseline.source} was recorded with something else:", *(f"  {line}" for line in differences)]
        raise PotError("\n".join(lines))


def _tokenizer_parts(baseline: Baseline, tokenizer: Any) -> list[str]:
    recorded = baseline.provenance.tokenizer
    return tokenizer_differences(recorded, tokenizer_digests(tokenizer, recorded))


def _context(tokens: Tokens) -> tuple[int, ...]:
    return tokens.ids[: tokens.prompt_len]


def _is_end(part: tuple[int, ...], whole: Sequence[int]) -> bool:
    """Whether ``whole`` ends with ``part``, as it does if ``part`` was cut on the left."""
    return tuple(whole[-len(part) :]) == part


def _first_difference(recorded: Sequence[Prompt], prompts: Sequence[Prompt]) -> str:
    old_texts, new_texts = [prompt.text for prompt in recorded], [prompt.text for prompt in prompts]
    removed = [text for text in old_texts if text not in new_texts]
    added = [text for text in new_texts if text not in old_texts]
    parts = [f"{what} {quoted(texts[0], _WIDTH)}" for what, texts in (("removed", removed), ("added", added)) if texts]
    return f" ({', '.join(parts)})" if parts else ""


def _continuation(prompt: Prompt) -> str:
    return "sampled by the reference" if prompt.continuation is None else quoted(prompt.continuation, _WIDTH)
