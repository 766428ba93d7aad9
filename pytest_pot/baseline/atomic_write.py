"""Replacing a file in one step, so that whoever reads it sees the old content or the new one, and never a part."""

from __future__ import annotations

import glob
import os
import secrets
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TypeAlias

from pytest_pot.core.errors import PotError
from pytest_pot.core.files import FILE, kind_of_file

__all__ = ["Pieces", "has_content", "replace_file", "size_of", "write_pieces"]

Pieces: TypeAlias = Sequence[bytes | memoryview]
"""The content of a file, in parts of bytes, so that nobody has to hold a copy of it."""

_UNFINISHED = ".tmp"
_ABANDONED_S = 600.0
"""After so many seconds an unfinished file belongs to a writer that was killed."""
_COMPARED_BYTES = 1 << 20
"""How much of a file is read at a time to compare it."""


def size_of(content: Pieces) -> int:
    """How many bytes ``content`` has."""
    return sum(map(len, content))


def has_content(path: Path, content: Pieces) -> bool:
    """Whether the file ``path`` holds just the bytes of ``content``.

    Raises:
        OSError: it cannot be read.
    """
    if path.stat().st_size != size_of(content):
        return False
    with path.open("rb") as stream:
        for piece in content:
            view = memoryview(piece)
            for start in range(0, len(view), _COMPARED_BYTES):
                expected = view[start : start + _COMPARED_BYTES]
                if stream.read(len(expected)) != expected:
                    return False
    return True


def write_pieces(content: Pieces, path: Path) -> Path:
    """Put ``content`` in the place of ``path``, in one step. Of a link, the target is written and the link stays.

    Raises:
        PotError: it cannot be written, or something else than a file is there, which must not be replaced by one.
    """
    target = path
    try:
        target = Path(os.path.realpath(path))
        kind = kind_of_file(target)
        if kind not in (None, FILE):
            link = f"a link to {target}, which is " if path.is_symlink() else ""
            raise PotError(f"cannot write the recording {path}: it is {link}{kind}, and recordings are written to files only")
        replace_file(target, content)
    except (OSError, ValueError) as error:  # ValueError: a name with NUL
        raise PotError(f"cannot write the recording {target}: {error}") from error
    return target


def replace_file(path: Path, content: Pieces) -> None:
    """Write beside ``path`` and move that into its place; a writer that is killed leaves the old file as it was.

    Raises:
        OSError: it cannot be written; nothing is left beside ``path``.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(path)
    beside = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}{_UNFINISHED}")
    try:
        with beside.open("xb") as stream:
            for piece in content:
                stream.write(piece)
            stream.flush()
            os.fsync(stream.fileno())
        if path.exists():
            beside.chmod(path.stat().st_mode & 0o777)
        beside.replace(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def _remove_abandoned(path: Path) -> None:
    """Remove what killed writers left beside ``path``, once it is too old to be of a writer still at work."""
    for unfinished in path.parent.glob(f".{glob.escape(path.name)}.*{_UNFINISHED}"):
        with suppress(OSError):
            if time.time() - unfinished.stat().st_mtime > _ABANDONED_S:
                unfinished.unlink()
