"""Encode prompts as token ids, each text once, and check that two tokenizers agree."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Any, TypeAlias

from pytest_pot.core.errors import PotError
from pytest_pot.core.text import contrasted, first_difference, quoted
from pytest_pot.engines.tokens import Tokens
from pytest_pot.prompts.added_tokens import are_added_token_prompts, asks_for_added_tokens, expanded
from pytest_pot.prompts.chats import rendered
from pytest_pot.prompts.encodings import Text, encoded_texts
from pytest_pot.prompts.prompt import Prompt, as_prompts
from pytest_pot.prompts.tokenizer_differences import listed_parts
from pytest_pot.prompts.tokenizer_digests import tokenizer_digests
from pytest_pot.prompts.tokenizer_parts import different_parts

__all__ = ["Encoded", "EncodedPrompts", "fit", "token_at", "token_text", "tokenise"]

Encoded: TypeAlias = tuple[list[int], list[int] | None]
"""The ids of a prompt's text and of its continuation; None instead of the latter if there is no continuation."""

_BOS_LENGTHS = (1, 2, 3)
"""The tokens of which a BOS may be made."""

_WHICH = (
    "Both models must read the same tokens. If the candidate's tokenizer is not meant to be used, name the one to use with "
    "--pot-tokenizer or the pot_tokenizer fixture."
)


