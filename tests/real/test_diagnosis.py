"""What was changed in a real model is named: which tensors, and how.

Changes are made in place, and undone, on a second copy of the model. Those that are the same for all layers are made in one
layer where they take long.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from types import ModuleType

import pytest
import torch
from torch import nn
from transformers import PreTrainedModel

from pytest_pot.calibration.damage import DAMAGE
from pytest_pot.calibration.perturbations import PERTURBATIONS
from pytest_pot.engines.pytorch.weights.named import NamedWeights
from pytest_pot.engines.weights import ChangeKind

from .conftest import ModelAndTokenizer

pytestmark = pytest.mark.real

CHANGES = {**PERTURBATIONS, **DAMAGE}
N_LAYERS, MIDDLE = 30, "model.layers.15"
EMBEDDINGS, OUTPUT = "model.embed_tokens.weight", "lm_head.weight"
KINDS = [f"self_attn.{kind}_proj.weight" for kind in "qkvo"] + [f"mlp.{kind}_proj.weight" for kind in ("gate", "up", "down")]
FIRST = f"{MIDDLE}.{KINDS[0]}"
LAYER = {f"{MIDDLE}.{kind}" for kind in KINDS}


def in_all_layers(*kinds: str) -> set[str]:
    return {f"model.layers.{layer}.{kind}" for layer in range(N_LAYERS) for kind in kinds}


MATRICES = in_all_layers(*KINDS) | {EMBEDDINGS}
NORMS = ["input_layernorm.weight", "post_attention_layernorm.weight"]
SWAPPED = {f"model.layers.{layer}.{kind}" for layer in (14, 15) for kind in (*KINDS, *NORMS)}


@dataclass(frozen=True)
class Case:
    """A change of SmolLM2, and what is to be said of it."""

    change: str
    """A key of ``CHANGES``."""
    names: set[str]
    """The tensors that differ."""
    kind: ChangeKind = ChangeKind.CHANGED
    what: str = ""
    amount: float | None = None
    relative: tuple[float, float] = (0.0, 2.0)
    """From the least to the most of all tensors that differ."""
    detail: str = ""
    part: str = ""
    """The module that is changed; the whole model if empty."""


TO_PAIRS = "from halves (as in Hugging Face's RoPE) to pairs (as in Meta's and llama.cpp's RoPE) of each 64"
ROUNDED, PRUNED = ChangeKind.ROUNDED, ChangeKind.PRUNED
TABLE = [
    Case("bf16", MATRICES, ROUNDED, "bfloat16", relative=(1.2e-3, 2.1e-3)),
    Case("fp16", MATRICES, ROUNDED, "float16", relative=(1e-4, 3e-4)),
    Case("fp8", MATRICES, ROUNDED, "float8_e4m3fn", relative=(0.02, 0.04)),
    Case("int8 per row", MATRICES, ROUNDED, "8 bits per row", relative=(5e-3, 0.02)),
    Case("int8 per tensor", MATRICES, ROUNDED, "8 bits per tensor", relative=(8e-3, 0.2)),
    Case("int4 in groups", MATRICES, ROUNDED, "4 bits in groups of 32", relative=(0.05, 0.15)),
    Case("pruned 1 %", LAYER, PRUNED, amount=0.01, relative=(1e-4, 2e-3), part=MIDDLE),
    Case("pruned 5 %", LAYER, PRUNED, amount=0.05, relative=(2e-3, 0.02), part=MIDDLE),
    Case("pruned 20 %", LAYER, PRUNED, amount=0.2, relative=(0.03, 0.1), part=MIDDLE),
    Case("noise 2^-12", LAYER, relative=(2.3e-4, 2.6e-4), part=MIDDLE),
    Case("noise 2^-7", MATRICES, relative=(7.5e-3, 8.1e-3)),
    Case("noise 2^-3", LAYER, relative=(0.12, 0.13), part=MIDDLE),
    Case("layers swapped", SWAPPED, relative=(0.02, 2.0)),
    Case("wrong RoPE base", set()),
    Case("q and k permuted", in_all_layers(*KINDS[:2]), ChangeKind.PERMUTED, "rows", relative=(0.5, 2.0), detail=TO_PAIRS),
    Case("matrix transposed", {FIRST}, ChangeKind.TRANSPOSED, relative=(1.0, 2.0)),
    Case("matrix scaled", {FIRST}, ChangeKind.SCALED, amount=1.25, relative=(0.2499, 0.2501)),
    Case("matrix zeroed", {FIRST}, ChangeKind.ZERO, relative=(1.0, 1.0)),
    Case("matrix with NaN", {FIRST}, ChangeKind.NOT_FINITE, "1 of 331776 values"),
    Case("matrix changed", {FIRST}, relative=(0.999e-3, 1.001e-3)),
    Case("layer changed", LAYER, relative=(0.0099, 0.0101)),
    Case("projections changed", in_all_layers(KINDS[-1]), relative=(0.0099, 0.0101)),
    Case("adapter merged", in_all_layers(KINDS[0], KINDS[2]), ChangeKind.LOW_RANK, amount=8, relative=(0.0499, 0.0501)),
    Case("embeddings damaged", {EMBEDDINGS}, what="3 of 49152 rows", relative=(1e-3, 0.02)),
    Case("output layer untied", {OUTPUT}, relative=(0.0099, 0.0101)),
    Case("output layer lost", {OUTPUT}, relative=(0.9, 1.1)),
]


@pytest.fixture(scope="module")
def candidate(zoo: ModuleType) -> PreTrainedModel:
    model: PreTrainedModel = zoo.identical()[0]
    return model


@pytest.fixture
def changed(request: pytest.FixtureRequest, reference: ModelAndTokenizer, candidate: PreTrainedModel) -> Iterator[NamedWeights]:
    """The weights of the candidate after the change of a case."""
    case: Case = request.param
    generator = torch.Generator().manual_seed(0)
    rotary = candidate.model.rotary_emb
    theta = dict(candidate.config.rope_parameters)
    with torch.no_grad():
        CHANGES[case.change].change(candidate.get_submodule(case.part), generator)
        yield NamedWeights(candidate)
        candidate.lm_head.weight = candidate.model.embed_tokens.weight
        candidate.model.rotary_emb = rotary
        candidate.config.rope_parameters.update(theta)
        for mine, original in zip(candidate.parameters(), reference[0].parameters(), strict=True):
            mine.copy_(original)


@pytest.mark.parametrize(
    ("case", "changed"), [(case, case) for case in TABLE], ids=[case.change for case in TABLE], indirect=["changed"]
)
def test_a_change_is_named(case: Case, changed: NamedWeights, reference: ModelAndTokenizer) -> None:
    before = NamedWeights(reference[0])
    changes = {
        name: change
        for name, info in changed.tensors.items()
        if info.saved and (change := changed.change(name, before, before.ties.get(name, name))) is not None
    }
    assert changes.keys() == case.names
    for name, change in changes.items():
        assert (change.kind, change.what, change.detail) == (case.kind, case.what, case.detail), name
        # Up to 0.05 % of a matrix was 0 before, and does not count as pruned.
        assert change.amount == (None if case.amount is None else pytest.approx(case.amount, abs=5e-4)), name
        assert change.candidate_name == (None if change.name == name else name)
        if case.kind != ChangeKind.NOT_FINITE:
            assert change.relative is not None
            assert case.relative[0] <= change.relative <= case.relative[1], (name, change.relative)


def test_all_changes_of_one_part_are_in_the_table() -> None:
    assert {case.change for case in TABLE} >= DAMAGE.keys()


def test_weights_are_equal_after_all_changes_are_undone(reference: ModelAndTokenizer, candidate: nn.Module) -> None:
    before, after = NamedWeights(reference[0]), NamedWeights(candidate)
    assert all(after.change(name, before, name) is None for name in before.tensors)
