"""Tests without a marker: the fixture pot_scorer scores models for your own assertions.

It returns a report without a verdict, and the test decides what to assert. The same class works outside pytest:
``from pytest_pot import ScoringConfig, TeacherForcedScorer``.
"""

import smollm2
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from pytest_pot import PRESETS, Prompt, ScoringConfig, TeacherForcedScorer

GREETING = [Prompt("Dear customer,\n\n", "Thank you for your order. We will send it as soon as we can.")]


def test_int8_is_a_smaller_change_than_pruning(
    pot_scorer: TeacherForcedScorer, pot_reference: PreTrainedModel, pot_tokenizer: PreTrainedTokenizerBase
) -> None:
    def score(candidate: smollm2.Pair) -> float:
        model, _ = candidate
        return pot_scorer.score_batch(pot_reference, model, GREETING, pot_tokenizer).mean

    assert 0 < score(smollm2.int8()) < score(smollm2.pruned())


def test_the_reference_continues_a_prompt_without_a_continuation(
    pot_reference: PreTrainedModel, pot_tokenizer: PreTrainedTokenizerBase
) -> None:
    scorer = TeacherForcedScorer(ScoringConfig.preset("auto", positions_per_prompt=8))
    report = scorer.score_batch(pot_reference, pot_reference, ["The three primary colours are"], pot_tokenizer)
    assert report.mean == 0
    assert len(report.tokens[0].targets) == 8  # sampled with a fixed seed, so always the same tokens


def test_a_model_scores_zero_against_itself_with_every_preset(
    pot_reference: PreTrainedModel, pot_tokenizer: PreTrainedTokenizerBase
) -> None:
    for preset in PRESETS:
        report = TeacherForcedScorer(ScoringConfig.preset(preset)).score_batch(
            pot_reference, pot_reference, GREETING, pot_tokenizer
        )
        assert report.metrics == dict.fromkeys(report.metrics, 0.0)
