"""Two limits on time: a slowdown, which also works on a busy machine, and a budget, which is only for this machine.

A slowdown gate runs the reference and the candidate in turn, and compares neighbouring times, so other load on the machine
affects both models. A budget compares the candidate's time with a number. The limits here are wide, because these tests only
show how to write them. In your suite, start with max_slowdown=1.25, and use the budget that your service promises.
"""

import pytest

from pytest_pot import PotResult

SHORT = ["The old mill by the river"]


# Markers combine: the candidate must be the same model, and not slower. The score is checked first.
@pytest.mark.pot_latency(candidate="smollm2:identical", max_slowdown=2, prompts=SHORT)
@pytest.mark.pot_identity(candidate="smollm2:identical", max_score=0, prompts=SHORT)
def test_a_copy_is_the_same_and_as_fast() -> None:
    pass


# A budget runs no reference. This one times the generation of eight tokens, with the model's key-value cache.
@pytest.mark.pot_latency(candidate="smollm2:identical", what="decode", budget_ms=60_000, max_memory_mb=4_000, prompts=SHORT)
def test_generating_a_few_tokens_takes_at_most_a_minute(pot_result: PotResult) -> None:
    latency = pot_result.latency  # None with --pot-latency=off or -n
    if latency is not None:
        # Shown by pytest -s:
        print(f"{latency.ms_per_prompt:.0f} ms after {1000 * min(latency.lead):.0f} ms to the first token", end=" ")
