"""The built-in suite: 232 short prompts from a file, and 25 long prompts composed of them."""

from __future__ import annotations

from pytest_pot.core.errors import InvalidArgument
from pytest_pot.prompts.jsonl import parse_prompts
from pytest_pot.prompts.long_contexts import compose
from pytest_pot.prompts.prompt import Prompt

__all__ = ["builtin_prompts"]

_FIRST = 32
"""Prompts before the first long one; the ``max_length`` of most presets would cut a long prompt."""

_KINDS = 8
"""Kinds of stored prompts, which take turns; beyond the first ``_FIRST`` prompts, a long prompt follows each round."""

_PASSAGES = (4, 5, 7)
"""Numbers of passages before the last one of a long prompt; long prompts use them in turn."""

_PASSAGES_MULTILINGUAL = (2,)
"""The same for other scripts: a tokenizer made for English encodes one of their passages as up to 800 tokens."""


def builtin_prompts(n: int | None = 32) -> list[Prompt]:
    """The first ``n`` prompts of the built-in suite; with None, all 257.

    The order never changes. Eight kinds take turns; from the 33rd prompt on there is a ninth, ``"long"``, with contexts of 512
    to 2,000 tokens composed from earlier prompts. So any 32 consecutive prompts are balanced over the kinds. Every continuation
    has at least 64 tokens.

    Raises:
        InvalidArgument: ``n`` is not a whole number from 1 to 257.
    """
    from importlib import resources  # slow to import, and not needed if tests have their own prompts

    text = resources.files("pytest_pot.prompts").joinpath("data/builtin.jsonl").read_text(encoding="utf-8")
    suite = _with_long_prompts(parse_prompts(text, "the built-in suite"))
    if n is None:
        return suite
    if isinstance(n, bool) or not isinstance(n, int) or not 1 <= n <= len(suite):
        raise InvalidArgument(f"builtin_prompts({n!r}): ask for 1 to {len(suite)} prompts, or None for all of them")
    return suite[:n]


def _with_long_prompts(stored: list[Prompt]) -> list[Prompt]:
    suite = stored[:_FIRST]
    for index, end in enumerate(range(_FIRST + _KINDS, len(stored) + 1, _KINDS)):
        suite += stored[end - _KINDS : end]
        suite.append(_long_prompt(stored[:end], index))
    return suite


def _long_prompt(earlier: list[Prompt], index: int) -> Prompt:
    """Compose a long prompt from ``earlier`` prompts only, so that new prompts at the end of the suite do not change it."""
    kind = earlier[index % _KINDS].kind or ""
    passages = [(prompt.text, prompt.continuation or "") for prompt in earlier if prompt.kind == kind]
    last = passages.pop(index // _KINDS)
    counts = _PASSAGES_MULTILINGUAL if kind == "multilingual" else _PASSAGES
    text, continuation = compose(passages[-counts[index % len(counts)] :], last, form=index)
    return Prompt(text, continuation, "long")
