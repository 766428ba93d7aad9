"""A model that tells only its own likeliest ids is compared on the ids that both know, and one cell for all others."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from pytest_pot import Baseline, PotError, Prompt, ScoreReport, ScoringConfig, TeacherForcedScorer
from pytest_pot.core.names import METRICS
from pytest_pot.engines.base import Engine, GivenIds, Level, level_of
from pytest_pot.engines.distributions import Floats, TopK
from pytest_pot.engines.registry import opened
from pytest_pot.engines.tensors import as_distributions
from pytest_pot.engines.tokens import Tokens
from pytest_pot.gates.verdict.evidence import refuse_unseen
from pytest_pot.gates.verdict.limits import identity_limits
from pytest_pot.gates.verdict.settings import ScoreSettings
from pytest_pot.scoring.metrics import divergences
from pytest_pot.scoring.own_top_k import on_common_cells

from .. import oracle
from ..models import VOCAB, Pair, changed, tiny

LOWER_BOUNDS = ("tv", "jsd", "kl", "kl_reverse")


class OwnTopK:
    """What ``engine`` says, reduced to its own likeliest ids, at most ``most`` of them; the tail is 1 - sum, as of a server."""

    max_positions = None

    def __init__(self, engine: Engine, most: int) -> None:
        self._engine, self._most = engine, most
        self.asked: list[int | None] = []

    @property
    def label(self) -> str:
        return f"served {self._engine.label}"

    @property
    def to_tell_more(self) -> str:
        return "restart the server with --max-logprobs 100"

    def top_k(self, batch: Sequence[Tokens], k: int | None) -> TopK:
        self.asked.append(k)
        k = min(VOCAB if k is None else k, self._most)
        top = self._engine.top_k(batch, None)
        ids = np.argsort(-top.log_probs, axis=1, kind="stable")[:, :k]
        log_probs = np.take_along_axis(top.log_probs, ids, axis=1)
        tail = np.log(np.maximum(1 - np.exp(log_probs).sum(axis=1), 2.0**-24))
        return replace(top, ids=ids, log_probs=log_probs, log_tail=None if k == VOCAB else tail)

    def sample(self, contexts: Sequence[Sequence[int]], n_tokens: int, seed: int) -> list[list[int]]:
        return self._engine.sample(contexts, n_tokens, seed)


@contextmanager
def own(model: PreTrainedModel, most: int) -> Iterator[OwnTopK]:
    with opened(model, "candidate", ScoringConfig(top_k=None)) as engine:
        yield OwnTopK(engine, most)


def score(
    pair: Pair, prompts: list[Prompt], tokenizer: PreTrainedTokenizerFast, most: tuple[int | None, int | None], **fields: Any
) -> ScoreReport:
    """``most``: the ids that reference and candidate tell; None: all that is asked for."""
    scorer = TeacherForcedScorer(ScoringConfig(**{"top_k": 10, **fields}))
    with own(pair[0], most[0] or 0) as reference, own(pair[1], most[1] or 0) as candidate:
        first, second = (
            model if n is None else engine for model, engine, n in zip(pair, (reference, candidate), most, strict=True)
        )
        return scorer.score_batch(first, second, prompts, tokenizer)


@pytest.fixture(scope="module")
def pair() -> Pair:
    return tiny(), changed(tiny(), 0.3)


def test_the_level_follows_from_what_an_engine_can_do(pair: Pair) -> None:
    with opened(pair[0], "reference", ScoringConfig()) as engine:
        assert isinstance(engine, GivenIds)
        assert level_of(engine) is Level.GIVEN_IDS
        assert level_of(OwnTopK(engine, 5)) is Level.OWN_TOP_K


@pytest.mark.parametrize("most", [(None, 5), (None, 40), (None, VOCAB), (7, 20), (7, None), (20, 7), (VOCAB, 12)])
def test_the_figures_are_those_of_the_ids_that_both_know(
    pair: Pair, prompts: list[Prompt], tokenizer: PreTrainedTokenizerFast, most: tuple[int | None, int | None]
) -> None:
    """The expected figures come from sets of ids and from each model's full logits."""
    report = score(pair, prompts, tokenizer, most)
    for tokens, prompt_number in zip(report.tokens, range(len(report.tokens)), strict=True):
        rows = zip(*(oracle.full_log_probs(model, tokens) for model in pair), strict=True)
        for position, (target, (log_p, log_q)) in enumerate(zip(tokens.targets, rows, strict=True)):
            order = [sorted(range(VOCAB), key=[-value for value in log].__getitem__) for log in (log_p, log_q)]
            n_reference = 10 if most[0] is None else min(10, most[0])
            listed = set(order[0][:n_reference])
            if most[1] is not None:
                listed = (listed | {target}) & (set(order[1][: min(20, most[1])]) | {target})
            p, q = ([math.exp(log[i]) for i in sorted(listed)] for log in (log_p, log_q))
            p.append(max(1 - sum(p), 1e-300))
            q.append(max(1 - sum(q), 1e-300))
            expected = {
                **oracle.metrics(p, q),
                "delta_ce": oracle.delta_ce(log_p, log_q, target),
                "top1_flip": oracle.top1_flip(log_p, log_q),
            }
            for name in METRICS:
                value = report.divergences[name][prompt_number][position]
                assert value == pytest.approx(expected[name], rel=1e-4, abs=3e-6), name
            if most[1] is not None:
                unseen = [side[position] for side in report.unseens[prompt_number]]
                assert unseen == pytest.approx([p[-1], q[-1]], abs=3e-6)


