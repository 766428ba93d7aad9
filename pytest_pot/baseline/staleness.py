"""Whether a recording is still valid: made with the configuration, tokenizer and prompts that a gate has now."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from pytest_pot.baseline.baseline import Baseline
from pytest_pot.baseline.provenance import config_differences, tokenizer_differences, unseen_tokenizer_parts
from pytest_pot.core.config import ScoringConfig
from pytest_pot.core.errors import PotError
from pytest_pot.core.text import contrasted, first_difference, first_lines, quoted
from pytest_pot.engines.tokens import Tokens
from pytest_pot.prompts.chats import writes_the_date
from pytest_pot.prompts.prompt import Prompt
from pytest_pot.prompts.tokenization import EncodedPrompts, token_at
from pytest_pot.prompts.tokenizer_digests import tokenizer_digests

__all__ = ["is_about_tokenizer", "prompt_differences", "refuse_other_prompts", "refuse_stale", "stale_parts"]

_OTHER_TOKENS = "has other tokens now"
_WIDTH = 40
"""Characters of a text that a message quotes."""


def refuse_stale(baseline: Baseline, config: ScoringConfig, prompts: EncodedPrompts, *, allow_unseen: bool = False) -> None:
    """Raise :class:`PotError`, with a line per difference, unless ``baseline`` was recorded with these settings and prompts.

    ``allow_unseen``: see :func:`stale_parts`.
    """
    _refuse(baseline, stale_parts(baseline, config, prompts, allow_unseen=allow_unseen))


def refuse_other_prompts(baseline: Baseline, config: ScoringConfig, tokenizer: Any) -> None:
    """As :func:`refuse_stale`, where the prompts are those of ``baseline``.

    The tokenizer must make the recorded tokens of their texts and chats; continuations are those that were recorded.
    """
    lines = config_differences(baseline.config, config) + _tokenizer_parts(baseline, tokenizer)
    if not lines:
        encoded = EncodedPrompts(baseline.prompts, tokenizer)
        differences = (_context_difference(baseline, index, encoded) for index in range(len(encoded)))
        lines = [f"prompt {index}{line}" for index, line in enumerate(differences) if line]
    _refuse(baseline, lines)


def stale_parts(baseline: Baseline, config: ScoringConfig, prompts: EncodedPrompts, *, allow_unseen: bool = False) -> list[str]:
    """A line per difference between what ``baseline`` was recorded with and what a gate has now.

    Args:
        allow_unseen: leave out the parts of the tokenizer that no prompt shows, which a gate tells itself: those of
            :func:`~pytest_pot.baseline.provenance.unseen_tokenizer_parts`, where every prompt has the recorded ids.
    """
    tokenizers = _tokenizer_parts(baseline, prompts.tokenizer, allow_unseen=allow_unseen)
    prompt_lines = prompt_differences(baseline, prompts.prompts, None if tokenizers else prompts)
    if allow_unseen and not tokenizers and any(_OTHER_TOKENS in line for line in prompt_lines):
        tokenizers = _tokenizer_parts(baseline, prompts.tokenizer)
    return config_differences(baseline.config, config) + tokenizers + prompt_lines


def is_about_tokenizer(difference: str) -> bool:
    """Whether a line of :func:`stale_parts` is about the tokenizer alone, and not about texts or settings."""
    return difference.startswith("tokenizer.") or _OTHER_TOKENS in difference


def prompt_differences(baseline: Baseline, prompts: Sequence[Prompt], encoded: EncodedPrompts | None = None) -> list[str]:
    """A line for each prompt that differs from the recorded one; with ``encoded``, the ids of ``prompts`` are compared too.

    A continuation may change beyond the recorded positions: that part was never compared.
    """
    recorded = baseline.prompts
    if len(recorded) != len(prompts):
        return [f"prompts: {len(recorded)} recorded, {len(prompts)} now{_first_difference(recorded, prompts)}"]
    lines = []
    for index, (old, new) in enumerate(zip(recorded, prompts, strict=True)):
        line = _source_difference(old, new)
        if line is None and encoded is not None:
            line = _context_difference(baseline, index, encoded)
        if line is None:
            line = _continuation_difference(baseline, index, new, encoded)
        if line is not None:
            lines.append(f"prompt {index}{line}")
    return lines


def _source_difference(old: Prompt, new: Prompt) -> str | None:
    """How the texts or chats of two prompts differ."""
    if (old.messages is None) != (new.messages is None):
        kinds = ["a text" if prompt.messages is None else "a chat" for prompt in (old, new)]
        return f": {kinds[0]} recorded, {kinds[1]} now"
    sources = [p.text if p.messages is None else json.dumps(p.messages, ensure_ascii=False) for p in (old, new)]
    if sources[0] == sources[1]:
        return None
    before, now = contrasted(sources[0], sources[1], _WIDTH)
    return f": {before} recorded, {now} now"


def _context_difference(baseline: Baseline, index: int, encoded: EncodedPrompts) -> str | None:
    """How the tokens of a context differ from the recorded ones, which may have been cut on the left."""
    tokens, ids, tokenizer = baseline.tokens[index], encoded.contexts[index], encoded.tokenizer
    recorded, old, prompt = tokens.ids[: tokens.prompt_len], baseline.prompts[index], encoded.prompts[index]
    end = ids[-len(recorded) :]
    if tuple(end) == recorded:
        return _cut_difference(tokens, len(ids), old.text)
    difference = _token_difference(recorded, end if tokens.truncated else ids, tokenizer)
    line = f": {quoted(old.text, _WIDTH)} {_OTHER_TOKENS}: {difference}"
    if prompt.messages is not None and prompt.text != old.text:
        before, after = contrasted(old.text, prompt.text, _WIDTH)
        line += f"; the chat was rendered as {before}, and is {after} now"
        if writes_the_date(tokenizer):
            line += (
                "; the tokenizer's chat template writes today's date (strftime_now), so that its chats differ from day to day: "
                "let the fixture pot_tokenizer return it with a fixed date in its chat_template, and record it so"
            )
    return line


def _cut_difference(tokens: Tokens, n_ids: int, text: str) -> str | None:
    """How a context that ends as recorded was cut in another way than the recording says; ``n_ids``: the tokens that it has."""
    missing = n_ids - tokens.prompt_len
    if bool(missing) == tokens.truncated:
        return None
    what = quoted(text, _WIDTH)
    if missing:
        return f": {what} was recorded without the first {missing} of its {n_ids} tokens, and is not marked as cut"
    return f": {what} is marked as cut on the left, but all of it was recorded"


def _continuation_difference(baseline: Baseline, index: int, new: Prompt, encoded: EncodedPrompts | None) -> str | None:
    old = baseline.prompts[index]
    if old.continuation is None or new.continuation is None:
        if old.continuation is new.continuation:
            return None
        return f": continuation {_continuation(old)} recorded, {_continuation(new)} now"
    if encoded is None:
        return None
    targets = baseline.tokens[index].targets
    ids = tuple((encoded.ids[index][1] or [])[: baseline.config.positions_per_prompt])
    if ids == targets:
        return None
    if new.continuation.startswith(old.continuation):
        what = quoted(old.continuation, _WIDTH)
        return f": continuation {what} {_OTHER_TOKENS}: {_token_difference(targets, ids, encoded.tokenizer)}"
    before, now = contrasted(old.continuation, new.continuation, _WIDTH)
    return f": continuation {before} recorded, {now} now"


def _token_difference(recorded: Sequence[int], now: Sequence[int], tokenizer: Any) -> str:
    first = first_difference(recorded, now)
    return f"at token {first}, {token_at(tokenizer, recorded, first)} recorded, {token_at(tokenizer, now, first)} now"


def _refuse(baseline: Baseline, differences: Sequence[str]) -> None:
    if differences:
        lines = [f"{baseline.source} was recorded with something else:", *(f"  {line}" for line in first_lines(differences))]
        raise PotError("\n".join(lines))


def _tokenizer_parts(baseline: Baseline, tokenizer: Any, *, allow_unseen: bool = False) -> list[str]:
    recorded = baseline.provenance.tokenizer
    now = tokenizer_digests(tokenizer, recorded)
    texts = any(prompt.messages is None for prompt in baseline.prompts)
    unseen = unseen_tokenizer_parts(recorded, now, tokenizer) if allow_unseen else ()
    return tokenizer_differences(recorded, now, bare_texts=texts, but_for=unseen)


def _first_difference(recorded: Sequence[Prompt], prompts: Sequence[Prompt]) -> str:
    old_texts, new_texts = [prompt.text for prompt in recorded], [prompt.text for prompt in prompts]
    removed = [text for text in old_texts if text not in new_texts]
    added = [text for text in new_texts if text not in old_texts]
    parts = [f"{what} {quoted(texts[0], _WIDTH)}" for what, texts in (("removed", removed), ("added", added)) if texts]
    return f" ({', '.join(parts)})" if parts else ""


def _continuation(prompt: Prompt) -> str:
    return "sampled by the reference" if prompt.continuation is None else quoted(prompt.continuation, _WIDTH)
