"""Whether a recording is still valid: made with the configuration, tokenizer and prompts that a gate has now."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from pytest_pot.baseline.baseline import Baseline
from pytest_pot.baseline.provenance import config_differences, tokenizer_differences, tokenizer_digests
from pytest_pot.core.config import ScoringConfig
from pytest_pot.core.errors import PotError
from pytest_pot.core.text import first_lines, quoted
from pytest_pot.engines.tokens import Tokens
from pytest_pot.prompts.prompt import Prompt
from pytest_pot.prompts.tokenization import Encoded, EncodedPrompts, tokenise

__all__ = ["prompt_differences", "refuse_other_prompts", "refuse_stale", "stale_parts"]

_WIDTH = 40
"""Characters of a text that a message quotes."""


def refuse_stale(baseline: Baseline, config: ScoringConfig, prompts: EncodedPrompts) -> None:
    """Raise :class:`PotError`, with a line per difference, unless ``baseline`` was recorded with these settings and prompts."""
    _refuse(baseline, stale_parts(baseline, config, prompts))


def refuse_other_prompts(baseline: Baseline, config: ScoringConfig, tokenizer: Any) -> None:
    """As :func:`refuse_stale`, where the prompts are those of ``baseline``: check that its tokens are those of its texts."""
    differences = config_differences(baseline.config, config) + _tokenizer_parts(baseline, tokenizer)
    if not differences:
        # A continuation may have been cut anywhere, and then its text may give other tokens.
        contexts = tokenise(tokenizer, [replace(prompt, continuation=None) for prompt in baseline.prompts])
        differences = [
            f"prompt {index}: {quoted(prompt.text, _WIDTH)} {difference}"
            for index, prompt in enumerate(baseline.prompts)
            if (difference := _context_difference(baseline.tokens[index], contexts[index][0])) is not None
        ]
    _refuse(baseline, differences)


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
        elif encoded is not None and (difference := _context_difference(baseline.tokens[index], encoded[index][0])) is not None:
            lines.append(f"prompt {index}: {quoted(old.text, _WIDTH)} {difference}")
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
        lines = [f"{baseline.source} was recorded with something else:", *(f"  {line}" for line in first_lines(differences))]
        raise PotError("\n".join(lines))


def _tokenizer_parts(baseline: Baseline, tokenizer: Any) -> list[str]:
    recorded = baseline.provenance.tokenizer
    return tokenizer_differences(recorded, tokenizer_digests(tokenizer, recorded))


def _context_difference(tokens: Tokens, now: Sequence[int]) -> str | None:
    """How the recorded prompt in ``tokens`` differs from ``now``, the ids of its text; None if it does not.

    What was cut on the left is no difference if the recording says so.
    """
    missing = len(now) - tokens.prompt_len
    if missing < 0 or tuple(now[missing:]) != tokens.ids[: tokens.prompt_len]:
        return "has other tokens now"
    if missing and not tokens.truncated:
        return f"was recorded without the first {missing} of its {len(now)} tokens, and is not marked as cut"
    if tokens.truncated and not missing:
        return "is marked as cut on the left, but all of it was recorded"
    return None


def _first_difference(recorded: Sequence[Prompt], prompts: Sequence[Prompt]) -> str:
    old_texts, new_texts = [prompt.text for prompt in recorded], [prompt.text for prompt in prompts]
    removed = [text for text in old_texts if text not in new_texts]
    added = [text for text in new_texts if text not in old_texts]
    parts = [f"{what} {quoted(texts[0], _WIDTH)}" for what, texts in (("removed", removed), ("added", added)) if texts]
    return f" ({', '.join(parts)})" if parts else ""


def _continuation(prompt: Prompt) -> str:
    return "sampled by the reference" if prompt.continuation is None else quoted(prompt.continuation, _WIDTH)