class EncodedPrompts:
    """Prompts and their token ids by one tokenizer, encoded once, at the first use.

    Prompts are checked at the first use too, so that the gate that uses them reports the error.
    """

    def __init__(
        self, prompts: Iterable[str | Prompt], tokenizer: Any, *, or_builtin: bool = False, n_rows: int | None = None
    ) -> None:
        """
        Args:
            or_builtin: whether omitting the prompts selects the built-in suite; the error for an empty list then says so.
            n_rows: how many rows the models' embeddings have, where that is known: no prompt is made for an added token
                without one.
        """
        self._prompts = prompts
        self.n_rows = n_rows
        self._or_builtin = or_builtin
        self.tokenizer = tokenizer

    @property
    def is_empty(self) -> bool:
        """Whether there is no prompt; the first use then raises."""
        return isinstance(self._prompts, Sequence) and not self._prompts

    @cached_property
    def prompts(self) -> list[Prompt]:
        """The prompts, with chats rendered.

        Raises:
            PotError: there is no prompt, an element is neither a string nor a :class:`Prompt`, or a chat cannot be rendered.
        """
        prompts = expanded(as_prompts(self._prompts, or_builtin=self._or_builtin), self.tokenizer, self.n_rows)
        if not prompts:
            raise PotError("there are no prompts to score: the tokenizer has no added tokens that a text can hold")
        return rendered(self.tokenizer, prompts)

    @cached_property
    def ids(self) -> list[Encoded]:
        """The ids of every prompt.

        Raises:
            PotError: as :func:`tokenise`.
        """
        return _encoded(self.tokenizer, self.prompts)

    @cached_property
    def contexts(self) -> list[list[int]]:
        """The ids of every prompt's text; where :attr:`ids` were not needed so far, no continuation is encoded for them.

        Raises:
            PotError: as :func:`tokenise`.
        """
        if "ids" in vars(self):
            return [context for context, _ in self.ids]
        return _encoded_contexts(self.tokenizer, self.prompts)

    @property
    def holds_texts(self) -> bool:
        """Whether any prompt is a text: only texts are encoded with special tokens."""
        return any(prompt.messages is None for prompt in self.prompts)

    @property
    def doubled_bos(self) -> dict[int, str]:
        """Texts that begin with the tokenizer's BOS already, to which it adds another: by index, the doubled tokens as text.

        A BOS may be several tokens, and need not be the one that the tokenizer calls so.
        """
        repeats = {
            index: context
            for index, (prompt, (context, _)) in enumerate(zip(self.prompts, self.ids, strict=True))
            if prompt.messages is None and any(_repeats_first(context, n) for n in _BOS_LENGTHS)
        }
        if not repeats:
            return {}
        bare = encoded_texts(self.tokenizer, [(self.prompts[index].text, False) for index in repeats])
        return {
            index: "".join(token_text(self.tokenizer, token) for token in context[: 2 * n])
            for (index, context), ids in zip(repeats.items(), bare, strict=True)
            if (n := _doubled_tokens(context, ids))
        }

    def __len__(self) -> int:
        return len(self.prompts)

    def first(self, n: int) -> EncodedPrompts:
        """The first ``n`` prompts, which are encoded separately."""
        return EncodedPrompts(self.prompts[:n], self.tokenizer, n_rows=self.n_rows)

    @property
    def lacks_added_tokens(self) -> bool:
        """Whether prompts for added tokens were asked for, and the tokenizer has none to make them of."""
        asked = isinstance(self._prompts, Sequence) and asks_for_added_tokens(self._prompts)
        return asked and not are_added_token_prompts(self.prompts)

    def check_same(self, tokenizer: Any) -> None:
        """Raise :class:`PotError` unless the candidate's ``tokenizer`` gives the same ids.

        The message shows the first prompt that differs, with both tokenizers' ids, the first token that differs, and the parts
        in which the tokenizers differ.
        """
        if tokenizer is self.tokenizer:
            return
        other_prompts = rendered(tokenizer, self.prompts, "the candidate's tokenizer")
        other_ids = _encoded(tokenizer, other_prompts)
        for index, (encoded, other_encoded) in enumerate(zip(self.ids, other_ids, strict=True)):
            for part, ids, other in zip(("text", "continuation"), encoded, other_encoded, strict=True):
                if ids is not None and other is not None and ids != other:
                    lines = self._disagreement(index, part, (ids, other), tokenizer)
                    if part == "text" and self.prompts[index].text != other_prompts[index].text:
                        ours, theirs = contrasted(self.prompts[index].text, other_prompts[index].text, 60)
                        lines.append(f"  rendered by their chat templates: reference {ours}, candidate {theirs}")
                    parts = different_parts(tokenizer_digests(self.tokenizer), tokenizer_digests(tokenizer))
                    if parts:
                        lines.append(f"  the tokenizers differ in: {listed_parts(parts, self.tokenizer, tokenizer)}")
                    raise PotError("\n".join([*lines, _WHICH]))

    def _disagreement(self, index: int, part: str, sides: tuple[list[int], list[int]], tokenizer: Any) -> list[str]:
        prompt, (ids, other) = self.prompts[index], sides
        first = first_difference(ids, other)
        what = "chat" if part == "text" and prompt.messages is not None else part
        ours, theirs = token_at(self.tokenizer, ids, first), token_at(tokenizer, other, first)
        return [
            f"the tokenizers of reference and candidate disagree on the {what} of prompt {index} "
            f"({quoted(getattr(prompt, part), 60)}):",
            f"  reference: {_listed(ids, first)}",
            f"  candidate: {_listed(other, first)}",
            f"  first difference, at token {first}: reference {ours}, candidate {theirs}",
        ]


def tokenise(tokenizer: Any, prompts: Sequence[Prompt]) -> list[Encoded]:
    """The ids of each prompt's context and of its continuation.

    A text is encoded with the tokenizer's special tokens. A chat, rendered by the tokenizer, and a continuation are encoded
    without adding any. The tokenizer's settings are restored.

    Raises:
        PotError: a context or a continuation has no tokens, so there would be no position to score; or a chat cannot be
            rendered.
    """
    return _encoded(tokenizer, rendered(tokenizer, prompts))


def token_at(tokenizer: Any, ids: Sequence[int], index: int) -> str:
    """The token at ``index`` as its id and its text, with invisible characters as escapes; ``"the end"`` behind the last."""
    if index >= len(ids):
        return "the end"
    text = token_text(tokenizer, ids[index])
    return f"{ids[index]} {text!r}" if text else str(ids[index])


