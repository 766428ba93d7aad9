"""Running the gates of a test, and ``pot_result``, which shows the test's body what they found."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

from pytest_pot.core.errors import PotError
from pytest_pot.core.text import printable_lines
from pytest_pot.gates.base import GateInputs, GateResult
from pytest_pot.plugin.collection import gates_on, gates_to_run, late_marker
from pytest_pot.plugin.session.item_properties import attach_properties, remove_properties
from pytest_pot.plugin.session.progress import ProgressLine
from pytest_pot.report.properties import NOT_GATED, error_properties, result_properties

if TYPE_CHECKING:
    from pytest_pot.gates.latency.latency_report import LatencyReport
    from pytest_pot.gates.verdict.limits import Verdict
    from pytest_pot.gates.verdict.sequential import Decision
    from pytest_pot.scoring.score_report import ScoreReport

__all__ = [
    "INPUTS",
    "RESULT",
    "PotResult",
    "failure",
    "failures_reported",
    "record_failed_setup",
    "refuse_late_markers",
    "resolved_inputs",
    "result_of",
    "run_gates",
]


@dataclass
class PotResult:
    """The fixture ``pot_result``: what the gates of this test found, filled in before the test's body runs."""

    gates: list[GateResult] = field(default_factory=list)
    """One result per marker, in the order in which the gates ran."""

    @property
    def verdict(self) -> Verdict:
        """The verdict of the first gate on a score."""
        verdict: Verdict = self._score.verdict
        return verdict

    @property
    def report(self) -> ScoreReport:
        """Its :class:`~pytest_pot.ScoreReport`."""
        report: ScoreReport = self._score.report
        return report

    @property
    def decision(self) -> Decision | None:
        """Its :class:`~pytest_pot.gates.verdict.sequential.Decision`; None without a confidence."""
        decision: Decision | None = getattr(self._score, "decision", None)
        return decision

    @property
    def latency(self) -> LatencyReport | None:
        """What the first gate on latency measured; None where no such gate has run."""
        result = self._first("latency")
        return None if result is None else result.report

    @property
    def _score(self) -> GateResult:
        result = self._first("score")
        if result is None:
            raise PotError(
                "there is no score here: only pot_identity and pot_distinct have one; pot_latency has .latency"
                if self.gates
                else "there is no result yet: a gate runs after all fixtures are set up, just before the test's body"
            )
        return result

    def _first(self, kind: str) -> GateResult | None:
        """The only place that asks for a kind of gate."""
        return next((result for result in self.gates if result.kind == kind), None)


INPUTS: pytest.StashKey[list[GateInputs]] = pytest.StashKey()
"""What the gates of a test compare, gate by gate."""
RESULT: pytest.StashKey[PotResult] = pytest.StashKey()


def run_gates(item: pytest.Item) -> None:
    """Run the gates of ``item``; the first miss fails the test."""
    gates, reason = gates_to_run(item)
    if not gates and reason is None:
        return
    remove_properties(item)
    if reason is not None:
        attach_properties(item, [(NOT_GATED, reason)])
    results = item.stash[RESULT].gates
    results.clear()
    inputs_of_gates: list[GateInputs] = item.stash[INPUTS]
    for gate, inputs in zip(gates, inputs_of_gates, strict=True):
        try:
            with ProgressLine(item.config, item.name, gate.counted) as line:
                result = gate.run(inputs, line)
        except PotError as error:
            attach_properties(item, error_properties(gate, inputs.names, str(error)))
            raise failure(f"{gate.settings.gate}: {error}") from None
        results.append(result)
        attach_properties(item, result_properties(gate, result))
        item.ihook.pytest_pot_gate(item=item, result=result)
        if not result.passed:
            raise failure(result.explain(item.config.get_verbosity()))
        for warning in result.warnings:
            _warn(item, warning)


def record_failed_setup(item: pytest.Item, message: str) -> None:
    """Report the gates of a test whose set-up failed too: a report of passing gates alone would mislead."""
    remove_properties(item)
    for gate in gates_to_run(item)[0]:
        attach_properties(item, error_properties(gate, (gate.settings.reference, gate.settings.candidate), message))


def refuse_late_markers(item: pytest.Item) -> None:
    """Fail where a marker is on ``item`` whose gate was not attached: missing evidence never passes."""
    message = late_marker(item)
    if message is not None:
        raise failure(message)


def failure(message: str) -> BaseException:
    """A failure that prints its message and nothing else; raise it ``from None``, or pytest prints the chain."""
    return pytest.fail.Exception(printable_lines(message), pytrace=False)


@contextmanager
def failures_reported() -> Iterator[None]:
    """Turn a :class:`PotError` into :func:`failure`."""
    try:
        yield
    except PotError as error:
        raise failure(str(error)) from None


def _warn(item: pytest.Item, message: str) -> None:
    """Warn, also in a suite that turns warnings into errors: an inconclusive gate fails only by its own ini key."""
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        item.warn(pytest.PytestWarning(printable_lines(message)))


@contextmanager
def resolved_inputs(request: pytest.FixtureRequest) -> Iterator[None]:
    """Resolve what the gates of a test compare, for as long as the context lasts."""
    from pytest_pot.plugin.inputs.resolver import resolve

    item: pytest.Item = request.node
    item.stash[RESULT] = PotResult()
    with failures_reported():
        item.stash[INPUTS] = [resolve(request, gate) for gate in gates_to_run(item)[0]]
    yield
    item.stash[INPUTS] = []  # models must not outlive the test with its item


def result_of(request: pytest.FixtureRequest) -> PotResult:
    """The result object of the test that asks for ``pot_result``."""
    if not gates_on(request.node):
        pytest.fail("pot_result needs a gate: mark the test, for example with @pytest.mark.pot_identity", pytrace=False)
    request.getfixturevalue("_pot_inputs")
    result: PotResult = request.node.stash[RESULT]
    return result
