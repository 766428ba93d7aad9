"""What a terminal shows of a program's output, by an emulator."""

from __future__ import annotations

import pyte

__all__ = ["screens"]


def screens(output: str, *, width: int = 80, height: int = 50) -> list[list[str]]:
    """The lines of the screen, without empty ones at the end, whenever a line of progress was drawn, and at the end."""
    screen = pyte.Screen(width, height)
    screen.set_mode(pyte.modes.LNM)  # a line feed begins a line, as the driver of a real terminal sees to
    stream = pyte.Stream(screen)
    pictures: list[list[str]] = []
    for part in output.split("\x1b8"):  # what ends each drawing
        if pictures:
            stream.feed("\x1b8")
        stream.feed(part)
        pictures.append("\n".join(line.rstrip() for line in screen.display).rstrip("\n").split("\n"))
    return pictures
