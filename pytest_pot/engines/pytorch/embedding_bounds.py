"""Reject out-of-range embedding lookups before they run; on CUDA they abort the whole process."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from pytest_pot.engines.pytorch.model_facts import ModelFacts

__all__ = ["lookups_checked"]


@contextmanager
def lookups_checked(facts: ModelFacts, refuse: Callable[[int, int], None]) -> Iterator[None]:
    """Inside this context, call ``refuse(row, n_rows)`` before an embedding of the model would fail; ``refuse`` must raise.

    For models that do not tell which embedding reads the token ids. We check every lookup of every embedding instead of
    guessing, so a valid lookup is never rejected.
    """

    def check(module: nn.Module, arguments: tuple[Any, ...], keywords: Mapping[str, Any]) -> None:
        rows = arguments[0] if arguments else keywords.get("input")
        size = module.num_embeddings
        if isinstance(rows, Tensor) and rows.numel() and isinstance(size, int):
            highest = int(rows.max())
            if highest >= size:
                refuse(highest, size)

    handles = [module.register_forward_pre_hook(check, with_kwargs=True) for module in facts.embeddings]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
