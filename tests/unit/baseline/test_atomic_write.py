"""A file is written in pieces, and is replaced as a whole or not at all."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from pytest_pot import PotError
from pytest_pot.baseline.atomic_write import Pieces, has_content, size_of, write_pieces

LARGE = np.random.default_rng(0).bytes(3_000_000)
CONTENT: Pieces = [b"header", memoryview(LARGE), memoryview(b"end")]


def test_pieces_are_written_one_after_the_other(tmp_path: Path) -> None:
    path = write_pieces(CONTENT, tmp_path / "x")
    assert path.read_bytes() == b"header" + LARGE + b"end"
    assert size_of(CONTENT) == path.stat().st_size
    assert [file.name for file in tmp_path.iterdir()] == ["x"]


@pytest.mark.parametrize("place", [0, 6, 1_500_000, 6 + len(LARGE), 8 + len(LARGE)])
def test_a_file_with_one_other_byte_has_other_content(place: int, tmp_path: Path) -> None:
    path = write_pieces(CONTENT, tmp_path / "x")
    assert has_content(path, CONTENT)
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)
    assert not has_content(path, CONTENT)


def test_a_file_that_is_longer_or_shorter_has_other_content(tmp_path: Path) -> None:
    path = tmp_path / "x"
    for content in (b"header" + LARGE + b"end.", b"header" + LARGE + b"en", b""):
        path.write_bytes(content)
        assert not has_content(path, CONTENT)


@pytest.mark.skipif(sys.platform == "win32", reason="needs a limit on the size of files")
def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    import resource

    path = tmp_path / "x"
    path.write_bytes(b"old")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, hard))
    try:
        with pytest.raises(PotError, match=r"cannot write the recording .*x: .*File too large"):
            write_pieces(CONTENT, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_bytes() == b"old"
    assert [file.name for file in tmp_path.iterdir()] == ["x"]
