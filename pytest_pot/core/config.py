"""What is compared, and how: :class:`ScoringConfig`, frozen and validated, and the presets.

Importing this module is cheap, because marker arguments are validated with it while tests are collected.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from types import MappingProxyType
from typing import Any, Literal

from pytest_pot.core.errors import InvalidArgument
from pytest_pot.core.names import DEFAULT_PRESET, DTYPES, METRICS, PATHS, TAILS
from pytest_pot.core.validation import device_name, one_of, positive, seconds_to_wait, whole_number

__all__ = ["PRESETS", "ScoringConfig"]


@dataclass(frozen=True, kw_only=True)
class ScoringConfig:
    """How two models are compared. Every field is validated; :meth:`preset` gives the values of a preset."""

    top_k: int | None = 100
    """How many of the reference's likeliest tokens are compared one by one; ``None`` compares the whole vocabulary."""
    tail: Literal["bucket", "renormalise"] = "bucket"
    """``"bucket"``: all other tokens are one more cell, which makes every divergence a lower bound of the exact one.
    ``"renormalise"``: softmax over the top-k only, for both models; cheaper, and not a bound."""
    batch_size: int | Literal["auto"] = "auto"
    """Prompts per forward pass. ``"auto"``: the batches that cost least, counting padding and the overhead of a forward pass,
    within the memory of the device. These costs are constants on a CPU; on a GPU they are measured while batches run. Either
    is halved when memory runs out."""
    positions_per_prompt: int = 32
    """The most tokens of a continuation that are compared."""
    max_length: int = 256
    """The most tokens of prompt and continuation together; the prompt is cut on the left to fit."""
    temperature: float = 1.0
    """Both models' logits are divided by it before the softmax."""
    metric: str = "tv"
    """The metric that is averaged into the score; all of :data:`~pytest_pot.core.names.METRICS` are computed anyway."""
    device: str = "auto"
    """Where models run. ``"auto"``: CUDA, then MPS, then CPU for a model that pytest-pot loads; a model that is already
    in memory is scored where it is."""
    dtype: str = "auto"
    """Precision of the forward pass. ``"auto"``: the checkpoint's own, except that half precision is upcast to float32 on a
    CPU, where it is slow or depends on the processor."""
    use_amp: bool = False
    """Run the forward pass under ``torch.autocast``."""
    path: Literal["prefill", "decode"] = "prefill"
    """How the candidate reads. ``"prefill"``: prompt and continuation in one forward pass. ``"decode"``: the continuation token
    by token, through the candidate's own key-value cache, as while generating. The reference always reads in one pass."""
    every_position: bool = False
    """Use the unoptimised path: one prompt per forward pass whatever the batch size, no padding, logits at every position. The
    preset ``original`` does, and the optimised path is tested against it."""
    allow_tensors: tuple[str, ...] = ()
    """Tensors, by name or by a pattern with ``*``, that need not match between a checkpoint and the model that is made of it.
    All others that are missing, have another shape or no place in the model are refused."""
    server_concurrency: int = 8
    """The most requests to a server at a time."""
    server_timeout: float = 60.0
    """Seconds within which a server has to answer a request completely; from one event to the next, where it streams. At most a
    day."""

    def __post_init__(self) -> None:
        if self.top_k is not None:
            whole_number("top_k", self.top_k, also="None (the whole vocabulary)")
        one_of("tail", self.tail, TAILS)
        if self.batch_size != "auto":
            whole_number("batch_size", self.batch_size, also="'auto'")
        whole_number("positions_per_prompt", self.positions_per_prompt)
        whole_number("max_length", self.max_length)
        positive("temperature", self.temperature)
        whole_number("server_concurrency", self.server_concurrency)
        seconds_to_wait("server_timeout", self.server_timeout)
        one_of("metric", self.metric, METRICS)
        device_name("device", self.device)
        one_of("dtype", self.dtype, DTYPES)
        one_of("path", self.path, PATHS)
        for name in ("use_amp", "every_position"):
            if not isinstance(getattr(self, name), bool):
                raise InvalidArgument(f"{name}={getattr(self, name)!r} must be True or False")
        patterns = self.allow_tensors
        if not isinstance(patterns, tuple | list) or not all(isinstance(name, str) and name for name in patterns):
            raise InvalidArgument(f"allow_tensors={patterns!r} must be a tuple of names or patterns of tensors")
        object.__setattr__(self, "allow_tensors", tuple(patterns))  # JSON has lists

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


PRESETS: Mapping[str, ScoringConfig] = MappingProxyType(
    {
        "auto": ScoringConfig(),
        "balanced": ScoringConfig(batch_size=4),
        "accurate": ScoringConfig(top_k=None, batch_size=2, positions_per_prompt=64, max_length=512),
        "fastest": ScoringConfig(top_k=50, tail="renormalise", batch_size=8, positions_per_prompt=16),
        "single": ScoringConfig(top_k=50, batch_size=1),
        "original": ScoringConfig(top_k=None, batch_size=1, max_length=1024, every_position=True),
    }
)
"""The presets by name; ``auto`` is the default. It is ``balanced`` with the batch size ``"auto"``: scores of the two differ by
rounding only, and a recording made with one serves the other."""
