"""Rows that a model's embeddings have not: told before they are looked up, which on CUDA takes the whole process down."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

__all__ = ["lookups_checked"]


@contextmanager
def lookups_checked(model: nn.Module, refuse: Callable[[int, int], None]) -> Iterator[None]:
    """Meanwhile, ``refuse(row, number of rows)`` is called, and has to raise, before an embedding fails.

    For models that do not say which of their embeddings reads the tokens: no guess is made, and a lookup that would succeed
    is never refused.
    """

    def check(module: nn.Module, arguments: tuple[Any, ...], named: Mapping[str, Any]) -> None:
        rows = arguments[0] if arguments else named.get("input")
        size = module.num_embeddings
        if isinstance(rows, Tensor) and rows.numel() and isinstance(size, int):
            highest = int(rows.max())
            if highest >= size:
                refuse(highest, size)

    embeddings = [module for module in model.modules() if isinstance(module, nn.Embedding)]
    handles = [module.register_forward_pre_hook(check, with_kwargs=True) for module in embeddings]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
