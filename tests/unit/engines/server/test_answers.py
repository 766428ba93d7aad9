"""From rows to distributions, and every number that is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pytest_pot.engines.base import PositionError
from pytest_pot.engines.distributions import UNKNOWN_VOCAB, Floats
from pytest_pot.engines.server.answers import Row, top_k_of

from ....processor_time import least_s

VOCAB = 50


def distribution(seed: int, vocab: int = VOCAB, scale: float = 2.0) -> Floats:
    logits = np.random.default_rng(seed).normal(size=vocab) * scale
    log_probs: Floats = logits - np.log(np.exp(logits).sum())
    return log_probs


def row(seed: int = 0, k: int = 10, target: int = 3, vocab: int = VOCAB) -> Row:
    """The row of a truthful server, which writes float32."""
    log_probs = distribution(seed, vocab).astype(np.float32)
    ids = np.argsort(-log_probs, kind="stable")[:k]
    return Row(ids.tolist(), log_probs[ids].tolist(), float(log_probs[target]))


def with_numbers(changed: Row, **fields: Any) -> Row:
    return Row(**{"ids": changed.ids, "log_probs": changed.log_probs, "target": changed.target, **fields})


def changed(at: int, value: Any, field: str = "log_probs") -> Row:
    true = row()
    values = list(getattr(true, field))
    values[at] = value
    return with_numbers(true, **{field: values})


@pytest.mark.parametrize("k", [1, 10, 49])
def test_the_tail_is_what_the_ids_leave(k: int) -> None:
    rows = [row(seed, k) for seed in range(5)]
    top = top_k_of(rows, k, VOCAB)
    for index in range(5):
        truth = distribution(index)
        order = np.argsort(-truth)
        assert top.ids is not None
        assert top.log_tail is not None
        assert top.ids[index].tolist() == order[:k].tolist()
        np.testing.assert_allclose(top.log_probs[index], truth[order[:k]], atol=1e-6)
        np.testing.assert_allclose(np.exp(top.log_tail[index]), np.exp(truth[order[k:]]).sum(), atol=2e-7)
        assert top.top_ids[index] == order[0]
        assert top.targets[index] == pytest.approx(truth[3], abs=1e-6)
    assert top.vocab_size == VOCAB


def test_rows_in_any_order_with_the_token_that_came_as_one_more() -> None:
    true = row(k=10, target=int(np.argmin(distribution(0))))
    more = Row([3, *reversed(true.ids)], [-9.5, *reversed(true.log_probs)], -9.5)
    assert 3 not in true.ids
    top, expected = top_k_of([more, true], 10, VOCAB), top_k_of([true, true], 10, VOCAB)
    assert top.ids is not None
    assert expected.ids is not None
    np.testing.assert_array_equal(top.ids, expected.ids)
    np.testing.assert_array_equal(top.log_probs, expected.log_probs)


def test_the_whole_vocabulary_is_in_the_order_of_ids() -> None:
    top = top_k_of([row(k=VOCAB), row(1, k=VOCAB)], VOCAB, VOCAB)
    assert top.ids is None
    assert top.log_tail is None
    np.testing.assert_allclose(top.log_probs[1], distribution(1), atol=1e-6)


def test_a_tail_of_rounding_is_not_below_the_resolution_of_float32() -> None:
    top = top_k_of([Row([4, 2], [1e-7, -20.0], -20.0)], 2, UNKNOWN_VOCAB)
    assert top.log_tail is not None
    assert np.exp(top.log_tail[0]) == pytest.approx(2.0**-24)


def test_only_a_lead_that_no_precision_explains_is_clear() -> None:
    far, near = Row([1, 2], [-0.01, -5.0], -5.0), Row([1, 2], [-0.7, -0.8], -0.8)
    assert top_k_of([far, near], 2, VOCAB).clear.tolist() == [True, False]


REFUSED: dict[str, tuple[Row, str]] = {
    "null": (changed(4, None), "told no log-probability of one of its likeliest ids (null)"),
    "null target": (with_numbers(row(), target=None), "told no log-probability of the continuation's token (null)"),
    "text": (changed(4, "-1.5"), "told '-1.5' as the log-probability of one of its likeliest ids, which is no number"),
    "true": (changed(4, True), "told True as the log-probability"),
    "NaN": (changed(4, float("nan")), "told nan as the log-probability of one of its likeliest ids: look for an overflow"),
    "NaN target": (with_numbers(row(), target=float("nan")), "told nan as the log-probability of the continuation's token"),
    "infinity": (
        changed(0, float("inf")),
        "told inf as the log-probability of one of its likeliest ids, and",
    ),
    "minus infinity": (
        changed(9, float("-inf")),
        "told -inf as the log-probability of one of its likeliest ids, which stands",
    ),
    "clamped": (
        changed(9, -9999.0),
        "told -9999 as the log-probability of one of its likeliest ids, which stands",
    ),
    "clamped target": (
        with_numbers(row(), target=-9999.0),
        "told -9999 as the log-probability of the continuation's token",
    ),
    "lowest float32": (changed(9, -3.4028234663852886e38), "which stands for minus infinity"),
    "hundreds of digits": (changed(0, -(10**400)), "told -inf as the log-probability"),
    "positive": (
        changed(0, 0.5),
        "told 0.5 as the log-probability of one of its likeliest ids, and",
    ),
    "probabilities": (
        with_numbers(row(), log_probs=[float(np.exp(x)) for x in row().log_probs]),
        "these may be logits",
    ),
    "twice": (changed(4, row().ids[2], "ids"), f"told the id {row().ids[2]} twice"),
    "negative id": (changed(4, -1, "ids"), "told the id -1, which is outside the vocabulary of 50 tokens"),
    "outside": (changed(4, 50, "ids"), "told the id 50, which is outside the vocabulary of 50 tokens"),
    "large id": (changed(4, 1 << 70, "ids"), "told the id -1, which is outside"),
    "text id": (changed(4, "12", "ids"), "told '12' as the id of a token, which is no whole number"),
    "true id": (changed(4, True, "ids"), "told True as the id of a token, which is no whole number"),
    "fraction id": (changed(4, 12.0, "ids"), "told 12.0 as the id of a token, which is no whole number"),
    "fewer": (row(k=9), "told 9 of the 10 likeliest ids that it was asked for"),
    "none": (Row([], [], -1.0), "told 0 of the 10 likeliest ids that it was asked for"),
    "no pairs": (with_numbers(row(), ids=row().ids[:9]), "told 9 ids and 10 log-probabilities"),
    "not normalised": (with_numbers(row(), log_probs=[x + 0.5 for x in row().log_probs]), "told probabilities that sum to 1."),
    "a likelier target": (
        with_numbers(row(target=row().ids[0]), log_probs=[x - 0.5 for x in row().log_probs]),
        "not the likel",
    ),
    "the target left out": (
        Row([row().ids[0], *row(k=11).ids[2:]], [row().log_probs[0], *row(k=11).log_probs[2:]], row().log_probs[1]),
        "but none of theirs",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("before", [0, 2])
def test_what_no_model_can_have_said_is_refused_with_its_position(name: str, before: int) -> None:
    wrong, what = REFUSED[name]
    rows = [*[row(seed + 5) for seed in range(before)], wrong, row(9)]
    with pytest.raises(PositionError) as error:
        top_k_of(rows, 10, VOCAB, who="the candidate, at http://x,")
    assert str(error.value).startswith("the candidate, at http://x, told ")
    assert what in str(error.value)
    assert str(error.value).endswith(f", at position {before}")
    with pytest.raises(PositionError) as error:
        top_k_of(rows, 10, VOCAB, where=lambda index: (index // 2, index % 2))
    assert str(error.value).endswith(f", at prompt {before // 2} of its batch, position {before % 2}")


def test_a_whole_vocabulary_sums_to_one() -> None:
    lower = Row(range(VOCAB), [float(x) - 0.01 for x in distribution(0)], float(distribution(0)[3]) - 0.01)
    with pytest.raises(PositionError, match=r"told probabilities of the whole vocabulary that sum to 0\.990"):
        top_k_of([row(k=VOCAB), lower], VOCAB, VOCAB)
    top_k_of([lower], 49, VOCAB)  # what is not asked for is the tail


def test_rounding_is_no_lie() -> None:
    """A log-softmax in float32 of logits around 1000."""
    logits = (distribution(0, scale=1.0) + 1000).astype(np.float32)
    log_probs = logits - np.float32(np.log(np.exp(logits.astype(np.float64) - 1000).sum()) + 1000)
    top = top_k_of([Row(list(range(VOCAB)), log_probs.tolist(), float(log_probs[3]))], VOCAB, VOCAB)
    assert abs(np.exp(top.log_probs).sum() - 1) < 1e-4


def test_checking_is_quick() -> None:
    """257 prompts of 32 positions with 200 ids: checked, they take no more than a few times what building the arrays takes."""
    rows = [row(0, 200, 5, vocab=1000)] * 32
    lists = [list(each.ids) for each in rows], [list(each.log_probs) for each in rows]

    def bare() -> None:
        for part in lists:
            np.argsort(np.array(part))

    assert least_s(lambda: top_k_of(rows, 200, 1000), 30) < 10 * least_s(bare, 30)
