"""A short ``repr`` for results that hold thousands of numbers."""

from __future__ import annotations

import reprlib
from dataclasses import fields
from typing import Any, ClassVar

from pytest_pot.core.text import shorten

__all__ = ["MOST", "Brief"]

MOST = 300
"""The most characters of a result's ``repr``."""


class _Repr(reprlib.Repr):
    def __init__(self) -> None:
        super().__init__()
        self.maxlevel = 3
        self.maxtuple = self.maxlist = self.maxdict = self.maxset = 3
        self.maxstring = 40
        self.maxother = 60

    def repr_ndarray(self, array: Any, _: int) -> str:
        return f"<{array.dtype} {list(array.shape)}>"


class Brief:
    """A dataclass (with ``repr=False``) whose ``repr`` has the beginning of each field, and :data:`MOST` characters at most."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    def __repr__(self) -> str:
        told = _Repr()
        shown = ", ".join(f"{field.name}={told.repr(getattr(self, field.name))}" for field in fields(self) if field.repr)
        return shorten(f"{type(self).__name__}({shown})", MOST)
