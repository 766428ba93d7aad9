"""What failing gates look like. Each of these tests fails, and is expected to: xfail(strict=True) would complain if not.

To read the messages as a user would meet them, let the failures through:

    pytest examples/test_failing_gates.py --runxfail
"""

import pytest

from pytest_pot import Prompt
from pytest_pot.prompts.builtin import builtin_prompts


def after_the_first_words(prompt: Prompt) -> Prompt:
    text = prompt.text + (prompt.continuation or "")
    end = text.rindex(" ", 0, 14)
    return Prompt(text[:end], text[end:])


SHORT = [after_the_first_words(prompt) for prompt in builtin_prompts()[:8]]

expected_to_fail = pytest.mark.xfail(strict=True, reason="shows what a failing gate looks like")


# Eight bits measured with the default tolerance, which is meant for sixteen: the message says how far over the limit the
# score is, which prompts and which positions are the worst, and that all of them are alike.
@expected_to_fail
@pytest.mark.pot_identity(candidate="smollm2:int8", prompts="prompts.jsonl")
def test_int8_is_not_half_precision() -> None:
    pass


@expected_to_fail
@pytest.mark.pot_identity(candidate="smollm2:int8", prompts="prompts.jsonl", metric="kl", max_score=0.001)
def test_int8_by_another_metric() -> None:
    pass


# A wrong RoPE base: the divergence grows with the position, and the message says so. It grows most at the start of a text,
# so these prompts are short: the first word or two of the built-in ones, with all the rest as their continuation. A list of
# prompts can stand in the marker itself.
@expected_to_fail
@pytest.mark.pot_identity(candidate="smollm2:wrong_rope", prompts=SHORT)
def test_a_conversion_that_lost_the_rope_base() -> None:
    pass


@expected_to_fail
@pytest.mark.pot_identity(candidate="smollm2:foreign", prompts="prompts.jsonl")
def test_another_model_under_the_same_name() -> None:
    pass


# Nothing was changed, so nothing can be told apart.
@expected_to_fail
@pytest.mark.pot_distinct(candidate="smollm2:identical", prompts="prompts.jsonl")
def test_an_update_that_changed_nothing() -> None:
    pass
