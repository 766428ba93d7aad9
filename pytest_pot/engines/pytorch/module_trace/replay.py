"""Run a model so that each of its modules gets what the reference's module got, and see what it makes of that."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from pytest_pot.engines.pytorch.module_trace.calls import Call, followed
from pytest_pot.engines.pytorch.module_trace.distance import relative_difference
from pytest_pot.engines.pytorch.module_trace.nested import Path, leaves, with_leaves
from pytest_pot.engines.pytorch.module_trace.recording import RecordedCall, Recording

__all__ = ["Failure", "Replay", "Rounding", "Seen", "buffers_of"]

_OTHER = 1.0
"""The difference between a tensor and None in its place, or a tensor of another shape."""


@dataclass
class Seen:
    """What a replay has shown of a module; of several calls, the largest differences."""

    output: float = -1.0
    """The relative difference of its output, given the recorded inputs, and the recorded outputs of the modules inside it.
    Negative until it has returned."""
    passed_on: float = 0.0
    """The largest relative difference of an argument that it gave to a module inside it, likewise."""
    argument: str | None = None
    """That argument,"""
    receiver: str | None = None
    """and that module."""
    reshaped: bool = False
    """Whether one of several tensors that it returns has another shape."""


@dataclass(frozen=True)
class Failure:
    """An error that a module raised."""

    module: str
    error: Exception
    on_own_inputs: bool
    """Whether the module got the model's own inputs, so that the model fails by itself, and the replay ended there."""


class Rounding:
    """Relative errors of half of ``step``, with a random sign for each feature. No random state is touched.

    They are all of one size, because where one large value is most of a tensor, a random size could be small by chance.
    """

    def __init__(self, step: float, *, opposite: bool = False) -> None:
        """``opposite``: of what modules return, each error has the other sign; what they get has the same errors.

        Where a module adds what it got to what a module inside it returned, and one large value cancels, the errors cancel
        too if their signs happen to be equal. With both kinds of signs, that is so in one of two runs at most.
        """
        self._step = step
        self._opposite = opposite
        self._generator = torch.Generator().manual_seed(0)

    def __call__(self, tensor: Tensor, *, returned: bool) -> Tensor:
        if not tensor.is_floating_point() or tensor.ndim == 0:
            return tensor
        signs = torch.randint(0, 2, (tensor.shape[-1],), generator=self._generator) - 0.5
        step = -self._step if returned and self._opposite else self._step
        wide = torch.promote_types(tensor.dtype, torch.float32)
        return (tensor.to(wide) * (1 + step * signs.to(tensor.device, wide))).to(tensor.dtype)


@contextmanager
def buffers_of(others: Mapping[str, nn.Module], modules: Mapping[str, nn.Module], dtype: torch.dtype) -> Iterator[None]:
    """Give ``modules`` the buffers of ``others`` where rounding to ``dtype`` makes them equal.

    Whoever converts a model by ``to(dtype)`` rounds its rotary frequencies too, and far from the beginning that turns keys by
    large angles.
    """
    originals: list[tuple[dict[str, Tensor | None], str, Tensor]] = []
    try:
        for name, module in modules.items():
            for key, buffer in module._buffers.items():
                other = others[name]._buffers.get(key)
                if buffer is None or other is None or not buffer.is_floating_point() or other.shape != buffer.shape:
                    continue
                other = other.to(buffer.device)
                if torch.equal(other.to(dtype), buffer.to(dtype)):
                    originals.append((module._buffers, key, buffer))
                    module._buffers[key] = other.to(torch.promote_types(other.dtype, buffer.dtype))
        yield
    finally:
        for buffers, key, buffer in originals:
            buffers[key] = buffer


