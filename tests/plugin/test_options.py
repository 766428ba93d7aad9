"""Options and ini keys: which of them wins, and which folder a relative path starts from."""

from __future__ import annotations

import json

import pytest
import torch

from .conftest import Project

TWO_TESTS = """
import pytest

@pytest.mark.pot_identity(preset="fastest", metric="jsd", max_score=0.5)
def test_marker():
    pass

@pytest.mark.pot_identity(max_score=0.5)
def test_open():
    pass
"""


@pytest.mark.parametrize(
    ("ini", "options", "expected"),
    [
        ({}, [], ("auto", "tv")),
        ({"pot_preset": "single", "pot_metric": "kl"}, [], ("single", "kl")),
        (
            {"pot_preset": "single", "pot_metric": "kl"},
            ["--pot-preset=accurate", "--pot-metric=delta_ce"],
            ("accurate", "delta_ce"),
        ),
        ({"pot_preset": "single"}, ["--pot-metric=delta_ce"], ("single", "delta_ce")),
    ],
    ids=["preset", "ini", "command line", "mixed"],
)
def test_the_marker_wins_then_the_command_line_then_the_ini_file_then_the_preset(
    project: Project, ini: dict[str, str], options: list[str], expected: tuple[str, str]
) -> None:
    project.ini(pot_reference=project.tiny.reference, pot_candidate=project.tiny.copy, pot_prompts="prompts.jsonl", **ini)
    project.write(test_it=TWO_TESTS)
    marker, left_open = project.gates(*options)
    assert (marker["preset"], marker["metric"]) == ("fastest", "jsd")
    assert (left_open["preset"], left_open["metric"]) == expected


def test_models_come_from_the_marker_then_the_command_line_then_the_ini_file(project: Project) -> None:
    tiny = project.tiny
    project.write(
        test_it="""
        import pytest

        @pytest.mark.pot_identity(candidate={padded}, max_score=1)
        def test_marker():
            pass

        @pytest.mark.pot_identity(max_score=1)
        def test_open():
            pass
        """
    )
    assert [gate["candidate"] for gate in project.gates()] == [str(tiny.padded), str(tiny.copy)]
    gates = project.gates(f"--pot-candidate={tiny.perturbed}")
    assert [gate["candidate"] for gate in gates] == [str(tiny.padded), str(tiny.perturbed)]
    assert gates[1]["score"] > 0.5


