"""Check the engine against the model that it serves, and gate it like any other model."""

import pytest
import smollm2
from numpy_engine import NumpyEngine

from pytest_pot.testing import check_engine


def test_the_engine_says_what_its_model_says(pot_candidate: NumpyEngine, served: smollm2.Pair) -> None:
    model, tokenizer = served
    check_engine(pot_candidate, model, tokenizer)


@pytest.mark.pot_identity(max_score=1e-4)
def test_the_engine_is_the_same_model() -> None:
    pass
