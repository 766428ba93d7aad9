"""What is compared, and how: :class:`ScoringConfig`, frozen and validated, and the five presets.

This module imports nothing heavy, because marker arguments are validated with it while tests are collected.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from types import MappingProxyType
from typing import Any, Literal

from pytest_pot.core.errors import InvalidArgument

__all__ = ["DEFAULT_PRESET", "DTYPES", "METRICS", "PRESETS", "ScoringConfig", "check_device", "one_of"]

METRICS = ("tv", "jsd", "kl", "kl_reverse", "delta_ce", "top1_flip")
"""The metrics by name; :mod:`pytest_pot.scoring.metrics` defines each one."""

TAILS = ("bucket", "renormalise")
DTYPES = ("auto", "float32", "float16", "bfloat16", "float64")
DEFAULT_PRESET = "balanced"

_DEVICE = re.compile(r"auto|(cpu|cuda|mps|xpu|npu|hpu)(:\d+)?")


def one_of(name: str, value: object, allowed: tuple[str, ...]) -> None:
    """Raise :class:`InvalidArgument` naming ``name`` unless ``value`` is one of ``allowed``."""
    if value not in allowed:
        raise InvalidArgument(f"{name}={value!r} is not one of {', '.join(map(repr, allowed))}")


def check_device(name: str, value: object) -> None:
    """Raise :class:`InvalidArgument` unless ``value`` names a device; whether this machine has it is seen when it is used."""
    if not (isinstance(value, str) and _DEVICE.fullmatch(value)):
        raise InvalidArgument(f"{name}={value!r} is not 'auto', 'cpu', 'cuda', 'cuda:N', 'mps' or another torch device")


@dataclass(frozen=True, kw_only=True)
class ScoringConfig:
    """How two models are compared. Every field is validated; the values of a preset come from :meth:`preset`."""

    top_k: int | None = 100
    """How many of the reference's likeliest tokens are compared one by one; ``None`` compares the whole vocabulary."""
    tail: Literal["bucket", "renormalise"] = "bucket"
    """``"bucket"``: all other tokens are one more cell, which makes every divergence a lower bound of the exact one.
    ``"renormalise"``: softmax over the top-k only, for both models; cheaper, and not a bound."""
    batch_size: int | Literal["auto"] = 4
    """Prompts per forward. ``"auto"``: as many as cost least, padding and the price of a forward taken together, within what
    the device has room for. Either is halved when memory runs out."""
    positions_per_prompt: int = 32
    """The most tokens of a continuation that are compared."""
    max_length: int = 256
    """The most tokens of prompt and continuation together; the prompt is cut on the left to fit."""
    temperature: float = 1.0
    """Both models' logits are divided by it before the softmax."""
    metric: str = "tv"
    """The metric that is averaged into the score; all of :data:`METRICS` are computed anyway."""
    device: str = "auto"
    """Where models run. ``"auto"``: CUDA, then MPS, then CPU for a model that pytest-pot loads; a model that is already
    in memory is scored where it is."""
    dtype: str = "auto"
    """Precision of the forward. ``"auto"``: the checkpoint's own, except that half precision is upcast to float32 on a
    CPU, where it is slow or depends on the processor."""
    use_amp: bool = False
    """Run the forward under ``torch.autocast``."""
    every_position: bool = False
    """Take the plain road, on which nothing is clever: one prompt per forward whatever the batch size, no padding, logits
    at every position. It is what the preset ``original`` does, the yardstick that the faster road is tested against."""

    def __post_init__(self) -> None:
        _whole_number("top_k", self.top_k, also="None (the whole vocabulary)", or_none=True)
        one_of("tail", self.tail, TAILS)
        if self.batch_size != "auto":
            _whole_number("batch_size", self.batch_size, also="'auto'")
        _whole_number("positions_per_prompt", self.positions_per_prompt)
        _whole_number("max_length", self.max_length)
        temperature = self.temperature
        if isinstance(temperature, bool) or not isinstance(temperature, int | float) or not 0 < temperature < math.inf:
            raise InvalidArgument(f"temperature={temperature!r} must be a finite number above 0")
        one_of("metric", self.metric, METRICS)
        check_device("device", self.device)
        one_of("dtype", self.dtype, DTYPES)
        for name in ("use_amp", "every_position"):
            if not isinstance(getattr(self, name), bool):
                raise InvalidArgument(f"{name}={getattr(self, name)!r} must be True or False")

    @classmethod
    def preset(cls, name: str = DEFAULT_PRESET, **overrides: Any) -> ScoringConfig:
        """The preset ``name`` (a key of :data:`PRESETS`) with any field overridden.

        Raises:
            InvalidArgument: an unknown preset or field, or a value that a field does not take.
        """
        one_of("preset", name, tuple(PRESETS))
        known = [field.name for field in fields(cls)]
        for field in overrides:
            if field not in known:
                raise InvalidArgument(f"{field!r} is not a field of ScoringConfig; the fields are {', '.join(known)}")
        return replace(PRESETS[name], **overrides)


def _whole_number(name: str, value: object, *, also: str | None = None, or_none: bool = False) -> None:
    if value is None and or_none:
        return
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        alternative = f" or {also}" if also else ""
        raise InvalidArgument(f"{name}={value!r} must be a whole number of at least 1{alternative}")


PRESETS: Mapping[str, ScoringConfig] = MappingProxyType(
    {
        "balanced": ScoringConfig(),
        "accurate": ScoringConfig(top_k=None, batch_size=2, positions_per_prompt=64, max_length=512),
        "fastest": ScoringConfig(top_k=50, tail="renormalise", batch_size=8, positions_per_prompt=16),
        "single": ScoringConfig(top_k=50, batch_size=1),
        "original": ScoringConfig(top_k=None, batch_size=1, max_length=1024, every_position=True),
    }
)
"""The presets by name; ``balanced`` is the default."""
