"""The peak memory of one run: allocated memory on CUDA, the resident set of the process on Linux."""

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
    """Peak memory in use during ``run`` minus memory in use before it, plus the weights of ``model``, which ``run`` runs.

    The memory of other models in the process is in use before and during the run, so it cancels. None if neither CUDA nor
    Linux reports the peak: periodic sampling would miss it and report too little.

    Resident memory includes freed memory that the C library cannot reuse. After much other work in the same process the heap
    is fragmented, and we saw the same run take up to twice as much.
    """
    if device.type == "cuda":
        return _on_cuda(run, weights_size(model), device)
    return _resident(run, weights_size(model)) if device.type == "cpu" else None


def weights_size(model: nn.Module) -> int:
    """Bytes of the parameters and buffers; storage that modules share is counted once."""
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
        _CLEAR.write_text("5", encoding="ascii")  # proc(5): resets VmHWM, the peak resident set, to the current one
        before = _kilobytes("VmRSS")
        run()
        peak = _kilobytes("VmHWM")
    except OSError:
        return None
    return PeakMemory(1024 * max(0, peak - before) + weights, weights, "resident")


def _kilobytes(name: str) -> int:
    match = re.search(rf"^{name}:\s*(\d+) kB$", _STATUS.read_text(encoding="ascii"), re.MULTILINE)
    if match is None:
        raise OSError(f"{_STATUS} has no {name}")
    return int(match[1])


def _give_back_free_memory() -> None:
    """Make glibc return freed memory to the system; a run that reuses it would seem to need less."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
