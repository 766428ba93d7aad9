from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel

from ...models import tiny
from ...onnx_export import Export, dynamic_int8, export, merged, with_external_data

Graphs = Callable[[str], Path]


@pytest.fixture(scope="session")
def model() -> PreTrainedModel:
    return tiny("llama")


KINDS = {
    "plain": Export(),
    "no mask": Export(mask=False),
    "positions": Export(positions=True),
    "cache": Export(cache=True),
    "cache and positions": Export(cache=True, positions=True),
    "int32": Export(dtype=torch.int32, positions=True),
    "one at a time": Export(batch=1),
    "last only": Export(last_only=True),
    "exactly five": Export(length=5),
    "exactly three sequences": Export(batch=3),
    "other output": Export(output="scores"),
}


@pytest.fixture(scope="session")
def graphs(model: PreTrainedModel, tmp_path_factory: pytest.TempPathFactory) -> Graphs:
    """The graph of ``model`` of some kind, made when it is first asked for."""
    home = tmp_path_factory.mktemp("graphs")

    made: dict[str, Path] = {}

    def make(kind: str) -> Path:
        path = home / f"{kind}.onnx"
        if kind == "merged":
            return merged(graph("cache"), path)
        if kind == "dynamic int8":
            return dynamic_int8(graph("plain"), path)
        if kind == "one data file":
            return with_external_data(graph("plain"), path, files="weights.bin")
        if kind == "many data files":
            (home / "many").mkdir()
            return with_external_data(graph("plain"), home / "many" / "model.onnx")
        if kind == "float16":
            return export(tiny("llama").half(), path, Export(cache=True))
        return export(model, path, KINDS[kind])

    def graph(kind: str) -> Path:
        if kind not in made:
            made[kind] = make(kind)
        return made[kind]

    return graph
