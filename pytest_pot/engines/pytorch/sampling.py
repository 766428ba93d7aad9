"""Let a model continue a prompt: ancestral sampling that leaves the global random state alone."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

__all__ = ["sample_continuation"]


def sample_continuation(
    model: object,
    next_token_logits: Callable[[Tensor], Tensor],
    context: list[int],
    n_tokens: int,
    seed: int,
    device: torch.device,
) -> list[int]:
    """Sample ``n_tokens`` ids after ``context`` at temperature 1, from the whole vocabulary, without stopping at an EOS token.

    The result depends only on ``seed`` and ``context``, so a prompt gets the same continuation wherever it stands in a list. We
    call ``generate`` if the model has it, because it uses the key-value cache; otherwise we run the whole sequence again for
    each token.
    """
    sampler = _Sampler(context, seed)
    ids = torch.tensor([context], device=device)
    if _can_generate(model):
        return _generate(model, sampler, ids, n_tokens)
    for _ in range(n_tokens):
        ids = torch.cat([ids, sampler(next_token_logits(ids))], dim=1)
    return [int(token) for token in ids[0, len(context) :]]


class _Sampler:
    """Samples ids by inverting the cumulative distribution, with its own random generator."""

    def __init__(self, context: list[int], seed: int) -> None:
        digest = hashlib.sha256(f"{seed}:{context}".encode()).digest()
        self._generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)

    def __call__(self, logits: Tensor) -> Tensor:
        """Sample one id, [1, 1], from logits [1, vocab]."""
        cumulative = logits.to(device="cpu", dtype=torch.float64).softmax(-1).cumsum(-1)
        uniform = torch.rand(1, 1, generator=self._generator, dtype=torch.float64)
        token = torch.searchsorted(cumulative, uniform * cumulative[:, -1:], right=True)
        return token.clamp_max(logits.shape[-1] - 1).to(logits.device)


def _can_generate(model: object) -> bool:
    can = getattr(model, "can_generate", None)
    return callable(can) and bool(can())


def _generate(model: Any, sampler: _Sampler, ids: Tensor, n_tokens: int) -> list[int]:
    from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList

    class KeepSample(LogitsProcessor):  # type: ignore[misc, unused-ignore]
        """Leaves only the sampled id possible, so that greedy decoding picks it."""

        def __call__(self, _ids: Tensor, scores: Tensor) -> Tensor:
            return torch.full_like(scores, -torch.inf).scatter_(-1, sampler(scores), 0.0)

    # For settings that our config leaves open, generate() uses the model's own config, such as a repetition penalty or an EOS
    # token to stop at. So we replace the model's config during the call.
    plain: Any = GenerationConfig(max_new_tokens=n_tokens, do_sample=False, pad_token_id=0)  # type: ignore[no-untyped-call, unused-ignore]
    own = model.generation_config
    model.generation_config = plain
    try:
        out = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            generation_config=plain,
            logits_processor=LogitsProcessorList([KeepSample()]),
        )
    finally:
        model.generation_config = own
    return [int(token) for token in out[0, ids.shape[1] :]]
