"""What the name of a tensor tells: its layer, its place in the layer, and its role in the model.

All of it holds for any architecture that numbers its layers: ``model.layers.3.mlp.down_proj.weight``,
``transformer.h.3.attn.c_attn.bias``, ``backbone.layers.3.mixer.A_log``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

from pytest_pot.engines.weights import TensorInfo

__all__ = ["Role", "TensorName", "role", "template"]


class Role(StrEnum):
    """What a tensor is for."""

    MATRIX = "matrix"
    EXPERT = "expert"
    EMBEDDINGS = "embeddings"
    POSITIONS = "position embeddings"
    OUTPUT = "output layer"
    NORM = "norm"
    BIAS = "bias"
    OTHER = "other"


@dataclass(frozen=True)
class TensorName:
    """A name, taken apart."""

    stack: str
    """What is before the layer's number: ``"model.layers"``; empty where no layer is named."""
    layer: int | None
    rest: str
    """What is behind the layer's number; the whole name where no layer is named."""

    @property
    def place(self) -> tuple[str, int | None]:
        """The stack and the number of its layer."""
        return self.stack, self.layer

    @classmethod
    def of(cls, name: str) -> TensorName:
        match = re.match(r"(?:(.*?)\.)?(\d+)\.(.+)$", name)
        if match is None:
            return cls("", None, name)
        return cls(match[1] or "", int(match[2]), match[3])


def template(name: str) -> str:
    """``name`` with a star for each number."""
    return re.sub(r"(?<![^.])\d+(?![^.])", "*", name)


def role(name: str, info: TensorInfo) -> Role:
    """What the tensor ``name`` is for."""
    parsed = TensorName.of(name)
    words = parsed.rest.lower()
    if re.search(r"norm|(^|\.)ln_|(^|[._])ln\d?[._]", words):
        return Role.NORM
    if re.search(r"(^|[._])(bias|b)\d?$|_bias$", words):
        return Role.BIAS
    if len(info.shape) >= 2 and parsed.layer is None:
        if re.search(r"wpe|pos_emb|position", words):
            return Role.POSITIONS
        if re.search(r"embed(?!_out)|(^|[._])wte|(^|\.)emb\.", words):
            return Role.EMBEDDINGS
        if re.search(r"head|embed_out|(^|\.)output\.|unembed", words):
            return Role.OUTPUT
    if len(info.shape) < 2:
        return Role.OTHER
    if re.search(r"(^|\.)experts?\.", words):
        return Role.EXPERT
    return Role.MATRIX
