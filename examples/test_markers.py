"""The shortest way: a marker on an empty test.

The marker is the test. Before the body runs, pytest-pot feeds the same texts to the reference (named in pytest.ini) and to
the candidate (named here), compares what each of them predicts as the next token, position by position, and fails the test
if the score is outside its limit. The body runs afterwards, and may be empty.

The score is, unless you choose another metric, the total variation distance: the share of sampled tokens that would differ,
between 0 (the same model) and 1 (nothing in common).
"""

import pytest

from pytest_pot import PotResult


# Loaded twice, nothing changed: the score is exactly 0, not just small, so the limit can be 0. No prompts are named, so
# these are the 32 that come with pytest-pot.
@pytest.mark.pot_identity(candidate="smollm2:identical", max_score=0)
def test_an_untouched_copy_is_the_same_model() -> None:
    pass


# Without a limit, the tolerance "half" applies: what rounding to 16 bits may do. `prompts` names a file of our own with
# eight prompts, which is quicker.
@pytest.mark.pot_identity(candidate="smollm2:bf16", prompts="prompts.jsonl")
def test_rounding_to_bf16_keeps_the_model() -> None:
    pass


# The opposite question: fail unless the models differ. A benchmark would hardly notice that 5 % of the weights are gone.
@pytest.mark.pot_distinct(candidate="smollm2:pruned", prompts="prompts.jsonl")
def test_pruning_is_noticed() -> None:
    pass


@pytest.mark.pot_distinct(candidate="smollm2:noise", prompts="prompts.jsonl")
def test_noise_is_noticed() -> None:
    pass


# Markers compose: a foreign model is told apart by far more than any tolerance, whichever way the tail is handled.
@pytest.mark.pot_distinct(candidate="smollm2:foreign", prompts="prompts.jsonl", tolerance="int4")
@pytest.mark.pot_distinct(candidate="smollm2:foreign", prompts="prompts.jsonl", preset="fastest", min_score=0.3)
def test_a_foreign_model_is_noticed() -> None:
    pass


# Eight bits are coarser than sixteen: outside the tolerance "half" (see test_failing_gates.py), within "int8".
@pytest.mark.pot_identity(candidate="smollm2:int8", prompts="prompts.jsonl", tolerance="int8")
def test_int8_is_as_good_as_int8_should_be() -> None:
    pass


# The body can look closer. The fixture pot_result holds the verdict and the whole report.
@pytest.mark.pot_identity(candidate="smollm2:int8", prompts="prompts.jsonl", max_score=0.08)
def test_int8_rarely_changes_the_first_choice(pot_result: PotResult) -> None:
    assert pot_result.report.metrics["top1_flip"] < 0.15
    for position in pot_result.report.worst(3):
        print(f"{position.context!r} -> {position.token!r}: {position.reference_probability:.0%}", end=" ")
        print(f"became {position.candidate_probability:.0%}")  # shown by pytest -s
