"""Continuing a prompt with the model itself: ancestral sampling that touches no global random state."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["sample_continuation"]


def sample_continuation(
    model: nn.Module,
    next_token_logits: Callable[[Tensor], Tensor],
    context: list[int],
    n_tokens: int,
    seed: int,
    device: torch.device,
) -> list[int]:
    """``n_tokens`` ids sampled after ``context`` at temperature 1, from the full distribution and past any eos.

    The draw depends on ``seed`` and on the context's ids alone, so a prompt is continued alike wherever it stands in a
    list. A model that can ``generate`` does so, for the sake of its cache; any other is run anew for each token.
    """
    draw = _Draw(context, seed)
    ids = torch.tensor([context], device=device)
    if _can_generate(model):
        return _generate(model, draw, ids, n_tokens)
    for _ in range(n_tokens):
        ids = torch.cat([ids, draw(next_token_logits(ids))], dim=1)
    return [int(token) for token in ids[0, len(context) :]]


class _Draw:
    """Draws one id from logits by inverting the cumulative distribution, with a random stream of its own."""

    def __init__(self, context: list[int], seed: int) -> None:
        digest = hashlib.sha256(f"{seed}:{context}".encode()).digest()
        self._generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)

    def __call__(self, logits: Tensor) -> Tensor:
        """One id, [1, 1], from logits [1, vocab]."""
        cumulative = logits.to(device="cpu", dtype=torch.float64).softmax(-1).cumsum(-1)
        uniform = torch.rand(1, 1, generator=self._generator, dtype=torch.float64)
        drawn = torch.searchsorted(cumulative, uniform * cumulative[:, -1:], right=True)
        return drawn.clamp_max(logits.shape[-1] - 1).to(logits.device)


def _can_generate(model: nn.Module) -> bool:
    can = getattr(model, "can_generate", None)
    return callable(can) and bool(can())


def _generate(model: Any, draw: _Draw, ids: Tensor, n_tokens: int) -> list[int]:
    from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList

    class Choose(LogitsProcessor):  # type: ignore[misc, unused-ignore]
        """Leaves only the drawn id possible, so that greedy decoding picks it."""

        def __call__(self, _ids: Tensor, scores: Tensor) -> Tensor:
            return torch.full_like(scores, -torch.inf).scatter_(-1, draw(scores), 0.0)

    # generate() fills what a config leaves open from the model's own one: a repetition penalty, an eos to stop at. A plain
    # config stands in for that one meanwhile.
    plain: Any = GenerationConfig(max_new_tokens=n_tokens, do_sample=False, pad_token_id=0)  # type: ignore[no-untyped-call, unused-ignore]
    own = model.generation_config
    model.generation_config = plain
    try:
        out = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            generation_config=plain,
            logits_processor=LogitsProcessorList([Choose()]),
        )
    finally:
        model.generation_config = own
    return [int(token) for token in out[0, ids.shape[1] :]]
