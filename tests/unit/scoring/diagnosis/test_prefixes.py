"""Models in modules of one's own."""

from __future__ import annotations

from typing import Any

import pytest
from torch import nn
from transformers import PreTrainedModel

from pytest_pot.core.config import ScoringConfig
from pytest_pot.engines.pytorch.weights.named import NamedWeights
from pytest_pot.engines.weights import ChangeKind
from pytest_pot.scoring.diagnosis.diagnose import ModelPair, diagnose
from pytest_pot.scoring.diagnosis.diagnosis import Diagnosis

from ...models import changed, tiny

CONFIG = ScoringConfig()


def compared(reference: nn.Module, candidate: nn.Module, recorded: bool) -> Diagnosis:
    weights = NamedWeights(reference).print() if recorded else None
    return diagnose(ModelPair(candidate, CONFIG, CONFIG, None if recorded else reference, weights))


class Wrapped(nn.Module):
    """A module of one's own around a model."""

    def __init__(self, model: PreTrainedModel | Wrapped) -> None:
        super().__init__()
        self.m = model
        self.config: Any = model.config


@pytest.mark.parametrize("recorded", [False, True])
@pytest.mark.parametrize(
    ("name", "tied"), [("llama", False), ("llama", True), ("gpt2", True), ("mixtral", False), ("mamba", True)]
)
def test_a_model_in_a_module_of_ones_own_is_the_same(name: str, tied: bool, recorded: bool) -> None:
    reference = tiny(name, tie_word_embeddings=tied)
    candidate, other = tiny(name, tie_word_embeddings=tied), Wrapped(changed(reference))
    pairs: list[tuple[nn.Module, nn.Module]] = [
        (reference, Wrapped(candidate)),
        (Wrapped(reference), candidate),
        (reference, Wrapped(Wrapped(candidate))),
        (Wrapped(reference), Wrapped(Wrapped(candidate))),
    ]
    for one, wrapped in pairs:
        diagnosis = compared(one, wrapped, recorded)
        lines = [line for line in diagnosis.what_changed if not line.startswith("class ")]
        assert len(lines) == 1, lines
        assert diagnosis.same_weights
    weights = compared(reference, other, recorded).weights
    assert weights is not None
    kinds = {change.kind for change in weights.changes}
    assert not kinds & {ChangeKind.MISSING, ChangeKind.EXTRA, ChangeKind.UNTIED}, kinds
