"""Which ONNX graph a spec names, and the files that belong to it. Nothing is read here but names."""

from __future__ import annotations

import os
from pathlib import Path

from pytest_pot.core.errors import PotError
from pytest_pot.core.text import some_of
from pytest_pot.engines.loading import MODEL_FORMS, NoSuchPath
from pytest_pot.engines.model_files import ONNX_FOLDER, onnx_graphs_in

__all__ = ["chosen_graph", "home_of", "names_graph"]

_SUFFIX = ".onnx"
_OBVIOUS = ("model.onnx", "decoder_model_merged.onnx", "decoder_model.onnx")
"""The graph that a folder is about, by what optimum calls it, the first of them that is there. The merged decoder reads whole
prompts as well as single tokens after a cache."""

_HOME_FILES = ("config.json", "tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json", "spiece.model")


def names_graph(spec: str) -> bool:
    """Whether ``spec`` is an ONNX file, or a folder with ONNX graphs and no weights of another format at its top."""
    if "://" in spec:
        return False
    path = Path(spec)
    if not os.path.isdir(path):
        return path.suffix == _SUFFIX
    return bool(onnx_graphs_in(path)) and not _has_other_weights(path)


def chosen_graph(spec: str, what: str) -> Path:
    """The graph that ``spec`` names, called ``what`` in messages.

    Raises:
        PotError: there is no such file, or the folder has several graphs of which none is the obvious one.
    """
    path = Path(spec)
    if not os.path.isdir(path):
        if not os.path.isfile(path):
            raise NoSuchPath(what, spec, MODEL_FORMS)
        return path
    graphs = onnx_graphs_in(path)
    for name in _OBVIOUS:
        matches = [graph for graph in graphs if graph.name == name]
        if len(matches) == 1:
            return matches[0]
        if matches:
            break
    if len(graphs) == 1:
        return graphs[0]
    names = [graph.relative_to(path).as_posix() for graph in graphs]
    raise PotError(
        f"cannot load {what}: it has {len(graphs)} ONNX graphs ({some_of(names, 12)}), and none of them is the obvious one. "
        f"Name the file, such as {path / names[0]}"
    )


def home_of(graph: Path) -> Path:
    """The folder that has the config and the tokenizer of ``graph``: its own, or that above a sub-folder ``onnx``."""
    folder = graph.parent
    if os.path.basename(os.path.abspath(folder)) == ONNX_FOLDER and not _is_home(folder):
        return Path(os.path.abspath(folder)).parent
    return folder


def _is_home(folder: Path) -> bool:
    return any(os.path.isfile(folder / name) for name in _HOME_FILES)


def _has_other_weights(folder: Path) -> bool:
    """Whether transformers loads the folder: it has safetensors weights, or an adapter."""
    weights = (path for path in folder.glob("*.safetensors") if not path.name.endswith(".pot.safetensors"))
    return any(weights) or os.path.exists(folder / "adapter_config.json")
