"""The built-in suite, encoded by a real tokenizer that needs many tokens for other languages than English."""

from __future__ import annotations

import pytest

from pytest_pot import PRESETS
from pytest_pot.prompts.builtin import builtin_prompts
from pytest_pot.prompts.tokenization import tokenise

from .conftest import ModelAndTokenizer

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def lengths(reference: ModelAndTokenizer) -> list[tuple[str | None, int, int]]:
    """Each prompt's kind, and the number of tokens of its text and of its continuation."""
    suite = builtin_prompts(None)
    return [(p.kind, len(text), len(rest or [])) for p, (text, rest) in zip(suite, tokenise(reference[1], suite), strict=True)]


def test_every_preset_finds_enough_positions(lengths: list[tuple[str | None, int, int]]) -> None:
    assert min(rest for _, _, rest in lengths) >= max(config.positions_per_prompt for config in PRESETS.values())


def test_long_contexts_have_512_to_2000_tokens(lengths: list[tuple[str | None, int, int]]) -> None:
    contexts = [text for kind, text, _ in lengths if kind == "long"]
    assert len(contexts) >= 16
    assert min(contexts) >= 512
    assert max(contexts) <= 2000
    assert max(contexts) - min(contexts) > 1000


def test_no_preset_cuts_texts_of_other_kinds(lengths: list[tuple[str | None, int, int]]) -> None:
    for config in PRESETS.values():
        room = config.max_length - config.positions_per_prompt
        assert max(text for kind, text, _ in lengths if kind != "long") <= room
