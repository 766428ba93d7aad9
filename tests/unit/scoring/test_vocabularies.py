"""Models whose vocabularies differ in size, and ids that do not exist."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import PreTrainedTokenizerFast

from pytest_pot import PotError, Prompt, ScoreReport, ScoringConfig, TeacherForcedScorer
from pytest_pot.engines.distributions import Floats

from .. import oracle
from ..conftest import make_tokenizer
from ..models import VOCAB, changed, tiny


def padded(model: torch.nn.Module, by: int, logit: float) -> torch.nn.Module:
    """``model`` with ``by`` more ids of the same logit, as in a checkpoint that is padded to a multiple of 64."""

    class Padded(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, ids: torch.Tensor, attention_mask: torch.Tensor | None = None) -> torch.Tensor:
            logits = self.model(ids, attention_mask=attention_mask).logits
            return torch.cat([logits, torch.full((*logits.shape[:2], by), logit)], dim=-1)

    return Padded()


class Fixed(torch.nn.Module):
    """The same distribution after every token."""

    def __init__(self, *probabilities: float) -> None:
        super().__init__()
        self.logits = torch.log(torch.tensor(probabilities, dtype=torch.float64))

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.logits.expand(*ids.shape, -1)


def with_last(last: float, *padding: float) -> Fixed:
    """VOCAB ids, the last one with the probability ``last``, and padding ids with the given probabilities."""
    rest = (1.0 - last - sum(padding)) / (VOCAB - 1)
    return Fixed(*[rest] * (VOCAB - 1), last, *padding)


def exact(reference: torch.nn.Module, candidate: torch.nn.Module, report: ScoreReport, metric: str) -> Floats:
    """The oracle's metric over the union of both vocabularies, with probability 0 for missing ids."""
    values = []
    for tokens in report.tokens:
        rows = zip(*(oracle.full_log_probs(m, tokens) for m in (reference, candidate)), strict=True)
        for target, (log_p, log_q) in zip(tokens.targets, rows, strict=True):
            size = max(len(log_p), len(log_q))
            p, q = (np.pad(np.exp(row), (0, size - len(row))).tolist() for row in (log_p, log_q))
            if metric == "delta_ce":
                values.append(oracle.delta_ce(log_p, log_q, target))
            elif metric == "kl_reverse":
                values.append(oracle.kl(q, p))
            else:
                values.append(getattr(oracle, metric)(p, q))
    return np.array(values)


EXACT = {"reference": ("tv", "jsd", "kl_reverse", "delta_ce"), "candidate": ("tv", "jsd", "kl", "delta_ce")}
"""The metrics that are finite if that model has the larger vocabulary. An id that p has and q lacks makes kl infinite."""


@pytest.mark.parametrize("top_k", [20, VOCAB, VOCAB + 7, None])
@pytest.mark.parametrize("larger", ["reference", "candidate"])
def test_a_padded_vocabulary_is_compared_over_both_whole_vocabularies(
    prompts: list[Prompt], tokenizer: PreTrainedTokenizerFast, top_k: int | None, larger: str
) -> None:
    reference: torch.nn.Module = tiny()
    candidate: torch.nn.Module = changed(tiny())
    if larger == "reference":
        reference = padded(reference, 7, -3.0)
    else:
        candidate = padded(candidate, 7, -3.0)
    report = TeacherForcedScorer(ScoringConfig(top_k=top_k)).score_batch(reference, candidate, prompts, tokenizer)
    for metric in EXACT[larger]:
        truth = exact(reference, candidate, report, metric)
        divergences = np.concatenate(report.divergences[metric])
        assert (divergences <= truth + 1e-6).all()
        if top_k != 20:
            np.testing.assert_allclose(divergences, truth, atol=1e-6, rtol=1e-5)
    assert all(np.isfinite(list(report.metrics.values())))


