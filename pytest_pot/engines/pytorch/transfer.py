"""Copies between the host and a device that do not make the host wait."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

__all__ = ["HostCopy", "rows_to_device", "to_device"]


def to_device(array: npt.NDArray[np.generic], device: torch.device) -> Tensor:
    """``array`` on ``device``; on a CPU a view of the same memory.

    For CUDA it goes through pinned memory, from which the device copies while the host goes on. torch keeps a pinned block
    until the copy has finished.
    """
    tensor = torch.from_numpy(np.require(array, requirements=["C", "W"]))  # torch warns of others
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def rows_to_device(array: npt.NDArray[np.generic], rows: npt.NDArray[np.int64], device: torch.device) -> Tensor:
    """``array[rows]`` on ``device``. For CUDA the rows are gathered in pinned memory, so that the host copies them once."""
    if device.type != "cuda":
        return to_device(array[rows], device)
    dtype = torch.from_numpy(np.empty(0, array.dtype)).dtype
    gathered = torch.empty((len(rows), *array.shape[1:]), dtype=dtype, pin_memory=True)
    # With mode="raise", numpy would gather into a buffer of its own first; these rows exist.
    np.take(array, rows, axis=0, out=gathered.numpy(), mode="clip")
    return gathered.to(device, non_blocking=True)


class HostCopy:
    """Tensors on their way from a device to the host; :meth:`arrays` waits for them."""

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        """Start the copies. On a CPU nothing is copied."""
        self._tensors = [self._started(tensor) for tensor in tensors]
        self._events = [
            _end_of_work(device) for device in {tensor.device for tensor in tensors if tensor.device.type == "cuda"}
        ]

    def arrays(self) -> list[npt.NDArray[np.generic]]:
        """The tensors as arrays."""
        for event in self._events:
            event.synchronize()
        self._events = []
        return [tensor.numpy() for tensor in self._tensors]

    @staticmethod
    def _started(tensor: Tensor) -> Tensor:
        if tensor.device.type != "cuda":
            return tensor.cpu()
        target = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
        return target.copy_(tensor, non_blocking=True)


def _end_of_work(device: torch.device) -> torch.cuda.Event:
    """A mark behind all that ``device`` has got so far."""
    event = torch.cuda.Event()
    event.record(torch.cuda.current_stream(device))
    return event
