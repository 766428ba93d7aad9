"""A checkpoint of a masked language model is refused, whatever class reads it; a decoder is not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertLMHeadModel,
    BertModel,
    FalconConfig,
    FalconForCausalLM,
    PreTrainedModel,
    RobertaConfig,
    RobertaForCausalLM,
    RobertaForMaskedLM,
)

from pytest_pot import PotError, ScoringConfig
from pytest_pot.engines.registry import load_model

CPU = ScoringConfig(device="cpu")
SIZES: dict[str, Any] = {
    "vocab_size": 97,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 128,
}


def saved(folder: Path, model: PreTrainedModel) -> str:
    model.save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("kind", [BertForMaskedLM, BertLMHeadModel])
def test_bert_without_is_decoder_is_refused(kind: type[BertForMaskedLM] | type[BertLMHeadModel], tmp_path: Path) -> None:
    folder = saved(tmp_path, kind(BertConfig(**SIZES)))
    with pytest.raises(PotError) as error:
        load_model(folder, "candidate", CPU)
    assert str(error.value) == (
        f"the candidate {folder!r} is no causal language model: what it predicts for a token depends on the tokens after it. "
        f"It was loaded as BertLMHeadModel; the config says {kind.__name__}, is_decoder=False. A masked language model cannot "
        'be compared this way; if this one was trained as a decoder, set "is_decoder": true in its config.json'
    )


def test_roberta_without_is_decoder_is_refused(tmp_path: Path) -> None:
    folder = saved(tmp_path, RobertaForMaskedLM(RobertaConfig(**SIZES)))
    with pytest.raises(PotError, match=r"^the reference '.*' is no causal language model: .* RobertaForCausalLM; "):
        load_model(folder, "reference", CPU)


def test_bert_without_a_head_is_refused_by_its_tensors(tmp_path: Path) -> None:
    with pytest.raises(PotError, match=r"6 tensors missing, filled as before training: cls\.predictions\.bias, "):
        load_model(saved(tmp_path, BertModel(BertConfig(**SIZES))), "candidate", CPU)


@pytest.mark.parametrize(
    "model",
    [
        lambda: BertForMaskedLM(BertConfig(**SIZES, is_decoder=True)),
        lambda: RobertaForCausalLM(RobertaConfig(**SIZES, is_decoder=True)),
        lambda: FalconForCausalLM(FalconConfig(vocab_size=97, hidden_size=32, num_hidden_layers=2, num_attention_heads=4)),
    ],
    ids=["bert", "roberta", "falcon"],
)
def test_a_decoder_is_loaded(model: Callable[[], PreTrainedModel], tmp_path: Path) -> None:
    assert load_model(saved(tmp_path, model()), "candidate", CPU).model is not None
