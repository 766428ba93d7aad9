"""The metrics of two distributions: bounds, symmetries and small differences, for generated inputs."""

from __future__ import annotations

from decimal import Decimal, localcontext
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_pot.engines.distributions import Floats, TopK
from pytest_pot.scoring.metrics import position_divergences

CELLS = ("tv", "jsd", "kl", "kl_reverse")


def top(log_probs: np.ndarray, tail: np.ndarray | None = None, **fields: Any) -> TopK:
    """A distribution whose ids are 0 .. m-1."""
    n, m = log_probs.shape
    values: dict[str, Any] = {
        "targets": log_probs[:, 0],
        "top_ids": log_probs.argmax(axis=1),
        "top_log_probs": log_probs.max(axis=1),
        "clear": np.ones(n, dtype=bool),
        "log_normalisers": np.zeros(n),
    }
    return TopK(ids=None, log_probs=log_probs, log_tail=tail, vocab_size=m, **{**values, **fields})


def log_normalised(logits: npt.ArrayLike) -> Floats:
    rows: Floats = np.atleast_2d(np.asarray(logits, dtype=np.float64))
    peak = rows.max(axis=1, keepdims=True)
    normalised: Floats = rows - peak - np.log(np.exp(rows - peak).sum(axis=1, keepdims=True))
    return normalised


def divergences(p: npt.ArrayLike, q: npt.ArrayLike, tail: str = "bucket") -> dict[str, Floats]:
    return position_divergences(top(log_normalised(p)), top(log_normalised(q)), tail)


logits = st.lists(st.floats(-40, 40), min_size=2, max_size=12)
pairs = st.integers(2, 12).flatmap(
    lambda n: st.tuples(*[st.lists(st.floats(-40, 40), min_size=n, max_size=n) for _ in range(2)])
)


TwoLogits = tuple[list[float], list[float]]


@given(pairs)
def test_metrics_keep_their_bounds_and_symmetries(pair: TwoLogits) -> None:
    p, q = pair
    metrics, mirrored = divergences(p, q), divergences(q, p)
    tv, jsd, kl = (metrics[name][0] for name in ("tv", "jsd", "kl"))
    assert 0 <= tv <= 1
    assert 0 <= jsd <= 1
    assert kl >= 0
    assert tv == mirrored["tv"][0]
    assert jsd == pytest.approx(mirrored["jsd"][0], rel=1e-12, abs=1e-300)
    assert kl == mirrored["kl_reverse"][0]
    assert kl >= 2 * tv**2 * (1 - 1e-9) - 1e-15  # Pinsker
    assert tv**2 * (1 - 1e-9) <= 2 * np.log(2) * jsd + 1e-15  # Lin: a bound of the same kind for jsd
    assert jsd <= tv * (1 + 1e-9) + 1e-15  # Lin 1991, theorem 3: base 2, half the variation's L1 norm


@given(logits)
def test_equal_distributions_have_zero_divergences(p: list[float]) -> None:
    assert all(values[0] == 0 for values in divergences(p, p).values())
    assert all(values[0] == 0 for values in divergences(p, p, "renormalise").values())


@given(pairs, st.integers(1, 11))
def test_merging_cells_never_raises_a_divergence(pair: TwoLogits, k: int) -> None:
    p, q = (log_normalised(x) for x in pair)
    k = min(k, p.shape[1] - 1)
    order = np.argsort(-p[0], kind="stable")
    merged = []
    for x in (p, q):
        rest = x[0, order[k:]]
        tail = np.array([rest.max() + np.log(np.exp(rest - rest.max()).sum())])
        merged.append(top(x[:, order[:k]], tail))
    bucketed, exact = position_divergences(merged[0], merged[1], "bucket"), divergences(*pair)
    for name in CELLS:
        assert bucketed[name][0] <= exact[name][0] + 1e-12


def exact_metrics(p: np.ndarray, q: np.ndarray) -> dict[str, float]:
    """The metrics in 60 decimal digits, after exact normalisation of the float64 inputs."""
    with localcontext() as context:
        context.prec = 60
        ps, qs = ([Decimal(float(x)).exp() for x in row] for row in (p, q))
        ps, qs = ([x / sum(row) for x in row] for row in (ps, qs))
        two = Decimal(2)

        def kl(a: list[Decimal], b: list[Decimal]) -> Decimal:
            return sum((x * (x / y).ln() for x, y in zip(a, b, strict=True)), Decimal(0))

        middle = [(x + y) / two for x, y in zip(ps, qs, strict=True)]
        return {
            "tv": float(sum(abs(x - y) for x, y in zip(ps, qs, strict=True)) / two),
            "jsd": float((kl(ps, middle) + kl(qs, middle)) / two / two.ln()),
            "kl": float(kl(ps, qs)),
        }


@settings(max_examples=40, deadline=None)
@given(pairs, st.sampled_from([1.0, 1e-2, 1e-4]))
def test_small_divergences_are_accurate(pair: TwoLogits, size: float) -> None:
    p = log_normalised(pair[0])
    q = log_normalised(p + size * np.clip(np.asarray(pair[1]), -10, 10))
    metrics, truth = position_divergences(top(p), top(q), "bucket"), exact_metrics(p[0], q[0])
    # The float64 inputs sum to 1 but for their own rounding, which tv shows in full.
    assert metrics["tv"][0] == pytest.approx(truth["tv"], rel=1e-9, abs=2e-15)
    for name in ("kl", "jsd"):  # of the second order in ln(q/p), each of whose terms is rounded
        assert metrics[name][0] == pytest.approx(truth[name], rel=1e-9, abs=1e-15 * abs(truth[name]) ** 0.5 + 1e-30)


def test_nearly_disjoint_distributions_reach_the_bounds_without_overflow() -> None:
    metrics = divergences([0.0, -800.0, -800.0], [-800.0, -800.0, 0.0])
    assert metrics["tv"][0] == 1
    assert metrics["jsd"][0] == 1
    assert metrics["kl"][0] == pytest.approx(800)


def test_chunking_long_rows_changes_no_figure() -> None:
    generator = np.random.default_rng(0)
    p, q = (log_normalised(generator.normal(size=(700, 1000))) for _ in range(2))
    whole = position_divergences(top(p), top(q), "bucket")
    for row in (0, 260, 261, 262, 699):
        alone = position_divergences(top(p[row : row + 1]), top(q[row : row + 1]), "bucket")
        for name, values in whole.items():
            assert values[row] == alone[name][0]


def test_a_flip_counts_only_if_the_reference_is_sure() -> None:
    p, q = log_normalised([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0]]), log_normalised([[0.0, 1.0], [0.0, 1.0], [2.0, 0.0]])
    reference = top(p, clear=np.array([True, False, True]))
    assert position_divergences(reference, top(q), "bucket")["top1_flip"].tolist() == [1.0, 0.0, 0.0]


def test_a_renormalised_first_choice_is_one_of_the_compared_ids() -> None:
    p = log_normalised([[3.0, 2.0, 1.0, 0.0]])[:, :2]
    q = log_normalised([[2.0, 1.0, 0.0, 9.0]])[:, :2]  # its likeliest id of all, 3, is not among the two compared
    metrics = position_divergences(top(p, top_ids=np.array([0])), top(q, top_ids=np.array([3])), "renormalise")
    assert metrics["top1_flip"][0] == 0
    assert metrics["kl"][0] == pytest.approx(0, abs=1e-15)
