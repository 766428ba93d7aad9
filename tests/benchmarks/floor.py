"""The floor of a score's cost: the matrix products of one forward that no way of scoring can do without."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from pytest_pot import ScoringConfig
from pytest_pot.batches import cheapest
from pytest_pot.engines.causal_lm import CausalLM
from pytest_pot.tokens import Tokens


def products(model: Any, texts: Sequence[Tokens], config: ScoringConfig) -> Callable[[], None]:
    """The products of the model's linear layers, for the tokens of all prompts in the batches of ``batch_size="auto"``, and of
    its output layer for the positions that are compared: the weights themselves on numbers of the same shape, without
    padding, attention, norms or anything else."""
    tokens = sorted(texts, key=lambda one: -len(one.ids))
    with CausalLM.ready(model, "candidate", config) as engine:
        sizes = cheapest([len(one.ids) for one in tokens], engine.room)
    head = model.get_output_embeddings()
    layers = [m.weight for m in model.modules() if isinstance(m, torch.nn.Linear) and m is not head]
    shapes, start = [], 0
    for size in sizes:
        batch = tokens[start : start + size]
        shapes.append((sum(len(one.ids) for one in batch), sum(one.n_positions for one in batch)))
        start += size
    widths = {weight.shape[1] for weight in [*layers, head.weight]}
    most = max(n for n, _ in shapes)
    states = {width: torch.randn(most, width) for width in widths}

    def run() -> None:
        with torch.inference_mode():
            for n_tokens, n_positions in shapes:
                for weight in layers:
                    torch.nn.functional.linear(states[weight.shape[1]][:n_tokens], weight)
                torch.nn.functional.linear(states[head.weight.shape[1]][:n_positions], head.weight)

    return run
