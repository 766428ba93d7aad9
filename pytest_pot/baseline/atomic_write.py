"""Replacing a file in one step, so that whoever reads it sees the old content or the new one, and never a part."""

from __future__ import annotations

import glob
import os
import secrets
import time
from contextlib import suppress
from pathlib import Path

from pytest_pot.core.errors import PotError
from pytest_pot.core.files import FILE, kind_of_file

__all__ = ["replace_file", "write_bytes"]

_UNFINISHED = ".tmp"
_ABANDONED_S = 600.0
"""After so many seconds an unfinished file belongs to a writer that was killed."""


def write_bytes(content: bytes, path: Path) -> Path:
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
            raise PotError(f"cannot write the baseline {path}: it is {link}{kind}, and a recording is written to files only")
        replace_file(target, content)
    except (OSError, ValueError) as error:  # ValueError: a name with NUL
        raise PotError(f"cannot write the baseline {target}: {error}") from error
    return target


def replace_file(path: Path, content: bytes) -> None:
    """Write beside ``path`` and move that into its place; a writer that is killed leaves the old file as it was.

    Raises:
        OSError: it cannot be written; nothing is left beside ``path``.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(path)
    beside = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}{_UNFINISHED}")
    try:
        with beside.open("xb") as stream:
            stream.write(content)
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