def test_every_figure_is_a_lower_bound_and_exact_for_the_whole_vocabulary(
    pair: Pair, prompts: list[Prompt], tokenizer: PreTrainedTokenizerFast
) -> None:
    exact = TeacherForcedScorer(ScoringConfig(top_k=None)).score_batch(*pair, prompts, tokenizer)
    previous = dict.fromkeys(LOWER_BOUNDS, 0.0)
    for k in (1, 2, 5, 20, 60, VOCAB):
        report = score(pair, prompts, tokenizer, (None, k), top_k=k)
        for name in LOWER_BOUNDS:
            for values, most in zip(report.divergences[name], exact.divergences[name], strict=True):
                assert (values <= most + 1e-6).all()
            assert report.metrics[name] >= previous[name] - 1e-6  # more ids never lower the figure of these models
            previous[name] = report.metrics[name]
    for name in METRICS:
        assert report.metrics[name] == pytest.approx(exact.metrics[name], rel=1e-6, abs=1e-9)


@st.composite
def two_distributions(draw: st.DrawFn) -> tuple[Floats, Floats, int, int, int]:
    """Log-probabilities [vocab] of two models, how many ids each tells, and a target."""
    size = draw(st.integers(2, 12))
    logits = st.lists(st.floats(-30, 30), min_size=size, max_size=size)
    p, q = (oracle.log_softmax_rows([draw(logits)])[0] for _ in range(2))
    return p, q, draw(st.integers(1, size)), draw(st.integers(1, size)), draw(st.integers(0, size - 1))


def told(log_probs: Floats, k: int, target: int, *, in_order: bool = False) -> TopK:
    """``in_order``: a whole vocabulary without ids."""
    ids = np.argsort(-log_probs, kind="stable")[None, :k]
    rest = np.delete(log_probs, ids[0])
    top = TopK(
        ids=ids,
        log_probs=log_probs[ids],
        log_tail=np.log([np.exp(rest).sum()]) if len(rest) else None,
        targets=log_probs[[target]],
        top_ids=ids[:, 0],
        top_log_probs=log_probs[ids[:, 0]],
        clear=np.array([True]),
        log_normalisers=np.zeros(1),
        vocab_size=len(log_probs),
    )
    return top.in_order() if in_order and not len(rest) else top


