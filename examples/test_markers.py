"""The shortest gate: a marker on an empty test.

Before the body runs, pytest-pot gives the same texts to the reference (named in pytest.ini) and to the candidate (named in
the marker). It compares their predictions of the next token at every position, and fails the test if the score is outside
its limit. The body runs after the gate, and may be empty.

The default score is the total variation distance: the share of sampled tokens that would differ, from 0 (the same model) to 1
(nothing in common).
"""

import pytest

from pytest_pot import PotResult


# The same weights, loaded twice: the score is exactly 0, not just small, so the limit can be 0. The marker names no prompts,
# so the gate uses the 32 built-in ones.
@pytest.mark.pot_identity(candidate="smollm2:identical", max_score=0)
def test_an_untouched_copy_is_the_same_model() -> None:
    pass


# Without a limit, the gate uses the tolerance "half", which allows rounding to 16 bits. `prompts` names our own file; its
# eight prompts take less time than the built-in ones.
@pytest.mark.pot_identity(candidate="smollm2:bf16", prompts="prompts.jsonl")
def test_rounding_to_bf16_keeps_the_model() -> None:
    pass


# The opposite gate: fail unless the models differ. A benchmark would hardly notice that 5 % of the weights are zero.
@pytest.mark.pot_distinct(candidate="smollm2:pruned", prompts="prompts.jsonl")
def test_pruning_is_detected() -> None:
    pass


@pytest.mark.pot_distinct(candidate="smollm2:noise", prompts="prompts.jsonl")
def test_noise_is_detected() -> None:
    pass


# Markers combine: a foreign model scores far above every tolerance, both with a bucketed and with a renormalised tail.
@pytest.mark.pot_distinct(candidate="smollm2:foreign", prompts="prompts.jsonl", tolerance="int4")
@pytest.mark.pot_distinct(candidate="smollm2:foreign", prompts="prompts.jsonl", preset="fastest", min_score=0.3)
def test_a_foreign_model_is_detected() -> None:
    pass


# 8 bits are coarser than 16: int8 is outside the tolerance "half" (see test_failing_gates.py), but within "int8".
@pytest.mark.pot_identity(candidate="smollm2:int8", prompts="prompts.jsonl", tolerance="int8")
def test_int8_is_within_the_tolerance_for_int8() -> None:
    pass


# The body can check more: the fixture pot_result has the verdict and the whole report.
@pytest.mark.pot_identity(candidate="smollm2:int8", prompts="prompts.jsonl", max_score=0.08)
def test_int8_rarely_changes_the_likeliest_token(pot_result: PotResult) -> None:
    assert pot_result.report.metrics["top1_flip"] < 0.15
    for position in pot_result.report.worst(3):
        print(f"{position.context!r} -> {position.token!r}: {position.reference_probability:.0%}", end=" ")
        print(f"became {position.candidate_probability:.0%}")  # shown by pytest -s
