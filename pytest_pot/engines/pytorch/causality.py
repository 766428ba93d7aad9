"""Refuse a checkpoint whose predictions depend on the tokens to the right of them: a masked language model such as BERT."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import torch

from pytest_pot.core.errors import PotError
from pytest_pot.engines.pytorch.model_traits import is_causal

__all__ = ["refuse_bidirectional"]

_RELATIVE_CHANGE = 1e-3
"""Far above rounding, also in half precision, and far below what another token changes."""


def refuse_bidirectional(model: Any, what: str) -> None:
    """Raise if the logits of ``model`` at one token change with the next token. ``what``: the model as messages name it.

    Raises:
        PotError: it names the class that was loaded and what the config says.
    """
    if is_causal(model) or not _looks_ahead(model):
        return
    architectures = getattr(model.config, "architectures", None) or ["no class"]
    decoder = getattr(model.config, "is_decoder", None)
    raise PotError(
        f"{what} is no causal language model: what it predicts for a token depends on the tokens after it. It was loaded as "
        f"{type(model).__name__}; the config says {', '.join(map(str, architectures))}"
        + ("" if decoder is None else f", is_decoder={decoder}")
        + '. A masked language model cannot be compared this way; if this one was trained as a decoder, set "is_decoder": true '
        "in its config.json"
    )


def _looks_ahead(model: Any) -> bool:
    size = model.get_input_embeddings().num_embeddings
    first, second, other = size // 2, size // 3, size // 4
    ids = torch.tensor([[first, second, second], [first, second, other]], device=model.device)
    with suppress(Exception), torch.inference_mode():  # a model that cannot run says so where it is scored
        logits = model(ids).logits[:, :2].float()
        change = (logits[0] - logits[1]).abs().max()
        return bool(change > _RELATIVE_CHANGE * logits.abs().max())
    return False