@settings(max_examples=300)
@given(two_distributions(), st.booleans())
def test_bounds_and_symmetry_over_generated_distributions(drawn: tuple[Floats, Floats, int, int, int], in_order: bool) -> None:
    log_p, log_q, m, n, target = drawn
    cpu = torch.device("cpu")
    p, q = (as_distributions(told(log, k, target, in_order=in_order), cpu) for log, k in ((log_p, m), (log_q, n)))
    targets = np.array([target])
    forward = dict(zip(METRICS, divergences(*on_common_cells(p, q, targets, cpu), "bucket")[:, 0].tolist(), strict=True))
    backward = dict(zip(METRICS, divergences(*on_common_cells(q, p, targets, cpu), "bucket")[:, 0].tolist(), strict=True))
    exact = oracle.metrics(np.exp(log_p).tolist(), np.exp(log_q).tolist())
    for name in LOWER_BOUNDS:
        assert forward[name] <= exact[name] * (1 + 1e-6) + 1e-9, name
    assert forward["tv"] == pytest.approx(backward["tv"], rel=1e-9, abs=1e-12)
    assert forward["kl"] == pytest.approx(backward["kl_reverse"], rel=1e-6, abs=1e-9)
    again = as_distributions(told(log_p, n, target, in_order=in_order), cpu)
    same = divergences(*on_common_cells(p, again, targets, cpu), "bucket")
    assert same.abs().max() == 0.0


def test_a_candidate_is_asked_for_twice_as_many_ids(
    pair: Pair, prompts: list[Prompt], tokenizer: PreTrainedTokenizerFast
) -> None:
    with own(pair[1], VOCAB) as candidate:
        TeacherForcedScorer(ScoringConfig(top_k=10)).score_batch(pair[0], candidate, prompts, tokenizer)
        assert set(candidate.asked) == {20}
        TeacherForcedScorer(ScoringConfig(top_k=60)).score_batch(pair[0], candidate, prompts, tokenizer)
        assert candidate.asked[-1] == VOCAB
        TeacherForcedScorer(ScoringConfig(top_k=VOCAB)).score_batch(pair[0], candidate, prompts, tokenizer)
        assert candidate.asked[-1] is None


@pytest.mark.parametrize("most", [7, 10, 40, VOCAB])
def test_a_model_is_at_distance_zero_from_its_own_recording(
    tmp_path: Path, prompts: list[Prompt], tokenizer: PreTrainedTokenizerFast, most: int
) -> None:
    scorer = TeacherForcedScorer(ScoringConfig(top_k=10))
    with own(tiny(), most) as engine:
        path = scorer.record(engine, prompts, tokenizer).save(tmp_path / "own.pot.safetensors")
        baseline = Baseline.load(path)
        assert baseline.recorded.values.shape[1] == min(most, 10)
        report = scorer.score_baseline(baseline, engine, tokenizer)
    assert report.metrics == dict.fromkeys(METRICS, 0.0)
    assert report.n_ids == min(most, 10)
    given_ids = scorer.score_baseline(baseline, tiny(), tokenizer)  # the tail was 1 - sum, and is summed here
    assert given_ids.mean < 1e-6
    assert given_ids.unseen is None
    assert given_ids.n_ids == min(most, 10)


def test_live_and_recorded_references_give_the_same_figures(
    pair: Pair, prompts: list[Prompt], tokenizer: PreTrainedTokenizerFast
) -> None:
    scorer = TeacherForcedScorer(ScoringConfig(top_k=10))
    baseline = scorer.record(pair[0], prompts, tokenizer)
    with own(pair[1], 15) as candidate:
        recorded = scorer.score_baseline(baseline, candidate, tokenizer)
        live = scorer.score_batch(pair[0], candidate, prompts, tokenizer)
    assert live.metrics == recorded.metrics
    assert live.unseen == recorded.unseen
    assert live.tail_mass == recorded.tail_mass
    assert live.to_dict()["unseen"] == dict(zip(("reference", "candidate"), live.unseen or (), strict=True))


def settings_of(max_tail: float) -> ScoreSettings:
    limits = identity_limits("tv", max_score=0.01)
    return ScoreSettings(gate="pot_identity", preset="auto", config=ScoringConfig(), limits=limits, max_tail=max_tail)


