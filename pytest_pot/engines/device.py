"""Where a model runs and in which precision, and the promise that it is handed back as it came."""

from __future__ import annotations

import copy
import platform
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch
from torch import nn

from pytest_pot.config import ScoringConfig
from pytest_pot.engines.base import Room
from pytest_pot.errors import PotError

__all__ = ["RoomForTokens", "choose_device", "choose_dtype", "hardware", "is_out_of_memory", "prepared", "rng_untouched"]

_TOKENS_ON_CPU = 1024
_CPU_FORWARD = 32
"""What beginning a forward costs, in tokens: of SmolLM2, reading the weights and 30 layers of calls took as long as 35."""

_FIRST_TOKENS, _MOST_TOKENS = 1 << 11, 1 << 16
_GPU_FORWARD = 1 << 11
_SHARE_OF_FREE = 0.5
"""On a GPU: tokens before a batch has been measured and at most, the price of a forward, and the memory to be counted on."""

_HALF = (torch.float16, torch.bfloat16)


def choose_device(wanted: str) -> torch.device:
    """``wanted``, or for ``"auto"`` the first of CUDA, MPS and CPU that this machine has.

    Raises:
        PotError: the machine, or this build of torch, has no such device.
    """
    if wanted == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    device = torch.device(wanted)
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise PotError(f"the device {wanted!r} cannot be used here: {reason}. Use 'auto' or 'cpu'") from error
    return device


def choose_dtype(wanted: str, own: torch.dtype | None, device: torch.device) -> torch.dtype | None:
    """``wanted``, or for ``"auto"`` the model's ``own`` dtype (None: leave it), half precision upcast on a CPU.

    A CPU without half-precision arithmetic is over 100 times slower in it than in float32, and one that has it rounds
    otherwise than the next: upcast, scores are the same on every machine.
    """
    if wanted != "auto":
        dtype: torch.dtype = getattr(torch, wanted)
        return dtype
    return torch.float32 if device.type == "cpu" and own in _HALF else own


def hardware() -> list[str]:
    """What decides, beside the libraries, how sums are rounded here: processor, accelerators, threads, precision."""
    cpu = platform.processor()
    with suppress(OSError):  # Linux names the processor there, and platform does not
        models = re.findall(r"^model name\s*:\s*(.*)$", Path("/proc/cpuinfo").read_text(encoding="utf-8"), re.MULTILINE)
        cpu = models[0] if models else cpu
    cuda = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    precision = torch.get_float32_matmul_precision()
    return [cpu, torch.backends.cpu.get_cpu_capability(), *cuda, str(torch.get_num_threads()), precision]


@contextmanager
def prepared(model: nn.Module, config: ScoringConfig) -> Iterator[nn.Module]:
    """``model`` in evaluation mode, on the device and in the dtype that ``config`` asks for; afterwards as it was.

    Another device or dtype is given to a copy, never to the model itself. With ``device="auto"`` it stays where it is.
    """
    parameters = [tensor for tensor in model.parameters() if tensor.is_floating_point()]
    here = next((tensor.device for tensor in model.parameters()), torch.device("cpu"))
    own = parameters[0].dtype if parameters and all(p.dtype == parameters[0].dtype for p in parameters) else None
    device = here if config.device == "auto" else choose_device(config.device)
    dtype = choose_dtype(config.dtype, own, device)
    moves = device.type != here.type or (device.index is not None and device.index != here.index)
    if moves or (dtype is not None and dtype != own):
        model = copy.deepcopy(model).to(device=device, dtype=dtype)
    training = [module for module in model.modules() if module.training]
    try:
        for module in training:
            module.training = False
        yield model
    finally:
        for module in training:
            module.training = True


class RoomForTokens:
    """How many tokens one forward should have on a device: what pays there, and what its free memory allows.

    On a CPU the products are as fast as they get with some hundred tokens. On a GPU they go on to gain, and what a token takes
    is seen in the first batch. The figure is rounded down to a power of two, so that batches are the same as long as the free
    memory is about the same.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._bytes_per_token: float | None = None

    @property
    def room(self) -> Room:
        if self._device.type == "cpu":
            return Room(most=_TOKENS_ON_CPU, per_forward=_CPU_FORWARD)
        if self._bytes_per_token is None:
            return Room(most=_FIRST_TOKENS, per_forward=_GPU_FORWARD)
        free = torch.cuda.mem_get_info(self._device)[0]
        free += torch.cuda.memory_reserved(self._device) - torch.cuda.memory_allocated(self._device)
        fitting = int(_SHARE_OF_FREE * free / self._bytes_per_token)
        most = max(_FIRST_TOKENS, min(_MOST_TOKENS, 1 << max(0, fitting.bit_length() - 1)))
        return Room(most=most, per_forward=_GPU_FORWARD)

    @contextmanager
    def measured(self, n_tokens: int) -> Iterator[None]:
        """The first forward meanwhile, of ``n_tokens`` with their padding."""
        if self._device.type != "cuda" or self._bytes_per_token is not None:
            yield
            return
        before = torch.cuda.memory_allocated(self._device)
        yield
        # What the allocator holds has at some time been in use: no less than this forward's peak. Its own record of peaks is
        # the user's, and is not reset for this.
        self._bytes_per_token = max(1.0, (torch.cuda.memory_reserved(self._device) - before) / n_tokens)


@contextmanager
def rng_untouched(*devices: torch.device) -> Iterator[None]:
    """torch's random state, on the CPU and on any CUDA device among ``devices``, is afterwards what it was."""
    cuda = [device for device in devices if device.type == "cuda"]
    with torch.random.fork_rng(devices=cuda):
        yield


def is_out_of_memory(error: Exception) -> bool:
    """Whether ``error`` is what torch raises, on any device, when memory runs out."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    text = str(error).lower()
    return any(sign in text for sign in ("out of memory", "can't allocate memory", "not enough memory"))
