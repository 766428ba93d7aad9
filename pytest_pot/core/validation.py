"""Checks of arguments. Each one raises :class:`~pytest_pot.core.errors.InvalidArgument` with the argument's name and what is
allowed."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable

from pytest_pot.core.errors import InvalidArgument

__all__ = ["device_name", "finite_number", "not_negative", "one_of", "positive", "seconds_to_wait", "whole_number"]

_LONGEST_S = 24 * 60 * 60
_DEVICE = re.compile(r"auto|(cpu|cuda|mps|xpu|npu|hpu)(:\d+)?")


def one_of(name: str, value: object, allowed: tuple[str, ...]) -> None:
    """Raise :class:`InvalidArgument` unless ``value`` is one of ``allowed``."""
    if value not in allowed:
        raise InvalidArgument(f"{name}={value!r} is not one of {', '.join(map(repr, allowed))}")


def device_name(name: str, value: object) -> None:
    """Raise :class:`InvalidArgument` unless ``value`` names a device; whether this machine has that device shows at its first
    use."""
    if not (isinstance(value, str) and _DEVICE.fullmatch(value)):
        raise InvalidArgument(f"{name}={value!r} is not 'auto', 'cpu', 'cuda', 'cuda:N', 'mps' or another torch device")


def whole_number(name: str, value: object, *, least: int = 1, also: str | None = None) -> None:
    """Raise :class:`InvalidArgument` unless ``value`` is a whole number of at least ``least``; ``also``: what else is
    allowed."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        alternative = f" or {also}" if also else ""
        raise InvalidArgument(f"{name}={value!r} must be a whole number of at least {least}{alternative}")


def finite_number(name: str, value: object, what: str, fits: Callable[[float], bool]) -> None:
    """Raise :class:`InvalidArgument` unless ``value`` is a finite number that ``fits``; ``what`` says which numbers do."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not _is_finite(value) or not fits(value):
        raise InvalidArgument(f"{name}={value!r} must be {what}")


def not_negative(name: str, value: object) -> None:
    """Raise :class:`InvalidArgument` unless ``value`` is a finite number of at least 0."""
    finite_number(name, value, "a finite number of at least 0", lambda number: number >= 0)


def positive(name: str, value: object) -> None:
    """Raise :class:`InvalidArgument` unless ``value`` is a finite number above 0."""
    finite_number(name, value, "a finite number above 0", lambda number: number > 0)


def seconds_to_wait(name: str, value: object) -> None:
    """Raise :class:`InvalidArgument` unless ``value`` is a number of seconds above 0 and at most a day: the clocks of operating
    systems do not count to just any number."""
    what = f"a number of seconds above 0 and at most {_LONGEST_S} (a day)"
    finite_number(name, value, what, lambda number: 0 < number <= _LONGEST_S)


def _is_finite(value: float) -> bool:
    """``math.isfinite``, also of a whole number that no float can be."""
    return abs(value) <= sys.float_info.max