def token_text(tokenizer: Any, token: int) -> str:
    """The text of one id; empty where the tokenizer cannot decode it."""
    try:
        return str(tokenizer.decode([token]))
    except Exception:  # a tokenizer may be any object, and an id may be outside its vocabulary
        return ""


def _repeats_first(context: Sequence[int], n: int) -> bool:
    """Whether the first ``n`` tokens come twice."""
    return context[:n] == context[n : 2 * n]


def _doubled_tokens(context: Sequence[int], bare: Sequence[int]) -> int:
    """How many tokens the tokenizer puts in front of a text that begins with them.

    Args:
        context: the text's ids with the special tokens that the tokenizer adds.
        bare: its ids without them.
    """
    for n in _BOS_LENGTHS:
        if _repeats_first(context, n) and len(bare) >= n and context[n : n + len(bare)] == bare:
            return n
    return 0


def _encoded(tokenizer: Any, prompts: Sequence[Prompt]) -> list[Encoded]:
    """:func:`tokenise` for prompts whose chats are rendered."""
    texts = [_context(prompt) for prompt in prompts]
    texts += [(prompt.continuation, False) for prompt in prompts if prompt.continuation is not None]
    ids = iter(encoded_texts(tokenizer, texts))
    contexts = [next(ids) for _ in prompts]
    continuations = [None if prompt.continuation is None else next(ids) for prompt in prompts]
    encoded = list(zip(contexts, continuations, strict=True))
    for index, (prompt, (context, continuation)) in enumerate(zip(prompts, encoded, strict=True)):
        _check_context(index, prompt, context)
        if continuation is not None and not continuation:
            raise PotError(
                f"prompt {index} ({quoted(prompt.text, 40)}) has the continuation {quoted(prompt.continuation or '', 40)}, "
                "which has no tokens: there is no position to score. Give it a text, or None to let the reference "
                "continue the prompt"
            )
    return encoded


def _encoded_contexts(tokenizer: Any, prompts: Sequence[Prompt]) -> list[list[int]]:
    contexts = encoded_texts(tokenizer, [_context(prompt) for prompt in prompts])
    for index, (prompt, context) in enumerate(zip(prompts, contexts, strict=True)):
        _check_context(index, prompt, context)
    return contexts


def _context(prompt: Prompt) -> Text:
    return prompt.text, prompt.messages is None


def _check_context(index: int, prompt: Prompt, ids: Sequence[int]) -> None:
    if not ids:
        raise PotError(
            f"prompt {index} ({prompt.text!r}) has no tokens with this tokenizer, so nothing predicts the first "
            "token of its continuation: give it a text"
        )


def fit(index: int, context: Sequence[int], continuation: Sequence[int], max_length: int) -> Tokens:
    """``context``, cut on the left, and ``continuation``, never cut: at most ``max_length`` tokens together.

    Raises:
        PotError: the continuation leaves no room for even one token of ``context``.
    """
    room = max_length - len(continuation)
    if room < 1:
        raise PotError(
            f"prompt {index}: its continuation of {len(continuation)} tokens leaves no room for the prompt in "
            f"{max_length} tokens, which are max_length or what the models take; raise max_length, or compare fewer positions"
        )
    kept = context[-room:]
    return Tokens((*kept, *continuation), len(kept), truncated=len(kept) < len(context))


def _listed(ids: Sequence[int], first: int, most: int = 24) -> str:
    """``ids``, or the part of a long list around the index ``first``."""
    start = 0 if len(ids) <= most else max(0, min(first - most // 3, len(ids) - most))
    shown = ", ".join(map(str, ids[start : start + most]))
    before = f"… {start} ids, " if start else ""
    after = f", … {len(ids)} ids" if start + most < len(ids) else ""
    return f"[{before}{shown}{after}]"
