"""The model that engines run."""

from __future__ import annotations

import pytest
from transformers import PreTrainedModel

from ..models import tiny


@pytest.fixture(scope="module")
def model() -> PreTrainedModel:
    return tiny("llama")
