"""GGUF files made of another one, with changed tensors: what a conversion or a bad disk makes of a model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt

Change = Callable[[str, Any], "tuple[npt.NDArray[Any], gguf.GGMLQuantizationType] | None"]
"""From a tensor's name and its ``gguf.ReaderTensor`` to its new values and their type; None leaves it as it is."""


def rewrite(source: Path, target: Path, change: Change, **fields: int) -> Path:
    """Write ``source`` to ``target`` with the tensors that ``change`` gives; ``fields``: numbers to put in the place of fields
    (``file_type=0``)."""
    reader = gguf.GGUFReader(source)
    architecture = reader.fields["general.architecture"].contents()
    writer = gguf.GGUFWriter(target, architecture)
    for name, field in reader.fields.items():
        if name.startswith("GGUF.") or name == "general.architecture":
            continue
        kind = field.types[0]
        inner = field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
        value = fields.get(name.removeprefix("general."), field.contents())
        writer.add_key_value(name, value, kind, sub_type=inner)
    for tensor in reader.tensors:
        changed = change(tensor.name, tensor)
        data, form = changed if changed is not None else (tensor.data, tensor.tensor_type)
        writer.add_tensor(tensor.name, np.ascontiguousarray(data), raw_dtype=form)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return target


def values(tensor: Any) -> npt.NDArray[np.float32]:
    """The numbers of a tensor that may be quantised, in float32."""
    return np.asarray(gguf.quants.dequantize(tensor.data, tensor.tensor_type), dtype=np.float32)


def to_float32(source: Path, target: Path) -> Path:
    """The same weights, dequantised."""
    return rewrite(source, target, lambda _, tensor: (values(tensor), gguf.GGMLQuantizationType.F32), file_type=0)


def requantised(source: Path, target: Path, kind: gguf.GGMLQuantizationType, file_type: int) -> Path:
    """Its matrices rounded once more, to ``kind``."""

    def change(_: str, tensor: Any) -> tuple[npt.NDArray[Any], gguf.GGMLQuantizationType] | None:
        if tensor.tensor_type == gguf.GGMLQuantizationType.F32:
            return None
        return gguf.quants.quantize(values(tensor), kind), kind

    return rewrite(source, target, change, file_type=file_type)
