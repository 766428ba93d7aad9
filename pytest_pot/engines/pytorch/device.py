"""Choose where and in which precision a model runs, and restore the model afterwards."""

from __future__ import annotations

import copy
import platform
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import torch
from torch import nn

from pytest_pot.core.config import ScoringConfig
from pytest_pot.core.errors import PotError
from pytest_pot.engines.pytorch.model_facts import FREQUENCIES, ModelFacts, facts_of
from pytest_pot.engines.pytorch.quantised import is_quantised, refuse_dtype

__all__ = [
    "choose_device",
    "choose_dtype",
    "device_of",
    "hardware",
    "is_spread",
    "own_dtype",
    "prepared",
    "rng_untouched",
    "synchroniser",
]

_HALF_DTYPES = (torch.float16, torch.bfloat16)


def choose_device(name: str) -> torch.device:
    """The device ``name``; for ``"auto"``, the first of CUDA, MPS and CPU that this machine has.

    Raises:
        PotError: this machine, or this build of torch, does not have the device.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    device = torch.device(name)
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise PotError(f"the device {name!r} cannot be used on this machine: {reason}. Use 'auto' or 'cpu'") from error
    return device


def choose_dtype(name: str, own: torch.dtype | None, device: torch.device) -> torch.dtype | None:
    """The dtype ``name``; for ``"auto"``, the model's ``own`` (None: do not convert), but float32 for half precision on a CPU.

    CPUs without half-precision arithmetic are over 100 times slower in it than in float32, and those that have it round
    differently from each other. In float32, scores are the same on every machine.
    """
    if name != "auto":
        dtype: torch.dtype = getattr(torch, name)
        return dtype
    return torch.float32 if device.type == "cpu" and own in _HALF_DTYPES else own


def hardware() -> list[str]:
    """What affects rounding on this machine, besides the libraries: processor, accelerators, threads, matmul precision."""
    cpu = platform.processor()
    with suppress(OSError):  # on Linux, platform.processor() does not name the model, but this file does
        models = re.findall(r"^model name\s*:\s*(.*)$", Path("/proc/cpuinfo").read_text(encoding="utf-8"), re.MULTILINE)
        cpu = models[0] if models else cpu
    cuda = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    precision = torch.get_float32_matmul_precision()
    return [cpu, torch.backends.cpu.get_cpu_capability(), *cuda, str(torch.get_num_threads()), precision]


def device_of(model: nn.Module | ModelFacts) -> torch.device:
    """The device of the inputs of ``model``; if accelerate has spread ``model`` over devices, the device of its embedding."""
    if isinstance(model, ModelFacts):
        module, devices = model.model, iter(model.devices)
    else:  # no walk: the first parameter is near
        module, devices = model, (parameter.device for parameter in model.parameters())
    lookup = getattr(module, "get_input_embeddings", None)
    hook = getattr(lookup() if lookup is not None else None, "_hf_hook", None)
    execution_device = getattr(hook, "execution_device", None)
    if execution_device is not None:
        return torch.device(execution_device)
    return next((device for device in devices if device.type != "meta"), torch.device("cpu"))


def own_dtype(model: nn.Module | ModelFacts) -> torch.dtype | None:
    """The dtype of the parameters of ``model``: a half-precision one if any parameter has it; None for any other mixture."""
    dtypes = facts_of(model).float_dtypes
    half = next((dtype for dtype in dtypes if dtype in _HALF_DTYPES), None)
    if half is not None:
        return half
    return dtypes[0] if len(dtypes) == 1 else None


def is_spread(model: nn.Module | ModelFacts) -> bool:
    """Whether ``model`` is spread over devices, offloaded to files, or sharded over processes.

    We never copy such a model: accelerate's hooks would be shared with the copy.
    """
    facts = facts_of(model)
    return facts.has_hooks or facts.is_sharded or len(facts.devices) > 1


@contextmanager
def prepared(facts: ModelFacts, config: ScoringConfig) -> Iterator[ModelFacts]:
    """Bring a model into evaluation mode, on the device and in the dtype of ``config``; restore its mode afterwards.

    We yield the facts about the model that runs. If device or dtype change, that is a copy, and the model of ``facts`` is left
    alone. With ``device="auto"`` it stays where it is.

    Raises:
        PotError: ``config`` asks for another device or dtype, but the model is quantised, or is spread over devices and
            cannot be copied.
    """
    own_device = device_of(facts)
    device = own_device if config.device == "auto" else choose_device(config.device)
    moves = device.type != own_device.type or (device.index is not None and device.index != own_device.index)
    own = own_dtype(facts)
    dtype = choose_dtype(config.dtype, own, device)
    converts = dtype != own if config.dtype == "auto" else set(facts.float_dtypes) != {dtype}
    if is_spread(facts):
        if moves or (converts and config.dtype != "auto"):
            name, value = ("device", config.device) if moves else ("dtype", config.dtype)
            raise PotError(
                f"cannot score this model with {name}={value!r}: it is spread over devices or offloaded, so it runs on the "
                f"devices and in the dtype in which it was loaded. Load it with that {name}, or set {name}='auto'"
            )
    elif is_quantised(facts):
        refuse_dtype(facts, config)
        if moves:
            raise PotError(
                f"cannot score this model with device={config.device!r}: it is quantised, so it runs on the device on which it "
                f"was loaded ({own_device}). Load it on that device, or set device='auto'"
            )
    elif moves or converts:
        facts = ModelFacts.of(_converted(facts, device, dtype))
    try:
        for module in facts.training:
            module.training = False
        yield facts
    finally:
        for module in facts.training:
            module.training = True


def _converted(facts: ModelFacts, device: torch.device, dtype: torch.dtype | None) -> nn.Module:
    """A copy of the model on ``device`` and in ``dtype``, with rotary frequencies as ``from_pretrained(dtype=...)`` has them.

    They stay in the precision in which they were computed. Rounded to bfloat16, they turn late tokens by wrong angles.
    """
    copies: dict[int, nn.Module] = {}
    converted = copy.deepcopy(facts.model, copies).to(device=device, dtype=dtype)
    for module in facts.rotary:
        for name in module._non_persistent_buffers_set:
            frequencies = module._buffers.get(name)
            if FREQUENCIES in name and frequencies is not None and id(module) in copies:  # a class may copy itself otherwise
                copies[id(module)]._buffers[name] = frequencies.to(device=device, copy=True)
    return converted


@contextmanager
def rng_untouched(*devices: torch.device) -> Iterator[None]:
    """Restore torch's random state at the end, on the CPU and on any CUDA device among ``devices``."""
    cuda = [device for device in devices if device.type == "cuda"]
    with torch.random.fork_rng(devices=cuda):
        yield


def synchroniser(model: nn.Module | ModelFacts) -> Callable[[], None]:
    """A function that waits until every device that ``model`` is on has finished its work; a CPU has when a call returns."""
    waits = [_wait(device) for device in facts_of(model).devices if device.type not in ("cpu", "meta")]

    def synchronise() -> None:
        for wait in waits:
            wait()

    return synchronise


def _wait(device: torch.device) -> Callable[[], object]:
    if device.type == "mps":
        return torch.mps.synchronize  # takes no device, because there is only one
    return partial(torch.get_device_module(device).synchronize, device)
