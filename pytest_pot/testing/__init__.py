"""For authors of engines: a kit that compares an engine with the model that it serves, and says what is wrong with it.

:func:`check_engine` is public. ``engines``, ``prompts`` and ``core`` may be imported here; nothing of the package imports this
folder.
"""

from pytest_pot.testing.check import check_engine
from pytest_pot.testing.problems import EngineProblems

__all__ = ["EngineProblems", "check_engine"]
