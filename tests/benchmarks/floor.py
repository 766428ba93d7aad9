"""The floor of a score's cost: the matrix products of one forward that no way of scoring can do without."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from pytest_pot import ScoringConfig
from pytest_pot.engines.pytorch.engine import TorchEngine
from pytest_pot.engines.tokens import Tokens
from pytest_pot.scoring.batching import cheapest


def products(model: Any, texts: Sequence[Tokens], config: ScoringConfig) -> Callable[[], None]:
    """The products of the model's linear layers, for the tokens of all prompts in the batches of ``batch_size="auto"``, and of
    its output layer for the positions that are compared (with ``renormalise``, of so many of its rows): the weights themselves
    on numbers of the same shape, without padding, attention, norms or anything else. No prompt's last token has to be read."""
    tokens = sorted(texts, key=lambda one: -len(one.ids))
    with TorchEngine.opened(model, "candidate", config) as engine:
        sizes = cheapest([len(one.ids) for one in tokens], engine.room)
    output_layer = model.get_output_embeddings()
    layers = [m.weight for m in model.modules() if isinstance(m, torch.nn.Linear) and m is not output_layer]
    head = output_layer.weight[: config.top_k] if config.tail == "renormalise" else output_layer.weight
    shapes, start = [], 0
    for size in sizes:
        batch = tokens[start : start + size]
        shapes.append((sum(len(one.ids) - 1 for one in batch), sum(one.n_positions for one in batch)))
        start += size
    widths = {weight.shape[1] for weight in [*layers, head]}
    most = max(n for n, _ in shapes)
    states = {width: torch.randn(most, width) for width in widths}

    def run() -> None:
        with torch.inference_mode():
            for n_tokens, n_positions in shapes:
                for weight in layers:
                    torch.nn.functional.linear(states[weight.shape[1]][:n_tokens], weight)
                torch.nn.functional.linear(states[head.shape[1]][:n_positions], head)

    return run
