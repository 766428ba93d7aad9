"""What a report says of the model that ran."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from pytest_pot import Prompt, ScoringConfig, TeacherForcedScorer
from pytest_pot.engines.base import ModelDescription
from pytest_pot.engines.pytorch.backend import PyTorchBackend
from pytest_pot.engines.pytorch.description import format_name
from pytest_pot.engines.registry import load_model, opened

from ...models import tiny
from ...published_formats import make, save, unquantised, write_config, write_gguf

AUTO = ScoringConfig(device="cpu")

pytestmark = pytest.mark.filterwarnings("default")  # the libraries of the formats warn while they are imported


def description(model: Any, config: ScoringConfig = AUTO) -> ModelDescription:
    with opened(model, "candidate", config) as engine:
        described: Any = engine
        result: ModelDescription = described.description
        return result


def of_spec(spec: Path, config: ScoringConfig = AUTO) -> ModelDescription:
    return description(load_model(str(spec), "candidate", config).model, config)


@pytest.mark.parametrize("stored", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("asked", ["auto", "float32", "float16", "float64"])
def test_the_precision_of_the_files_is_known_after_loading(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast, stored: torch.dtype, asked: str
) -> None:
    model: Any = tiny("llama")
    save(model.to(stored), tmp_path, tokenizer)
    runs, kept = "float32" if asked == "auto" else asked, str(stored).removeprefix("torch.")
    config = ScoringConfig(device="cpu", dtype=asked)
    assert of_spec(tmp_path, config) == ModelDescription("safetensors", runs, "cpu", None if kept == runs else kept)


@pytest.mark.parametrize("stored", [torch.float32, torch.float16, torch.bfloat16])
def test_the_precision_of_an_object_is_that_in_memory(stored: torch.dtype) -> None:
    model: Any = tiny("llama")
    kept = None if stored == torch.float32 else str(stored).removeprefix("torch.")
    assert description(model.to(stored)) == ModelDescription("in memory", "float32", "cpu", kept)
    assert model.dtype == stored


def test_an_object_that_was_converted_to_float32_still_holds_half_precision(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    model: Any = tiny("llama")
    save(model.half(), tmp_path, tokenizer)
    converted = AutoModelForCausalLM.from_pretrained(tmp_path, dtype="auto").float()
    assert description(converted) == ModelDescription("in memory", "float32", "cpu", "float16")
    with torch.no_grad():  # trained since, in float32; its config still says float16
        converted.lm_head.weight.add_(1e-6)
    assert description(converted) == ModelDescription("in memory", "float32", "cpu")


def test_shards_and_files_that_the_config_rounds(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    model: Any = tiny("llama")
    model.save_pretrained(tmp_path, max_shard_size="20kB")
    tokenizer.save_pretrained(tmp_path)
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    write_config(tmp_path, tmp_path, dtype="bfloat16")
    note = "its files hold float32, which was rounded to bfloat16: its config asks for that"
    assert of_spec(tmp_path) == ModelDescription("safetensors", "float32", "cpu", "bfloat16", notes=(note,))


def test_autocast_is_a_precision_of_its_own() -> None:
    assert description(tiny("llama"), ScoringConfig(device="cpu", use_amp=True)) == ModelDescription(
        "in memory", "float32 with autocast", "cpu", "float32"
    )


FORMATS = {
    "bitsandbytes int8": ("bitsandbytes int8", False),
    "bitsandbytes nf4": ("bitsandbytes nf4", False),
    "torchao int8": ("torchao Int8WeightOnly", False),
    "torchao int4": ("torchao IntxWeightOnly int4", False),
    "compressed-tensors w8a8": ("compressed-tensors w8a8 int-quantized", True),
    "compressed-tensors w4a16": ("compressed-tensors w4a16 pack-quantized", True),
    "fp8": ("fp8 e4m3", True),
}


@pytest.mark.parametrize("name", FORMATS)
def test_the_format_of_a_quantised_model_is_named(
    tmp_path: Path, prompts: list[Prompt], tokenizer: PreTrainedTokenizerFast, name: str
) -> None:
    """Of a folder and of an object, before and after the first forward, in which compressed-tensors unpacks the weights."""
    folder = make(name, tmp_path, tokenizer)
    format_, dequantised = FORMATS[name]
    expected = ModelDescription(format_, "float32", "cpu", dequantised=dequantised)
    objects = AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
    for model in (load_model(str(folder), "candidate", AUTO).model, objects):
        assert description(model) == expected
        assert TeacherForcedScorer(AUTO).score_batch(unquantised(), model, prompts, tokenizer).ran[1] == expected
        assert description(model) == expected


def test_layers_that_a_user_quantised_are_named_by_their_class() -> None:
    quantization = pytest.importorskip("torchao.quantization")
    model = unquantised()
    quantization.quantize_(model, quantization.Int8WeightOnlyConfig())
    assert description(model) == ModelDescription("torchao Int8Tensor", "float32", "cpu")
    layer = torch.nn.Linear(4, 4)
    layer.weight = torch.nn.Parameter(layer.weight.data.to(torch.float8_e4m3fn), requires_grad=False)
    with PyTorchBackend().opened(layer, "candidate", AUTO) as engine:
        described: Any = engine
        assert described.description.format == "float8"


@pytest.mark.parametrize(
    ("kind", "stored", "dequantised"), [("Q4_1", None, True), ("Q8_0", None, True), ("F16", "float16", False)]
)
def test_a_gguf_file_is_dequantised(
    tmp_path: Path, bpe: PreTrainedTokenizerFast, kind: str, stored: str | None, dequantised: bool
) -> None:
    pytest.importorskip("accelerate")
    file = write_gguf(tmp_path / "model.gguf", bpe, kind)
    assert of_spec(file) == ModelDescription(f"GGUF {kind}", "float32", "cpu", stored, dequantised)


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"quant_method": "gptq", "bits": 4}, "gptq 4-bit"),
        ({"quant_method": "hqq", "quant_config": {}}, "hqq"),
        ({"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}, "bitsandbytes nf4"),
        ({"quant_method": "compressed-tensors", "config_groups": 3}, "compressed-tensors"),
        ({"quant_method": "torchao", "quant_type": "int8_weight_only"}, "torchao int8_weight_only"),
        ({"quant_method": "mxfp4"}, "mxfp4"),
    ],
)
def test_formats_have_names(settings: dict[str, Any], name: str) -> None:
    assert format_name(settings) == name


def test_a_model_is_forgotten_when_it_is_gone(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    save(tiny("llama"), tmp_path, tokenizer)
    loaded = load_model(str(tmp_path), "candidate", AUTO)
    model = weakref.ref(loaded.model)
    del loaded
    gc.collect()
    assert model() is None