def test_too_much_that_is_unseen_is_refused_with_what_to_raise(
    prompts: list[Prompt], tokenizer: PreTrainedTokenizerFast
) -> None:
    model = tiny("llama")
    with torch.no_grad():
        model.lm_head.weight.mul_(6.0)  # as decided as a trained model
    report = score((model, model), prompts, tokenizer, (None, 20))
    assert report.unseen is not None
    assert 0 < report.unseen[0] <= report.tail_mass < 0.25  # the continuation's token is known, wherever it ranks
    refuse_unseen(report, settings_of(0.25))
    few = score((model, model), prompts, tokenizer, (None, 2))
    assert few.unseen is not None
    assert few.unseen[0] > 2 * few.tail_mass
    message = (
        rf"tells only its own likeliest tokens\. Of the reference's 10 likeliest tokens, those that it does not tell leave "
        rf"{100 * few.unseen[0]:.2f}% of .* more than twice the {100 * few.tail_mass:.2f}% .* "
        "To compare more, restart the server with --max-logprobs 100"
    )
    with pytest.raises(PotError, match=message):
        refuse_unseen(few, settings_of(1.0))
    with pytest.raises(PotError, match=rf"{100 * report.unseen[0]:.2f}% of .* unseen, and at most 1.0% may be \(max_tail\)"):
        refuse_unseen(report, settings_of(0.01))


@pytest.mark.parametrize("role", ["reference", "candidate"])
def test_the_whole_vocabulary_is_refused_where_it_is_not_told(
    pair: Pair, prompts: list[Prompt], tokenizer: PreTrainedTokenizerFast, role: str
) -> None:
    scorer = TeacherForcedScorer(ScoringConfig(top_k=None))
    message = rf"the {role}, served .*, tells only its 12 likeliest ids .* --max-logprobs 100"
    with own(pair[0], 12) as engine, pytest.raises(PotError, match=message):
        scorer.record(engine, prompts, tokenizer) if role == "reference" else scorer.score_batch(
            pair[0], engine, prompts, tokenizer
        )


def test_renormalising_needs_a_candidate_that_knows_given_ids(
    pair: Pair, prompts: list[Prompt], tokenizer: PreTrainedTokenizerFast
) -> None:
    with pytest.raises(PotError, match=r"tail='renormalise' .* tells only its own likeliest ones"):
        score(pair, prompts, tokenizer, (None, 20), tail="renormalise")
    assert score(pair, prompts, tokenizer, (20, None), tail="renormalise").mean > 0


def test_a_candidate_of_another_vocabulary_is_refused(
    pair: Pair, prompts: list[Prompt], tokenizer: PreTrainedTokenizerFast
) -> None:
    class Larger(OwnTopK):
        def top_k(self, batch: Sequence[Tokens], k: int | None) -> TopK:
            top = super().top_k(batch, k)
            assert top.ids is not None
            return replace(top, ids=top.ids + 1000, top_ids=top.top_ids + 1000, vocab_size=2000)

    with (
        opened(pair[1], "candidate", ScoringConfig(top_k=None)) as engine,
        pytest.raises(PotError, match=r"has the id 10\d\d, but the reference's vocabulary has only 97 tokens"),
    ):
        TeacherForcedScorer(ScoringConfig(top_k=10)).score_batch(pair[0], Larger(engine, 20), prompts, tokenizer)


@pytest.mark.parametrize("noise", [0.0, 1e-3])
def test_the_noise_floor_is_that_of_the_engine(prompts: list[Prompt], tokenizer: PreTrainedTokenizerFast, noise: float) -> None:
    """A server that answers differently while other requests run."""

    class Noisy(OwnTopK):
        def top_k(self, batch: Sequence[Tokens], k: int | None) -> TopK:
            top = super().top_k(batch, k)
            return top if len(batch) == 1 else replace(top, log_probs=top.log_probs + np.log1p(-noise))

    with opened(tiny(), "candidate", ScoringConfig(top_k=None)) as engine:
        scorer = TeacherForcedScorer(ScoringConfig(top_k=VOCAB - 1, batch_size=4))
        floor = scorer.noise_floor(Noisy(engine, VOCAB - 1), prompts, tokenizer)
    assert floor is not None
    assert floor == pytest.approx(noise / 2, rel=0.1, abs=1e-6)  # nearly all of the probability is listed
