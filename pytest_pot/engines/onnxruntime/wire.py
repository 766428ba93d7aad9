"""Protocol buffers as bytes: an ONNX file's structure without the package ``onnx``, and without its weights in memory.

A message is a sequence of fields, each a number, a kind and a value. What we do not look for is skipped by its length, so that
a file of 2 GB takes no longer than one of 2 MB with as many nodes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

__all__ = ["Malformed", "Message"]

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
"""Kinds of fields."""


class Malformed(Exception):
    """The bytes are no protocol buffer, or end too early."""


class Buffer(Protocol):
    """Bytes, or a file that is mapped into memory."""

    def __getitem__(self, index: slice, /) -> bytes: ...


@dataclass(frozen=True)
class Message:
    """A part of a buffer that holds a message."""

    buffer: Buffer
    start: int
    stop: int

    @property
    def bytes(self) -> bytes:
        return bytes(self.buffer[self.start : self.stop])

    @property
    def text(self) -> str:
        return self.bytes.decode("utf-8", errors="replace")

    def fields(self) -> Iterator[tuple[int, int | Message]]:
        """Number and value of each field: an integer, or the bytes of a text, a message or packed numbers.

        Raises:
            Malformed: the bytes end inside a field, or have a field of no known kind.
        """
        place = self.start
        while place < self.stop:
            tag, place = self._varint(place)
            number, kind = tag >> 3, tag & 7
            if number == 0:
                raise Malformed
            if kind == _VARINT:
                value, place = self._varint(place)
                yield number, value
            elif kind == _BYTES:
                length, place = self._varint(place)
                end = self._within(place + length)
                yield number, Message(self.buffer, place, end)
                place = end
            elif kind in (_FIXED32, _FIXED64):
                place = self._within(place + (4 if kind == _FIXED32 else 8))
            else:
                raise Malformed

    def messages(self, wanted: int) -> Iterator[Message]:
        """The values of the fields with the number ``wanted`` that are texts or messages."""
        return (value for number, value in self.fields() if number == wanted and isinstance(value, Message))

    def texts(self, wanted: int) -> list[str]:
        return [value.text for value in self.messages(wanted)]

    def integers(self, wanted: int) -> list[int]:
        """The values of the fields with the number ``wanted``, one by one or packed."""
        values: list[int] = []
        for number, value in self.fields():
            if number == wanted:
                values += [value] if isinstance(value, int) else value._packed()
        return values

    def _packed(self) -> list[int]:
        values, place = [], self.start
        while place < self.stop:
            value, place = self._varint(place)
            values.append(value)
        return values

    def _varint(self, place: int) -> tuple[int, int]:
        """The number at ``place``, 7 bits in each byte, the lowest first, and the place after it."""
        value = 0
        for index, byte in enumerate(self.buffer[place : min(place + 10, self.stop)]):
            value |= (byte & 0x7F) << (7 * index)
            if byte < 0x80:
                return value, place + index + 1
        raise Malformed

    def _within(self, place: int) -> int:
        if place > self.stop:
            raise Malformed
        return place
