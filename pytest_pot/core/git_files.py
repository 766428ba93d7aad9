"""What Git leaves in the place of a file: a pointer of Git LFS that was not fetched, and the markers of a merge that conflicts.

Whatever reads such a file fails with an error of its parser, or reads the pointer as if it were the content.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from pytest_pot.core.errors import PotError

__all__ = ["Pointer", "pointer_at", "refuse_git_leftovers"]

_LARGEST_POINTER = 4096
"""Bytes; the specification allows 1024, and a conflict between two pointers has both."""
_POINTER = re.compile(rb"version https://git-lfs\.github\.com/spec/v1\s")
_OID = re.compile(rb"^oid sha256:([0-9a-f]{64})\s*$", re.MULTILINE)
_SIZE = re.compile(rb"^size (\d{1,18})\s*$", re.MULTILINE)
_CONFLICT = re.compile(rb"^<<<<<<< [^\n]*$(?=.*?^=======\s*$.*?^>>>>>>> )", re.MULTILINE | re.DOTALL)

_BINARY = (".safetensors", ".gguf", ".model")
"""Endings of the files that Git does not merge line by line, and that may be large; but their pointers are merged."""


class Pointer(NamedTuple):
    """What a Git LFS pointer says of the file that it stands for."""

    sha256: str | None
    n_bytes: int | None


def pointer_at(path: Path) -> Pointer | None:
    """The Git LFS pointer in the file ``path``; None if the file holds something else, or cannot be read."""
    start = _start(path)
    if not _POINTER.match(start):
        return None
    oid, size = _OID.search(start), _SIZE.search(start)
    return Pointer(None if oid is None else oid[1].decode(), None if size is None else int(size[1]))


def refuse_git_leftovers(what: str, files: Sequence[Path]) -> None:
    """Raise :class:`PotError` if one of ``files`` holds a Git LFS pointer or conflict markers instead of its content.

    Files that do not exist are left out. ``what``: what the files belong to, for the message, which has the command that mends
    them.
    """
    for path in files:
        line = _marker(path)
        if line is not None:
            _refuse_conflict(what, path, line)
    pointers = {path: pointer for path in files if (pointer := pointer_at(path)) is not None}
    if pointers:
        _refuse_pointers(what, pointers)


def _start(path: Path) -> bytes:
    """The content of a file that is small enough to be a pointer; nothing of any other."""
    try:
        if os.path.isfile(path) and os.path.getsize(path) <= _LARGEST_POINTER:
            return path.read_bytes()
    except OSError:
        pass  # whoever reads the file will say why it cannot be read
    return b""


def _marker(path: Path) -> tuple[int, str] | None:
    """The number and the text of the first line with a conflict marker; None if there is none."""
    try:
        is_text = path.suffix not in _BINARY and os.path.isfile(path)
        content = path.read_bytes() if is_text else _start(path)
    except OSError:
        return None
    match = _CONFLICT.search(content) if b"<<<<<<< " in content else None
    if match is None:
        return None
    return content.count(b"\n", 0, match.start()) + 1, match[0].decode(errors="replace").strip()


def _refuse_conflict(what: str, path: Path, line: tuple[int, str]) -> None:
    root, name = _in_checkout(path)
    command = ["git", *(["-C", str(root)] if root is not None else []), "checkout", "--ours", "--", name]
    raise PotError(
        f"{what}: {path} has the markers of a conflict that a merge in Git left (line {line[0]}: {line[1][:60]!r}). Keep one "
        f"side and remove the markers. While the merge is under way, this keeps ours, and --theirs the other side:\n  "
        f"{shlex.join(command)}"
    )


def _refuse_pointers(what: str, pointers: dict[Path, Pointer]) -> None:
    path, pointer = next(iter(pointers.items()))
    size = "" if pointer.n_bytes is None else f" to {pointer.n_bytes:,} bytes"
    more = "" if len(pointers) == 1 else f", and so are {len(pointers) - 1} more files of it"
    root, name = _in_checkout(path)
    if root is None:
        remedy = "It is in no checkout of Git: run git lfs pull where this copy was made, and copy it again"
    else:
        include = name if len(pointers) == 1 else str(Path(name).parent)
        command = ["git", "-C", str(root), "lfs", "pull", *([] if include == "." else [f"--include={include}"])]
        remedy = f"This fetches what is missing:\n  {shlex.join(command)}"
    raise PotError(f"{what}: {path} is a Git LFS pointer{size}, not the file itself{more}. {remedy}")


def _in_checkout(path: Path) -> tuple[Path | None, str]:
    """The root of the checkout that ``path`` is in, if any, and the path below it."""
    path = Path(os.path.abspath(path))
    for folder in path.parents:
        if os.path.exists(folder / ".git"):  # a folder, or a file in a worktree or a submodule
            return folder, path.relative_to(folder).as_posix()
    return None, str(path)
