"""What was read from files is kept while they stay as they are, and within limits."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from pytest_pot.core import files
from pytest_pot.core.files import Kept, KeptFiles


@pytest.fixture
def old_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "_SETTLED_S", 0.0)


class Reader:
    """Reads through a :class:`KeptFiles`, and counts how often a file is read."""

    def __init__(self, kept: KeptFiles[str]) -> None:
        self.kept = kept
        self.n_reads = 0

    def __call__(self, path: Path) -> str:
        return self.kept.get(path, lambda: self._read(path))

    def _read(self, path: Path) -> str:
        self.n_reads += 1
        return path.read_text(encoding="utf-8")


def test_a_file_that_stays_as_it_is_is_read_once(tmp_path: Path, old_files: None) -> None:
    read = Reader(KeptFiles(4))
    (tmp_path / "a").write_text("one", encoding="utf-8")
    assert [read(tmp_path / "a") for _ in range(3)] == ["one"] * 3
    assert read.n_reads == 1


def test_a_file_of_the_same_size_and_time_of_modification_is_read_again(tmp_path: Path, old_files: None) -> None:
    read, path = Reader(KeptFiles(4)), tmp_path / "a"
    path.write_text("one", encoding="utf-8")
    assert read(path) == "one"
    status = path.stat()
    time.sleep(0.05)  # the clock of a file system ticks every few milliseconds
    path.write_text("two", encoding="utf-8")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert path.stat().st_ino == status.st_ino
    assert read(path) == "two"


def test_a_file_that_has_just_changed_is_not_kept(tmp_path: Path) -> None:
    """Its next change may have the same time."""
    read, path = Reader(KeptFiles(4)), tmp_path / "a"
    path.write_text("one", encoding="utf-8")
    assert (read(path), read(path), read.n_reads) == ("one", "one", 2)


def test_a_file_that_changes_while_it_is_read_is_not_kept(tmp_path: Path, old_files: None) -> None:
    kept, path = KeptFiles[str](4), tmp_path / "a"
    path.write_text("one", encoding="utf-8")

    def read() -> str:
        text = path.read_text(encoding="utf-8")
        path.write_text("three", encoding="utf-8")
        return text

    assert kept.get(path, read) == "one"
    assert kept.get(path, lambda: path.read_text(encoding="utf-8")) == "three"


def test_a_file_that_went_away_is_an_error(tmp_path: Path, old_files: None) -> None:
    read, path = Reader(KeptFiles(4)), tmp_path / "a"
    path.write_text("one", encoding="utf-8")
    read(path)
    path.unlink()
    with pytest.raises(FileNotFoundError):
        read(path)


def test_the_last_used_are_kept() -> None:
    kept = Kept[int](2)
    for key in "ab":
        kept.keep(key, ord(key), 1)
    assert kept.get("a") == ord("a")
    kept.keep("c", ord("c"), 1)
    assert [kept.get(key) for key in "abc"] == [ord("a"), None, ord("c")]


def test_what_is_kept_stays_within_its_size() -> None:
    kept = Kept[int](10, most_bytes=100)
    for number in range(4):
        kept.keep(str(number), number, 40)
    assert [kept.get(str(number)) for number in range(4)] == [None, None, 2, 3]
    kept.keep("large", 5, 1000)
    assert [kept.get(key) for key in ("2", "3", "large")] == [None, None, 5]


def test_room_is_made_before_a_file_is_read(tmp_path: Path, old_files: None) -> None:
    """Two large files need not fit into memory together."""
    kept = KeptFiles[str](10, most_bytes=10)
    seen = []
    for name in "ab":
        (tmp_path / name).write_text(8 * name, encoding="utf-8")
        kept.get(tmp_path / name, lambda: seen.append(len(kept._kept._entries)) or "")  # type: ignore[func-returns-value]
    assert seen == [0, 0]
