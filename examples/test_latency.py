"""How fast is it? A limit on time that holds on a busy machine as well, and one that is for this machine alone.

The first runs reference and candidate in turn and compares the times that were taken next to each other: whatever else the
machine does meets both. The second is a wall clock against a number. The limits here are wide, since all that these tests show
is how it is written; 1.25 is the slowdown to start with, and a budget is what your service promises.
"""

import pytest

from pytest_pot import PotResult

SHORT = ["The old mill by the river"]


# Markers compose: the same model, and not slower. The score is looked at first.
@pytest.mark.pot_latency(candidate="smollm2:identical", max_slowdown=2, prompts=SHORT)
@pytest.mark.pot_identity(candidate="smollm2:identical", max_score=0, prompts=SHORT)
def test_a_copy_is_the_same_and_as_fast() -> None:
    pass


# No reference is run. What is timed is the generation of eight tokens, with the model's own cache of keys and values.
@pytest.mark.pot_latency(candidate="smollm2:identical", what="decode", budget_ms=60_000, max_memory_mb=4_000, prompts=SHORT)
def test_a_few_words_in_a_minute(pot_result: PotResult) -> None:
    latency = pot_result.latency  # None with --pot-latency=off, and under -n
    if latency is not None:
        # With -s:
        print(f"{latency.ms_per_prompt:.0f} ms after {1000 * min(latency.lead):.0f} ms to the first token", end=" ")
