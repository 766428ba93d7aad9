"""Moving and converting models."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from pytest_pot import ScoringConfig
from pytest_pot.engines.pytorch.device import prepared
from pytest_pot.engines.pytorch.model_facts import ModelFacts

from ...models import tiny


@pytest.mark.parametrize("name", ["llama", "gemma3", "qwen3", "phi", "mamba"])
def test_a_converted_model_computes_what_it_would_if_it_were_loaded_in_that_precision(name: str, tmp_path: Path) -> None:
    model = tiny(name).eval()
    model.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16).eval()
    ids = torch.arange(90)[None] % 97
    with prepared(ModelFacts.of(model), ScoringConfig(dtype="bfloat16")) as facts, torch.no_grad():
        assert torch.equal(facts.model(ids).logits, loaded(ids).logits)
        for buffer, original in zip(facts.model.buffers(), model.buffers(), strict=True):
            assert buffer.data_ptr() != original.data_ptr()
