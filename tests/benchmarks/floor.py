"""The lower bound of what a score costs: the matrix products of a forward pass that no implementation can avoid."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from pytest_pot import ScoringConfig
from pytest_pot.engines.pytorch.engine import TorchEngine
from pytest_pot.engines.tokens import Tokens
from pytest_pot.scoring.batch_plan import cheapest


def products(model: Any, texts: Sequence[Tokens], config: ScoringConfig) -> Callable[[], None]:
    """A function that computes only the model's matrix products, with its own weights and random inputs of the same shapes.

    Linear layers are run on the tokens of all prompts, in the batches of ``batch_size="auto"``; the output layer only on the
    compared positions (with ``renormalise``, only ``top_k`` of its rows). There is no padding, attention, norm or anything
    else. The last token of each prompt is left out, because scoring does not need to read it.
    """
    tokens = sorted(texts, key=lambda prompt: -len(prompt.ids))
    with TorchEngine.opened(model, "candidate", config) as engine:
        sizes = cheapest([len(prompt.ids) for prompt in tokens], engine.room)
    batches, start = [], 0
    for size in sizes:
        batches.append(tokens[start : start + size])
        start += size
    return products_of(model, batches, config)


def products_of(model: Any, batches: Sequence[Sequence[Tokens]], config: ScoringConfig) -> Callable[[], None]:
    """:func:`products` in ``batches``, on the device and in the precision of the model."""
    output_layer = model.get_output_embeddings()
    layers = [m.weight for m in model.modules() if isinstance(m, torch.nn.Linear) and m is not output_layer]
    head = output_layer.weight[: config.top_k] if config.tail == "renormalise" else output_layer.weight
    shapes = [(sum(len(prompt.ids) - 1 for prompt in batch), sum(prompt.n_positions for prompt in batch)) for batch in batches]
    widths = {weight.shape[1] for weight in [*layers, head]}
    most = max(n for n, _ in shapes)
    states = {width: torch.randn(most, width, dtype=head.dtype, device=head.device) for width in widths}

    def run() -> None:
        with torch.inference_mode():
            for n_tokens, n_positions in shapes:
                for weight in layers:
                    torch.nn.functional.linear(states[weight.shape[1]][:n_tokens], weight)
                torch.nn.functional.linear(states[head.shape[1]][:n_positions], head)

    return run
