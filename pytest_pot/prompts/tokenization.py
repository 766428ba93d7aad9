"""From prompts to token ids: encoding, the left cut, and the check that two tokenizers agree."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from pytest_pot.core.errors import PotError
from pytest_pot.prompts.prompt import Prompt, shorten

__all__ = ["Tokens", "check_same_encoding", "fit", "tokenise", "unchanged"]


@dataclass(frozen=True)
class Tokens:
    """A prompt and its continuation as token ids.

    Position j is the continuation's token j; the logits at sequence index ``prompt_len - 1 + j`` predict it.
    """

    ids: tuple[int, ...]
    prompt_len: int
    truncated: bool = False
    """Whether the prompt was cut on the left to fit ``max_length``."""

    @property
    def targets(self) -> tuple[int, ...]:
        """The continuation: the token to predict at each position."""
        return self.ids[self.prompt_len :]

    @property
    def n_positions(self) -> int:
        return len(self.ids) - self.prompt_len


def tokenise(tokenizer: Any, prompts: Sequence[Prompt]) -> list[tuple[list[int], list[int] | None]]:
    """The ids of each prompt's text, with the tokenizer's special tokens, and of its continuation, without.

    The continuation's ids are None where a prompt has no continuation. The tokenizer is left as it was.

    Raises:
        PotError: a text or a continuation comes to no token at all; there would be no position to score.
    """
    encoded: list[tuple[list[int], list[int] | None]] = []
    with unchanged(tokenizer):
        for index, prompt in enumerate(prompts):
            context = _encode(tokenizer, prompt.text, special=True)
            if not context:
                raise PotError(
                    f"prompt {index} ({prompt.text!r}) comes to no token with this tokenizer, so nothing predicts the first "
                    "token of its continuation: give it a text"
                )
            continuation = None
            if prompt.continuation is not None:
                continuation = _encode(tokenizer, prompt.continuation, special=False)
                if not continuation:
                    raise PotError(
                        f"prompt {index} ({shorten(prompt.text, 40)!r}) has the continuation {prompt.continuation!r}, which "
                        "comes to no token: there is no position to score. Give it a text, or None to let the reference "
                        "continue the prompt"
                    )
            encoded.append((context, continuation))
    return encoded


def fit(index: int, context: Sequence[int], continuation: Sequence[int], max_length: int) -> Tokens:
    """``context`` cut on the left so that both together are at most ``max_length`` long; the continuation is never cut.

    Raises:
        PotError: the continuation leaves no room for a single token of the prompt.
    """
    room = max_length - len(continuation)
    if room < 1:
        raise PotError(
            f"prompt {index}: its continuation of {len(continuation)} tokens leaves no room for the prompt in "
            f"max_length={max_length}; raise max_length or lower positions_per_prompt"
        )
    kept = context[-room:]
    return Tokens((*kept, *continuation), len(kept), truncated=len(kept) < len(context))


def check_same_encoding(prompts: Sequence[Prompt], reference: Any, candidate: Any) -> None:
    """Raise :class:`PotError` with the first prompt that the two tokenizers encode differently, and both encodings."""
    if reference is candidate:
        return
    theirs = zip(tokenise(reference, prompts), tokenise(candidate, prompts), strict=True)
    for index, ((r_text, r_cont), (c_text, c_cont)) in enumerate(theirs):
        for part, ours, other in (("text", r_text, c_text), ("continuation", r_cont, c_cont)):
            if ours != other:
                raise PotError(
                    f"the tokenizers of reference and candidate disagree on the {part} of prompt {index} "
                    f"({shorten(getattr(prompts[index], part), 60)!r}):\n"
                    f"  reference: {_listed(ours)}\n  candidate: {_listed(other)}\n"
                    "Both models must read the same tokens. If the candidate's tokenizer is not meant to be used, name the "
                    "one to use with --pot-tokenizer or the pot_tokenizer fixture."
                )


def _encode(tokenizer: Any, text: str, *, special: bool) -> list[int]:
    # verbose=False: the warning about long texts would also leave a mark on the tokenizer.
    # int: a tokenizer of one's own may give numpy's, which are no JSON.
    return [int(token) for token in tokenizer(text, add_special_tokens=special, verbose=False)["input_ids"]]


def _listed(ids: list[int] | None, most: int = 24) -> str:
    if ids is None:
        return "none"
    return f"{ids}" if len(ids) <= most else f"[{', '.join(map(str, ids[:most]))}, … {len(ids)} ids]"


@contextmanager
def unchanged(tokenizer: Any) -> Iterator[None]:
    """Restore the truncation and padding of a fast tokenizer's backend, which every call of the tokenizer overwrites."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    truncation, padding = getattr(backend, "truncation", None), getattr(backend, "padding", None)
    try:
        yield
    finally:
        if backend is not None and truncation is not None:
            backend.enable_truncation(**truncation)
        if backend is not None and padding is not None:
            backend.enable_padding(**padding)
