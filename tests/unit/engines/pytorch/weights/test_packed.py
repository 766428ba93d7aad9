"""Packed weights: under the names that they have without the format, with the values that the layer computes with."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from pytest_pot.engines.pytorch.weights.named import NamedWeights
from pytest_pot.engines.pytorch.weights_digest import weights_digest

from ....models import tiny
from ....published_formats import make, unquantised, write_adapter

pytestmark = pytest.mark.filterwarnings("default")  # the libraries of the formats warn while they are imported

PACKED = {
    "bitsandbytes int8": "bitsandbytes int8",
    "bitsandbytes nf4": "bitsandbytes nf4",
    "torchao int8": "torchao Int8Tensor",
    "torchao int4": "torchao IntxUnpackedToInt8Tensor",
    "compressed-tensors w8a8": "compressed-tensors int-quantized",
    "compressed-tensors w4a16": "compressed-tensors pack-quantized",
}
MOST_APART = {"int8": 0.02, "w8a8": 0.02, "nf4": 0.2, "int4": 0.3, "w4a16": 0.2}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def load(home: Path, tokenizer: PreTrainedTokenizerFast) -> Callable[[str], Any]:
    """Load a model in the format; each folder is made once."""

    def loaded(name: str) -> Any:
        folder = home / name if (home / name).exists() else make(name, home, tokenizer, torch.bfloat16)
        model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
        return model.eval()

    return loaded


def relative(first: Tensor, second: Tensor) -> float:
    return float((first.double() - second.double()).norm() / second.double().norm())


@pytest.mark.parametrize("name", PACKED)
def test_packed_weights_are_read(load: Callable[[str], Any], tokenizer: PreTrainedTokenizerFast, name: str) -> None:
    model = load(name)
    original = NamedWeights(unquantised(torch.bfloat16, vocab_size=len(tokenizer)))
    before = weights_digest(model)
    named = NamedWeights(model)
    assert named.unreadable is None
    assert {each: info.shape for each, info in named.tensors.items()} == {
        each: info.shape for each, info in original.tensors.items()
    }
    matrices = [each for each in named.tensors if each.endswith("proj.weight")]
    assert {named.tensors[each].dtype for each in matrices} == {PACKED[name]}
    for each in matrices:
        values = named.values(each)
        assert tuple(values.shape) == named.tensors[each].shape
        assert 0.001 < relative(values, original.values(each)) < MOST_APART[name.rpartition(" ")[2]]
        assert named.digest(each) != original.digest(each)
    rest = [each for each, info in named.tensors.items() if each not in matrices and info.saved]
    assert all(named.digest(each) == original.digest(each) for each in rest)
    assert weights_digest(model) == before


@pytest.mark.parametrize("name", PACKED)
def test_a_layer_computes_with_these_values(load: Callable[[str], Any], name: str) -> None:
    """A layer shows its matrix when it reads the identity, as far as it does not round what it reads. It changes nothing."""
    model = load(name)
    named = NamedWeights(model)
    prefixes = [each.removesuffix(".weight") for each in named.tensors if each.endswith("proj.weight")]
    first = {prefix: named.digest(f"{prefix}.weight") for prefix in prefixes}
    with torch.no_grad():
        model(torch.arange(8)[None])
    later = NamedWeights(model)
    assert later.tensors == named.tensors
    for prefix in prefixes:
        layer = model.get_submodule(prefix)
        with torch.no_grad():
            computed = layer(torch.eye(layer.in_features, dtype=torch.bfloat16)).T
        assert relative(computed, later.values(f"{prefix}.weight")) < 0.01
        assert later.digest(f"{prefix}.weight") == first[prefix]


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("kind", ["nf4", "fp4"])
def test_what_bitsandbytes_does_in_its_first_forward_is_no_change(kind: str, nested: bool) -> None:
    """On some processors it reorders the weights, and rounds the scales."""
    nn4: Any = pytest.importorskip("bitsandbytes").nn
    source = torch.nn.Linear(256, 128, bias=False)
    layer = nn4.Linear4bit(256, 128, bias=False, quant_type=kind, compress_statistics=nested, compute_dtype=torch.float32)
    layer.load_state_dict(source.state_dict())
    layer = layer.to("cpu").eval()
    before = NamedWeights(layer)
    values = before.values("weight")
    assert before.tensors["weight"].dtype == f"bitsandbytes {kind}"
    assert 0.01 < relative(values, source.weight.detach()) < 0.2
    with torch.no_grad():
        computed = layer(torch.eye(256)).T
    assert torch.equal(NamedWeights(layer).values("weight"), values)
    assert relative(computed, values) < 0.01


def test_fp8_is_read_where_it_is_not_dequantised() -> None:
    integration = pytest.importorskip("transformers.integrations.finegrained_fp8")
    layer = integration.FP8Linear(48, 40, block_size=(32, 16))
    generator = torch.Generator().manual_seed(0)
    layer.weight.data = torch.randn(40, 48, generator=generator).to(torch.float8_e4m3fn)
    layer.weight_scale_inv.data = torch.rand(2, 3, generator=generator)
    named = NamedWeights(nn.ModuleDict({"a": layer}))
    assert list(named.tensors) == ["a.weight"]
    assert named.tensors["a.weight"].dtype == "float8_e4m3fn with scales"
    values = named.values("a.weight")
    for row, column in ((0, 0), (31, 15), (32, 15), (39, 47), (20, 16)):
        expected = layer.weight[row, column].float() * layer.weight_scale_inv[row // 32, column // 16]
        assert values[row, column] == expected


def test_a_format_that_is_not_known_is_named() -> None:
    """A layer of a library, with integers that only its own code understands."""
    kind = type("TorchQuantLinear", (nn.Module,), {"__module__": "gptqmodel.nn_modules"})
    model: Any = nn.Sequential(nn.Linear(2, 2), kind())
    model[1].register_buffer("qweight", torch.zeros(2, 2, dtype=torch.int32))
    assert NamedWeights(model).unreadable == "1 is kept as gptqmodel TorchQuantLinear, a format that cannot be read here"
    assert list(NamedWeights(model).tensors) == ["0.weight", "0.bias", "1.qweight"]


def test_a_method_of_transformers_that_is_not_known_is_named() -> None:
    model: Any = tiny("llama")
    model.quantization_method = "hqq"
    assert NamedWeights(model).unreadable == "the weights are packed by hqq, a format that cannot be read here"


def test_what_a_library_cannot_dequantise_cannot_be_read(load: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    model = load("compressed-tensors w4a16")
    smallest = "model.layers.1.self_attn.v_proj"
    for module in model.modules():
        if hasattr(module, "quantization_scheme"):
            module.quantization_scheme = copy.deepcopy(module.quantization_scheme)
            module.quantization_scheme.weights.num_bits = 11
    reason = NamedWeights(model).unreadable
    assert reason is not None
    assert reason.startswith(f"{smallest}.weight is kept as compressed-tensors pack-quantized, and cannot be dequantised (")


def test_torch_quantises_layers_too() -> None:
    model = nn.Sequential(nn.Linear(4, 4))
    quantised = torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)
    reason = NamedWeights(quantised).unreadable
    assert reason == "0 is kept as torch Linear, a format that cannot be read here"


def test_the_tensors_below_an_adapter_have_their_own_names(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    peft = pytest.importorskip("peft")
    base = tiny("llama")
    base.save_pretrained(tmp_path / "base")
    adapted = peft.PeftModel.from_pretrained(tiny("llama"), write_adapter(tmp_path / "adapter", tmp_path / "base"))
    named, plain = NamedWeights(adapted), NamedWeights(base)
    extra = set(named.tensors) - set(plain.tensors)
    assert set(plain.tensors) <= set(named.tensors)
    assert "model.layers.0.self_attn.q_proj.lora_A.default.weight" in extra
    assert len(extra) == 2 * 2 * 2
    assert named.model_class == plain.model_class == "LlamaForCausalLM"
    assert all(named.digest(name) == plain.digest(name) for name in plain.tensors)
    merged = NamedWeights(adapted.merge_and_unload())
    assert list(merged.tensors) == list(plain.tensors)
    changed = [name for name in plain.tensors if merged.digest(name) != plain.digest(name)]
    assert len(changed) == 4
