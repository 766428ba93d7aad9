"""Gate an engine of one's own: the fixture pot_candidate returns it, and pytest-pot asks it as it asks any model."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import smollm2
import torch
from numpy_engine import NumpyEngine

from pytest_pot import Prompt
from pytest_pot.engines.distributions import Floats


@pytest.fixture(scope="session")
def served() -> smollm2.Pair:
    """The model that the engine serves, and its tokenizer."""
    return smollm2.reference()


@pytest.fixture(scope="session")
def pot_candidate(served: smollm2.Pair) -> NumpyEngine:
    model, _ = served

    def logits_of(ids: Sequence[int]) -> Floats:  # call your own runtime here
        with torch.inference_mode():
            logits: Floats = model(torch.tensor([list(ids)])).logits[0].numpy()
        return logits

    return NumpyEngine(logits_of, max_positions=model.config.max_position_embeddings)


@pytest.fixture(scope="session")
def pot_prompts() -> list[Prompt]:
    return [
        Prompt("Water boils at", " 100 degrees Celsius at sea level."),
        Prompt("import numpy as np\n\nx = np.", "zeros((3, 4))"),
    ]
