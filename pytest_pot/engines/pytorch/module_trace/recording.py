"""What a model's modules get and return while it reads a prompt."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from pytest_pot.engines.pytorch.module_trace.calls import Call, followed
from pytest_pot.engines.pytorch.module_trace.nested import Path, leaves

__all__ = ["Leaves", "RecordedCall", "Recording", "TooLarge", "record"]

_INDICES = (torch.int64, torch.int32, torch.int16, torch.uint8, torch.int8)

Leaves = Mapping[Path, Tensor | None]


class TooLarge(Exception):
    """A record would take more memory than it may."""


@dataclass(frozen=True)
class RecordedCall:
    """What one call of a module got and returned, in the host's memory."""

    kind: type[nn.Module]
    names: tuple[str, ...]
    """The names of all its arguments, in order."""
    arguments: Leaves
    output: Leaves


@dataclass
class Recording:
    """All calls of the modules that were followed."""

    most_bytes: int
    calls: dict[tuple[str, int], RecordedCall] = field(default_factory=dict)
    """In the order in which they ended, so that a module comes after those that it called."""
    bytes: int = 0

    @property
    def given_indices(self) -> frozenset[str]:
        """The modules that got integers, which they may look up in a table."""
        return frozenset(
            name
            for (name, _), call in self.calls.items()
            if any(leaf is not None and leaf.dtype in _INDICES for leaf in call.arguments.values())
        )

    _copies: dict[object, Tensor] = field(default_factory=dict)

    def before(self, call: Call, arguments: dict[str, Any]) -> tuple[dict[str, Any], RecordedCall]:
        return arguments, RecordedCall(call.kind, tuple(arguments), self._kept(arguments), {})

    def after(self, call: Call, state: RecordedCall, output: Any) -> Any:
        self.calls[call.key] = replace(state, output=self._kept(output))
        return output

    def _kept(self, value: Any) -> Leaves:
        return {path: None if leaf is None else self._copy(leaf) for path, leaf in leaves(value)}

    def _copy(self, tensor: Tensor) -> Tensor:
        """A copy, because modules may change tensors in place; the last one of this memory, if that still has its values."""
        place = (tensor.device, tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride())
        last = self._copies.get(place)
        copy = tensor.detach().to("cpu", copy=True)
        if last is not None and torch.equal(last, copy):
            return last
        self._copies[place] = copy
        self.bytes += copy.nbytes
        if self.bytes > self.most_bytes:
            raise TooLarge
        return copy


def record(run: Callable[[], object], modules: Mapping[str, nn.Module], most_bytes: int) -> Recording:
    """Record what ``modules`` do in ``run()``.

    Raises:
        TooLarge: that would take more than ``most_bytes``.
    """
    recording = Recording(most_bytes)
    with followed(modules, recording):
        run()
    return recording
