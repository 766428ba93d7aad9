"""Weights as plain data, for tests of what is made of them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from pytest_pot.engines.pytorch.weights.named import NamedWeights
from pytest_pot.engines.weights import TensorInfo, TensorPrint, WeightsPrint
from pytest_pot.scoring.diagnosis.known_weights import KnownWeights

from ...models import tiny

Shape = tuple[int, ...]


def llama_shapes(n_layers: int = 3, hidden: int = 8, *, tied: bool = False) -> dict[str, Shape]:
    """The tensors of a Llama, with the shapes of grouped-query attention."""
    layer = {
        "self_attn.q_proj.weight": (hidden, hidden),
        "self_attn.k_proj.weight": (hidden // 2, hidden),
        "self_attn.v_proj.weight": (hidden // 2, hidden),
        "self_attn.o_proj.weight": (hidden, hidden),
        "mlp.gate_proj.weight": (3 * hidden, hidden),
        "mlp.up_proj.weight": (3 * hidden, hidden),
        "mlp.down_proj.weight": (hidden, 3 * hidden),
        "input_layernorm.weight": (hidden,),
        "post_attention_layernorm.weight": (hidden,),
    }
    shapes: dict[str, Shape] = {"model.embed_tokens.weight": (11, hidden)}
    shapes |= {f"model.layers.{i}.{name}": shape for i in range(n_layers) for name, shape in layer.items()}
    shapes["model.norm.weight"] = (hidden,)
    return shapes if tied else {**shapes, "lm_head.weight": (11, hidden)}


def printed(
    shapes: Mapping[str, Shape],
    *,
    content: Mapping[str, str] | None = None,
    ties: Mapping[str, str] | None = None,
    model_class: str = "LlamaForCausalLM",
    computed: Iterable[str] = (),
) -> WeightsPrint:
    """Weights in which two tensors have equal values if they have the same ``content``: each its own name, unless given."""
    content = content or {}
    return WeightsPrint(
        model_class,
        None,
        {
            name: TensorPrint(
                TensorInfo(shape, "float32", saved=name not in computed),
                hashlib.sha256(content.get(name, name).encode()).digest()[:8],
                1.0,
                0,
                np.zeros(16),
            )
            for name, shape in shapes.items()
        },
        dict(ties or {}),
    )


def known(*args: Mapping[str, Shape], **kwargs: object) -> KnownWeights:
    return KnownWeights(printed(*args, **kwargs))  # type: ignore[arg-type]


def infos(name: str, **overrides: Any) -> tuple[dict[str, TensorInfo], dict[str, str]]:
    """The saved tensors of the tiny model ``name``, and its ties."""
    weights = NamedWeights(tiny(name, **overrides))
    return {key: info for key, info in weights.tensors.items() if info.saved}, dict(weights.ties)
