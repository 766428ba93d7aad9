"""Challenges: prompts that nobody can know before the key is chosen.

The built-in suite is public, so a candidate could be trained on it. Challenge prompts are derived from a key: two parties
who share the key get the same prompts on any machine, and whoever made the candidate before the key was chosen cannot have
seen them. The key draws names, numbers and things; other figures are computed from these. The sentences around them are
public, in this package.

Never change templates, slots, word lists or their order: any such change needs a new version of the scheme. Each module holds
the templates of one kind of text; ``core`` and ``prompts.prompt`` may be imported here."""

from __future__ import annotations

import hmac

from pytest_pot.core.errors import InvalidArgument
from pytest_pot.prompts.challenges.arithmetic import ARITHMETIC
from pytest_pot.prompts.challenges.code import CODE
from pytest_pot.prompts.challenges.dialogue import DIALOGUE
from pytest_pot.prompts.challenges.multilingual import MULTILINGUAL
from pytest_pot.prompts.challenges.prose import PROSE
from pytest_pot.prompts.challenges.structured import STRUCTURED
from pytest_pot.prompts.challenges.template import Template
from pytest_pot.prompts.prompt import Prompt

__all__ = ["TEMPLATES", "challenge_prompts", "challenge_sample"]

TEMPLATES: tuple[Template, ...] = (*ARITHMETIC, *PROSE, *CODE, *STRUCTURED, *DIALOGUE, *MULTILINGUAL)

_SCHEME = "pytest-pot challenge 1"
_N_INDICES = 1 << 48
"""How many indices a sample is drawn from: so many that in practice no index is drawn twice."""
_KINDS = ("fact", "code", "dialogue", "reasoning", "multilingual", "narrative", "arithmetic", "structured")


def challenge_prompts(key: str, n: int) -> list[Prompt]:
    """The first ``n`` prompts of ``key``. The kinds take turns, so any eight consecutive prompts have eight different kinds.

    Prompt i depends only on the key and on i. HMAC-SHA256 with the key draws its template and the value of each slot, 64 bits
    per draw. Every template has at least 10^12 fillings, and all templates together have more than 10^25. Every prompt has at
    least 64 tokens of text and continuation together, most of them in the continuation.

    Raises:
        InvalidArgument: the key is not a string, or is empty or blank; or ``n`` is not an integer of at least 1.
    """
    secret = _secret(key, n)
    return [_prompt(secret, index) for index in range(n)]


def challenge_sample(key: str, n: int) -> list[Prompt]:
    """``n`` prompts of ``key``, at indices that the key draws, so that the kinds come in random order too.

    A sequential test needs this random order. Where kinds take turns, the next kind is known, and a test that looks after
    each prompt may be wrong far more often than its confidence says.

    Raises:
        InvalidArgument: as :func:`challenge_prompts`.
    """
    secret = _secret(key, n)
    return [_prompt(secret, _draw(secret, place, "index", _N_INDICES)) for place in range(n)]


def _secret(key: str, n: int) -> bytes:
    if not isinstance(key, str) or not key.strip():
        what = "blank" if isinstance(key, str) else type(key).__name__  # not the key itself: it is a secret
        raise InvalidArgument(f"the key of a challenge must be a string that is not empty or blank, and it is {what}")
    if isinstance(n, bool) or not isinstance(n, int) or n < 1:
        raise InvalidArgument(f"n={n!r}: the number of challenge prompts must be an integer of at least 1")
    return key.encode("utf-8", "surrogatepass")


def _prompt(secret: bytes, index: int) -> Prompt:
    kind = _KINDS[index % len(_KINDS)]
    templates = [template for template in TEMPLATES if template.kind == kind]
    template = templates[_draw(secret, index, "template", len(templates))]
    values = {slot: choices[_draw(secret, index, slot, len(choices))] for slot, choices in template.slots.items()}
    return template.fill(values)


def _draw(secret: bytes, index: int, name: str, below: int) -> int:
    """An integer in [0, below), almost uniform: probabilities differ by at most a relative ``below`` / 2^64."""
    digest = hmac.digest(secret, f"{_SCHEME}|{index}|{name}".encode(), "sha256")
    return int.from_bytes(digest[:8], "big") * below >> 64
