"""What the model itself says, computed in the plainest way: one sequence at a time, no padding, no cache, float64."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn

from pytest_pot.core.errors import PotError
from pytest_pot.engines.distributions import Flags, Floats, Ints
from pytest_pot.engines.tokens import Tokens

__all__ = ["Oracle", "log_softmax"]


class Oracle:
    """A model and the prompts that an engine was asked about."""

    def __init__(self, model: nn.Module, batch: Sequence[Tokens]) -> None:
        self._model = model
        self.batch = tuple(batch)
        sequences = [self._logits(tokens.ids) for tokens in batch]
        self.vocab_size: int = sequences[0].shape[1]
        # One row more on both sides than there are positions, to recognise positions that are off by one.
        self._logits_around = [
            np.vstack([logits[max(0, tokens.prompt_len - 2)], logits[tokens.prompt_len - 1 :]])
            for tokens, logits in zip(batch, sequences, strict=True)
        ]
        self.places = [(index, j) for index, tokens in enumerate(batch) for j in range(tokens.n_positions)]
        """Prompt and position of each row."""
        self.targets: Ints = np.array([target for tokens in batch for target in tokens.targets])

    def logits(self, shift: int = 0) -> Floats:
        """[n, vocab]: the logits that predict each position, or those ``shift`` sequence indices later (-1, 0 or 1)."""
        parts = [
            rows[1 + shift : 1 + shift + tokens.n_positions]
            for tokens, rows in zip(self.batch, self._logits_around, strict=True)
        ]
        return np.concatenate(parts)

    def log_probs(self, shift: int = 0) -> Floats:
        """[n, vocab]: the log-probabilities of :meth:`logits`."""
        return log_softmax(self.logits(shift))

    def exists(self, shift: int) -> Flags:
        """[n]: whether the sequence has an index ``shift`` later: nothing comes before a prompt of one token."""
        return np.array([self.batch[index].prompt_len + j + shift >= 1 for index, j in self.places])

    def with_first_token(self, token: int, shift: int = 0) -> Floats:
        """[n, vocab]: log-probabilities with ``token`` in front of every prompt, ``shift`` sequence indices later."""
        return self._changed([(token, *tokens.ids) for tokens in self.batch], 1 + shift)

    def without_first_token(self) -> Floats:
        """[n, vocab]: log-probabilities where every prompt lost its first token, but those of one token."""
        return self._changed([tokens.ids[1:] if tokens.prompt_len > 1 else tokens.ids for tokens in self.batch], None)

    def of_sequence(self, ids: Sequence[int], start: int) -> Floats:
        """[n, vocab]: the log-probabilities that predict the tokens of ``ids`` from the index ``start`` on."""
        return log_softmax(self._logits(ids)[start - 1 : -1])

    def _changed(self, sequences: Sequence[Sequence[int]], shift: int | None) -> Floats:
        parts = []
        for tokens, ids in zip(self.batch, sequences, strict=True):
            moved = len(ids) - len(tokens.ids) if shift is None else shift
            start = tokens.prompt_len - 1 + moved
            parts.append(self._logits(ids)[start : start + tokens.n_positions])
        return log_softmax(np.concatenate(parts))

    def _logits(self, ids: Sequence[int]) -> Floats:
        """[length, vocab] float64."""
        with _evaluating(self._model):
            output: Any = self._model(torch.tensor([list(ids)], device=_device(self._model)))
        logits = getattr(output, "logits", output[0] if isinstance(output, tuple) else output)
        if not isinstance(logits, torch.Tensor) or logits.ndim != 3 or tuple(logits.shape[:2]) != (1, len(ids)):
            shape = tuple(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
            raise PotError(
                f"the model returned {shape} for token ids of shape {(1, len(ids))}: check_engine needs the model that the "
                "engine serves, a torch.nn.Module whose forward returns logits [batch, length, vocab]"
            )
        rows: Floats = logits[0].to("cpu", torch.float64).numpy()
        if not np.isfinite(rows).all():
            raise PotError("the model's own logits are NaN or infinite, so no engine can be compared with it")
        return rows


def log_softmax(logits: Floats) -> Floats:
    """[n, vocab]: log-probabilities in float64."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    normalised: Floats = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return normalised


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """``model`` without dropout and gradients; each module's mode is restored."""
    training = [module for module in model.modules() if module.training]
    for module in training:
        module.training = False
    try:
        with torch.no_grad():
            yield
    finally:
        for module in training:
            module.training = True


def _device(model: nn.Module) -> torch.device:
    tensors = [*model.parameters(), *model.buffers()][:1]
    return tensors[0].device if tensors else torch.device("cpu")
