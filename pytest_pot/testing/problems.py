"""What is raised about an engine with mistakes."""

from __future__ import annotations

from collections.abc import Sequence

from pytest_pot.core.errors import PotError
from pytest_pot.core.text import count

__all__ = ["EngineProblems"]


class EngineProblems(PotError, AssertionError):
    """An engine does not do what the protocol says, or does not say what its model says."""

    def __init__(self, engine: str, problems: Sequence[str]) -> None:
        """``engine``: its name, for people."""
        self.problems = tuple(problems)
        """One or two sentences each, the most basic problem first."""
        numbered = [f"  {index}. {problem}" for index, problem in enumerate(self.problems, 1)]
        super().__init__("\n".join([f"{engine} has {count(len(self.problems), 'problem')}:", *numbered]))
        self._engine = engine

    def __reduce__(self) -> tuple[type[EngineProblems], tuple[str, tuple[str, ...]]]:
        return EngineProblems, (self._engine, self.problems)