@dataclass
class Replay:
    """One run of a model on the record of another one, or on its own.

    Modules that are *held* get the recorded inputs, and their callers get the recorded outputs: each is judged by itself, and
    no difference propagates. Modules that are *judged* get the recorded inputs too, but what is in them runs freely.
    """

    recording: Recording
    held: frozenset[str]
    judged: frozenset[str] = frozenset()
    unfed: frozenset[str] = frozenset()
    """Modules that get what the model itself gives them, because they fail on the recorded inputs, or could: indices may be too
    high for a smaller table. Their outputs are held."""
    measured: frozenset[str] | None = None
    """The modules that are of interest; None: all that are held or judged."""
    rounding: Rounding | None = None
    """Applied to recorded values before the model gets them, and to the outputs of modules that run freely."""
    masks_alike: bool = True
    """Whether None in place of a mask means the same in both models."""

    seen: dict[str, Seen] = field(default_factory=dict)
    """The modules whose outputs could be compared."""
    incomparable: set[str] = field(default_factory=set)
    """Modules that got inputs, or gave outputs, of other sizes or in other places than the record."""

    def run(self, run: Callable[[], object], modules: Mapping[str, nn.Module]) -> Failure | None:
        """Run the model by ``run()``; its error, and in which of ``modules`` that was, if it raised one."""
        failure = None
        with followed(modules, self) as stack:
            try:
                run()
            except Exception as error:  # of a model that gets what it would not have come to, anything may be raised
                names = [call.name for call, _ in stack] or [""]
                failure = Failure(names[-1], error, not self.unfed.isdisjoint(names))
        for name in [name for name, seen in self.seen.items() if seen.output < 0 or name in self.incomparable]:
            del self.seen[name]
        return failure

    def add(self, other: Replay) -> None:
        """Take in the differences that another run has shown, where they are larger."""
        for name, seen in other.seen.items():
            own = self.seen.setdefault(name, Seen())
            own.output, own.passed_on = max(own.output, seen.output), max(own.passed_on, seen.passed_on)

    def before(self, call: Call, arguments: dict[str, Any]) -> tuple[dict[str, Any], bool]:
        """The recorded arguments, as far as they fit; and whether that makes the output comparable."""
        recorded = self._recorded(call)
        if recorded is None or call.name in self.unfed:
            return arguments, False
        own = _aligned(dict(leaves(arguments)), tuple(arguments), recorded)
        tensors = [leaf for _, leaf in own.values() if leaf is not None]
        like = next(filter(_is_number, tensors), next(iter(tensors), None))
        alike = self.masks_alike and call.kind is recorded.kind
        new: dict[Path, Tensor | None] = {}
        numbers: list[bool] = []
        for path, leaf in recorded.arguments.items():
            place, other = own.get(path, (None, None))
            fits = place is not None and _fits(leaf, other, alike=alike)
            if fits and call.caller in self.held and self._measures(call.caller):
                self._note(call, call.caller, str(path[0]), _difference(leaf, other))
            value = self._value(leaf, like if other is None else other, returned=False)
            fits = fits and (leaf is None or value is not None)
            if _is_number(leaf):
                numbers.append(fits)
                if _is_number(other) and not fits:  # of another size
                    return arguments, False
            if fits and place is not None:
                new[place] = value
        changed: dict[str, Any] = with_leaves(arguments, new)
        return changed, any(numbers) or not numbers

    def after(self, call: Call, state: bool, output: Any) -> Any:
        recorded = self._recorded(call)
        if recorded is None:
            return self._rounded(output)
        own = dict(leaves(output))
        pairs: dict[Path, tuple[Tensor, Tensor]] = {}
        for path, leaf in recorded.output.items():
            other = own.get(path)
            if leaf is not None and other is not None and _fits(leaf, other, alike=False):
                pairs[path] = leaf, other
        if state and pairs and self._measures(call.name):
            # Indices follow from the numbers beside them, and change where two of these are nearly equal.
            numbers = [pair for pair in pairs.values() if _is_number(pair[0])]
            difference = max(_difference(*pair) for pair in numbers or pairs.values())
            seen = self.seen.setdefault(call.name, Seen())
            seen.reshaped = seen.reshaped or any(_reshaped(leaf, own.get(path)) for path, leaf in recorded.output.items())
            seen.output = max(seen.output, difference, _OTHER if seen.reshaped else 0.0)
        elif not (state and pairs) and any(leaf is not None for leaf in recorded.output.values()):
            self.incomparable.add(call.name)
        values = {path: self._value(*pair, returned=True) for path, pair in pairs.items()}
        return with_leaves(output, {path: value for path, value in values.items() if value is not None})

    def _recorded(self, call: Call) -> RecordedCall | None:
        return self.recording.calls.get(call.key) if call.name in self.held or call.name in self.judged else None

    def _measures(self, name: str) -> bool:
        return self.measured is None or name in self.measured

    def _note(self, call: Call, caller: str, argument: str, difference: float) -> None:
        seen = self.seen.setdefault(caller, Seen())
        if difference > seen.passed_on:
            seen.passed_on, seen.argument, seen.receiver = difference, argument, call.name

    def _value(self, recorded: Tensor | None, like: Tensor | None, *, returned: bool) -> Tensor | None:
        """A copy of ``recorded``, because modules may change it in place; a tensor such as ``like``. None if it has none."""
        if recorded is None:
            return None
        value = recorded if self.rounding is None else self.rounding(recorded, returned=returned)
        place = value if like is None else like
        dtype = place.dtype if _is_number(value) and _is_number(place) else value.dtype
        return _converted(value.to(place.device, copy=dtype == value.dtype), dtype)

    def _rounded(self, output: Any) -> Any:
        if self.rounding is None:
            return output
        rounded = {path: self.rounding(leaf, returned=True) for path, leaf in leaves(output) if leaf is not None}
        return with_leaves(output, rounded)