@pytest.mark.parametrize("preset", ["accurate", "original"])
@pytest.mark.parametrize("larger", ["reference", "candidate"])
def test_probability_that_moves_from_the_last_shared_id_to_padding_is_scored(
    prompts: list[Prompt], tokenizer: PreTrainedTokenizerFast, larger: str, preset: str
) -> None:
    """Even if top_k is at least the vocabulary size, so that all ids are compared."""
    small, large = with_last(0.6), with_last(0.1, 0.3, 0.2)
    pair = (large, small) if larger == "reference" else (small, large)
    for overrides in ({}, {"top_k": VOCAB + 2}, {"top_k": 5000}):
        config = ScoringConfig.preset(preset, **overrides)
        report = TeacherForcedScorer(config).score_batch(*pair, prompts, tokenizer)
        assert report.metrics["tv"] == pytest.approx(0.5, abs=1e-12)
        for metric in ("tv", "jsd", *EXACT[larger][2:]):
            truth = exact(*pair, report, metric)
            np.testing.assert_allclose(np.concatenate(report.divergences[metric]), truth, rtol=1e-9)


@pytest.mark.parametrize(("larger", "infinite"), [("reference", "kl"), ("candidate", "kl_reverse")])
def test_an_infinite_divergence_is_a_large_finite_figure(
    prompts: list[Prompt], tokenizer: PreTrainedTokenizerFast, larger: str, infinite: str
) -> None:
    small, large = with_last(0.6), with_last(0.1, 0.3, 0.2)
    pair = (large, small) if larger == "reference" else (small, large)
    report = TeacherForcedScorer(ScoringConfig(top_k=None)).score_batch(*pair, prompts, tokenizer)
    assert 300 < report.metrics[infinite] < 400  # 0.5 of the mass, at about 750 nats


@pytest.mark.parametrize("larger", ["reference", "candidate"])
def test_comparing_more_ids_never_lowers_a_divergence(
    prompts: list[Prompt], tokenizer: PreTrainedTokenizerFast, larger: str
) -> None:
    small, large = changed(tiny()), padded(tiny(), 31, -30.0)
    pair = (large, small) if larger == "reference" else (small, large)
    below = dict.fromkeys(("tv", "jsd", "kl", "kl_reverse"), 0.0)
    for k in (1, 5, 20, 60, VOCAB - 1, VOCAB, VOCAB + 31, None):
        report = TeacherForcedScorer(ScoringConfig(top_k=k)).score_batch(pair[0], pair[1], prompts, tokenizer)
        for metric in below:
            assert report.metrics[metric] >= below[metric] - 1e-12, (metric, k)
            below[metric] = report.metrics[metric]


@pytest.mark.parametrize("larger", ["reference", "candidate"])
def test_renormalising_covers_all_ids_that_both_have(
    prompts: list[Prompt], tokenizer: PreTrainedTokenizerFast, larger: str
) -> None:
    """The last shared id counts like any other."""
    small, large = with_last(0.6), with_last(0.1, 0.3, 0.2)
    pair = (large, small) if larger == "reference" else (small, large)
    report = TeacherForcedScorer(ScoringConfig(top_k=None, tail="renormalise")).score_batch(*pair, prompts, tokenizer)
    assert report.metrics["tv"] == pytest.approx(0.6 - 0.1 / 0.5, abs=1e-12)


def test_the_tail_is_the_probability_of_ids_that_the_candidate_lacks(
    prompts: list[Prompt], tokenizer: PreTrainedTokenizerFast
) -> None:
    small, large = with_last(0.6), with_last(0.1, 0.3, 0.2)
    for reference, candidate, expected in ((small, small, 0.0), (small, large, 0.0), (large, large, 0.0), (large, small, 0.5)):
        report = TeacherForcedScorer(ScoringConfig(top_k=None)).score_batch(reference, candidate, prompts, tokenizer)
        assert report.tail_mass == (pytest.approx(expected) if expected else 0.0)


def test_all_of_a_candidates_ids_may_be_compared(prompts: list[Prompt], tokenizer: PreTrainedTokenizerFast) -> None:
    """The reference's likeliest ids are exactly the candidate's ids, and its tail is the padding."""
    reference, candidate = padded(tiny(), 7, -1e3), changed(tiny())
    report = TeacherForcedScorer(ScoringConfig(top_k=VOCAB)).score_batch(reference, candidate, prompts, tokenizer)
    np.testing.assert_allclose(np.concatenate(report.divergences["tv"]), exact(reference, candidate, report, "tv"), atol=1e-6)


