"""Without the reference: it was run once, and what it said lies in smollm2.pot.safetensors, a file small enough to commit.

CI then needs the candidate alone: half the time, and no access to the reference. This wrote the file:

    pytest examples/test_recorded.py --pot-update

Only that flag ever writes it. Change a prompt, the tokenizer or the preset, and these tests fail, saying what differs; run the
command again if the change is meant. `python -m pytest_pot inspect examples/smollm2.pot.safetensors` shows what is in it.
"""

import pytest

# The marker's prompts are those that were recorded, in examples/prompts.jsonl. With "numeric" in place of "identical", the
# same weights pass on any machine: another processor rounds the last digits otherwise.
RECORDED = {"reference": "smollm2.pot.safetensors", "prompts": "prompts.jsonl"}


@pytest.mark.pot_distinct(candidate="smollm2:int8", **RECORDED)
@pytest.mark.pot_identity(candidate="smollm2:int8", tolerance="int8", **RECORDED)
def test_int8_against_the_recording() -> None:
    pass


@pytest.mark.pot_identity(candidate="smollm2:identical", tolerance="numeric", **RECORDED)
def test_the_same_weights_say_what_was_recorded() -> None:
    pass
