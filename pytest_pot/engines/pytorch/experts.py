"""Experts of a mixture whose tensors are missing from a checkpoint, or have a number that no expert has, from names alone.

transformers 5 stacks the tensors of a layer's experts in the order of their names, whatever the numbers in these: with expert 1
called 9, it runs last, and no tensor is missing; with one tensor lost, loading ends in an error without a name.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from safetensors import safe_open

__all__ = ["misnumbered_experts"]

_EXPERT = re.compile(r"(?P<before>(?:.*\.)?experts\.)(?P<number>0|[1-9]\d{0,5})\.(?P<rest>.+)")
_LAYER = re.compile(r"\blayers\.(\d+)\.")
_NUMBERS = ("num_local_experts", "num_experts", "n_routed_experts")
_FILE, _INDEX, _CONFIG = "model.safetensors", "model.safetensors.index.json", "config.json"


def misnumbered_experts(folder: Path) -> tuple[list[str], list[str]]:
    """The experts' tensors that the safetensors files in ``folder`` lack, and those of experts that there are not.

    Experts are numbered from 0, and all of a layer have tensors of the same names. How many there are is what the config says,
    or as many as the files number. Nothing is reported of files that cannot be read, which loading refuses.
    """
    names: set[str] = set()
    config: Any = {}
    with suppress(Exception):  # files from others; the loader will say what is wrong with them
        config = json.loads((folder / _CONFIG).read_bytes())
        names = _names_in(folder)
    config = config if isinstance(config, dict) else {}
    text = config.get("text_config")
    text = {**config, **text} if isinstance(text, dict) else config
    if text.get("zero_expert_num"):  # LongCat: experts that pass their input on have some of the tensors, or none
        return [], []
    n_layers = text.get("num_hidden_layers")
    # Some of a quantised layer's experts may be left unquantised, and have tensors of other names.
    by_module = not text.keys().isdisjoint(("quantization_config", "compression_config"))
    layers: dict[str, dict[str, dict[int, list[str]]]] = defaultdict(lambda: defaultdict(lambda: defaultdict(list)))
    for name in names:
        if (found := _EXPERT.fullmatch(name)) is None or _is_beyond(name, n_layers):
            continue
        part = found["rest"].rpartition(".")[0] if by_module else found["rest"]
        layers[found["before"]][part][int(found["number"])].append(name)
    missing: list[str] = []
    extra: list[str] = []
    for before, parts in layers.items():
        n_experts = _n_experts(text) or 1 + max(number for part in parts.values() for number in part)
        for part, tensors in parts.items():
            missing += [f"{before}{number}.{part}" for number in range(n_experts) if number not in tensors]
            extra += [name for number, those in tensors.items() if number >= n_experts for name in those]
    return sorted(missing), sorted(extra)


def _names_in(folder: Path) -> set[str]:
    """The tensors in the files that transformers reads, from their headers: an index may say other than its files hold."""
    files = [_FILE]
    if not (folder / _FILE).exists():
        files = sorted(set(json.loads((folder / _INDEX).read_bytes())["weight_map"].values()))
    names: set[str] = set()
    for file in files:
        with safe_open(str(folder / file), framework="pt") as tensors:
            names.update(tensors.keys())
    return names


def _is_beyond(name: str, n_layers: object) -> bool:
    """Whether ``name`` is in a layer after the model's last one, which may predict further tokens."""
    layer = _LAYER.search(name)
    return layer is not None and isinstance(n_layers, int) and int(layer[1]) >= n_layers


def _n_experts(config: Mapping[str, Any]) -> int | None:
    """How many experts each layer has; None if ``config`` does not say, or says two numbers."""
    if "per_layer_config" in config:  # layers may differ
        return None
    stated = {config[name] for name in _NUMBERS if isinstance(config.get(name), int) and config[name] > 0}
    return stated.pop() if len(stated) == 1 else None
