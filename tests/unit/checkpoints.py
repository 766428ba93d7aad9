"""Checkpoints with one tensor dropped, renamed or reshaped, and what is said of them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from pytest_pot import PotError, ScoringConfig
from pytest_pot.engines.registry import load_model

Tensors = dict[str, Tensor]


def drop(tensors: Tensors, name: str) -> None:
    del tensors[name]


def rename(tensors: Tensors, name: str) -> None:
    tensors[f"{name}_renamed"] = tensors.pop(name)


def reshape(tensors: Tensors, name: str) -> None:
    tensors[name] = torch.cat([tensors[name], tensors[name][:1]])


CHANGES: Mapping[str, Callable[[Tensors, str], None]] = {"dropped": drop, "renamed": rename, "reshaped": reshape}


def tensors_in(folder: Path) -> Tensors:
    """All tensors in the weights files of ``folder``."""
    tensors: Tensors = {}
    for file in sorted(folder.glob("*.safetensors")):
        tensors.update(load_file(file))
    return tensors


def rewritten(folder: Path, target: Path, change: Callable[[Tensors], object]) -> Path:
    """A copy of the checkpoint ``folder`` at ``target``, with the tensors of each of its weights files changed.

    A file of which no tensor is left is not written: older versions of safetensors cannot read it.
    """
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(folder, target)
    for file in sorted(target.glob("*.safetensors")):
        tensors = load_file(file)
        change(tensors)
        if tensors:
            save_file(tensors, file, metadata={"format": "pt"})
        else:
            file.unlink()
    index = target / "model.safetensors.index.json"
    if index.exists():  # which file has which tensor, as a converter would write it for its own result
        files = {name: file.name for file in target.glob("*.safetensors") for name in load_file(file)}
        index.write_text(json.dumps({"metadata": {}, "weight_map": files}), encoding="utf-8")
    return target


def without_its_tensor(folder: Path, target: Path, how: str, name: str) -> Path:
    """A copy of ``folder`` at ``target`` in which the tensor ``name`` is changed: ``how`` is a key of :data:`CHANGES`."""

    def change(tensors: Tensors) -> None:
        if name in tensors:
            CHANGES[how](tensors, name)

    return rewritten(folder, target, change)


def refusal_of(folder: Path, **options: Any) -> str:
    """Why the checkpoint in ``folder`` is refused; empty if it is loaded."""
    try:
        load_model(str(folder), "candidate", ScoringConfig(device="cpu", **options))
    except PotError as error:
        return str(error)
    return ""


def incomplete(folder: Path, *lines: str, example: str) -> str:
    """The whole message about ``folder``, which does not hold the model that is made of it."""
    first = f"the files of the candidate {str(folder)!r} do not hold the model that transformers makes of them:"
    last = (
        "Convert or save the model again, as the class that its config names. If you mean it, list the tensors in pytest's "
        f"ini file, by name or by a pattern with *: pot_allow_tensors = {example}"
    )
    return "\n".join([first, *(f"  {line}" for line in lines), last])
