"""What a name in the file system stands for. A name may come from a file that somebody else wrote, so any text is allowed."""

from __future__ import annotations

import os
import stat
from pathlib import Path

__all__ = ["FILE", "kind_of_file"]

FILE = "a file"
"""What :func:`kind_of_file` calls a regular file."""

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
