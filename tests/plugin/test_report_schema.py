"""The JSON Schema of the report: real reports of all kinds of gates are valid, and damaged ones are not."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from pytest_pot.core.names import METRICS
from pytest_pot.engines.base import Room
from pytest_pot.gates.latency.limits import LIMITS
from pytest_pot.report.json_report import SCHEMA, SCHEMA_FILE
from pytest_pot.report.run_facts import PACKAGES
from pytest_pot.scoring.position_statistics import DELTA_P_PERCENTILES, PERCENTILES

from .conftest import Project
from .test_fourth_marker import GATE

DOCUMENT: dict[str, Any] = json.loads(SCHEMA_FILE.read_text(encoding="utf-8"))
VALIDATOR = jsonschema.Draft202012Validator(DOCUMENT, format_checker=jsonschema.FormatChecker())


def report(project: Project, *arguments: str, workers: int = 0) -> dict[str, Any]:
    run = [*arguments, "--pot-report=out.json"]
    if workers:
        project.run_workers(workers, *run)
    else:
        project.run(*run)
    document: dict[str, Any] = json.loads((project.path / "out.json").read_text(encoding="utf-8"))
    VALIDATOR.validate(document)
    return document


def test_the_schema_is_one_and_names_what_the_code_names() -> None:
    jsonschema.Draft202012Validator.check_schema(DOCUMENT)
    assert DOCUMENT["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    definitions = DOCUMENT["$defs"]
    assert DOCUMENT["properties"]["schema"]["const"] == SCHEMA
    assert set(definitions["percentiles_by_metric"]["properties"]) == set(METRICS)
    assert set(METRICS) <= set(definitions["score_gate"]["properties"])
    for name, values in (("percentiles", PERCENTILES), ("delta_p_percentiles", DELTA_P_PERCENTILES)):
        assert list(definitions[name]["properties"]) == definitions[name]["required"] == [f"{value:g}" for value in values]
    assert set(definitions["latency_gate"]["properties"]["checks"]["propertyNames"]["enum"]) == set(LIMITS)
    assert {"started", "python", "platform", *PACKAGES} == set(DOCUMENT["properties"]["run"]["required"])
    planned = definitions["score_gate"]["properties"]["batches_planned_with"]["anyOf"][0]["required"]
    assert set(planned) <= set(Room.__dataclass_fields__)


@pytest.mark.parametrize("file", sorted(SCHEMA_FILE.parent.glob("*.json")), ids=lambda file: file.stem)
def test_each_field_is_described(file: Path) -> None:
    """The page on the fields of reports has a line for each, with its description."""
    fields = list(_fields(json.loads(file.read_text(encoding="utf-8"))))
    assert len(fields) > 100
    assert [path for path, field in fields if not field.get("description", "").endswith(".")] == []


def _fields(schema: Any, path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """All properties of ``schema`` at any depth, with the paths to them."""
    if isinstance(schema, list):
        for index, entry in enumerate(schema):
            yield from _fields(entry, f"{path}/{index}")
    elif isinstance(schema, dict):
        if schema.get("type") == "object":
            yield from ((f"{path}/{name}", field) for name, field in schema.get("properties", {}).items())
        for key, entry in schema.items():
            yield from _fields(entry, f"{path}/{key}")


def test_a_score(project: Project) -> None:
    project.write(
        test_it="""
        import pytest

        @pytest.mark.pot_identity
        @pytest.mark.pot_distinct(candidate={perturbed}, metric="kl", min_score=0.1, preset="accurate")
        def test_it(): pass

        @pytest.mark.pot_identity(candidate={perturbed}, preset="fastest")
        def test_other(): pass

        @pytest.mark.xfail
        @pytest.mark.pot_identity(candidate={perturbed})
        def test_expected(): pass
        """
    )
    gates = report(project)["gates"]
    assert [gate["passed"] for gate in gates] == [True, True, False, False]
    assert [gate["delta_p"] is None for gate in gates] == [False, False, True, False]  # fastest renormalises
    assert gates[2]["on_scale"][0].startswith("scale: ")
    assert "diagnosis" in gates[2]
    assert "headline" in gates[2]


@pytest.mark.parametrize("workers", [["-n2"], ["-n2", "--dist=each"]], ids=" ".join)
def test_workers(project: Project, workers: list[str]) -> None:
    project.write(test_it="import pytest\n\n@pytest.mark.pot_identity\ndef test_it(): pass\n")
    gates = report(project, *workers[1:], workers=2)["gates"]
    assert len(gates) == len(workers)


def test_with_a_confidence(project: Project) -> None:
    gates = {}
    for name, candidate in (("same", "copy"), ("other", "perturbed")):
        project.write(
            test_it=f"""
            import pytest

            @pytest.mark.pot_identity(confidence=0.95, candidate={{{candidate}}})
            def test_it(): pass
            """
        )
        [gates[name]] = report(project)["gates"]
    assert all("trajectory" in gate for gate in gates.values())


def test_recorded_errors_and_what_is_skipped(project: Project) -> None:
    project.write(
        test_it="""
        import pytest

        @pytest.mark.pot_identity(reference="x.pot.safetensors", candidate={perturbed})
        def test_recorded(): pass

        @pytest.mark.pot_identity(candidate={nan})
        def test_nan(): pass

        @pytest.mark.pot_latency(budget_ms=1e-6)
        @pytest.mark.pot_identity(candidate="nowhere/to/be/found")
        def test_missing(): pass

        @pytest.mark.pot_identity
        def test_setup(broken): pass

        @pytest.fixture
        def broken():
            raise ValueError("broken")

        @pytest.mark.pot_latency(budget_ms=1e9)
        def test_fast(): pass
        """
    )
    assert [gate["verdict"] for gate in report(project, "--pot-update", "-k", "recorded")["gates"]] == ["DIFFERENT"]
    gates = report(project)["gates"]
    assert {gate["test"].partition("::")[2]: gate["verdict"] for gate in gates} == {
        "test_recorded": "DIFFERENT",
        "test_nan": "ERROR",
        "test_missing": "ERROR",
        "test_setup": "ERROR",
        "test_fast": "pass",
    }
    skipped = [gate for gate in report(project, "-k", "fast", workers=2)["gates"] if gate["verdict"] == "SKIPPED"]
    assert [gate["passed"] for gate in skipped] == [None]


def test_latency(project: Project) -> None:
    project.write(
        test_it="""
        import pytest

        @pytest.mark.pot_latency(max_slowdown=1000)
        def test_ratio(): pass

        @pytest.mark.pot_latency(budget_ms=1e-6, max_memory_mb=1e6)
        def test_budget(): pass

        @pytest.mark.pot_latency(budget_ms=1e-6, per="token", what="decode", new_tokens=4)
        def test_decode(): pass
        """
    )
    gates = report(project)["gates"]
    assert [gate["passed"] for gate in gates] == [True, False, False]
    [gate, *_] = report(project, "--pot-latency=report", "-k", "budget")["gates"]
    assert gate["gated"] is False


def test_a_kind_of_gate_of_ones_own_may_have_more(project: Project) -> None:
    project.write(conftest=GATE, test_it="import pytest\n\n@pytest.mark.pot_always\ndef test_it(): pass\n")
    [gate] = report(project)["gates"]
    assert gate["verdict"] == "FINE"
    assert VALIDATOR.is_valid({**empty(), "gates": [{**gate, "level": 7}]})
    assert not VALIDATOR.is_valid({**empty(), "gates": [{name: value for name, value in gate.items() if name != "limit"}]})


def empty() -> dict[str, Any]:
    run = dict.fromkeys(("pytest", "torch", "transformers", "numpy", "safetensors"))
    return {
        "schema": 1,
        "pytest_pot": "1",
        "run": {"started": "2026-01-01T00:00:00+00:00", "python": "3.11", "platform": "x", **run},
        "gates": [],
    }


def test_damaged_reports_are_not_valid(project: Project) -> None:
    """Each key of a real report gets another name, or its value another type, one at a time and at every depth."""
    project.write(
        test_it="""
        import pytest

        @pytest.mark.pot_identity(candidate={perturbed}, confidence=0.9)
        def test_score(): pass

        @pytest.mark.pot_latency(max_slowdown=1000)
        def test_time(): pass
        """
    )
    document = report(project)
    assert [gate["gate"] for gate in document["gates"]] == ["pot_identity", "pot_latency"]
    paths = [path for path in _paths(document) if path[-3:-1] != ("config", 0)]  # fields of any type
    assert len(paths) > 150
    for path in paths:
        damaged = copy.deepcopy(document)
        holder: Any = damaged
        for step in path[:-1]:
            holder = holder[step]
        value = holder.pop(path[-1])
        if path[-2:-1] != ("kinds",):
            assert not VALIDATOR.is_valid(_with(damaged, path, f"{path[-1]}_", value)), path
        assert not VALIDATOR.is_valid(_with(damaged, path, path[-1], {"unexpected": [[]]})), path


def _with(document: dict[str, Any], path: tuple[Any, ...], key: str, value: Any) -> dict[str, Any]:
    """A copy of ``document`` with ``value`` under ``key``, in the object that has the last key of ``path``."""
    changed = copy.deepcopy(document)
    holder: Any = changed
    for step in path[:-1]:
        holder = holder[step]
    holder[key] = value
    return changed


def _paths(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths to all keys of objects in ``value``; of a list, those of its first entry."""
    if isinstance(value, dict):
        return [found for key, entry in value.items() for found in ((*path, key), *_paths(entry, (*path, key)))]
    if isinstance(value, list) and path != ("gates",):
        return _paths(value[0], (*path, 0)) if value else []
    return [found for index, entry in enumerate(value) for found in _paths(entry, (*path, index))] if path == ("gates",) else []


def test_it_is_in_the_package() -> None:
    assert Path(SCHEMA_FILE).is_file()
