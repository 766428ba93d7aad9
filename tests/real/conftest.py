"""SmolLM2-135M, a real pretrained model, and the changed copies of it that the examples use."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def zoo():
    """The module examples/smollm2.py, which makes the models."""
    path = Path(__file__).parents[2] / "examples" / "smollm2.py"
    spec = importlib.util.spec_from_file_location("smollm2", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def reference(zoo):
    """(model, tokenizer)."""
    return zoo.reference()
