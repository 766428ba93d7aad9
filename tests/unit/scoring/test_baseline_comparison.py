"""Two recordings are compared on the ids that both have, as a lower bound, without any model."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from pytest_pot import Baseline, PotError, Prompt, ScoringConfig, TeacherForcedScorer
from pytest_pot.core.names import METRICS
from pytest_pot.scoring.baseline_comparison import compare

from .. import oracle
from ..models import Pair, changed, tiny


@pytest.fixture(scope="module")
def pair() -> Pair:
    return tiny(), changed(tiny(), 0.3)


def record(
    model: PreTrainedModel,
    prompts: list[Prompt],
    tokenizer: PreTrainedTokenizerFast,
    top_k: int | None = 10,
    **fields: Any,
) -> Baseline:
    return TeacherForcedScorer(ScoringConfig(top_k=top_k, **fields)).record(model, prompts, tokenizer)


@pytest.mark.parametrize("top_k", [1, 10, 60, None])
def test_a_recording_scores_zero_against_itself(
    pair: Pair, prompts: list[Prompt], tokenizer: PreTrainedTokenizerFast, top_k: int | None
) -> None:
    baseline = record(pair[0], prompts, tokenizer, top_k)
    overlap = compare(baseline, baseline)
    assert overlap.metrics == dict.fromkeys(METRICS, 0.0)
    assert (overlap.n_prompts, overlap.n_positions) == (8, baseline.n_positions)
    mass = TeacherForcedScorer(baseline.config).score_baseline(baseline, pair[0], tokenizer).tail_mass
    assert overlap.unseen == pytest.approx((mass, mass))


@pytest.mark.parametrize("kinds", [(10, 10), (10, 25), (25, 10), (1, 3), (10, None), (None, 10), (None, None)])
def test_recordings_are_compared_on_common_ids_and_one_cell_for_the_rest(
    pair: Pair, prompts: list[Prompt], tokenizer: PreTrainedTokenizerFast, kinds: tuple[int | None, int | None]
) -> None:
    """The expected figures come from sets of ids and from each model's full logits."""
    sides = [record(model, prompts, tokenizer, k) for model, k in zip(pair, kinds, strict=True)]
    overlap = compare(*sides)
    expected: dict[str, list[float]] = {name: [] for name in ("tv", "jsd", "kl", "kl_reverse", "unseen p", "unseen q")}
    for tokens in sides[0].tokens:
        rows = []
        for log_p, log_q in zip(*(oracle.full_log_probs(model, tokens) for model in pair), strict=True):
            known = [
                set(sorted(range(97), key=[-value for value in log].__getitem__)[: 97 if k is None else k])
                for log, k in ((log_p, kinds[0]), (log_q, kinds[1]))
            ]
            both = sorted(known[0] & known[1])
            p, q = ([math.exp(log[i]) for i in both] for log in (log_p, log_q))
            p.append(max(1 - sum(p), 1e-300))
            q.append(max(1 - sum(q), 1e-300))
            rows.append({**oracle.metrics(p, q), "unseen p": p[-1], "unseen q": q[-1]})
        for name, values in expected.items():
            values.append(float(np.mean([row[name] for row in rows])))
    for name in ("tv", "jsd", "kl", "kl_reverse"):
        assert overlap.metrics[name] == pytest.approx(np.mean(expected[name]), rel=1e-4, abs=2e-6), name
    assert overlap.unseen[0] == pytest.approx(np.mean(expected["unseen p"]), abs=1e-5)
    assert overlap.unseen[1] == pytest.approx(np.mean(expected["unseen q"]), abs=1e-5)


def test_the_comparison_is_a_lower_bound_and_exact_for_a_whole_vocabulary(
    pair: Pair, prompts: list[Prompt], tokenizer: PreTrainedTokenizerFast
) -> None:
    live = TeacherForcedScorer(ScoringConfig(top_k=10)).score_batch(*pair, prompts, tokenizer)
    reference = record(pair[0], prompts, tokenizer)
    part, whole = (compare(reference, record(pair[1], prompts, tokenizer, k)) for k in (10, None))
    for name in ("tv", "jsd", "kl", "kl_reverse"):
        assert 0 < part.metrics[name] < live.metrics[name]
    for name in METRICS:
        assert whole.metrics[name] == pytest.approx(live.metrics[name], rel=1e-9, abs=1e-15)
    assert part.metrics["delta_ce"] == pytest.approx(live.metrics["delta_ce"], rel=1e-12)
    assert part.metrics["top1_flip"] == live.metrics["top1_flip"] > 0


def test_swapping_the_recordings_swaps_their_figures(
    pair: Pair, prompts: list[Prompt], tokenizer: PreTrainedTokenizerFast
) -> None:
    a, b = (record(model, prompts, tokenizer, k) for model, k in zip(pair, (10, 25), strict=True))
    there, back = compare(a, b), compare(b, a)
    assert there.metrics["tv"] == pytest.approx(back.metrics["tv"], rel=1e-12)
    assert there.metrics["kl"] == pytest.approx(back.metrics["kl_reverse"], rel=1e-12)
    assert there.unseen == back.unseen[::-1]


def test_only_positions_with_the_same_tokens_before_them_are_compared(pair: Pair, tokenizer: PreTrainedTokenizerFast) -> None:
    here = [Prompt("One", " and two"), Prompt("Gone", " here"), Prompt("Three", " and four")]
    there = [Prompt("Three", " and five"), Prompt("One", " and two, three"), Prompt("New", " there")]
    overlap = compare(record(pair[0], here, tokenizer), record(pair[1], there, tokenizer))
    assert sorted(overlap.scores) == [0, 2]
    assert overlap.n_positions == len(" and two") + len(" and f")


def test_duplicate_prompts_are_matched_by_their_continuation(pair: Pair, tokenizer: PreTrainedTokenizerFast) -> None:
    twice = [Prompt("One", " and two"), Prompt("One", " or three")]
    overlap = compare(record(pair[0], twice, tokenizer), record(pair[0], twice, tokenizer))
    assert overlap.n_positions == len(" and two") + len(" or three")


def test_recordings_without_common_positions_are_an_error(pair: Pair, tokenizer: PreTrainedTokenizerFast) -> None:
    sides = record(pair[0], [Prompt("One", " two")], tokenizer), record(pair[1], [Prompt("Two", " three")], tokenizer)
    with pytest.raises(PotError, match="have no position with the same tokens before it"):
        compare(*sides)


def test_different_temperatures_are_an_error(pair: Pair, prompts: list[Prompt], tokenizer: PreTrainedTokenizerFast) -> None:
    sides = record(pair[0], prompts, tokenizer), record(pair[1], prompts, tokenizer, temperature=0.5)
    with pytest.raises(PotError, match=r"recorded at temperature 1\.0 and the recording at 0\.5"):
        compare(*sides)
