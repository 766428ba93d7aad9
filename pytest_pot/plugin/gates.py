"""Running the gates of a test, and ``pot_result``, which shows the test's body what they found."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from pytest_pot.core.brief import Brief
from pytest_pot.core.errors import PotError
from pytest_pot.core.text import printable_lines, wrapped
from pytest_pot.core.user_code import raised_in
from pytest_pot.gates.base import ErrorResult, Gate, GateInputs, GateResult
from pytest_pot.plugin.collection import gates_on, gates_to_run, late_marker
from pytest_pot.plugin.pytest_internals import failure_of, is_test_case, message_of, skipped_test, terminal_width
from pytest_pot.plugin.session.details import details_wanted
from pytest_pot.plugin.session.item_properties import attach_details, attach_properties, remove_properties
from pytest_pot.plugin.session.progress import ProgressLine
from pytest_pot.report.properties import NOT_GATED, result_properties, skipped_properties

if TYPE_CHECKING:
    from pytest_pot.gates.latency.latency_report import LatencyReport
    from pytest_pot.gates.verdict.limits import Verdict
    from pytest_pot.gates.verdict.sequential import Decision
    from pytest_pot.scoring.diagnosis.diagnosis import Diagnosis
    from pytest_pot.scoring.score_report import ScoreReport

__all__ = [
    "INPUTS",
    "RESULT",
    "PotResult",
    "failed_setup",
    "failure",
    "failures_reported",
    "refuse_late_markers",
    "report_gates_not_reached",
    "resolved_inputs",
    "result_of",
    "run_gates",
]


@dataclass(repr=False)
class PotResult(Brief):
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
    def diagnosis(self) -> Diagnosis | None:
        """What changed and where it starts, by the gate that failed. Code that runs after it can read this, such as the end of
        a fixture, while the body of the test does not run. None where no gate has failed on its score, and with
        ``--pot-diagnosis=off``."""
        return next((result.diagnosis for result in self.gates if result.diagnosis is not None), None)

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


_MISSED: pytest.StashKey[Callable[[], BaseException | None]] = pytest.StashKey()
"""Of a method of a test case: gives the error because of which its gates were not reached."""
_UNRESOLVED: pytest.StashKey[str | None] = pytest.StashKey()
"""Of a method of a test case: why what its gates compare could not be resolved; None where it could."""


def run_gates(item: pytest.Item) -> None:
    """Run the gates of ``item``, or let unittest do so; the first miss fails the test."""
    if is_test_case(item):
        from pytest_pot.plugin.unittest_cases import run_in_test_case

        item.stash[_MISSED] = run_in_test_case(item, lambda: _run_gates(item))
    else:
        _run_gates(item)


def report_gates_not_reached(item: pytest.Item) -> None:
    """Report the gates of a test case whose ``setUp`` failed, as those of any other failed set-up are."""
    missed = item.stash.get(_MISSED, None)
    error = None if missed is None else missed()
    if error is not None:
        failed_setup(item, error)


def _run_gates(item: pytest.Item) -> None:
    gates, skipped, off = gates_to_run(item)
    if not (gates or skipped or off):
        return
    remove_properties(item)
    for reason in off[:1]:
        attach_properties(item, [(NOT_GATED, reason)])
    for gate, reason in skipped:
        attach_properties(item, [(NOT_GATED, reason), *skipped_properties(gate, reason)])
        attach_details(item, {})
    if skipped and not gates:
        raise skipped_test(f"{skipped[0][0].settings.gate}: {skipped[0][1]}")
    if (message := item.stash.get(_UNRESOLVED, None)) is not None:
        error = failure(item.config, message)
        failed_setup(item, error)
        raise error
    results = item.stash[RESULT].gates
    results.clear()
    inputs_of_gates: list[GateInputs] = item.stash[INPUTS]
    for gate, inputs in zip(gates, inputs_of_gates, strict=True):
        try:
            with (
                ProgressLine(item.config, item.name, gate.counted) as line,
                raised_in("the project's own code, a model's or a tokenizer's,"),
            ):
                result = gate.run(inputs, line)
        except PotError as error:
            raise failure(item.config, _no_verdict(item, gate, inputs.names, str(error))) from None
        except Exception as error:
            _no_verdict(item, gate, inputs.names, f"{type(error).__name__}: {error}")
            raise
        results.append(result)
        attach_properties(item, result_properties(gate, result))
        attach_details(item, _details(result) if details_wanted(item.config) else {})
        if result.diagnosis is not None and result.diagnosis.interrupted:
            # The verdict is known; the run ends after this test.
            item.session.shouldstop = "interrupted during a diagnosis"
        with failures_reported(item.config):
            _tell(item, result)
        if not result.passed:
            raise failure(item.config, result.explain(item.config.get_verbosity()))
        for warning in result.warnings:
            _warn(item, warning)


def _details(result: GateResult) -> Mapping[str, Any]:
    """What a report in a file tells of a gate beside its properties."""
    return {"headline": result.headline, **result.details()}


def failed_setup(item: pytest.Item, error: BaseException) -> BaseException:
    """Report the gates of a test whose set-up failed too: a report of passing gates alone would mislead.

    Returns:
        what to raise: ``error``, or a short failure where a fixture that the suite gives us raised it.
    """
    from pytest_pot.plugin.inputs.fixture_values import fixture_error

    remove_properties(item)
    message = None if isinstance(error, pytest.fail.Exception) else fixture_error(item, error)
    for gate in gates_to_run(item).run:
        _no_verdict(item, gate, (gate.settings.reference, gate.settings.candidate), message or message_of(error))
    return error if message is None else failure(item.config, message)


def _no_verdict(item: pytest.Item, gate: Gate, names: tuple[str | None, str | None], message: str) -> str:
    """Report a gate that came to no verdict, and return the test's failure message."""
    result = ErrorResult(gate.settings, names, message)
    attach_properties(item, result_properties(gate, result))
    try:
        _tell(item, result)
    except PotError as error:  # the reason why there is no verdict comes first
        return f"{result.explain()}\n{error}"
    return result.explain()


