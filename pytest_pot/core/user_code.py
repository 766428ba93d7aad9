"""Errors of code that is not ours: said in short, with the frames of the project and without those of libraries."""

from __future__ import annotations

import os
import sysconfig
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pytest_pot.core.errors import PotError

__all__ = ["in_short", "is_of_the_project", "raised_in"]

_OURS = ("pytest_pot", "pytest", "_pytest", "pluggy")
_INSTALLED = ("site-packages", "dist-packages")
_MESSAGE = 400
"""Characters of an error's own message that are shown."""
_FRAMES = 8
"""Frames that are shown, the innermost ones."""


@contextmanager
def raised_in(what: str) -> Iterator[None]:
    """Turn an error that code of the project raises into a :class:`PotError`: ``what`` raised it, and where.

    An error in which no code of the project took part is ours or a library's, and is not touched.
    """
    try:
        yield
    except PotError:
        raise
    except (Exception, SystemExit) as error:
        if not is_of_the_project(error):
            raise
        raise PotError(f"{what} raised {in_short(error)}") from error


def is_of_the_project(error: BaseException) -> bool:
    """Whether code of the project, and not of libraries alone, was running when ``error`` was raised."""
    return bool(_places(error, ""))


def in_short(error: BaseException, package: str = "") -> str:
    """Type and message of ``error``, and a line for each frame of the project.

    Args:
        package: the project's own, which may be installed among the libraries.
    """
    places = _places(error, package)
    lines = [_headline(error), *(f"  {place}" for place in places[-_FRAMES:])]
    if len(places) > _FRAMES:
        lines.insert(1, f"  … {len(places) - _FRAMES} more calls")
    if error.__cause__ is not None and _places(error.__cause__, package):  # not what a library told itself
        lines.append(f"  because of {_headline(error.__cause__)}")
    return "\n".join(lines)


def _headline(error: BaseException) -> str:
    message = " ".join(str(error).split())
    if len(message) > _MESSAGE:
        message = message[: _MESSAGE - 1] + "…"
    return f"{type(error).__name__}: {message}" if message else type(error).__name__


def _places(error: BaseException, package: str) -> list[str]:
    """File, line, function and source of each frame of the project, the outermost first."""
    places = []
    for frame, line in traceback.walk_tb(error.__traceback__):
        file = frame.f_code.co_filename
        if not _is_library(file, frame.f_globals.get("__name__", ""), package):
            [summary] = traceback.StackSummary.extract([(frame, line)])
            source = f": {summary.line}" if summary.line else ""
            places.append(f"{_shown(file)}:{line} in {frame.f_code.co_name}{source}")
    if isinstance(error, SyntaxError) and error.filename and not _is_library(error.filename, "", package):
        places.append(f"{_shown(error.filename)}:{error.lineno}: {(error.text or '').strip()}")
    return places


def _is_library(file: str, module: str, package: str) -> bool:
    top = module.partition(".")[0]
    if top in _OURS or file.startswith("<"):
        return True
    if package and top == package:
        return False
    standard = Path(sysconfig.get_path("stdlib"))
    return any(part in _INSTALLED for part in Path(file).parts) or Path(file).is_relative_to(standard)


def _shown(file: str) -> str:
    """``file`` relative to the current folder, where it is below it."""
    here = Path.cwd()
    path = Path(os.path.abspath(file))
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)
