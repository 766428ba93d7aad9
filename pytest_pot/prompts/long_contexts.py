"""Long contexts, composed from short passages: a document, a notebook, examples, a chat, a folder of files.

Nothing is drawn and nothing is stored: the same passages give the same text on every machine.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

__all__ = ["Passage", "compose"]

Passage = tuple[str, str]
"""A text, and its continuation."""


def compose(passages: Sequence[Passage], last: Passage, form: int) -> Passage:
    """``passages`` in full, then ``last``: its text ends the new text, and its continuation is the new continuation.

    ``form`` is any integer of at least 0: the five forms take turns. The headings add some 5 to 20 tokens per passage.
    """
    return _FORMS[form % len(_FORMS)](passages, last)


def _sections(passages: Sequence[Passage], last: Passage) -> Passage:
    parts = [f"{n}. {text}{continuation}" for n, (text, continuation) in enumerate(passages, 1)]
    return "\n\n".join([*parts, f"{len(parts) + 1}. {last[0]}"]), last[1]


def _notebook(passages: Sequence[Passage], last: Passage) -> Passage:
    parts = [f"## Entry {n}\n\n{text}{continuation}" for n, (text, continuation) in enumerate(passages, 1)]
    return "\n\n".join(["# Notebook", *parts, f"## Entry {len(parts) + 1}\n\n{last[0]}"]), last[1]


def _examples(passages: Sequence[Passage], last: Passage) -> Passage:
    parts = [f"Beginning: {text}\nContinuation:{_lead(continuation)}" for text, continuation in passages]
    head = "Each beginning is followed by its continuation."
    return "\n\n".join([head, *parts, f"Beginning: {last[0]}\nContinuation:"]), _lead(last[1])


def _folder(passages: Sequence[Passage], last: Passage) -> Passage:
    parts = [f"==> part-{n:02}.txt <==\n{text}{continuation}" for n, (text, continuation) in enumerate(passages, 1)]
    return "\n\n".join([*parts, f"==> part-{len(parts) + 1:02}.txt <==\n{last[0]}"]), last[1]


def _chat(passages: Sequence[Passage], last: Passage) -> Passage:
    turns = "".join(
        f"<|im_start|>user\nGo on from here: {text}<|im_end|>\n<|im_start|>assistant\n{continuation.lstrip()}<|im_end|>\n"
        for text, continuation in passages
    )
    # The newline opens the continuation: a text that ends in white space would not split like one from a chat template.
    return f"{turns}<|im_start|>user\nGo on from here: {last[0]}<|im_end|>\n<|im_start|>assistant", f"\n{last[1].lstrip()}"


def _lead(continuation: str) -> str:
    """With white space in front, which Chinese, Japanese or the middle of a line of code may come without."""
    return continuation if continuation[:1].isspace() else f" {continuation}"


_FORMS: tuple[Callable[[Sequence[Passage], Passage], Passage], ...] = (_sections, _notebook, _examples, _folder, _chat)
