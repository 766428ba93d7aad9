"""Folders with tiny models in the formats that people publish; most formats need a package of their own."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    BitsAndBytesConfig,
    FineGrainedFP8Config,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    TorchAoConfig,
)

from .models import tiny

_SIZES: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
}
_BLOCK = 32
_TORCH: Any = torch  # torch does not declare int4


def unquantised(dtype: torch.dtype = torch.float32, **sizes: int) -> PreTrainedModel:
    """The model of which all folders hold a quantised copy: wide enough for blocks of 32 weights."""
    model: Any = tiny("llama", **_SIZES, **sizes)
    quantisable: PreTrainedModel = model.to(dtype)
    return quantisable


def save(model: Any, folder: Path, tokenizer: PreTrainedTokenizerFast) -> Path:
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def make(name: str, home: Path, tokenizer: PreTrainedTokenizerFast, dtype: torch.dtype = torch.float32) -> Path:
    """A folder ``home/name`` with :func:`unquantised` in the format ``name``, made from weights in ``dtype``."""
    source = home / f"unquantised-{str(dtype).removeprefix('torch.')}"
    if not source.exists():
        save(unquantised(dtype, vocab_size=len(tokenizer)), source, tokenizer)
    folder = home / name
    FORMATS[name](source, folder)
    tokenizer.save_pretrained(folder)
    return folder


def _by_transformers(make_config: Callable[[], Any], package: str) -> Callable[[Path, Path], None]:
    def quantise(source: Path, folder: Path) -> None:
        pytest.importorskip(package)
        model = AutoModelForCausalLM.from_pretrained(source, quantization_config=make_config(), dtype="auto")
        model.save_pretrained(folder)

    return quantise


def _torchao(name: str, **arguments: Any) -> Callable[[], Any]:
    def config() -> Any:
        quantization: Any = pytest.importorskip("torchao.quantization")
        return TorchAoConfig(getattr(quantization, name)(**arguments))

    return config


def _compressed_tensors(preset: str, **weights: Any) -> Callable[[Path, Path], None]:
    def quantise(source: Path, folder: Path) -> None:
        quantization: Any = pytest.importorskip("compressed_tensors.quantization")
        compressors: Any = pytest.importorskip("compressed_tensors.compressors")

        scheme = quantization.preset_name_to_scheme(preset, ["Linear"])
        for name, value in weights.items():
            setattr(scheme.weights, name, value)
        model: Any = AutoModelForCausalLM.from_pretrained(source, dtype="auto")
        config = quantization.QuantizationConfig(config_groups={"group_0": scheme}, ignore=["lm_head"])
        quantization.apply_quantization_config(model, config)
        for module in model.modules():
            if not hasattr(module, "weight_scale"):
                continue
            matrix = module.weight.data
            grouped = matrix.reshape(len(matrix), -1, scheme.weights.group_size or matrix.shape[1])
            scale, _ = quantization.utils.calculate_qparams(grouped.amin(-1), grouped.amax(-1), scheme.weights)
            module.weight_scale.data.copy_(scale.reshape(module.weight_scale.shape))
            module.quantization_status = quantization.QuantizationStatus.FROZEN
        compressor = compressors.ModelCompressor.from_pretrained_model(model)
        compressor.compress_model(model)
        model.save_pretrained(folder)
        compressor.update_config(str(folder))

    return quantise


def why_fp8_cannot_run_here() -> str | None:
    """Why a fp8 model that transformers loads does not run on the CPU of this machine; None if it does, dequantised."""
    if not getattr(FineGrainedFP8Config(dequantize=True), "dequantize", False):
        return f"transformers {transformers.__version__} cannot dequantise fp8"
    if torch.cuda.is_available() or torch.xpu.is_available():
        return "transformers keeps fp8 as it is where there is a GPU, and its kernel is a download"
    return None


def _fp8(source: Path, folder: Path) -> None:
    """As DeepSeek's checkpoints: blocks of fp8 weights, and a scale for each block."""
    pytest.importorskip("accelerate")
    if reason := why_fp8_cannot_run_here():
        pytest.skip(reason)
    write_fp8(source, folder)