def test_padding_of_probability_zero_changes_nothing(prompts: list[Prompt], tokenizer: PreTrainedTokenizerFast) -> None:
    model = tiny()
    for top_k in (20, None):
        report = TeacherForcedScorer(ScoringConfig(top_k=top_k)).score_batch(model, padded(model, 31, -1e4), prompts, tokenizer)
        assert report.mean == pytest.approx(0, abs=1e-7)  # products with more rows may round differently


def test_likely_ids_that_the_candidate_lacks_are_an_error(prompts: list[Prompt], tokenizer: PreTrainedTokenizerFast) -> None:
    reference = padded(tiny(), 7, 30.0)
    with pytest.raises(PotError, match=rf"the candidate's vocabulary has {VOCAB} tokens, but .* include id 10\d") as error:
        TeacherForcedScorer(ScoringConfig(top_k=20)).score_batch(reference, tiny(), prompts, tokenizer)
    assert "every id that is used must exist in both" in str(error.value)


@pytest.mark.parametrize("role", ["reference", "candidate"])
def test_tokens_outside_a_models_vocabulary_are_an_error(prompts: list[Prompt], role: str) -> None:
    models = {"reference": tiny(), "candidate": tiny()}
    models[role] = tiny(vocab_size=60)
    with pytest.raises(PotError, match=rf"the tokenizer gives id \d+, but the {role}'s vocabulary has only 60 tokens"):
        TeacherForcedScorer().score_batch(models["reference"], models["candidate"], prompts, make_tokenizer())


class Plain(torch.nn.Module):
    """A module that does not tell which of its embeddings reads the tokens; its head has all of the tokenizer's ids."""

    def __init__(self, n_ids: int = VOCAB, n_positions: int = 128, transposed: bool = False) -> None:
        super().__init__()
        self.ids, self.positions = torch.nn.Embedding(n_ids, 8), torch.nn.Embedding(n_positions, 8)
        self.types = torch.nn.Embedding(2, 8)
        self.head = torch.nn.Linear(8, VOCAB)
        self.transposed = transposed

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        places = torch.arange(ids.shape[1])
        read = self.ids(input=ids.T).transpose(0, 1) if self.transposed else self.ids(ids)
        logits: torch.Tensor = self.head(read + self.positions(places) + self.types(torch.zeros_like(ids)))
        return logits


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("role", ["reference", "candidate"])
@pytest.mark.parametrize("bare", [False, True])
def test_tokens_outside_a_plain_modules_vocabulary_are_an_error(
    prompts: list[Prompt], tokenizer: PreTrainedTokenizerFast, role: str, transposed: bool, bare: bool
) -> None:
    models: dict[str, torch.nn.Module] = {"reference": tiny(), "candidate": Plain()}
    models[role] = Plain(n_ids=50, transposed=transposed)
    with pytest.raises(PotError, match=rf"the tokenizer gives id \d+, but the {role}'s vocabulary has only 50 tokens: the"):
        TeacherForcedScorer().score_batch(models["reference"], models["candidate"], ["The zoo"] if bare else prompts, tokenizer)
    assert not any(module._forward_pre_hooks for module in models[role].modules())


def test_a_plain_module_whose_vocabulary_is_large_enough_is_scored(
    prompts: list[Prompt], tokenizer: PreTrainedTokenizerFast
) -> None:
    """Its other embeddings have fewer rows than there are ids."""
    model = Plain(n_positions=64)
    assert TeacherForcedScorer().score_batch(model, model, prompts, tokenizer).mean == 0


def test_positions_beyond_a_plain_modules_embedding_are_an_error(
    prompts: list[Prompt], tokenizer: PreTrainedTokenizerFast
) -> None:
    with pytest.raises(PotError, match=r"the candidate looks up row \d+ of an embedding with 20 rows, .* Lower max_length"):
        TeacherForcedScorer().score_batch(tiny(), Plain(n_positions=20), prompts, tokenizer)


def test_out_of_range_lookups_without_an_embedding_module_are_an_error(
    prompts: list[Prompt], tokenizer: PreTrainedTokenizerFast
) -> None:
    class Table(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = torch.nn.Parameter(torch.zeros(50, VOCAB))

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.embedding(ids, self.table)

    with pytest.raises(
        PotError, match=r"the candidate looks up a row that does not exist \(index out of range in self\): it read"
    ):
        TeacherForcedScorer().score_batch(tiny(), Table(), prompts, tokenizer)
