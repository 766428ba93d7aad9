"""What gpu.py compares scoring with: the forwards alone, the matrix products alone, and the work that they do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from bench import AUTO, Way
from floor import products_of
from gpu_bench import Pair

from pytest_pot import Prompt, ScoreReport
from pytest_pot.engines.tokens import Tokens

__all__ = ["Bare", "work"]

_CHUNK = 1 << 14
"""Padded tokens per batch if the report does not say which batches ran."""


class Bare:
    """Ways to run one model over the batches of ``batch_size="auto"`` that do no more than they must."""

    def __init__(self, pair: Pair, prompts: Sequence[Prompt]) -> None:
        run = pair.recorded(AUTO, prompts)
        run()  # the first run may have to find out how much a batch costs
        report = run()
        self.model = pair.model
        self.tokens = report.tokens
        self.batches = _batches(report)

    def forwards(self) -> Way:
        """The body, the output layer at the compared positions, top-k, log-sum-exp, and one copy to the host per batch.

        Token ids, masks and indices are on the device beforehand.
        """
        model, device = self.model, self.model.get_output_embeddings().weight.device
        inputs = [_inputs(batch, device) for batch in self.batches]

        def run() -> None:
            with torch.inference_mode():
                for ids, mask, rows, columns, targets in inputs:
                    states = model.model(ids, attention_mask=mask, use_cache=False).last_hidden_state
                    logits = model.lm_head(states[rows, columns]).float()
                    top = logits.topk(100)
                    normaliser = logits.logsumexp(-1, keepdim=True)
                    target = logits.gather(-1, targets)
                    packed = [top.values - normaliser, target - normaliser, top.indices.to(torch.int32).view(torch.float32)]
                    torch.cat(packed, dim=-1).cpu()

        return run

    def products(self) -> Way:
        """The matrix products alone, see :func:`floor.products`."""
        return products_of(self.model, self.batches, AUTO)


def work(model: Any, tokens: Sequence[Tokens]) -> float:
    """Floating-point operations of the matrix products for ``tokens``: no padding, the output layer at the positions only.

    The last token of each prompt need not be read.
    """
    output_layer = model.get_output_embeddings()
    layers = (m for m in model.modules() if isinstance(m, torch.nn.Linear) and m is not output_layer)
    body = sum(layer.weight.numel() for layer in layers)
    n_tokens = sum(len(prompt.ids) - 1 for prompt in tokens)
    n_positions = sum(prompt.n_positions for prompt in tokens)
    multiplied: int = body * n_tokens + output_layer.weight.numel() * n_positions
    return 2.0 * multiplied


def _batches(report: ScoreReport) -> list[list[Tokens]]:
    ran: Sequence[Sequence[int]] | None = getattr(report, "batches", None)
    if ran:
        return [[report.tokens[index] for index in batch] for batch in ran]
    batches: list[list[Tokens]] = []
    for prompt in sorted(report.tokens, key=lambda prompt: -len(prompt.ids)):
        if not batches or (1 + len(batches[-1])) * len(batches[-1][0].ids) > _CHUNK:
            batches.append([])
        batches[-1].append(prompt)
    return batches


def _inputs(batch: Sequence[Tokens], device: torch.device) -> tuple[torch.Tensor, ...]:
    """Ids and mask [batch, length], the row and column of each compared position, and the token to predict there."""
    length = max(len(prompt.ids) for prompt in batch) - 1
    read = [prompt.ids[:-1] for prompt in batch]
    ids = [[*row, *[0] * (length - len(row))] for row in read]
    mask = [[1] * len(row) + [0] * (length - len(row)) for row in read]
    places = [(index, prompt.prompt_len - 1 + j) for index, prompt in enumerate(batch) for j in range(prompt.n_positions)]
    rows, columns = zip(*places, strict=True)
    targets = [[token] for prompt in batch for token in prompt.targets]
    return tuple(torch.tensor(values, device=device) for values in (ids, mask, rows, columns, targets))
