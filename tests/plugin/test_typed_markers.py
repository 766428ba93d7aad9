"""``pytest_pot.markers``: the markers as typed functions."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest

from pytest_pot import markers
from pytest_pot.core.names import DTYPES, METRICS, PATHS, PRESET_NAMES
from pytest_pot.gates.latency.limits import PER, STATS, WHATS
from pytest_pot.gates.verdict.limits import TOLERANCES
from pytest_pot.plugin.markers import MARKERS

from .conftest import Project

FUNCTIONS: dict[str, Callable[..., pytest.MarkDecorator]] = {
    "pot_identity": markers.identity,
    "pot_distinct": markers.distinct,
    "pot_latency": markers.latency,
}
ARGUMENTS = {
    "pot_identity": markers.IdentityArguments,
    "pot_distinct": markers.DistinctArguments,
    "pot_latency": markers.LatencyArguments,
}
CHOICES = {
    "preset": PRESET_NAMES,
    "metric": METRICS,
    "tolerance": tuple(TOLERANCES),
    "candidate_dtype": DTYPES,
    "path": PATHS,
    "per": PER,
    "stat": STATS,
    "what": WHATS,
}


def choices(hint: Any) -> tuple[Any, ...]:
    """The values of the Literal in ``hint``."""
    for part in (hint, *get_args(hint)):
        if get_origin(part) is Literal:
            return get_args(part)
    return ()


def test_every_marker_has_a_function() -> None:
    assert set(FUNCTIONS) == set(MARKERS)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_takes_what_its_marker_takes(name: str) -> None:
    hints = get_type_hints(ARGUMENTS[name])
    assert set(hints) == set(MARKERS[name].gate.arguments)
    assert set(inspect.signature(FUNCTIONS[name]).parameters) == set(hints)
    for argument, hint in hints.items():
        assert type(None) in get_args(hint)
        if argument in CHOICES:
            assert choices(hint) == CHOICES[argument], argument


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_returns_the_marker_with_what_is_given(name: str) -> None:
    mark = FUNCTIONS[name](candidate="models/candidate", positions=None).mark
    assert (mark.name, mark.args, dict(mark.kwargs)) == (name, (), {"candidate": "models/candidate"})


def test_the_functions_stand_where_markers_may(project: Project) -> None:
    gates = project.run_gates(
        """
        import pytest
        from pytest_pot import markers

        pytestmark = markers.identity(tolerance="int4")

        def test_of_module():
            pass

        @markers.identity(max_score=0)
        def test_own():
            pass

        @markers.distinct(candidate={perturbed})
        @markers.identity(tolerance=None, metric="kl", max_score=0.5)
        class TestClass:
            def test_of_class(self):
                pass

        @pytest.mark.parametrize("x", [pytest.param(1, marks=markers.latency(max_slowdown=50))])
        def test_of_parameter(x):
            pass
        """
    )
    assert [(gate["test"].rpartition("::")[2], gate["gate"], gate["limit"]) for gate in gates] == [
        ("test_of_module", "pot_identity", 0.45),
        ("test_own", "pot_identity", 0.0),
        ("test_of_class", "pot_identity", 0.5),
        ("test_of_class", "pot_distinct", 0.01),
        ("test_of_parameter[1]", "pot_identity", 0.45),
        ("test_of_parameter[1]", "pot_latency", 50.0),
    ]


def refused_by_a_type_checker() -> None:
    """Not run: mypy reads it with all tests, and fails where one of the comments is not needed."""
    markers.identity(tolerance="int9")  # type: ignore[arg-type]
    markers.distinct(max_score=0.1)  # type: ignore[call-arg]
    markers.latency(budget_ms="1")  # type: ignore[arg-type]


@markers.identity(tolerance="int8", prompts=["x"], batch_size="auto")
def taken_by_a_type_checker() -> list[pytest.MarkDecorator]:
    return [markers.latency(max_slowdown=2)]


@pytest.mark.slow
def test_a_users_type_checker_knows_the_choices(pytester: pytest.Pytester) -> None:
    """As in a project of theirs, where the package is installed."""
    api = pytest.importorskip("mypy.api")
    file = pytester.makepyfile(
        """
        from pytest_pot import markers

        @markers.identity(tolerance="int8", prompts=["x"], batch_size="auto")
        def test_it() -> None: ...

        markers.identity(tolerance="int9")
        markers.distinct(max_score=0.1)
        markers.latency(budget_ms="1")
        pytestmark = markers.latency(max_slowdown=2)
        """
    )
    out, _, _ = api.run(["--strict", "--follow-imports=silent", "--no-incremental", str(file)])
    errors = [line for line in out.splitlines() if "error:" in line]
    assert [int(line.split(":")[1]) for line in errors] == [6, 7, 8], out


def test_importing_them_costs_no_torch(pytester: pytest.Pytester) -> None:
    code = "import sys; from pytest_pot import markers; print(markers.identity, 'torch' in sys.modules, 'numpy' in sys.modules)"
    assert pytester.run(sys.executable, "-c", code).outlines[-1].endswith(" False False")
