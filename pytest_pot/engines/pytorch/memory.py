"""Memory of the device: the peak of one run, and errors that say that it ran out."""

from __future__ import annotations

import ctypes
import gc
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch
from torch import nn

from pytest_pot.engines.base import OutOfMemory, PeakMemory

__all__ = ["is_out_of_memory", "memory_errors", "peak_of", "weights_size"]

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")


def is_out_of_memory(error: Exception) -> bool:
    """Whether ``error`` is one that torch raises, on any device, when memory runs out."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    text = str(error).lower()
    return any(phrase in text for phrase in ("out of memory", "can't allocate memory", "not enough memory"))


@contextmanager
def memory_errors(what: str, device: torch.device | str) -> Iterator[None]:
    """Turn torch's out-of-memory errors, on any device, into :class:`OutOfMemory`; ``what`` ran out of it.

    The cache of CUDA is emptied then, for the next try.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise OutOfMemory(f"{what} ran out of memory on {device}: {reason}") from error


def peak_of(run: Callable[[], object], model: nn.Module, device: torch.device) -> PeakMemory | None:
    """Peak memory in use during ``run`` minus memory in use before it, plus the weights of ``model``, which ``run`` runs.

    On CUDA it is what is allocated, on Linux the resident set of the process.

    The memory of other models in the process is in use before and during the run, so it cancels. None if neither CUDA nor
    Linux reports the peak: periodic sampling would miss it and report too little.

    Resident memory includes freed memory that the C library cannot reuse. After much other work in the same process the heap
    is fragmented, and we saw the same run take up to twice as much.
    """
    gc.collect()  # what it would free during the run would be taken off the peak
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
