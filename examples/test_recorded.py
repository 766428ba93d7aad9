"""Gates against a recorded reference: its predictions are in smollm2.pot.safetensors, a file small enough to commit.

CI then runs only the candidate: this takes half the time, and needs no access to the reference. This command wrote the file:

    pytest examples/test_recorded.py --pot-update

Only --pot-update writes it. If you change a prompt, the tokenizer or the preset, these tests fail and list the differences; run
the command again if you meant the change. `python -m pytest_pot inspect examples/smollm2.pot.safetensors` shows its content.
"""

import pytest

# A gate's prompts must be the recorded ones, here those of examples/prompts.jsonl. The tolerance "numeric", not "identical",
# lets the same weights pass on any machine, because another processor rounds the last digits differently.
RECORDED = {"reference": "smollm2.pot.safetensors", "prompts": "prompts.jsonl"}


@pytest.mark.pot_distinct(candidate="smollm2:int8", **RECORDED)
@pytest.mark.pot_identity(candidate="smollm2:int8", tolerance="int8", **RECORDED)
def test_int8_differs_from_the_recording_within_its_tolerance() -> None:
    pass


@pytest.mark.pot_identity(candidate="smollm2:identical", tolerance="numeric", **RECORDED)
def test_the_same_weights_match_the_recording() -> None:
    pass