def write_fp8(source: Path, folder: Path) -> None:
    """The checkpoint ``source`` in fp8; no package is needed to write it."""
    tensors = {}
    for name, weight in load_file(source / "model.safetensors").items():
        tensors[name] = weight
        if name.endswith("proj.weight"):
            rows, columns = weight.shape
            blocks = weight.float().reshape(rows // _BLOCK, _BLOCK, columns // _BLOCK, _BLOCK)
            scale = blocks.abs().amax((1, 3), keepdim=True) / torch.finfo(torch.float8_e4m3fn).max
            tensors[name] = (blocks / scale).reshape(rows, columns).to(torch.float8_e4m3fn)
            tensors[f"{name}_scale_inv"] = scale.reshape(rows // _BLOCK, columns // _BLOCK).contiguous()
    folder.mkdir()
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    settings = {
        "quant_method": "fp8",
        "activation_scheme": "dynamic",
        "fmt": "e4m3",
        "weight_block_size": [_BLOCK, _BLOCK],
        "modules_to_not_convert": ["lm_head"],
    }
    write_config(folder, source, quantization_config=settings)


def write_gguf(file: Path, tokenizer: PreTrainedTokenizerFast, kind: str) -> Path:
    """A Llama of one layer, with its matrices in the GGUF type ``kind``, and ``tokenizer``, a byte-level BPE."""
    gguf = pytest.importorskip("gguf")
    quantised = gguf.GGMLQuantizationType[kind]
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_block_count(1)
    writer.add_context_length(128)
    writer.add_embedding_length(32)
    writer.add_feed_forward_length(64)
    writer.add_head_count(2)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(16)
    writer.add_vocab_size(len(tokenizer))
    vocabulary = tokenizer.get_vocab()
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(sorted(vocabulary, key=lambda token: vocabulary[token]))
    writer.add_token_types([1] * len(vocabulary))
    writer.add_token_merges([" ".join(pair) for pair in json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]])
    generator = np.random.default_rng(0)
    shapes = {"token_embd": (len(vocabulary), 32), "output": (len(vocabulary), 32)}
    shapes |= {f"blk.0.attn_{name}": (32, 32) for name in ("q", "k", "v", "output")}
    shapes |= {"blk.0.ffn_gate": (64, 32), "blk.0.ffn_up": (64, 32), "blk.0.ffn_down": (32, 64)}
    for name, shape in shapes.items():
        weights = (0.3 * generator.normal(size=shape)).astype(np.float32)
        packed = weights if kind == "F32" else gguf.quants.quantize(weights, quantised)
        writer.add_tensor(f"{name}.weight", packed, raw_dtype=quantised)
    for name in ("output_norm", "blk.0.attn_norm", "blk.0.ffn_norm"):
        writer.add_tensor(f"{name}.weight", np.ones(32, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def write_adapter(folder: Path, base: Path, rank: int = 4) -> Path:
    """A LoRA adapter on the attention of the Llama in ``base``, as peft would save it; peft is not needed to write it."""
    config = json.loads((base / "config.json").read_text(encoding="utf-8"))
    generator = torch.Generator().manual_seed(0)
    width, head = config["hidden_size"], config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    outputs = {"q_proj": head * config["num_attention_heads"], "v_proj": head * config["num_key_value_heads"]}
    tensors = {}
    for layer in range(config["num_hidden_layers"]):
        for name, size in outputs.items():
            prefix = f"base_model.model.model.layers.{layer}.self_attn.{name}"
            tensors[f"{prefix}.lora_A.weight"] = 0.3 * torch.randn(rank, width, generator=generator)
            tensors[f"{prefix}.lora_B.weight"] = 0.3 * torch.randn(size, rank, generator=generator)
    folder.mkdir()
    save_file(tensors, folder / "adapter_model.safetensors", {"format": "pt"})
    settings = {
        "base_model_name_or_path": str(base),
        "bias": "none",
        "lora_alpha": 2 * rank,
        "lora_dropout": 0.0,
        "peft_type": "LORA",
        "r": rank,
        "target_modules": list(outputs),
        "task_type": "CAUSAL_LM",
    }
    (folder / "adapter_config.json").write_text(json.dumps(settings), encoding="utf-8")
    return folder


def write_config(folder: Path, source: Path, **changes: object) -> None:
    """Copy ``config.json`` from ``source``, with some values changed."""
    config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps({**config, **changes}), encoding="utf-8")


FORMATS: Mapping[str, Callable[[Path, Path], None]] = {
    "bitsandbytes int8": _by_transformers(lambda: BitsAndBytesConfig(load_in_8bit=True), "bitsandbytes"),
    "bitsandbytes nf4": _by_transformers(
        lambda: BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4"), "bitsandbytes"
    ),
    "torchao int8": _by_transformers(_torchao("Int8WeightOnlyConfig"), "torchao"),
    "torchao int4": _by_transformers(_torchao("IntxWeightOnlyConfig", weight_dtype=_TORCH.int4), "torchao"),
    "compressed-tensors w8a8": _compressed_tensors("W8A8"),
    "compressed-tensors w4a16": _compressed_tensors("W4A16", group_size=_BLOCK),
    "fp8": _fp8,
}
