"""Changes of a real model are told from a recording of its weights, which holds some 50 bytes for each tensor.

The reference's matrices come from a GGUF file, and so they are on a grid already: 4 bits with offset in groups of 32.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor, nn

from pytest_pot.calibration.damage import DAMAGE
from pytest_pot.calibration.perturbations import PERTURBATIONS
from pytest_pot.engines.pytorch.weights.named import NamedWeights
from pytest_pot.engines.weights import ChangeKind, TensorChange, WeightsPrint
from pytest_pot.scoring.diagnosis.known_weights import KnownWeights
from pytest_pot.scoring.diagnosis.rounded_together import without_hidden_damage

from .conftest import ModelAndTokenizer

pytestmark = pytest.mark.real

LAYER = "model.layers.15."
MATRICES = tuple(f"self_attn.{kind}_proj" for kind in "qkvo") + tuple(f"mlp.{kind}_proj" for kind in ("gate", "up", "down"))
FIRST = ("self_attn.q_proj",)

Change = Callable[[nn.Module, torch.Generator], None]


@pytest.fixture(scope="module")
def model(reference: ModelAndTokenizer) -> nn.Module:
    return reference[0]


@pytest.fixture(scope="module")
def recorded(model: nn.Module) -> WeightsPrint:
    return NamedWeights(model).print()


def to_each(change: Callable[[Tensor], Tensor]) -> Change:
    """Change each matrix of a layer."""

    def apply(layer: nn.Module, _: torch.Generator) -> None:
        for matrix in layer.parameters():
            if matrix.ndim == 2:
                matrix.copy_(change(matrix))

    return apply


def int8(values: Tensor, step: Tensor) -> Tensor:
    return (values / step).round().clamp(-128, 127) * step


def in_groups(values: Tensor, size: int, largest: int) -> Tensor:
    groups = values.reshape(-1, size)
    step: Tensor = groups.abs().amax(dim=-1, keepdim=True) / largest
    return ((groups / step).round() * step).view_as(values)


def like_nf4(values: Tensor) -> Tensor:
    """16 levels that are not evenly spaced, in groups of 64 with a common factor."""
    groups = values.reshape(-1, 64)
    factors = groups.abs().amax(dim=-1, keepdim=True)
    quantiles = torch.distributions.Normal(0.0, 1.0).icdf(torch.linspace(0.03, 0.97, 16))
    levels = quantiles / quantiles.max()
    nearest = (groups / factors)[..., None].sub(levels).abs().argmin(dim=-1)
    rounded: Tensor = levels[nearest] * factors
    return rounded.view_as(values)


def random_rows(values: Tensor) -> Tensor:
    return values[torch.randperm(len(values), generator=torch.Generator().manual_seed(1))]


def noise(values: Tensor, size: float) -> Tensor:
    draw = torch.randn(values.shape, generator=torch.Generator().manual_seed(2))
    scale: Tensor = size * values.norm() / draw.norm()
    return values + draw * scale


def perturbation(name: str) -> Change:
    return {**PERTURBATIONS, **DAMAGE}[name].change


# What is done to all matrices of a layer, and how it is told.
OF_A_LAYER: dict[str, tuple[Change, tuple[ChangeKind, str, float | None]]] = {
    "bf16": (to_each(lambda w: w.bfloat16().float()), (ChangeKind.ROUNDED, "bfloat16", None)),
    "fp16": (to_each(lambda w: w.half().float()), (ChangeKind.ROUNDED, "float16", None)),
    "fp8": (perturbation("fp8"), (ChangeKind.ROUNDED, "float8_e4m3fn", None)),
    "int8 per row": (perturbation("int8 per row"), (ChangeKind.ROUNDED, "8 bits per row", None)),
    "int8 per tensor": (perturbation("int8 per tensor"), (ChangeKind.ROUNDED, "8 bits per tensor", None)),
    "int8 per row in bf16": (
        to_each(lambda w: int8(w, w.abs().amax(dim=1, keepdim=True) / 127).bfloat16().float()),
        (ChangeKind.ROUNDED, "8 bits per row", None),
    ),
    "Q8_0": (to_each(lambda w: in_groups(w, 32, 127)), (ChangeKind.ROUNDED, "8 bits in groups of 32", None)),
    "int4 in groups of 32": (perturbation("int4 in groups"), (ChangeKind.ROUNDED, "4 bits in groups of 32", None)),
    "int4 in groups of 64": (to_each(lambda w: in_groups(w, 64, 7)), (ChangeKind.ROUNDED, "4 bits in groups of 64", None)),
    "4 bits, not evenly spaced": (to_each(like_nf4), (ChangeKind.ROUNDED, "4 bits in groups of 64", None)),
    "pruned 1 %": (perturbation("pruned 1 %"), (ChangeKind.PRUNED, "", 0.01)),
    "pruned 5 %": (perturbation("pruned 5 %"), (ChangeKind.PRUNED, "", 0.05)),
    "pruned 20 %": (perturbation("pruned 20 %"), (ChangeKind.PRUNED, "", 0.2)),
    "scaled": (to_each(lambda w: w * 1.25), (ChangeKind.SCALED, "", 1.25)),
    "negated": (to_each(lambda w: -w), (ChangeKind.SCALED, "", -1.0)),
    "zero": (to_each(torch.zeros_like), (ChangeKind.ZERO, "", None)),
    "rows in another order": (to_each(random_rows), (ChangeKind.REORDERED, "", None)),
    "noise 2^-3": (perturbation("noise 2^-3"), (ChangeKind.CHANGED, "", None)),
    "noise 2^-8": (perturbation("noise 2^-8"), (ChangeKind.CHANGED, "", None)),
    "noise 2^-12": (perturbation("noise 2^-12"), (ChangeKind.CHANGED, "", None)),
    "noise and bf16": (to_each(lambda w: noise(w, 0.01).bfloat16().float()), (ChangeKind.CHANGED, "", None)),
    "a row": (to_each(lambda w: torch.cat([w[:-1], w[:1]])), (ChangeKind.CHANGED, "", None)),
}
# What is done to parts of a model, the matrices of a layer that it changes, and how it is told.
OF_THE_MODEL: dict[str, tuple[Change, tuple[str, ...], tuple[ChangeKind, str, float | None]]] = {
    "q and k permuted": (
        perturbation("q and k permuted"),
        ("self_attn.q_proj", "self_attn.k_proj"),
        (ChangeKind.PERMUTED, "rows", None),
    ),
    "matrix transposed": (perturbation("matrix transposed"), FIRST, (ChangeKind.TRANSPOSED, "", None)),
    "matrix scaled": (perturbation("matrix scaled"), FIRST, (ChangeKind.SCALED, "", 1.25)),
    "matrix zeroed": (perturbation("matrix zeroed"), FIRST, (ChangeKind.ZERO, "", None)),
    "matrix with NaN": (perturbation("matrix with NaN"), FIRST, (ChangeKind.NOT_FINITE, "1 of 331776 values", None)),
    "layer changed": (perturbation("layer changed"), MATRICES, (ChangeKind.CHANGED, "", None)),
    "projections changed": (perturbation("projections changed"), ("mlp.down_proj",), (ChangeKind.CHANGED, "", None)),
    "adapter merged": (
        perturbation("adapter merged"),
        ("self_attn.q_proj", "self_attn.v_proj"),
        (ChangeKind.CHANGED, "", None),
    ),
}


@contextmanager
def changed(model: nn.Module, change: Change, module: nn.Module | None = None) -> Iterator[dict[str, Tensor]]:
    """``model`` while ``change`` is made to ``module``, or to all of it. Yields the values before of what may change."""
    module = model if module is None else module
    before = {name: tensor.detach().clone() for name, tensor in module.named_parameters()}
    try:
        with torch.no_grad():
            change(module, torch.Generator().manual_seed(0))
        yield before
    finally:
        with torch.no_grad():
            for name, tensor in module.named_parameters():
                tensor.copy_(before[name])


def check(
    changes: dict[str, TensorChange | None],
    before: dict[str, Tensor],
    after: Mapping[str, Tensor],
    expected: tuple[tuple[str, ...], ChangeKind, str, float | None],
) -> None:
    """Those that are expected to change, and no others, changed like that; sizes are near to the real ones."""
    names, kind, what, amount = expected
    assert {name for name, change in changes.items() if change is not None} == set(names)
    for name in names:
        change = changes[name]
        assert change is not None
        assert (change.kind, change.what) == (kind, what)
        if amount is not None:
            assert change.amount == pytest.approx(amount, rel=0.08)  # some values are 0 already
        if kind is not ChangeKind.NOT_FINITE:
            relative = (after[name].detach() - before[name]).norm() / before[name].norm()
            assert change.relative == pytest.approx(float(relative), rel=0.6)  # three standard deviations


def changes_of_layer(model: nn.Module, recorded: WeightsPrint) -> dict[str, TensorChange | None]:
    weights = NamedWeights(model)
    names = [name for name in weights.tensors if name.startswith((LAYER, "model.layers.16."))]
    return {name: weights.change(name, recorded, name) for name in names}


@pytest.mark.parametrize("name", OF_A_LAYER)
def test_changes_of_a_layer(model: nn.Module, recorded: WeightsPrint, name: str) -> None:
    change, expected = OF_A_LAYER[name]
    layer = model.get_submodule(LAYER[:-1])
    with changed(model, change, layer) as before:
        changes = changes_of_layer(model, recorded)
        names = tuple(f"{LAYER}{matrix}.weight" for matrix in MATRICES)
        after = dict(model.named_parameters())
        check(changes, {LAYER + name: values for name, values in before.items()}, after, (names, *expected))


@pytest.mark.parametrize("name", OF_THE_MODEL)
def test_changes_of_parts(model: nn.Module, recorded: WeightsPrint, name: str) -> None:
    change, matrices, expected = OF_THE_MODEL[name]
    with changed(model, change) as before:
        changes = changes_of_layer(model, recorded)
        if name == "projections changed" or len(matrices) == 2:  # in all layers
            changes = {name: change for name, change in changes.items() if name.startswith(LAYER)}
        names = tuple(f"{LAYER}{matrix}.weight" for matrix in matrices)
        check(changes, before, dict(model.named_parameters()), (names, *expected))


def test_one_tensor_of_all_that_changed_by_a_thousandth(model: nn.Module, recorded: WeightsPrint) -> None:
    with changed(model, perturbation("matrix changed")):
        weights = NamedWeights(model)
        changes = [change for name in weights.tensors if (change := weights.change(name, recorded, name))]
    assert [(change.name, change.kind) for change in changes] == [(f"{LAYER}{FIRST[0]}.weight", ChangeKind.CHANGED)]
    assert changes[0].relative == pytest.approx(1e-3, rel=0.6)


@pytest.mark.parametrize(("precision", "size", "every"), [("bfloat16", 2e-3, 1), ("float16", 5e-4, 3)])
def test_damage_of_a_layer_before_all_are_rounded(
    model: nn.Module, recorded: WeightsPrint, precision: str, size: float, every: int
) -> None:
    """All that was only rounded is told as rounded; the layer that had noise of the size of the rounding error, as changed."""
    dtype = getattr(torch, precision)
    round_each = to_each(lambda w: w.to(dtype).to(w.dtype))
    layers = nn.ModuleList(model.get_submodule(f"model.layers.{index}") for index in range(0, 30, every))
    layer = model.get_submodule(LAYER[:-1])
    weights = KnownWeights(recorded)

    def changes(module: str) -> dict[str, TensorChange]:
        live = NamedWeights(model)
        names = [name for name in live.tensors if name.startswith(module) and name.endswith("_proj.weight")]
        return {name: change for name in names if (change := live.change(name, recorded, name))}

    def kinds(of: dict[str, TensorChange]) -> dict[str, tuple[ChangeKind, str]]:
        return {change.name: (change.kind, change.what) for change in without_hidden_damage(of.values(), weights)}

    with changed(model, round_each, layers):
        rounded = changes("model.layers.")
    assert kinds(rounded) == dict.fromkeys(rounded, (ChangeKind.ROUNDED, precision))
    assert len(rounded) == len(layers) * len(MATRICES)
    with changed(model, to_each(lambda w: noise(w, size).to(dtype).to(w.dtype)), layer):
        told = kinds({**rounded, **changes(LAYER)})
    damaged = {name for name, kind in told.items() if kind == (ChangeKind.CHANGED, "")}
    assert damaged <= {f"{LAYER}{matrix}.weight" for matrix in MATRICES}
    assert len(damaged) > len(MATRICES) / 2
    assert {told[name] for name in told if name not in damaged} <= {(ChangeKind.ROUNDED, precision)}


def test_sizes_of_all_matrices(model: nn.Module, recorded: WeightsPrint) -> None:
    """Their estimates are within 40 % nearly always."""
    layers = nn.ModuleList(model.get_submodule(f"model.layers.{index}") for index in range(0, 30, 3))
    n_right = n_matrices = 0
    for size in (1e-2, 1e-3):
        with changed(model, to_each(lambda w, size=size: noise(w, size)), layers):  # type: ignore[misc]
            weights = NamedWeights(model)
            for index in range(0, 30, 3):
                for matrix in MATRICES:
                    name = f"model.layers.{index}.{matrix}.weight"
                    change = weights.change(name, recorded, name)
                    assert change is not None
                    assert change.kind is ChangeKind.CHANGED
                    assert change.relative is not None
                    n_matrices += 1
                    n_right += 0.6 * size <= change.relative <= 1.4 * size
    assert n_right >= 0.95 * n_matrices


def test_the_grid_of_each_matrix_is_named(model: nn.Module, recorded: WeightsPrint) -> None:
    with changed(model, perturbation("int8 per row")):
        weights = NamedWeights(model)
        changes = [change for each in weights.tensors if (change := weights.change(each, recorded, each))]
    assert len(changes) == 211
    assert {(change.kind, change.what) for change in changes} == {(ChangeKind.ROUNDED, "8 bits per row")}
