"""Padding on the right changes nothing, with the mask that a CPU gets and without one, as a GPU reads."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from pytest_pot import ScoringConfig
from pytest_pot.engines.pytorch.batch_reader import padded
from pytest_pot.engines.pytorch.engine import TorchEngine
from pytest_pot.engines.tokens import Tokens

from ...models import CONFIGS, MORE_CONFIGS, tiny

BATCH = [
    Tokens((5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16), 8),
    Tokens((20, 21, 22), 1),
    Tokens((30, 0, 31, 32, 33, 34, 35), 3),
]
CPU = torch.device("cpu")


@pytest.mark.parametrize("name", sorted({**CONFIGS, **MORE_CONFIGS}))
@pytest.mark.parametrize("pad_token_id", [None, 0])
def test_padding_changes_nothing_where_the_model_gets_no_mask(
    name: str, pad_token_id: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny(name)
    model.config.pad_token_id = pad_token_id
    with TorchEngine.opened(model, "candidate", ScoringConfig()) as engine:
        expected = [engine.at([tokens], 97).log_probs for tokens in BATCH]
        assert engine.reader is not None
        engine.reader.hides_padding = False
        masks: list[object] = []
        call = engine.call

        def noting(ids: torch.Tensor, **optional: Any) -> Any:
            masks.append(optional["attention_mask"])
            return call(ids, **optional)

        monkeypatch.setattr(engine, "call", noting)
        batched = engine.at(BATCH, 97).log_probs
    np.testing.assert_allclose(batched, np.concatenate(expected), atol=2e-5)
    assert masks == [None]


def test_only_models_that_are_known_to_be_causal_go_without_a_mask() -> None:
    for name, causal in (("llama", True), ("mamba", False)):
        with TorchEngine.opened(tiny(name), "candidate", ScoringConfig()) as engine:
            assert engine.reader is not None
            assert engine.reader.hides_padding  # on a CPU
            elsewhere = type(engine.reader)(
                engine._facts, engine._forward, torch.device("meta"), engine._autocast, 1e-7, share_prefixes=False
            )
            assert elsewhere.hides_padding is not causal


@pytest.mark.parametrize("left", [False, True])
def test_ids_and_mask_are_padded_on_one_side(left: bool) -> None:
    ids, mask = padded([(5, 6, 7), (8,)], CPU, left=left, pad_id=4)
    assert ids.tolist() == [[5, 6, 7], [4, 4, 8] if left else [8, 4, 4]]
    assert mask.tolist() == [[1, 1, 1], [0, 0, 1] if left else [1, 0, 0]]
    assert ids.dtype == mask.dtype == torch.int64
