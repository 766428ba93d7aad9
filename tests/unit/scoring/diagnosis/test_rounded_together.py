"""Damage that is as small as a rounding error shows where many tensors were rounded to the same."""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np
import pytest

from pytest_pot.engines.weights import ChangeKind, TensorChange, TensorInfo, TensorPrint, WeightsPrint
from pytest_pot.scoring.diagnosis.known_weights import KnownWeights
from pytest_pot.scoring.diagnosis.rounded_together import without_hidden_damage

KINDS = tuple(f"self_attn.{kind}_proj" for kind in "qkvo") + tuple(f"mlp.{kind}_proj" for kind in ("gate", "up", "down"))


def names(n_layers: int) -> list[str]:
    return ["embed.weight"] + [f"model.layers.{layer}.{kind}.weight" for layer in range(n_layers) for kind in KINDS]


def reference(tensors: list[str], grids: Mapping[str, str] | None = None, shape: tuple[int, ...] = (64, 64)) -> KnownWeights:
    prints = {
        name: TensorPrint(TensorInfo(shape, "float32"), b"", 1.0, 0, np.zeros(16), (grids or {}).get(name)) for name in tensors
    }
    return KnownWeights(WeightsPrint("Model", None, prints))


def rounded(sizes: Mapping[str, float], seed: int, what: str = "bfloat16") -> list[TensorChange]:
    """As 16 projections estimate these sizes, in units of the expected one."""
    rng = np.random.default_rng(seed)
    estimates = {name: size * float(np.sqrt(np.mean(rng.normal(size=16) ** 2))) for name, size in sizes.items()}
    return [
        TensorChange(name, ChangeKind.ROUNDED, what, relative=1.66e-3 * estimate, expected=1.66e-3)
        for name, estimate in estimates.items()
    ]


def damaged(changes: list[TensorChange], known: KnownWeights) -> set[str]:
    result = without_hidden_damage(changes, known)
    assert [change.name for change in result] == [change.name for change in changes]
    for before, after in zip(changes, result, strict=True):
        if after is not before:
            assert after == TensorChange(before.name, ChangeKind.CHANGED, relative=before.relative)
    return {change.name for change in result if change.kind is ChangeKind.CHANGED}


@pytest.mark.parametrize("usual", [0.3, 0.8, 1.0])
@pytest.mark.parametrize("n_layers", [1, 2, 30])
@pytest.mark.parametrize("what", ["bfloat16", "8 bits per row"])
def test_chance_damages_nothing(usual: float, n_layers: int, what: str) -> None:
    tensors = names(n_layers)
    known = reference(tensors)
    for seed in range(100):
        assert not damaged(rounded(dict.fromkeys(tensors, usual), seed, what), known)


@pytest.mark.parametrize("usual", [0.8, 1.0])
@pytest.mark.parametrize(
    ("where", "least"),
    [(r"layers\.15\.", 0.8), (r"q_proj", 0.8), (r"layers\.\d\.", 0.8), (r"layers\.15\.mlp", 0.3), (r"layers\.", 1.0)],
)
def test_tensors_that_were_damaged_together(usual: float, where: str, least: float) -> None:
    """By noise of 1.5 times the rounding error that is expected."""
    tensors = names(30)
    known = reference(tensors)
    wrong = {name for name in tensors if re.search(where, name)}
    n_right = n_false = 0
    for seed in range(20):
        sizes = {name: float(np.hypot(usual, 1.5)) if name in wrong else usual for name in tensors}
        found = damaged(rounded(sizes, seed), known)
        n_right += len(found & wrong)
        n_false += len(found - wrong)
    assert n_right >= least * 20 * len(wrong)
    assert n_false <= 0.01 * 20 * len(tensors)


def test_one_tensor() -> None:
    tensors = names(30)
    known = reference(tensors)
    found = [damaged(rounded({**dict.fromkeys(tensors, 0.5), tensors[40]: 1.6}, seed), known) for seed in range(50)]
    assert sum(names == {tensors[40]} for names in found) >= 45
    assert set().union(*found) == {tensors[40]}


def test_tensors_that_were_on_a_grid_say_nothing_of_others() -> None:
    """Their values need fewer digits."""
    tensors = names(10)
    quantised = [name for name in tensors if "mlp" in name or "v_proj" in name]
    known = reference(tensors, dict.fromkeys(quantised, "4 bits in groups of 32"))
    sizes = {name: 0.3 if name in quantised else 1.0 for name in tensors}
    assert not damaged(rounded(sizes, 0), known)


def test_what_is_not_judged() -> None:
    """Few tensors of a quantiser, tensors of few values, and sizes that nothing is expected of."""
    tensors = names(1)
    large = {**dict.fromkeys(tensors, 1.0), tensors[3]: 4.0}
    assert not damaged(rounded(dict(list(large.items())[:7]), 0, "8 bits per row"), reference(tensors))
    assert not damaged(rounded(large, 0), reference(tensors, shape=(64,)))
    assert damaged(rounded(large, 0), reference(tensors)) == {tensors[3]}
    unknown = [TensorChange(name, ChangeKind.ROUNDED, "float16", relative=size) for name, size in large.items()]
    assert not damaged(unknown, reference(tensors))
