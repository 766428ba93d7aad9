"""A custom marker: a new kind of gate in one file, without changes elsewhere."""

from __future__ import annotations

import json
from pathlib import Path

from .conftest import Project

GATE = """
from dataclasses import dataclass

from pytest_pot.gates.base import COMMON_ARGUMENTS, Gate, GateResult
from pytest_pot.plugin.markers import Marker, register


@dataclass(frozen=True)
class AlwaysResult(GateResult):
    kind = "always"
    settings: object
    names: tuple
    report: str
    verdict: str = "FINE"

    passed = True
    warnings = ("always passes",)

    @property
    def headline(self):
        return "fine"

    def explain(self, verbosity=0):
        return self.headline

    def properties(self):
        return {"score": 0.25, "verdict": self.verdict, "passed": True, "prompts": self.report}


class AlwaysGate(Gate):
    arguments = ("preset", *COMMON_ARGUMENTS, "level")

    @classmethod
    def from_arguments(cls, settings, arguments, options):
        return cls(settings)

    @property
    def limit(self):
        return "level", 1.0

    def run(self, inputs, progress):
        return AlwaysResult(self.settings, inputs.names, len(inputs.prompts))


register("pot_always", Marker(AlwaysGate, "always pass"))
"""


def test_a_custom_gate_checks_its_arguments_runs_and_is_reported(project: Project) -> None:
    project.write(
        conftest=GATE,
        test_it="""
        import pytest

        @pytest.mark.pot_always(level=3)
        @pytest.mark.pot_identity(max_score=0)
        def test_it(pot_result):
            assert [result.kind for result in pot_result.gates] == ["score", "always"]
            assert pot_result.report.mean == 0

        @pytest.mark.pot_always(levels=3)
        @pytest.mark.skip
        def test_misspelt():
            pass
        """,
    )
    result = project.run_subprocess("--strict-markers", "-k", "misspelt")
    result.stderr.fnmatch_lines(
        ["ERROR: test_it.py::test_misspelt: pot_always: unknown argument 'levels'; did you mean 'level'[?]"]
    )
    text = (project.path / "test_it.py").read_text(encoding="utf-8")
    (project.path / "test_it.py").write_text(text.replace("levels=3", "level=3"), encoding="utf-8")
    result = project.run_subprocess("--strict-markers", "--pot-report=gates.json", "-pno:cacheprovider")
    result.assert_outcomes(passed=1, skipped=1, warnings=1)
    gates = json.loads((Path.cwd() / "gates.json").read_text(encoding="utf-8"))["gates"]
    assert [(row["gate"], row["metric"], row["score"]) for row in gates] == [
        ("pot_identity", "tv", 0.0),
        ("pot_always", "level", 0.25),
    ]
    assert [row["prompts"] for row in gates] == [3, 3]
    result.stdout.fnmatch_lines(["test_it.py::test_it  copy * 0.25 / 1 * level * FINE"])
