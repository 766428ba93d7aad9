"""Long contexts, composed from short passages: as a document, a notebook, examples, a chat or a folder of files.

No random numbers and no stored data are involved: the same passages give the same text on every machine.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

__all__ = ["Passage", "compose"]

Passage = tuple[str, str]
"""A text, and its continuation."""


def compose(passages: Sequence[Passage], last: Passage, form: int) -> Passage:
    """A long text made of ``passages`` in full and then ``last``, and the continuation of ``last`` as its continuation.

    ``form`` is any integer of at least 0; modulo five, it selects the form. Headings add about 5 to 20 tokens per passage.
    Some forms change the white space in front of the continuation.
    """
    return _FORMS[form % len(_FORMS)](passages, last)


def _sections(passages: Sequence[Passage], last: Passage) -> Passage:
    parts = [f"{n}. {text}{continuation}" for n, (text, continuation) in enumerate(passages, 1)]
    return "\n\n".join([*parts, f"{len(parts) + 1}. {last[0]}"]), last[1]


def _notebook(passages: Sequence[Passage], last: Passage) -> Passage:
    parts = [f"## Entry {n}\n\n{text}{continuation}" for n, (text, continuation) in enumerate(passages, 1)]
    return "\n\n".join(["# Notebook", *parts, f"## Entry {len(parts) + 1}\n\n{last[0]}"]), last[1]


def _examples(passages: Sequence[Passage], last: Passage) -> Passage:
    parts = [f"Beginning: {text}\nContinuation:{_with_leading_space(continuation)}" for text, continuation in passages]
    head = "Each beginning is followed by its continuation."
    return "\n\n".join([head, *parts, f"Beginning: {last[0]}\nContinuation:"]), _with_leading_space(last[1])


def _folder(passages: Sequence[Passage], last: Passage) -> Passage:
    parts = [f"==> part-{n:02}.txt <==\n{text}{continuation}" for n, (text, continuation) in enumerate(passages, 1)]
    return "\n\n".join([*parts, f"==> part-{len(parts) + 1:02}.txt <==\n{last[0]}"]), last[1]


def _chat(passages: Sequence[Passage], last: Passage) -> Passage:
    turns = "".join(
        f"<|im_start|>user\nGo on from here: {text}<|im_end|>\n<|im_start|>assistant\n{continuation.lstrip()}<|im_end|>\n"
        for text, continuation in passages
    )
    # The newline belongs to the continuation: after a text that ends in white space, tokens would be split differently from
    # those of a chat template.
    return f"{turns}<|im_start|>user\nGo on from here: {last[0]}<|im_end|>\n<|im_start|>assistant", f"\n{last[1].lstrip()}"


def _with_leading_space(continuation: str) -> str:
    """``continuation`` with white space in front. Chinese, Japanese and continuations within a line of code may lack it."""
    return continuation if continuation[:1].isspace() else f" {continuation}"


_FORMS: tuple[Callable[[Sequence[Passage], Passage], Passage], ...] = (_sections, _notebook, _examples, _folder, _chat)
