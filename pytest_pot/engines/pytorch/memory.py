"""The peak memory of one run: the device's own counter on CUDA, the resident set of the process on Linux."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import torch
from torch import nn

from pytest_pot.engines.base import PeakMemory

__all__ = ["peak_of", "weights_size"]

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")


def peak_of(run: Callable[[], object], model: nn.Module, device: torch.device) -> PeakMemory | None:
    """The most memory that ``run`` takes above what was in use before, plus the weights of ``model``, which it runs.

    Other models may be in the same process: what they hold is in use before and during the run, and cancels. None where
    neither CUDA nor Linux counts it; a sample taken now and then would miss the peak, and understate it.

    Resident memory is also what the C library cannot use again: in a process that has run much else, its free memory is in
    pieces, and the same run was seen to take up to twice as much.
    """
    if device.type == "cuda":
        return _on_cuda(run, weights_size(model), device)
    return _resident(run, weights_size(model)) if device.type == "cpu" else None


def weights_size(model: nn.Module) -> int:
    """Bytes of the parameters and buffers; what modules share is counted once."""
    tensors = [*model.parameters(), *model.buffers()]
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}
    return sum(storages.values())


def _on_cuda(run: Callable[[], object], weights: int, device: torch.device) -> PeakMemory:
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    run()
    torch.cuda.synchronize(device)
    return PeakMemory(torch.cuda.max_memory_allocated(device) - before + weights, weights, f"allocated on {device}")


def _resident(run: Callable[[], object], weights: int) -> PeakMemory | None:
    _give_back_free_memory()
    try:
        _CLEAR.write_text("5", encoding="ascii")  # proc(5): resets the peak of the resident set to what is resident now
        before = _kilobytes("VmRSS")
        run()
        peak = _kilobytes("VmHWM")
    except OSError:
        return None
    return PeakMemory(1024 * max(0, peak - before) + weights, weights, "resident")


def _kilobytes(name: str) -> int:
    found = re.search(rf"^{name}:\s*(\d+) kB$", _STATUS.read_text(encoding="ascii"), re.MULTILINE)
    if found is None:
        raise OSError(f"{_STATUS} has no {name}")
    return int(found[1])


def _give_back_free_memory() -> None:
    """What glibc keeps of freed memory for later would hide that the run uses it."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
