"""The suite of prompts that comes with pytest-pot: 232 short ones in a file, and 25 long ones composed of them."""

from __future__ import annotations

from pytest_pot.core.errors import InvalidArgument
from pytest_pot.prompts.jsonl import parse_prompts
from pytest_pot.prompts.long_contexts import compose
from pytest_pot.prompts.prompt import Prompt

__all__ = ["builtin_prompts"]

_FIRST = 32
"""How many prompts come before the first long one, which the ``max_length`` of most presets would cut."""

_KINDS = 8
"""How many kinds of stored prompts take turns; after each such round beyond the first prompts comes a long one."""

_PASSAGES = (4, 5, 7)
"""How many passages come before the last one of a long prompt, in turns."""

_PASSAGES_MULTILINGUAL = (2,)
"""The same for other scripts, where a tokenizer made for English turns one passage into up to 800 tokens."""


def builtin_prompts(n: int | None = 32) -> list[Prompt]:
    """The first ``n`` prompts of the suite that comes with pytest-pot; None is all 257 of them.

    The order never changes: eight kinds take turns, and from the 33rd prompt on a ninth, ``"long"``, with contexts of 512 to
    2,000 tokens composed from the prompts before. So any 32 prompts in a row are balanced over the kinds. Every continuation
    has at least 64 tokens.

    Raises:
        InvalidArgument: the suite does not have ``n`` prompts, or ``n`` is less than 1.
    """
    from importlib import resources  # slow to import, and not needed by a suite that names its own prompts

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
    """Made of prompts that come earlier in the suite only, so that adding prompts at the end changes none of these."""
    kind = earlier[index % _KINDS].kind or ""
    passages = [(prompt.text, prompt.continuation or "") for prompt in earlier if prompt.kind == kind]
    last = passages.pop(index // _KINDS)
    counts = _PASSAGES_MULTILINGUAL if kind == "multilingual" else _PASSAGES
    text, continuation = compose(passages[-counts[index % len(counts)] :], last, form=index)
    return Prompt(text, continuation, "long")
