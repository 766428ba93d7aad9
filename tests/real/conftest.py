"""SmolLM2-135M, a real pretrained model, and the changed copies that the examples use."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from tests.browser.chromium import browser as browser

ModelAndTokenizer = tuple[PreTrainedModel, PreTrainedTokenizerFast]


@pytest.fixture(scope="session")
def zoo() -> ModuleType:
    """The module examples/smollm2.py, which loads the models."""
    path = Path(__file__).parents[2] / "examples" / "smollm2.py"
    spec = importlib.util.spec_from_file_location("smollm2", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def reference(zoo: ModuleType) -> ModelAndTokenizer:
    """The model and its tokenizer."""
    pair: ModelAndTokenizer = zoo.reference()
    return pair
