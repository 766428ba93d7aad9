"""A prompt's tokens on the page: what is invisible in them gets a mark, and each has a shade by its divergence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pytest_pot.core.text import number, printable
from pytest_pot.core.text import percent as probability

__all__ = ["SHADES", "Piece", "TokenView", "pieces", "probability", "shade", "token_views"]

SHADES = (0.0001, 0.001, 0.01, 0.1, 0.5)
"""Where the next darker shade begins, in the unit of the metric: the same on every page, so that pages compare. They reach down
to the smallest named tolerance."""
_MARKS = {" ": ("␣", "space"), "\n": ("↵", "line feed"), "\t": ("⇥", "tab"), "\r": ("␍", "carriage return")}
_TOKEN = 80
"""Characters of a token."""
_MOST_TOKENS = 400


@dataclass(frozen=True)
class Piece:
    """Some characters of a text, or one that is invisible: its mark, and its name for those who do not see the mark."""

    text: str
    name: str = ""
    breaks: bool = False
    """Whether a new line begins after it."""


@dataclass(frozen=True)
class TokenView:
    """One token of a continuation."""

    pieces: tuple[Piece, ...]
    shade: int
    """0 to the number of :data:`SHADES`."""
    score: str
    reference: str
    """The reference's probability of the token."""
    candidate: str
    reference_choice: tuple[Piece, ...]
    reference_choice_probability: str
    candidate_choice: tuple[Piece, ...]
    candidate_choice_probability: str
    number: int
    """The token's id."""


def token_views(tokens: Sequence[Mapping[str, Any]]) -> tuple[list[TokenView], int]:
    """The first tokens, from :class:`~pytest_pot.gates.verdict.details.TokenScore`, and how many are left out."""
    return list(map(_view, tokens[:_MOST_TOKENS])), max(0, len(tokens) - _MOST_TOKENS)


def _view(token: Mapping[str, Any]) -> TokenView:
    choices = [token["reference_choice"], token["candidate_choice"]]
    texts = [pieces(choice["text"], _TOKEN) for choice in choices]
    shares = [probability(choice["probability"]) for choice in choices]
    return TokenView(
        pieces=pieces(token["text"], _TOKEN),
        shade=shade(token["score"]),
        score=number(token["score"]),
        reference=probability(token["reference"]),
        candidate=probability(token["candidate"]),
        reference_choice=texts[0],
        reference_choice_probability=shares[0],
        candidate_choice=texts[1],
        candidate_choice_probability=shares[1],
        number=token["id"],
    )


def pieces(text: str, width: int, *, spaces: bool = True) -> tuple[Piece, ...]:
    """At most ``width`` characters of ``text``; line ends, tabs and, if wanted, ``spaces`` become marks, other invisible ones
    are escaped."""
    parts: list[Piece] = []
    plain = ""
    for character in text[:width]:
        if character in _MARKS and (spaces or character != " "):
            parts += [Piece(printable(plain))] if plain else []
            parts.append(Piece(*_MARKS[character], breaks=character == "\n"))
            plain = ""
        else:
            plain += character
    plain = printable(plain) + ("…" if len(text) > width else "")
    if plain:
        parts.append(Piece(plain))
    return tuple(parts) or (Piece("∅", "no text"),)


def shade(score: float) -> int:
    """The shade of a position with this divergence."""
    return sum(score >= step for step in SHADES)
