"""Tiny random models of many architectures, with weights so large that distributions are not flat."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    FalconConfig,
    Gemma2Config,
    Gemma3TextConfig,
    GPT2Config,
    LlamaConfig,
    MambaConfig,
    MistralConfig,
    MixtralConfig,
    OPTConfig,
    PhiConfig,
    PretrainedConfig,
    PreTrainedModel,
    Qwen3Config,
)

VOCAB = 97
ATTENTION: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
HEADS: dict[str, Any] = {"head_dim": 8}

CONFIGS: dict[str, Callable[[], PretrainedConfig]] = {
    "gpt2": lambda: GPT2Config(
        n_layer=2, n_embd=32, n_head=4, vocab_size=VOCAB, n_positions=128, bos_token_id=1, eos_token_id=2
    ),
    "opt": lambda: OPTConfig(
        vocab_size=VOCAB, hidden_size=32, ffn_dim=48, num_hidden_layers=2, num_attention_heads=4, max_position_embeddings=128
    ),
    "bloom": lambda: BloomConfig(vocab_size=VOCAB, hidden_size=32, n_layer=2, n_head=4),
    "llama": lambda: LlamaConfig(**ATTENTION),
    "qwen3": lambda: Qwen3Config(**ATTENTION, **HEADS),
    "gemma3": lambda: Gemma3TextConfig(
        **ATTENTION, **HEADS, sliding_window=8, layer_types=["sliding_attention", "full_attention"]
    ),
    "gemma2-softcap": lambda: Gemma2Config(
        **ATTENTION, **HEADS, query_pre_attn_scalar=8, final_logit_softcapping=5.0, attn_logit_softcapping=3.0, sliding_window=8
    ),
    "phi": lambda: PhiConfig(**ATTENTION),
    "mamba": lambda: MambaConfig(vocab_size=VOCAB, hidden_size=32, num_hidden_layers=2, state_size=8),
    "mixtral": lambda: MixtralConfig(**ATTENTION, num_local_experts=4, num_experts_per_tok=2),
}

MORE_CONFIGS: dict[str, Callable[[], PretrainedConfig]] = {
    "mistral-window": lambda: MistralConfig(**ATTENTION, sliding_window=8),
    "falcon-alibi": lambda: FalconConfig(
        vocab_size=VOCAB, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, alibi=True
    ),
}
"""Architectures that only some tests are about."""

Pair = tuple[PreTrainedModel, PreTrainedModel]
"""Reference and candidate."""


def tiny(name: str = "gpt2", seed: int = 0, scale: float = 4.0, **overrides: object) -> PreTrainedModel:
    """A random model of the architecture ``name``, with its initial matrices multiplied by ``scale``."""
    config = (CONFIGS | MORE_CONFIGS)[name]()
    for field, value in overrides.items():
        setattr(config, field, value)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim >= 2:
                parameter.mul_(scale)
    return model


def changed(model: PreTrainedModel, amount: float = 0.1, seed: int = 1) -> PreTrainedModel:
    """A copy of ``model`` with noise of ``amount`` standard deviations on every matrix."""
    generator = torch.Generator().manual_seed(seed)
    copy: PreTrainedModel = type(model)(model.config).eval()
    copy.load_state_dict(model.state_dict())
    with torch.no_grad():
        for parameter in copy.parameters():
            if parameter.ndim >= 2:
                parameter.add_(amount * parameter.std() * torch.randn(parameter.shape, generator=generator))
    return copy


def with_rolled_cache(model: PreTrainedModel) -> PreTrainedModel:
    """``model``, changed in place: before each step of decoding, the keys in its cache move on by one position.

    The values stay, or attention would see the same pairs in another order. In a recurrent model, the inputs move that its
    convolutions keep. A forward pass without a cache is unchanged.
    """

    def roll(_: torch.nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        cache = next(
            (named[name] for name in ("cache", "past_key_values", "cache_params") if named.get(name) is not None), None
        )
        if cache is None or named["input_ids"].shape[1] > 1:
            return
        for layer in getattr(cache, "layers", [cache]):
            keys, inputs = getattr(layer, "keys", None), getattr(layer, "conv_states", {})
            if keys is not None:
                layer.keys = keys.roll(1, dims=-2)
            for states in inputs.values() if isinstance(inputs, dict) else inputs:
                if states is not None:
                    states.copy_(states.roll(1, dims=-1))

    model.register_forward_pre_hook(roll, with_kwargs=True)
    return model


DECODED = (
    "gpt2",
    "llama",
    "qwen3",
    "gemma3",
    "mistral-window",
    "phi",
    "falcon-alibi",
    "mamba",
    "mixtral",
    "bloom",
)
"""Architectures that are read token by token: with positions that are learned, rotary or a bias (ALiBi), windows, experts, and
a recurrent state."""
