"""Run a graph with ONNX Runtime: where, with how many threads, and what its errors mean."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pytest_pot.core.errors import PotError
from pytest_pot.core.text import shorten
from pytest_pot.engines.base import OutOfMemory
from pytest_pot.engines.onnxruntime.inputs import BFLOAT16, FLOATS, Feeds, output_of, pruned

__all__ = ["Session", "has_cuda", "runtime"]

_CPU, _CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
_ONNX_BFLOAT16 = 16
"""``TensorProto.DataType``"""
_FATAL = 4
"""The least severe of ONNX Runtime's own log messages that we let through: it raises what it logs as an error, too."""

_PREFIX = re.compile(r"^\[ONNXRuntimeError\] : \d+ : [A-Z_]+ : ")
_SOURCE = re.compile(r"\S*onnxruntime_src\S*:\d+ .*?\) (?=\S)")
"""Where in its C++ code an error was raised: file, line and function."""
_NO_MEMORY = ("failed to allocate memory", "out of memory", "bad allocation", "bad_alloc")
_NO_ROW = "out of data bounds"


def runtime(what: str) -> Any:
    """The module ``onnxruntime``.

    Raises:
        PotError: it is not installed; ``what`` needs it.
    """
    try:
        onnxruntime: Any = import_module("onnxruntime")
    except ModuleNotFoundError as error:
        raise PotError(
            f"cannot load {what}: running ONNX graphs needs the package {error.name or 'onnxruntime'}: "
            "pip install 'pytest-pot[onnx]'"
        ) from error
    except ImportError as error:
        raise PotError(f"cannot load {what}: the package onnxruntime cannot be imported: {error}") from error
    return onnxruntime


def has_cuda() -> bool:
    """Whether the installed ONNX Runtime can use CUDA."""
    return _CUDA in runtime("a graph").get_available_providers()


