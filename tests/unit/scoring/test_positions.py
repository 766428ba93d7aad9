"""The suite's prompt in errors about one position."""

from __future__ import annotations

import pytest

from pytest_pot.core.errors import PotError
from pytest_pot.engines.base import PositionError
from pytest_pot.prompts.prompt import Prompt
from pytest_pot.scoring.positions import named_prompts

PROMPTS = [Prompt(f"text {i}", " more") for i in range(9)]


def test_the_prompt_is_named() -> None:
    with pytest.raises(PotError) as error, named_prompts(PROMPTS, [7, 3]):
        raise PositionError("the candidate told nothing", position=2, prompt=1)
    assert str(error.value) == "the candidate told nothing, at prompt 3 ('text 3'), position 2"
    assert not isinstance(error.value, PositionError)
    with pytest.raises(PotError, match="at prompt 7 "), named_prompts(PROMPTS, [7]):
        raise PositionError("x", 0)


def test_other_errors_pass() -> None:
    with pytest.raises(PotError) as error, named_prompts(PROMPTS, [7, 3]):
        raise PotError("as it is")
    assert str(error.value) == "as it is"
