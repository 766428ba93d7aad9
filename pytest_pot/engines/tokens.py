"""Token ids of a prompt and its continuation."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Tokens"]


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