def _converted(value: Tensor, dtype: torch.dtype) -> Tensor | None:
    """``value`` in another precision; None if values are too large for it."""
    converted = value.to(dtype)
    if not value.is_floating_point() or torch.finfo(dtype).max >= torch.finfo(value.dtype).max:
        return converted
    # The lowest values of a mask of attention stay the lowest.
    converted.masked_fill_(value <= torch.finfo(value.dtype).min / 2, torch.finfo(dtype).min)
    return None if bool((value.isfinite() & ~converted.isfinite()).any()) else converted


def _is_number(leaf: Tensor | None) -> bool:
    return leaf is not None and leaf.is_floating_point()


def _fits(recorded: Tensor | None, own: Tensor | None, *, alike: bool) -> bool:
    """Whether ``recorded`` can take the place of ``own``; ``alike``: also if one of both is None, as masks may be."""
    if recorded is None or own is None:
        return alike or recorded is own
    if recorded.shape != own.shape:
        return False
    return recorded.dtype == own.dtype or (recorded.is_floating_point() and own.is_floating_point())


def _reshaped(recorded: Tensor | None, own: Tensor | None) -> bool:
    return recorded is not None and own is not None and recorded.shape != own.shape


def _difference(recorded: Tensor | None, own: Tensor | None) -> float:
    if recorded is None or own is None:
        return 0.0 if recorded is own else _OTHER
    return relative_difference(recorded, own)


def _aligned(
    own: Mapping[Path, Tensor | None], names: tuple[str, ...], recorded: RecordedCall
) -> dict[Path, tuple[Path, Tensor | None]]:
    """``own`` by the paths that the record has for the same arguments, each with its own path.

    Classes that stand for one another may call their arguments otherwise (``input`` and ``x``); then their order counts.
    """
    theirs = {
        name: recorded.names[index]
        for index, name in enumerate(names)
        if name not in recorded.names and index < len(recorded.names) and recorded.names[index] not in names
    }
    return {(theirs.get(path[0], path[0]), *path[1:]): (path, leaf) for path, leaf in own.items()}
