"""Protocol buffers, read without the package that defines these messages."""

from __future__ import annotations

import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_pot.engines.onnxruntime.wire import Malformed, Message


def message(content: bytes) -> Message:
    return Message(content, 0, len(content))


@given(st.lists(st.integers(0, 2**63 - 1), max_size=5), st.text(max_size=200), st.binary(max_size=300))
def test_what_protobuf_wrote_is_read(dims: list[int], name: str, raw: bytes) -> None:
    tensor = onnx.TensorProto(dims=dims, name=name.encode("utf-8", "ignore").decode(), raw_data=raw, data_type=1)
    parsed = message(tensor.SerializeToString())
    assert parsed.integers(1) == dims
    assert parsed.integers(2) == [1]
    assert parsed.texts(8) == [tensor.name]
    assert [each.bytes for each in parsed.messages(9)] == [raw]


def test_packed_and_single_numbers_are_the_same() -> None:
    assert message(bytes([0x08, 0x01, 0x08, 0x96, 0x01])).integers(1) == [1, 150]
    assert message(bytes([0x0A, 0x03, 0x01, 0x96, 0x01])).integers(1) == [1, 150]


def test_fixed_widths_are_skipped() -> None:
    content = bytes([0x0D, 1, 2, 3, 4, 0x11, *range(8), 0x18, 0x05])
    assert list(message(content).fields()) == [(3, 5)]


@pytest.mark.parametrize(
    "content",
    [b"\x0a\x05ab", b"\x08", b"\x08\xff", b"\x0d\x01", b"\x0b", b"\x00\x01", b"\x08" + b"\xff" * 11],
    ids=["text cut off", "no number", "number cut off", "float cut off", "group", "field 0", "endless number"],
)
def test_what_is_no_message_is_refused(content: bytes) -> None:
    with pytest.raises(Malformed):
        list(message(content).fields())


@given(st.binary(max_size=200))
def test_no_bytes_raise_another_error(content: bytes) -> None:
    try:
        for _, value in message(content).fields():
            if isinstance(value, Message):
                list(value.fields())
    except Malformed:
        pass
