"""What the local servers have in common: a tiny real model, asked as a server asks its own."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

__all__ = ["EOS", "PlayedModel", "likeliest", "values_and_ranks"]

EOS = 2


class PlayedModel:
    """A model that several threads may ask."""

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = model
        self._lock = threading.Lock()
        self.vocab_size = int(model.config.vocab_size)

    def log_probs(self, ids: Sequence[int]) -> Tensor:
        """[len(ids), vocab] float32: row i is about the token after ``ids[: i + 1]``."""
        with self._lock, torch.inference_mode():
            logits: Tensor = self._model(torch.tensor([list(ids)])).logits[0]
            return logits.float().log_softmax(-1)

    def generate(self, ids: Sequence[int], n_tokens: int, how: dict[str, Any]) -> list[int]:
        """Up to ``n_tokens`` after ``ids``: greedy at temperature 0, else sampled with the seed of ``how``."""
        generator = torch.Generator().manual_seed(how.get("seed") or 0)
        read = list(ids)
        for _ in range(n_tokens):
            last = self.log_probs(read)[-1]
            if how.get("temperature", 1.0) == 0:
                token = int(last.argmax())
            else:
                token = int(torch.multinomial((last / how["temperature"]).softmax(-1), 1, generator=generator))
            read.append(token)
            if token == EOS and not how.get("ignore_eos"):
                break
        return read[len(ids) :]


def values_and_ranks(row: Tensor) -> tuple[list[float], list[int]]:
    """The log-probability of each id of a row [vocab], and its rank, 1 for the likeliest."""
    values = row.numpy()
    exceeded_by = len(values) - np.searchsorted(np.sort(values), values, side="right")
    return values.tolist(), (exceeded_by + 1).tolist()


def likeliest(row: Tensor, k: int) -> list[int]:
    """The ``k`` likeliest ids of a row [vocab], most likely first."""
    ids: list[int] = row.topk(k).indices.tolist()
    return ids
