"""Challenges: prompts that nobody can know before the key is told.

The built-in suite is public, so a candidate could be fitted to it. Here the prompts follow from a key: two parties who
share it get the same ones, on any machine, and whoever made the candidate before the key was chosen has not seen them. What
the key draws are names, numbers and things, and everything that is worked out from them; the sentences around them are in
this package for all to read.

Templates, slots, words and their order are for good: a change to any of them is another version of the scheme.
"""

from __future__ import annotations

import hmac

from pytest_pot.core.errors import InvalidArgument
from pytest_pot.prompts.challenges.arithmetic import SUMS
from pytest_pot.prompts.challenges.code import CODE
from pytest_pot.prompts.challenges.dialogue import TALK
from pytest_pot.prompts.challenges.multilingual import LETTERS
from pytest_pot.prompts.challenges.prose import PROSE
from pytest_pot.prompts.challenges.structured import RECORDS
from pytest_pot.prompts.challenges.template import Template
from pytest_pot.prompts.prompt import Prompt

__all__ = ["TEMPLATES", "challenge_prompts", "challenge_sample"]

TEMPLATES: tuple[Template, ...] = (*SUMS, *PROSE, *CODE, *RECORDS, *TALK, *LETTERS)

_SCHEME = "pytest-pot challenge 1"
_SPACE = 1 << 48
"""Indices that a sample is drawn from: so many that none comes twice."""
_KINDS = ("fact", "code", "dialogue", "reasoning", "multilingual", "narrative", "arithmetic", "structured")


def challenge_prompts(key: str, n: int) -> list[Prompt]:
    """The first ``n`` prompts of ``key``; the kinds take turns, so any eight in a row are of eight kinds.

    Prompt i depends on the key and on i alone. Its template and the value of each slot are drawn by HMAC-SHA256 of the key,
    64 bits a draw. No template has fewer than 10^12 fillings, and all of them together
    have more than 10^25.
    Text and continuation have at least 64 tokens each time, most of them in the continuation.

    Raises:
        InvalidArgument: the key is empty or not a string, or ``n`` is not an integer of at least 1.
    """
    secret = _secret(key, n)
    return [_prompt(secret, index) for index in range(n)]


def challenge_sample(key: str, n: int) -> list[Prompt]:
    """``n`` prompts of ``key`` at indices that the key draws, so that their kinds come at random too.

    This is what a sequential test must be given: where kinds take turns, the next one is known, and a test that looks after
    each prompt may be wrong far more often than it says.

    Raises:
        InvalidArgument: as :func:`challenge_prompts`.
    """
    secret = _secret(key, n)
    return [_prompt(secret, _draw(secret, place, "index", _SPACE)) for place in range(n)]


def _secret(key: str, n: int) -> bytes:
    if not isinstance(key, str) or not key.strip():
        raise InvalidArgument(f"a challenge needs a key, which is a string that is not empty, not {key!r}")
    if isinstance(n, bool) or not isinstance(n, int) or n < 1:
        raise InvalidArgument(f"n={n!r} prompts of a challenge: ask for at least 1")
    return key.encode("utf-8", "surrogatepass")


def _prompt(secret: bytes, index: int) -> Prompt:
    kind = _KINDS[index % len(_KINDS)]
    templates = [template for template in TEMPLATES if template.kind == kind]
    template = templates[_draw(secret, index, "template", len(templates))]
    values = {slot: choices[_draw(secret, index, slot, len(choices))] for slot, choices in template.slots.items()}
    return template.fill(values)


def _draw(secret: bytes, index: int, name: str, below: int) -> int:
    """An integer in [0, below); no value is likelier than another by more than below / 2^64 of its share."""
    digest = hmac.digest(secret, f"{_SCHEME}|{index}|{name}".encode(), "sha256")
    return int.from_bytes(digest[:8], "big") * below >> 64
