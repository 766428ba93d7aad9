"""The hooks that a conftest.py or another plugin may implement."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pytest_pot.gates.base import GateResult
    from pytest_pot.prompts.prompt import Prompt

__all__ = ["pytest_pot_gate", "pytest_pot_load_model", "pytest_pot_prompts"]


@pytest.hookspec(firstresult=True)
def pytest_pot_load_model(spec: str, role: str, config: pytest.Config) -> Any:
    """Load the model that ``spec`` names; the first result that is not None wins.

    Args:
        spec: the name in a marker, an option or the ini file, or from a fixture.
        role: ``"reference"`` or ``"candidate"``.

    Returns:
        the model, or ``(model, tokenizer)``; None passes the spec on to the next implementation, and finally to pytest-pot.

    Example::

        def pytest_pot_load_model(spec, role, config):
            if spec.startswith("registry://"):
                return my_registry.fetch(spec)
    """


@pytest.hookspec
def pytest_pot_prompts(config: pytest.Config) -> Iterable[str | Prompt] | None:
    """Prompts to use instead of the built-in suite if no marker and no option names any; all results are concatenated.

    Example::

        def pytest_pot_prompts(config):
            return [Prompt("Dear customer,", " thank you for your letter of the 3rd of May.")]
    """


@pytest.hookspec
def pytest_pot_gate(item: pytest.Item, result: GateResult) -> None:
    """Called after each gate, whether it passed or not, with its verdict and report.

    All results have ``.settings``, ``.names``, ``.verdict``, ``.report``, ``.passed`` and ``.explain()``; ``.settings.gate`` is
    the marker's name, and the report of ``pot_latency`` is a :class:`~pytest_pot.LatencyReport`. A gate that came to no
    verdict, because a model cannot be loaded or scored, for example, has the verdict ``"ERROR"``, no report (None), and
    ``.message``. It is not called for gates that are not run.

    Example::

        def pytest_pot_gate(item, result):
            report = None if result.report is None else result.report.to_dict()
            dashboard.send(item.nodeid, result.settings.gate, result.verdict, report)
    """
