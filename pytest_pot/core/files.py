"""What a name in the file system stands for, and what was read from a file, kept for as long as the file stays as it is.

A name may come from a file that somebody else wrote, so any text is allowed."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

__all__ = ["FILE", "FileState", "Kept", "KeptFiles", "kind_of_file", "state_of"]

FILE = "a file"
"""What :func:`kind_of_file` calls a regular file."""

FileState = tuple[int, int, int, int, int]
"""See :func:`state_of`."""

_SETTLED_S = 2.0
"""Seconds after which a file's next change has another time: file systems round times, FAT to 2 s."""

_KINDS = {
    stat.S_IFREG: FILE,
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
}


def kind_of_file(path: str | Path) -> str | None:
    """What is at ``path``, or at the end of the link there, in words; None if there is nothing.

    Nothing can be at a name that is too long or contains NUL: ``Path.exists`` and its kin may raise an error for these.
    """
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError):
        return None
    return _KINDS.get(stat.S_IFMT(mode), "no file")


def state_of(path: str | Path) -> FileState:
    """What tells whether a file was written since: its times in nanoseconds, size, inode and device.

    The time of a change of the inode is among them, because a program can set the time of modification, but not this one.

    Raises:
        OSError, ValueError: there is no file by that name.
    """
    status = os.stat(path)
    return status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino, status.st_dev


Content = TypeVar("Content")


class Kept(Generic[Content]):
    """The last few things that were read, within a limit on their size."""

    def __init__(self, most: int, most_bytes: int | None = None) -> None:
        """
        Args:
            most: how many to keep.
            most_bytes: of all together; a larger one is kept alone. None for no limit.
        """
        self._most = most
        self._most_bytes = most_bytes
        self._entries: dict[str, tuple[Content, int]] = {}  # the last one used comes last

    def get(self, key: str) -> Content | None:
        entry = self._entries.pop(key, None)
        if entry is None:
            return None
        self._entries[key] = entry
        return entry[0]

    def make_room(self, key: str, n_bytes: int) -> None:
        """Let go of what ``key`` stands for, and of what was not used for longest, before something of that size is read."""
        self._entries.pop(key, None)
        while self._entries and (len(self._entries) >= self._most or self._exceeds(n_bytes)):
            del self._entries[next(iter(self._entries))]

    def keep(self, key: str, content: Content, n_bytes: int) -> None:
        self.make_room(key, n_bytes)
        self._entries[key] = content, n_bytes

    def _exceeds(self, n_bytes: int) -> bool:
        return self._most_bytes is not None and sum((size for _, size in self._entries.values()), n_bytes) > self._most_bytes


class KeptFiles(Generic[Content]):
    """What was read from the last few files, for as long as they stay as they are.

    A file that changed less than two seconds before it was read is not kept: it might change again without another time.
    """

    def __init__(self, most: int, most_bytes: int | None = None) -> None:
        """``most``, ``most_bytes``: see :class:`Kept`; the sizes are those of the files."""
        self._kept: Kept[tuple[FileState, Content]] = Kept(most, most_bytes)

    def get(self, path: str | Path, read: Callable[[], Content]) -> Content:
        """What ``read``, which reads the file ``path``, returned for the file as it is.

        Raises:
            OSError, ValueError: there is no file by that name.
        """
        name, state = os.path.abspath(path), state_of(path)
        entry = self._kept.get(name)
        if entry is not None and entry[0] == state:
            return entry[1]
        del entry  # the old content and the new one may both be large
        n_bytes = state[2]
        self._kept.make_room(name, n_bytes)
        content = read()
        if state_of(path) == state and not _is_recent(state):
            self._kept.keep(name, (state, content), n_bytes)
        return content


def _is_recent(state: FileState) -> bool:
    """Whether a file changed so shortly before now that its next change may have the same time."""
    return time.time() - max(state[:2]) / 1e9 < _SETTLED_S
