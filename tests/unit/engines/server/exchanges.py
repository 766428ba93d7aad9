"""Recorded exchanges with real servers: tests/data/servers. Each is a request, and what the server answered."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .serving import Reply

__all__ = ["FOLDER", "Replay", "exchange", "names"]

FOLDER = Path(__file__).parents[3] / "data" / "servers"


def names(pattern: str) -> list[str]:
    """The exchanges whose names match ``pattern``, without ``.json``."""
    found = sorted(path.stem for path in FOLDER.glob(f"{pattern}.json"))
    assert found, f"no exchange {pattern!r} in {FOLDER}"
    return found


def exchange(name: str) -> Any:
    return json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))


class Replay:
    """Answers each path with a recorded answer, whatever the request says."""

    headers: Mapping[str, str] = {"server": "uvicorn"}

    def __init__(self, answers: Mapping[str, str]) -> None:
        """``answers``: by ``"GET /path"``, the name of an exchange."""
        self._answers = dict(answers)

    def then(self, request: str, name: str) -> None:
        """Answer ``request`` with another exchange from here on."""
        self._answers[request] = name

    def answer(self, method: str, path: str, body: Any) -> Reply:
        name = self._answers.get(f"{method} {path}")
        if name is None:
            return Reply(404, {"detail": "Not Found"})
        recorded = exchange(name)
        return Reply(recorded["status"], recorded["response"])
