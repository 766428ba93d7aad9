"""Challenge prompts, encoded by a real tokenizer."""

from __future__ import annotations

import pytest

from pytest_pot import PRESETS
from pytest_pot.prompts.challenges import challenge_prompts
from pytest_pot.prompts.tokenization import tokenise

from .conftest import ModelAndTokenizer

pytestmark = pytest.mark.real


def test_every_preset_finds_enough_positions_and_cuts_nothing(reference: ModelAndTokenizer) -> None:
    encoded = tokenise(reference[1], challenge_prompts("tokens", 800))
    positions = max(config.positions_per_prompt for config in PRESETS.values())
    assert min(len(rest or []) for _, rest in encoded) >= positions
    for config in PRESETS.values():
        assert max(len(text) for text, _ in encoded) <= config.max_length - config.positions_per_prompt
