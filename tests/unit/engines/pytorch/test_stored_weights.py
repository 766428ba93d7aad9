"""What the headers of weight files say."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from transformers import PreTrainedTokenizerFast

from pytest_pot.engines.pytorch.stored_weights import gguf_types, safetensors_dtype

from ...published_formats import write_gguf


def test_most_numbers_decide_the_dtype_of_safetensors(tmp_path: Path) -> None:
    files = [tmp_path / "a.safetensors", tmp_path / "b.safetensors"]
    save_file({"norm": torch.ones(8), "ids": torch.arange(900)}, files[0], {"format": "pt"})
    save_file({"weight": torch.ones(64, dtype=torch.bfloat16)}, files[1])
    assert safetensors_dtype(files[:1]) == "float32"
    assert safetensors_dtype(files) == "bfloat16"
    assert safetensors_dtype([]) is None


@pytest.mark.parametrize("kind", ["Q4_1", "Q8_0", "F16", "F32"])
def test_matrices_of_a_gguf_file_are_counted_by_type(tmp_path: Path, bpe: PreTrainedTokenizerFast, kind: str) -> None:
    """As the ``gguf`` package reads it, which takes longer."""
    file = write_gguf(tmp_path / "model.gguf", bpe, kind)
    gguf = pytest.importorskip("gguf")
    counts: dict[str, int] = {}
    for tensor in gguf.GGUFReader(file).tensors:
        if len(tensor.shape) > 1:
            counts[tensor.tensor_type.name] = counts.get(tensor.tensor_type.name, 0) + int(tensor.n_elements)
    assert gguf_types(file) == counts
    assert list(counts) == [kind]


def test_a_file_that_is_no_gguf_file_is_an_error(tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    file = tmp_path / "model.gguf"
    for content in (b"GGUF", b"GGUF" + bytes(range(1, 200))):
        file.write_bytes(content)
        with pytest.raises(Exception, match=r"unpack|buffer|requires|key|\d"):
            gguf_types(file)
