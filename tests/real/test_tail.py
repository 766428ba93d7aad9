"""The tail of a trained model on texts of every kind, against the largest at which a gate may pass."""

from __future__ import annotations

from collections import defaultdict
from statistics import fmean

import pytest

from pytest_pot import ScoringConfig, TeacherForcedScorer
from pytest_pot.gates.verdict.limits import DEFAULT_MAX_TAIL
from pytest_pot.prompts.builtin import builtin_prompts

from .conftest import ModelAndTokenizer

pytestmark = pytest.mark.real


@pytest.mark.parametrize("preset", ["balanced", pytest.param("fastest", marks=pytest.mark.slow)])
def test_no_kind_of_text_has_a_tail_that_refuses_a_gate(reference: ModelAndTokenizer, preset: str) -> None:
    """A gate on prompts of one kind alone must not be refused: a bound with too little room would stop honest users."""
    model, tokenizer = reference
    config = ScoringConfig.preset(preset, batch_size="auto")
    baseline = TeacherForcedScorer(config).record(model, builtin_prompts(33), tokenizer)
    tails = iter(baseline.recorded.top_k(1.0, baseline.vocab_size).tail_mass.tolist())
    kinds = defaultdict(list)
    for prompt, tokens in zip(baseline.prompts, baseline.tokens, strict=True):
        kinds[prompt.kind].append(fmean(next(tails) for _ in tokens.targets))
    means = {kind: fmean(values) for kind, values in kinds.items()}
    assert len(means) >= 8
    assert max(means.values()) < 0.8 * DEFAULT_MAX_TAIL, means
    assert min(means.values()) > 0.01, means  # these are tails, not zeros
