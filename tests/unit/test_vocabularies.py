"""Models whose vocabularies differ in size, and ids that do not exist."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pytest_pot import PotError, ScoringConfig, TeacherForcedScorer

from . import oracle
from .conftest import make_tokenizer
from .models import VOCAB, changed, tiny


def padded(model, by, logit):
    """``model`` with ``by`` more ids, all of the same logit: what padding to a multiple of 64 leaves in a checkpoint."""

    class Padded(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, ids, attention_mask=None):
            logits = self.model(ids, attention_mask=attention_mask).logits
            return torch.cat([logits, torch.full((*logits.shape[:2], by), logit)], dim=-1)

    return Padded()


def exact(reference, candidate, report, metric):
    """The oracle over the union of both vocabularies, with probability 0 where an id does not exist."""
    found = []
    for tokens in report.tokens:
        for log_p, log_q in zip(*(oracle.full_log_probs(m, tokens) for m in (reference, candidate)), strict=True):
            size = max(len(log_p), len(log_q))
            p, q = (np.pad(np.exp(row), (0, size - len(row))) for row in (log_p, log_q))
            found.append(oracle.tv(p.tolist(), q.tolist()) if metric == "tv" else oracle.jsd(p.tolist(), q.tolist()))
    return np.array(found)


@pytest.mark.parametrize("top_k", [20, VOCAB, None])
@pytest.mark.parametrize("larger", ["reference", "candidate"])
def test_a_padded_vocabulary_is_compared_over_the_whole_of_both(prompts, tokenizer, top_k, larger):
    reference, candidate = tiny(), changed(tiny())
    if larger == "reference":
        reference = padded(reference, 7, -3.0)
    else:
        candidate = padded(candidate, 7, -3.0)
    report = TeacherForcedScorer(ScoringConfig(top_k=top_k)).score_batch(reference, candidate, prompts, tokenizer)
    for metric in ("tv", "jsd"):
        truth = exact(reference, candidate, report, metric)
        found = np.concatenate(report.divergences[metric])
        assert (found <= truth + 1e-6).all()
        if top_k != 20:
            # Bounds stay bounds; what is merged with the last id that both have costs next to nothing.
            np.testing.assert_allclose(found, truth, atol=0.02)
    assert all(np.isfinite(list(report.metrics.values())))


def test_impossible_padding_changes_nothing(prompts, tokenizer):
    model = tiny()
    for top_k in (20, None):
        report = TeacherForcedScorer(ScoringConfig(top_k=top_k)).score_batch(model, padded(model, 31, -1e4), prompts, tokenizer)
        assert report.mean == pytest.approx(0, abs=1e-12)


def test_likely_ids_that_the_candidate_lacks_are_an_error(prompts, tokenizer):
    reference = padded(tiny(), 7, 30.0)
    with pytest.raises(PotError, match=rf"the candidate's vocabulary has {VOCAB} tokens, but .* include id 10\d") as caught:
        TeacherForcedScorer(ScoringConfig(top_k=20)).score_batch(reference, tiny(), prompts, tokenizer)
    assert "every id that is used must exist in both" in str(caught.value)


@pytest.mark.parametrize("role", ["reference", "candidate"])
def test_tokens_outside_a_models_vocabulary_are_an_error(prompts, role):
    models = {"reference": tiny(), "candidate": tiny()}
    models[role] = tiny(vocab_size=60)
    with pytest.raises(PotError, match=rf"the tokenizer gives id \d+, but the {role}'s vocabulary has only 60 tokens"):
        TeacherForcedScorer().score_batch(models["reference"], models["candidate"], prompts, make_tokenizer())
