"""Decide which modules differ by more than rounding, which of them is the first, and which one stands out."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from pytest_pot.core.text import count
from pytest_pot.engines.module_differences import ModuleDifference, ModuleTrace
from pytest_pot.engines.pytorch.module_trace.own_code import own_code
from pytest_pot.engines.pytorch.module_trace.pairing import Pairing
from pytest_pot.engines.pytorch.module_trace.recording import Recording
from pytest_pot.engines.pytorch.module_trace.replay import Failure, Replay, Seen

__all__ = ["Findings", "Limits", "error_text", "is_inside"]

_FLOOR_ULPS = 16
"""The least difference that counts in any precision, in units in the last place of float32."""
_ABOVE_NOISE = 1.5
_STANDS_OUT = 5.0
"""How many times as large as the median of the others a difference has to be to stand out."""
_MOST_NAMED = 2


@dataclass(frozen=True)
class Limits:
    """What rounding explains."""

    floor: float
    """The least difference that counts."""
    above_noise: float
    """How many times as large as what rounding errors do to the reference a difference has to be."""

    @classmethod
    def of(cls, eps: float) -> Limits:
        """``eps``: the machine epsilon of the less precise model.

        The noise is made by rounding what modules get. What they keep and what they return is rounded too, each by eps / 2 at
        most, so the floor is eps. It is mostly less: with the same weights in two precisions (SmolLM2, on three prompts), no
        module's output was beyond both 0.71 eps and 1.42 times its noise. A difference of 1 % is 1.28 eps of bfloat16.
        """
        return cls(max(eps, _FLOOR_ULPS * min(eps, torch.finfo(torch.float32).eps)), _ABOVE_NOISE)


class Findings:
    """What the replays of a reference and a candidate show together."""

    def __init__(
        self, pairing: Pairing, recording: Recording, limits: Limits, replay: Replay, failures: Sequence[Failure]
    ) -> None:
        """``replay``: the candidate's on the reference's ``recording``."""
        self._pairing = pairing
        self._replay = replay
        self._failures = failures
        self._limits = limits
        self._called = list(dict.fromkeys(name for name, _ in recording.calls))
        """The modules that ran, in the order in which they ended."""
        self.differing: dict[str, tuple[float, float]] = {}
        """By name: the relative difference of the output, and how much of it is rounding."""
        self._differences: dict[str, float] = {}
        """The relative difference of the output of every module that was judged."""
        self._noise: dict[str, float] = {}
        """How much of it rounding could explain."""
        self._suspects: set[str] = set()
        """Modules that gave other inputs to those inside them. That may change their output or not: experts may be computed in
        another order. What they return counts only where those inside them run freely."""

    def is_large(self, difference: float) -> bool:
        """Whether ``difference`` would count if rounding did not amplify."""
        return difference > self._limits.floor

    def judge(self, rounded: Replay) -> None:
        """Say which modules differ; ``rounded``: the reference on its own record, with rounding errors."""
        for name, seen in self._replay.seen.items():
            noise = rounded.seen.get(name, Seen(0.0))
            if self._counts(seen.passed_on, noise.passed_on):
                self._suspects.add(name)
            else:
                self._take(name, seen.output, noise.output)

    def innermost_suspects(self) -> frozenset[str]:
        """Modules that are still to be judged by what they return if those inside them run freely; none is in another one."""
        return frozenset(
            name for name in self._suspects if not any(is_inside(other, name) for other in self._suspects - {name})
        )

    def judge_freely(self, suspects: frozenset[str], replay: Replay, rounded: Replay) -> None:
        """Take in the replays in which what is inside ``suspects`` ran freely: the candidate's and the reference's."""
        self._suspects -= suspects
        for name in suspects & replay.seen.keys():
            self._take(name, replay.seen[name].output, rounded.seen.get(name, Seen(0.0)).output)

    def _take(self, name: str, difference: float, noise: float) -> None:
        self._differences[name], self._noise[name] = difference, noise
        if self._counts(difference, noise):
            self.differing[name] = difference, noise

    def _take_the_only_one(self) -> None:
        """Count a module that differs where all others give equal bits: both models round alike, so no rounding explains it."""
        unequal = [name for name, difference in self._differences.items() if difference > 0]
        if len(unequal) == 1 < len(self._differences) and self.is_large(self._differences[unequal[0]]):
            self.differing[unequal[0]] = self._differences[unequal[0]], self._noise[unequal[0]]

    def trace(self) -> ModuleTrace:
        self._take_the_only_one()
        order = [name for name in self._called if name in self._replay.seen]
        differing = [name for name in order if name in self.differing]
        first = differing[0] if differing else None
        largest = max(differing, key=lambda name: self.differing[name][0], default=None)
        if largest is not None:
            others = [self.differing[name][0] for name in differing if name != largest]
            if largest == first or self.differing[largest][0] < _STANDS_OUT * statistics.median(others):
                largest = None
        return ModuleTrace(
            first=None if first is None else self._described(first, order),
            largest=None if largest is None else self._described(largest, order),
            n_modules=len(order),
            n_differing=len(differing),
            note="; ".join(self._notes([name for name in (first, largest) if name is not None])) or None,
            incomplete=bool(self._failures or any(names for _, names in self._left_out())),
            within=max((self._differences.get(name, 0.0) for name in order if name not in self.differing), default=0.0),
            wrapper=self._pairing.wrapper,
            order=tuple(order),
        )

    def _counts(self, difference: float, noise: float) -> bool:
        return self.is_large(difference) and difference > self._limits.above_noise * noise

    def _described(self, name: str, order: Sequence[str]) -> ModuleDifference:
        after, noise = self.differing[name]
        inside = [other for other in order if other != name and is_inside(other, name)]
        return ModuleDifference(
            name=name,
            module_class=type(self._pairing.reference[name]).__name__,
            before=max((self._differences.get(other, 0.0) for other in order[: order.index(name)]), default=0.0),
            after=after,
            noise=noise,
            itself=bool(inside) and not any(other in self.differing for other in inside),
            argument=self._argument(name),
            own_code=own_code(self._pairing.reference[name], self._pairing.candidate[name]),
        )

    def _notes(self, told: Sequence[str]) -> list[str]:
        notes = []
        for name in told:
            seen = self._replay.seen[name]
            if math.isinf(self.differing[name][0]):
                notes.append(f"{name or 'the model'} returns values that are not finite")
            elif seen.reshaped:
                notes.append(f"{name or 'the model'} returns a tensor of another shape")
            elif self._argument(name) is not None:
                notes.append(f"{name or 'the model'} gives {seen.receiver} another {seen.argument}")
            kinds = [type(modules[name]).__name__ for modules in (self._pairing.reference, self._pairing.candidate)]
            if kinds[0] != kinds[1]:
                notes.append(f"{name or 'the model'} is a {kinds[1]} in the candidate, a {kinds[0]} in the reference")
        notes += self._failure_notes()
        pairing = self._pairing
        if not pairing.of_one_class and "" not in told:
            notes.append("the models are of different classes")
        for what, names in self._left_out():
            if names:
                named = ", ".join(names[:_MOST_NAMED]) + (" and others" if len(names) > _MOST_NAMED else "")
                notes.append(f"not compared: {count(len(names), 'module')} {what} ({named})")
        return notes

    def _argument(self, name: str) -> str | None:
        seen = self._replay.seen[name]
        return seen.argument if self.is_large(seen.passed_on) else None

    def _left_out(self) -> tuple[tuple[str, Sequence[str]], ...]:
        """The modules that were not compared, by the reason."""
        not_called = [
            name
            for name in self._called
            if name not in self._replay.seen and name not in self._replay.incomparable and not self._failures
        ]
        return (
            ("only in the reference", self._pairing.missing),
            ("only in the candidate", self._pairing.extra),
            (
                "of another size, or called with other arguments",
                [name for name in self._called if name in self._replay.incomparable],
            ),
            ("not called by the candidate", not_called),
        )

    def _failure_notes(self) -> Iterator[str]:
        """One for each module that failed; the last failure of a module tells most."""
        for fault in {fault.module: fault for fault in self._failures}.values():
            ended = fault.on_own_inputs or (fault is self._failures[-1] and not fault.module)
            end = ", and no module after it was compared" if ended else " on the reference's inputs"
            yield f"the candidate's {fault.module or 'model'} raised {error_text(fault.error)}{end}"


def is_inside(name: str, outer: str) -> bool:
    """Whether the module ``name`` is ``outer`` or inside it."""
    return name == outer or outer == "" or name.startswith(f"{outer}.")


def error_text(error: Exception) -> str:
    """The class and the first line of the message of ``error``."""
    text = next(iter(str(error).splitlines()), "")
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
