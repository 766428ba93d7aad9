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

from pytest_pot.core.config import ScoringConfig
from pytest_pot.core.errors import PotError
from pytest_pot.engines.base import Room

__all__ = [
    "RoomForTokens",
    "choose_device",
    "choose_dtype",
    "device_of",
    "hardware",
    "is_out_of_memory",
    "is_spread",
    "own_dtype",
    "prepared",
    "rng_untouched",
    "synchronise",
]

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


def device_of(model: nn.Module) -> torch.device:
    """Where ``model`` takes its input: of one that accelerate has spread, where its embedding runs."""
    lookup = getattr(model, "get_input_embeddings", None)
    hook = getattr(lookup() if lookup is not None else None, "_hf_hook", None)
    runs_on = getattr(hook, "execution_device", None)
    if runs_on is not None:
        return torch.device(runs_on)
    places = [tensor.device for tensor in model.parameters()]
    return next((place for place in places if place.type != "meta"), torch.device("cpu"))


def own_dtype(model: nn.Module) -> torch.dtype | None:
    """The precision of ``model``'s numbers: half where any parameter's is; None where they are mixed otherwise."""
    dtypes = [tensor.dtype for tensor in model.parameters() if tensor.is_floating_point()]
    half = next((dtype for dtype in dtypes if dtype in _HALF), None)
    if half is not None:
        return half
    return dtypes[0] if len(set(dtypes)) == 1 else None


def is_spread(model: nn.Module) -> bool:
    """Whether ``model`` is on several devices, in files, or cut over processes: by hooks that a copy would share."""
    if any(hasattr(module, "_hf_hook") for module in model.modules()):
        return True
    parameters = list(model.parameters())
    cut = any(hasattr(parameter, "device_mesh") for parameter in parameters)  # torch.distributed's DTensor
    return cut or len({parameter.device for parameter in parameters}) > 1


@contextmanager
def prepared(model: nn.Module, config: ScoringConfig) -> Iterator[nn.Module]:
    """``model`` in evaluation mode, on the device and in the dtype that ``config`` asks for; afterwards as it was.

    Another device or dtype is given to a copy, never to the model itself. With ``device="auto"`` it stays where it is.

    Raises:
        PotError: another device or dtype is asked for, and the model is spread over devices: it is never moved or copied.
    """
    here = device_of(model)
    device = here if config.device == "auto" else choose_device(config.device)
    moves = device.type != here.type or (device.index is not None and device.index != here.index)
    dtypes = {tensor.dtype for tensor in model.parameters() if tensor.is_floating_point()}
    own = own_dtype(model)
    dtype = choose_dtype(config.dtype, own, device)
    converts = dtype != own if config.dtype == "auto" else dtypes != {dtype}
    if is_spread(model):
        if moves or (converts and config.dtype != "auto"):
            asked = f"device={config.device!r}" if moves else f"dtype={config.dtype!r}"
            raise PotError(
                "a model that is spread over devices, or offloaded, runs where and as it was loaded, "
                f"and {asked} was asked for: load it so, or leave that at 'auto'"
            )
    elif moves or converts:
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


def synchronise(model: nn.Module) -> None:
    """Wait until every device that ``model`` is on has done what it was asked to; a CPU has when a call returns."""
    for device in {parameter.device for parameter in model.parameters()}:
        if device.type == "mps":
            torch.mps.synchronize()  # takes no device, because there is only one
        elif device.type not in ("cpu", "meta"):
            torch.get_device_module(device).synchronize(device)
