"""What failing gates look like. Each test here is expected to fail: with xfail(strict=True), a pass would be an error.

To see the failure messages, turn xfail off:

    pytest examples/test_failing_gates.py --runxfail
"""

import pytest

from pytest_pot import Prompt
from pytest_pot.prompts.builtin import builtin_prompts


def split_after_first_words(prompt: Prompt) -> Prompt:
    text = prompt.text + (prompt.continuation or "")
    end = text.rindex(" ", 0, 14)
    return Prompt(text[:end], text[end:])


SHORT = [split_after_first_words(prompt) for prompt in builtin_prompts()[:8]]

expected_to_fail = pytest.mark.xfail(strict=True, reason="shows what a failing gate looks like")


# The default tolerance "half" allows rounding to 16 bits, and 8 bits are coarser. The message shows how far the score is
# above the limit, the worst prompts and positions, and what changed: all matrices were rounded to 8 bits per row.
@expected_to_fail
@pytest.mark.pot_identity(candidate="smollm2:int8", prompts="prompts.jsonl")
def test_int8_is_outside_the_default_tolerance() -> None:
    pass


@expected_to_fail
@pytest.mark.pot_identity(candidate="smollm2:int8", prompts="prompts.jsonl", metric="kl", max_score=0.001)
def test_int8_is_outside_a_limit_on_another_metric() -> None:
    pass


# The configuration has another RoPE base: the message names the field with both values, and says that all weights are equal.
# Without the weights (a server, a recording of an earlier version) it guesses from the scores, which grow with the position.
# They grow fastest at the start of a text, so each prompt here is the first word or two of a built-in prompt, and the rest is
# its continuation. A marker takes either a file or a list of prompts.
@expected_to_fail
@pytest.mark.pot_identity(candidate="smollm2:wrong_rope", prompts=SHORT)
def test_a_conversion_with_the_wrong_rope_base() -> None:
    pass


@expected_to_fail
@pytest.mark.pot_identity(candidate="smollm2:foreign", prompts="prompts.jsonl")
def test_another_model_under_the_same_name() -> None:
    pass


# Nothing changed, so the models are the same, and pot_distinct fails. The message says that all weights are equal.
@expected_to_fail
@pytest.mark.pot_distinct(candidate="smollm2:identical", prompts="prompts.jsonl")
def test_an_update_that_changed_nothing() -> None:
    pass