def _tell(item: pytest.Item, result: GateResult) -> None:
    """Call the hook ``pytest_pot_gate``.

    Raises:
        PotError: an implementation of the project raised an error.
    """
    with raised_in("the hook pytest_pot_gate"):
        item.ihook.pytest_pot_gate(item=item, result=result)


def refuse_late_markers(item: pytest.Item) -> None:
    """Fail where a marker is on ``item`` whose gate was not attached: missing evidence never passes."""
    message = late_marker(item)
    if message is not None:
        raise failure(item.config, message)


def failure(config: pytest.Config, message: str) -> BaseException:
    """A failure that prints its message, in lines that fit the terminal, and nothing else; raise it ``from None``, or pytest
    prints the chain."""
    message = printable_lines(message)
    return failure_of(message, wrapped(message, terminal_width(config)))


@contextmanager
def failures_reported(config: pytest.Config) -> Iterator[None]:
    """Turn a :class:`PotError` into :func:`failure`."""
    try:
        yield
    except PotError as error:
        raise failure(config, str(error)) from None


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
    item.stash[_UNRESOLVED], item.stash[INPUTS] = None, []
    try:
        item.stash[INPUTS] = [resolve(request, gate) for gate in gates_to_run(item).run]
    except PotError as error:
        if not is_test_case(item):
            raise failure(item.config, str(error)) from None
        item.stash[_UNRESOLVED] = str(error)  # its setUp, which has yet to run, may skip the test for that very reason
    yield
    # The item lives until the session ends; models, and results with their distributions, are megabytes each.
    item.stash[INPUTS], item.stash[RESULT] = [], PotResult()


def result_of(request: pytest.FixtureRequest) -> PotResult:
    """The result object of the test that asks for ``pot_result``."""
    if not gates_on(request.node):
        pytest.fail("pot_result needs a gate: mark the test, for example with @pytest.mark.pot_identity", pytrace=False)
    request.getfixturevalue("_pot_inputs")
    result: PotResult = request.node.stash[RESULT]
    return result