class Session:
    """A graph that is ready to run on one device.

    As many threads compute as torch uses, which follows OMP_NUM_THREADS, and they do not spin while they wait: the other model
    needs the cores.
    """

    def __init__(self, path: Path, device: str, config: Mapping[str, Any], what: str) -> None:
        """
        Args:
            path: of the graph.
            device: as :class:`~pytest_pot.core.config.ScoringConfig` names it.
            config: of the model; see :meth:`Feeds.of`.
            what: the model, for messages.

        Raises:
            PotError: the graph cannot be loaded, or not on that device, or is no graph that we can run.
        """
        ort = runtime(what)
        providers = _providers(device, ort, what)
        options = ort.SessionOptions()
        options.log_severity_level = _FATAL
        options.intra_op_num_threads = torch.get_num_threads()
        options.inter_op_num_threads = 1
        options.use_deterministic_compute = True
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            self._session = ort.InferenceSession(str(path), options, providers=providers, enable_fallback=0)
        except Exception as error:  # ONNX Runtime's errors have no base of their own
            raise PotError(f"cannot load {what}: ONNX Runtime {ort.__version__} says of {path}: {_reason(error)}") from error
        in_use = self._session.get_providers()[0]  # CUDA is left out silently where its libraries are missing
        if _base(device) == "cuda" and in_use != _CUDA:
            raise PotError(
                f"cannot load {what} on {device!r}: ONNX Runtime did not start CUDA. Look for missing libraries of CUDA or "
                "cuDNN and a driver that is too old, or use the device 'cpu'"
            )
        self.device = "cpu" if in_use != _CUDA else "cuda" if device == "auto" else device
        """Where the graph runs, as a configuration names it."""
        self.feeds = Feeds.of(self._session.get_inputs(), config, what)
        output = output_of(self._session.get_outputs(), what)
        self._output, self._type = output.name, output.type
        self.vocab_size = next((size for size in output.shape[2:] if isinstance(size, int)), None)
        """How many logits the graph says that it has; None where it does not."""
        self._ort = ort

    @property
    def float_dtypes(self) -> set[str]:
        """Those of logits and caches."""
        return {FLOATS[self._type], *self.feeds.cache_dtypes}

    def logits(self, ids: npt.NDArray[np.int64], mask: npt.NDArray[np.int64], what: str) -> Tensor:
        """Logits [batch, length, vocab] on the CPU, in float32 or float64; half precision is converted without loss.

        Args:
            ids: [batch, length].
            mask: [batch, length], 1 for tokens and 0 for padding.
            what: the model, for messages.

        Raises:
            OutOfMemory: the batch does not fit.
            PotError: the graph fails, or its output has another shape.
        """
        with self._errors(ids, what):
            tensor = self._run(self.feeds.arrays(ids, mask))
        shape = tuple(tensor.shape)
        if len(shape) == 3 and shape[0] == len(ids) and shape[1] == 1 < ids.shape[1]:
            raise PotError(f"cannot run {what}: {pruned(self._output)}")
        if len(shape) != 3 or shape[:2] != ids.shape:
            raise PotError(
                f"cannot run {what}: its output {self._output} has the shape {shape} for token ids of shape {ids.shape}; "
                "expected logits [batch, length, vocab]"
            )
        return tensor if tensor.dtype in (torch.float32, torch.float64) else tensor.to(torch.float32)

    def _run(self, arrays: Mapping[str, tuple[npt.NDArray[Any], str]]) -> Tensor:
        if BFLOAT16 not in (self._type, *(kind for _, kind in arrays.values())):
            [logits] = self._session.run([self._output], {name: array for name, (array, _) in arrays.items()})
            return torch.from_numpy(logits)
        make = self._ort.OrtValue  # NumPy has no bfloat16
        values = {
            name: make.ortvalue_from_numpy_with_onnx_type(array, _ONNX_BFLOAT16)
            if kind == BFLOAT16
            else make.ortvalue_from_numpy(array)
            for name, (array, kind) in arrays.items()
        }
        [value] = self._session.run_with_ort_values([self._output], values)
        # Older versions have no public method for this.
        exchanged: Any = value if hasattr(value, "__dlpack__") else value._ortvalue.to_dlpack()
        tensor: Tensor = torch.utils.dlpack.from_dlpack(exchanged)
        return tensor.cpu()

    @contextmanager
    def _errors(self, ids: npt.NDArray[np.int64], what: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # ONNX Runtime's errors have no base of their own
            reason = _reason(error)
            if isinstance(error, MemoryError) or any(phrase in reason.lower() for phrase in _NO_MEMORY):
                raise OutOfMemory(f"{what} ran out of memory on {self.device}: {reason}") from error
            if _NO_ROW in reason:
                raise PotError(
                    f"{what} looks up a row that does not exist ({reason}): it read ids up to {int(ids.max())} in sequences of "
                    f"{ids.shape[1]} tokens. Either the tokenizer belongs to another model, or the sequences are too long for "
                    "this model: lower max_length"
                ) from error
            raise PotError(f"cannot run {what} for token ids of shape {ids.shape}: {reason}") from error


def _providers(device: str, ort: Any, what: str) -> list[Any]:
    """ONNX Runtime's providers for ``device``, most wanted first."""
    base, _, index = device.partition(":")
    if base in ("cpu", "mps"):  # CoreML would compute in float16
        return [_CPU]
    available = ort.get_available_providers()
    if base == "auto":
        return [_CUDA, _CPU] if _CUDA in available else [_CPU]
    if base != "cuda":
        raise PotError(f"cannot load {what} on {device!r}: ONNX graphs run on 'cpu' and 'cuda'")
    if _CUDA not in available:
        raise PotError(
            f"cannot load {what} on {device!r}: the installed ONNX Runtime has no CUDA. Its build for CUDA takes the place of "
            "the other:\n  pip uninstall -y onnxruntime && pip install onnxruntime-gpu"
        )
    return [(_CUDA, {"device_id": int(index or 0)}), _CPU]


def _base(device: str) -> str:
    return device.partition(":")[0]


def _reason(error: Exception) -> str:
    """What ``error`` says, without the places in ONNX Runtime's code."""
    text = _SOURCE.sub("", _PREFIX.sub("", " ".join(str(error).split())))
    return shorten(text or type(error).__name__, 300).rstrip(".")