def test_an_ini_key_is_relative_to_the_ini_file(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    (project.path / "models").symlink_to(project.tiny.reference.parent)
    project.ini(pot_reference="models/reference", pot_candidate="models/copy", pot_prompts="prompts.jsonl")
    project.write(test_it=TWO_TESTS)
    (project.path / "sub").mkdir()
    monkeypatch.chdir(project.path / "sub")
    result = project.run("..")
    result.assert_outcomes(passed=2)


def test_a_command_line_path_is_relative_to_the_working_folder(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    project.ini()
    project.write(test_it=TWO_TESTS)
    folder = project.path / "sub"
    folder.mkdir()
    (folder / "models").symlink_to(project.tiny.reference.parent)
    project.prompts("sub/few.jsonl", "Who is there?")
    monkeypatch.chdir(folder)
    gates = project.gates("..", "--pot-reference=models/reference", "--pot-candidate=models/copy", "--pot-prompts=few.jsonl")
    assert [gate["prompts"] for gate in gates] == [1, 1]
    assert (folder / "gates.json").is_file()


def test_a_markers_path_is_relative_to_the_test(project: Project) -> None:
    project.prompts("sub/few.jsonl", "Who is there?", "x = 1")
    project.prompts("few.jsonl", "Nobody")
    (project.path / "sub" / "models").symlink_to(project.tiny.reference.parent)
    (project.path / "sub" / "test_it.py").write_text(
        "import pytest\n\n"
        "@pytest.mark.pot_identity(reference='models/reference', candidate='models/copy', prompts='few.jsonl')\n"
        "def test_it():\n    pass\n",
        encoding="utf-8",
    )
    assert [gate["prompts"] for gate in project.gates()] == [2]


def test_a_prompts_file_may_hold_strings_and_objects(project: Project) -> None:
    project.prompts("few.jsonl", "Who is there?", {"text": "x = 1", "continuation": "; y", "kind": "code", "id": "c1"})
    project.write(
        test_it="""
        import pytest

        @pytest.mark.pot_identity
        def test_it(pot_result):
            bare, full = pot_result.report.prompts
            assert (bare.text, bare.continuation, bare.kind) == ("Who is there?", None, None)
            assert (full.text, full.continuation, full.kind) == ("x = 1", "; y", "code")
        """
    )
    project.run("--pot-prompts=few.jsonl").assert_outcomes(passed=1)


def test_pot_dtype_sets_the_dtype_of_the_models(project: Project) -> None:
    result = project.run_tests(
        """
        import pytest

        @pytest.mark.pot_distinct(tolerance="identical")
        def test_it():
            pass
        """,
        "--pot-dtype=float64",
        "--pot-device=cpu",
    )
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["  reference *, float64 on cpu, noise floor *"])


def test_a_folder_runs_on_the_first_available_device_unless_one_is_named(project: Project) -> None:
    tiny = project.tiny
    project.write(test_it="import pytest\n\n@pytest.mark.pot_identity(max_score=0)\ndef test_it(): pass\n")
    first = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    for setting, device in (("auto", first), ("cpu", "cpu")):
        project.ini(pot_device=setting, pot_reference=tiny.reference, pot_candidate=tiny.perturbed, pot_prompts="prompts.jsonl")
        project.run().stdout.re_match_lines([rf"  reference .*, float32 on {device}\b.*, noise floor .*"])


def test_the_json_report_has_all_gates(project: Project) -> None:
    project.write(
        test_it="""
        import pytest

        @pytest.mark.pot_identity
        @pytest.mark.pot_distinct(candidate={perturbed}, min_score=0.3)
        def test_both():
            pass

        @pytest.mark.pot_identity(candidate={perturbed}, metric="kl", max_score=0.5)
        def test_different():
            pass
        """
    )
    project.run("--pot-report=deep/er/gates.json").assert_outcomes(passed=1, failed=1)

    def reject(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    document = json.loads((project.path / "deep/er/gates.json").read_text(encoding="utf-8"), parse_constant=reject)
    keys = ("test", "gate", "preset", "metric", "limit", "verdict", "passed", "prompts", "candidate")
    tiny = project.tiny
    assert [tuple(gate[key] for key in keys) for gate in document["gates"]] == [
        ("test_it.py::test_both", "pot_identity", "auto", "tv", 0.01, "SAME", True, 3, str(tiny.copy)),
        ("test_it.py::test_both", "pot_distinct", "auto", "tv", 0.3, "DIFFERENT", True, 3, str(tiny.perturbed)),
        ("test_it.py::test_different", "pot_identity", "auto", "kl", 0.5, "DIFFERENT", False, 3, str(tiny.perturbed)),
    ]
    last = document["gates"][-1]
    assert last["score"] == last["kl"] > 0.5
    assert last["max_prompt_score"] >= last["score"]


def test_the_markdown_report_has_a_row_per_gate(project: Project) -> None:
    project.write(
        test_it="""
        import pytest

        @pytest.mark.parametrize("name", ["a|b"])
        @pytest.mark.pot_identity(candidate={perturbed})
        def test_it(name):
            pass
        """
    )
    result = project.run("--pot-report=gates.md")
    assert f"pot: written to {project.path / 'gates.md'}" in result.outlines
    lines = (project.path / "gates.md").read_text(encoding="utf-8").splitlines()
    models = f"{project.tiny.perturbed} vs {project.tiny.reference}"
    assert lines[:5] == [
        "## pytest-pot: 1 failed",
        "",
        "|  | test | gate | candidate vs reference | score | limit | verdict |",
        "| --- | --- | --- | --- | --- | --- | --- |",
        f"| ❌ failed | `test_it.py::test_it[a\\|b]` | `identity` | `{models}` | `tv 0.649` | `<= 0.01` | `DIFFERENT` |",
    ]
    assert lines[5:9] == ["", "### `test_it.py::test_it[a|b]`", "", f"`identity: {models}` failed"]
    assert lines[9:12] == ["", "```text", "DIFFERENT: tv 0.649 > 0.01 (64.9 times the limit)"]


def test_the_report_has_gates_that_reached_no_verdict(project: Project) -> None:
    """A report of only the passing gates would be misleading."""
    project.write(
        test_it="""
        import pytest

        @pytest.mark.pot_identity
        def test_same():
            pass

        @pytest.mark.pot_identity(candidate={nan})
        def test_nan():
            pass

        @pytest.mark.pot_identity(candidate="nowhere/to/be/found")
        def test_missing():
            pass

        @pytest.mark.skip
        @pytest.mark.pot_identity(candidate={nan})
        def test_skipped():
            pass
        """
    )
    gates = {gate["test"].removeprefix("test_it.py::"): gate for gate in project.gates()}
    assert {name: gate["passed"] for name, gate in gates.items()} == {
        "test_same": True,
        "test_nan": False,
        "test_missing": False,
    }
    for name, words in (("test_nan", "log-probabilities are NaN"), ("test_missing", "cannot load the candidate")):
        assert gates[name]["verdict"] == "ERROR"
        assert words in gates[name]["error"]
        assert "score" not in gates[name]


def test_collect_only_keeps_an_earlier_report(project: Project) -> None:
    project.write(test_it=TWO_TESTS)
    assert len(project.gates()) == 2
    before = (project.path / "gates.json").read_text(encoding="utf-8")
    project.run("--collect-only", "--pot-report=gates.json")
    assert (project.path / "gates.json").read_text(encoding="utf-8") == before


def test_a_run_without_gates_writes_an_empty_report(project: Project) -> None:
    project.write(test_it="def test_it(): pass")
    assert project.gates() == []


def test_an_empty_option_is_a_usage_error(project: Project) -> None:
    """For example --pot-candidate=$CANDIDATE if the variable is not set."""
    project.write(test_it="import pytest\n\n@pytest.mark.pot_identity\ndef test_it(): pass\n")
    result = project.run("--pot-candidate=")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert result.errlines == [
        "ERROR: --pot-candidate is empty: give it a value, or leave it out to use the ini key pot_candidate",
        "",
    ]


def _settings_row(project: Project, marker: str, *options: str, **ini: str) -> dict[str, object]:
    tiny = project.tiny
    project.ini(pot_reference=tiny.reference, pot_candidate=tiny.copy, pot_prompts="prompts.jsonl", **ini)
    project.write(
        test_it=f"""
        import pytest

        @pytest.mark.pot_identity{marker}
        def test_it(pot_result):
            config, report = pot_result.report.config, pot_result.report
            print("FOUND", config.max_length, config.positions_per_prompt, config.batch_size, report.n_positions)
        """
    )
    result = project.run("-s", *options)
    result.assert_outcomes(passed=1)
    [found] = [line.partition("FOUND ")[2].split() for line in result.outlines if "FOUND" in line]
    return dict(zip(("max_length", "positions", "batch_size", "compared"), found, strict=True))


@pytest.mark.parametrize(
    ("name", "preset", "values"),
    [("max_length", "256", ("60", "70", "80")), ("positions", "32", ("3", "4", "5")), ("batch_size", "auto", ("2", "3", "1"))],
)
def test_sizes_come_from_the_marker_then_the_command_line_then_the_ini_file(
    project: Project, name: str, preset: str, values: tuple[str, str, str]
) -> None:
    marker, on_command_line, in_ini = values
    option = f"--pot-{name.replace('_', '-')}={on_command_line}"
    ini = {f"pot_{name}": in_ini}
    assert _settings_row(project, f"({name}={marker})", option, **ini)[name] == marker
    assert _settings_row(project, "", option, **ini)[name] == on_command_line
    assert _settings_row(project, "", **ini)[name] == in_ini
    assert _settings_row(project, "")[name] == preset


def test_positions_are_what_is_compared(project: Project) -> None:
    assert _settings_row(project, "(positions=3)")["compared"] == "9"


@pytest.mark.parametrize("marker", ["pot_identity", "pot_distinct"])
def test_the_default_tolerance_is_a_setting(project: Project, marker: str) -> None:
    project.write(
        test_it=f"""
        import pytest

        @pytest.mark.{marker}
        def test_default():
            pass

        @pytest.mark.{marker}(tolerance="half")
        def test_its_own():
            pass
        """
    )

    def limits(*options: str) -> list[float]:
        return [gate["limit"] for gate in project.gates(*options)]

    assert limits() == [0.01, 0.01]
    assert limits("--pot-tolerance=int8") == [0.08, 0.01]
    assert limits("-o", "pot_tolerance=numeric") == [1e-4, 0.01]
    assert limits("-o", "pot_tolerance=numeric", "--pot-tolerance=int4") == [0.45, 0.01]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("max_length=0", "max_length=0 must be a whole number of at least 1"),
        ("positions='8'", "positions='8' must be a whole number of at least 1"),
        ("batch_size='many'", "batch_size='many' must be a whole number of at least 1 or 'auto'"),
        ("path='cache'", "path='cache' is not one of 'prefill', 'decode'"),
        ("max_tail=2", "max_tail=2 must be a number from 0 to 1"),
    ],
)
def test_a_wrong_size_in_a_marker_is_a_usage_error_by_its_own_name(project: Project, arguments: str, message: str) -> None:
    result = project.run_tests(
        f"""
        import pytest

        @pytest.mark.pot_identity({arguments})
        def test_it():
            pass
        """
    )
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert [line for line in result.errlines if line] == [f"ERROR: test_it.py::test_it: pot_identity: {message}"]


@pytest.mark.parametrize("name", ["max-tail", "max-length", "tolerance", "path", "device", "candidate"])
def test_an_empty_option_is_said_to_be_empty(project: Project, name: str) -> None:
    """As with --pot-max-tail=$TAIL where the variable is not set."""
    result = project.run_tests("def test_it(): pass", f"--pot-{name}=")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    key = f"pot_{name.replace('-', '_')}"
    assert [line for line in result.errlines if line] == [
        f"ERROR: --pot-{name} is empty: give it a value, or leave it out to use the ini key {key}"
    ]
