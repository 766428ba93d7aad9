"""Watch what torch does in a block of code: which operations it calls, and how much memory its tensors hold."""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

__all__ = ["HOST_WAITS", "Calls", "LiveBytes"]

HOST_WAITS = frozenset(
    {
        "aten._local_scalar_dense",  # Tensor.item(), bool(), int()
        "aten.equal",
        "aten.is_nonzero",
        "aten.masked_select",
        "aten.nonzero",
        "aten._unique2",
        "aten.unique_consecutive",
        "aten.unique_dim",
    }
)
"""Operations whose result, or whose size, the host has to know: with a GPU it waits for all work before."""


class Calls(TorchDispatchMode):
    """Counts the calls of each operation, those of a mask as an index too, which looks for its true elements."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.counts: Counter[str] = Counter()
        self.paused = False

    @property
    def host_waits(self) -> dict[str, int]:
        return {name: n for name, n in self.counts.items() if n and (name in HOST_WAITS or name == "a mask as an index")}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if self.paused:
            return func(*args, **(kwargs or {}))
        name = str(func.overloadpacket)
        self.counts[name] += 1
        if name.startswith(("aten.index", "aten._index_put")) and len(args) > 1 and isinstance(args[1], list | tuple):
            masks = [index for index in args[1] if index is not None and index.dtype in (torch.bool, torch.uint8)]
            self.counts["a mask as an index"] += len(masks)
        return func(*args, **(kwargs or {}))


class LiveBytes(TorchDispatchMode):
    """Sums the memory of the tensors that operations return, as long as they live; not what a kernel needs inside."""

    def __init__(self, *known: torch.Tensor) -> None:
        """``known``: tensors that were there before; views of them take no memory."""
        super().__init__()  # type: ignore[no-untyped-call]
        self._known = {tensor.untyped_storage().data_ptr() for tensor in known}
        self._tensors: Counter[int] = Counter()
        self._sizes: dict[int, int] = {}
        self.peak = 0

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                self._note(tensor)
        return result

    def _note(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        place = storage.data_ptr()
        if place in self._known or not storage.nbytes():
            return
        self._tensors[place] += 1
        self._sizes[place] = storage.nbytes()
        weakref.finalize(tensor, self._forget, place)
        self.peak = max(self.peak, sum(self._sizes.values()))

    def _forget(self, place: int) -> None:
        self._tensors[place] -= 1
        if not self._tensors[place]:
            del self._sizes[place]
