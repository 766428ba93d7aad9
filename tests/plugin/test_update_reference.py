"""Which reference ``--pot-update`` records: never by an ini key, the one that a file names, and not the candidate unasked."""

from __future__ import annotations

import shlex
import shutil

import pytest

from pytest_pot import Baseline

from .conftest import PROMPTS, Project
from .test_update import FILE, GATED


@pytest.fixture
def recorded(project: Project) -> Project:
    """A file that was recorded from a folder in the project, which no option names any more."""
    shutil.copytree(project.tiny.reference, project.path / "models" / "base")
    project.ini(pot_reference="models/base", pot_candidate=project.tiny.copy, pot_prompts="prompts.jsonl")
    project.run_tests(GATED, "--pot-update").assert_outcomes(passed=1)
    project.ini(pot_candidate=project.tiny.copy, pot_prompts="prompts.jsonl")
    return project


def recorded_from(project: Project) -> str:
    return Baseline.load(project.path / FILE).provenance.reference


def error(result: pytest.RunResult) -> list[str]:
    """The message of the only test that fails."""
    lines = result.outlines
    start = next(index for index, line in enumerate(lines) if line.startswith(("pot_identity: ", "--pot-update ")))
    end = next(index for index in range(start, len(lines)) if lines[index].startswith(("=", "---")))
    return lines[start:end]


@pytest.mark.parametrize("value", ["true", "false", ""])
@pytest.mark.parametrize("where", ["file", "option"])
def test_no_ini_key_updates(recorded: Project, value: str, where: str) -> None:
    recorded.prompts("prompts.jsonl", *PROMPTS[:2])
    before = (recorded.path / FILE).read_bytes()
    values = {"pot_candidate": recorded.tiny.copy, "pot_prompts": "prompts.jsonl", "pot_reference": "models/base"}
    recorded.ini(**values, **({"pot_update": value} if where == "file" else {}))
    result = recorded.run("-Wdefault", *(["-o", f"pot_update={value}"] if where == "option" else []))
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert [line for line in result.errlines if line] == [
        "ERROR: pot_update in pytest.ini: there is no such ini key. --pot-update is meant for one run: give it on the command "
        "line"
    ]
    assert (recorded.path / FILE).read_bytes() == before


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("pot_calibrate", "there is no such ini key. --pot-calibrate is meant for one run: give it on the command line"),
        ("pot_tolerence", "there is no such ini key: did you mean pot_tolerance?"),
        ("pot_max-length", "there is no such ini key: did you mean pot_max_length?"),
    ],
)
def test_a_misspelt_ini_key_is_a_usage_error(project: Project, key: str, message: str) -> None:
    """The gates would run with another limit than the ini file asks for, and pass."""
    project.ini(**{"pot_candidate": project.tiny.perturbed, key: "identical"})
    result = project.run_tests(GATED, "-Wdefault")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert [line for line in result.errlines if line] == [f"ERROR: {key} in pytest.ini: {message}"]


def test_ini_keys_of_others_are_left_alone(project: Project) -> None:
    project.ini(pot_of_gold="yes", potato="yes")
    project.write(conftest="def pytest_addoption(parser):\n    parser.addini('pot_of_gold', 'ours')\n")
    project.run_tests("def test_it(): pass", "-Wdefault").assert_outcomes(passed=1, warnings=1)


def test_the_reference_that_the_file_names_is_recorded(recorded: Project) -> None:
    recorded.prompts("prompts.jsonl", *PROMPTS[:2])
    assert error(recorded.run())[-2:] == [
        "If that is meant, this records it anew:",
        "  pytest test_it.py::test_it --pot-update --pot-reference=models/base",
    ]
    result = recorded.run("--pot-update")
    result.assert_outcomes(passed=1)
    assert recorded_from(recorded) == "models/base"
    assert any(line.startswith(f"pot: wrote {FILE} (2 prompts") for line in result.outlines)
    recorded.run().assert_outcomes(passed=1)


def test_the_printed_command_names_the_files_reference_and_works(recorded: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the ini file names another model, and from another folder."""
    recorded.ini(pot_reference=recorded.tiny.perturbed, pot_candidate=recorded.tiny.copy, pot_prompts="prompts.jsonl")
    recorded.prompts("prompts.jsonl", *PROMPTS[:2])
    (recorded.path / "sub").mkdir()
    monkeypatch.chdir(recorded.path / "sub")
    command = error(recorded.run("..", "--rootdir=.."))[-1].split()
    assert command == ["pytest", "../test_it.py::test_it", "--pot-update", "--pot-reference=../models/base"]
    recorded.run(*command[1:]).assert_outcomes(passed=1)
    assert recorded_from(recorded) == "models/base"


def test_an_option_comes_before_the_reference_that_the_file_names(recorded: Project) -> None:
    result = recorded.run("--pot-update", f"--pot-reference={recorded.tiny.copy}")
    recorded_line = [line for line in result.outlines if line.startswith("pot: wrote ")]
    assert recorded_from(recorded) == "copy"
    assert recorded_line[0].endswith("; reference: models/base recorded, copy now)")


@pytest.mark.parametrize("gone", [True, False])
def test_a_reference_that_is_not_there_by_that_name(recorded: Project, gone: bool) -> None:
    """It was deleted; or it lay outside of the project, so that the file knows the last part of its path alone."""
    if gone:
        shutil.rmtree(recorded.path / "models")
    else:
        recorded.run("--pot-update", f"--pot-reference={recorded.tiny.reference}").assert_outcomes(passed=1)
        recorded.prompts("prompts.jsonl", *PROMPTS[:2])
        assert error(recorded.run())[-1] == "  pytest test_it.py::test_it --pot-update --pot-reference=MODEL"
    result = recorded.run("--pot-update")
    result.assert_outcomes(errors=1)
    if gone:  # by its form it could be on the hub
        assert any(line.startswith("cannot load the reference 'models/base': ") for line in result.outlines)
    else:
        assert error(result) == [
            "--pot-update has no model to record ref.pot.safetensors from. Name the live reference with --pot-reference or the "
            "ini key pot_reference, or let the fixture pot_reference return it. It was recorded from reference, which is no "
            "model that is there by that name"
        ]


def test_nothing_that_a_file_names_is_executed(recorded: Project) -> None:
    """A factory is code: the file may come from anyone, so its user has to name it."""
    (recorded.path / "factories.py").write_text(
        "from transformers import AutoTokenizer, GPT2LMHeadModel\n\nprint('FACTORY')\n\ndef make():\n"
        f"    return GPT2LMHeadModel.from_pretrained({str(recorded.tiny.reference)!r}), "
        f"AutoTokenizer.from_pretrained({str(recorded.tiny.reference)!r})\n",
        encoding="utf-8",
    )
    (recorded.path / "pytest.ini").write_text(
        (recorded.path / "pytest.ini").read_text(encoding="utf-8") + "pythonpath = .\n", encoding="utf-8"
    )
    recorded.run("--pot-update", "--pot-reference=factories:make").assert_outcomes(passed=1)
    assert recorded_from(recorded) == "factories:make"
    recorded.prompts("prompts.jsonl", *PROMPTS[:2])
    result = recorded.run("-s")
    command = error(result)[-1].split()
    assert command[-1] == "--pot-reference=factories:make"
    updated = recorded.run_subprocess("--pot-update", "-s")
    updated.assert_outcomes(errors=1)
    assert "FACTORY" not in result.stdout.str() + updated.stdout.str()
    recorded.run(*command[1:]).assert_outcomes(passed=1)


def refusal(name: object, said: bool = True) -> str:
    meant = (
        f"; where today's candidate is meant to be the reference from now on, say so: --pot-reference={name}" if said else ""
    )
    return (
        f"--pot-update would record the candidate, {name}, as its own reference into ref.pot.safetensors, and later runs would "
        f"compare it with itself. Name the reference, --pot-reference=MODEL{meant}"
    )


def test_the_candidate_is_not_recorded_as_its_own_reference_unasked(project: Project) -> None:
    candidate = project.tiny.perturbed
    project.ini(pot_reference=candidate, pot_candidate=candidate, pot_prompts="prompts.jsonl")
    result = project.run_tests(GATED, "--pot-update")
    result.assert_outcomes(errors=1)
    assert error(result) == [refusal(candidate)]
    assert not (project.path / FILE).exists()
    project.run("--pot-update", f"--pot-reference={candidate}").assert_outcomes(passed=1)
    assert (project.path / FILE).is_file()


def test_nor_by_another_path_or_as_the_reference_that_the_file_names(recorded: Project) -> None:
    (recorded.path / "link").symlink_to(recorded.path / "models" / "base")
    before = (recorded.path / FILE).read_bytes()
    recorded.ini(pot_candidate="link", pot_prompts="prompts.jsonl")
    result = recorded.run("--pot-update")
    result.assert_outcomes(errors=1)
    assert error(result) == [refusal("link")]
    assert (recorded.path / FILE).read_bytes() == before
    recorded.run("--pot-update", "--pot-reference=link").assert_outcomes(passed=1)


def test_nor_as_one_object_of_two_fixtures(project: Project) -> None:
    project.ini(pot_prompts="prompts.jsonl")
    project.write(
        conftest="""
        import pytest
        from transformers import AutoTokenizer, GPT2LMHeadModel

        @pytest.fixture(scope="session")
        def pot_reference():
            return GPT2LMHeadModel.from_pretrained({reference}), AutoTokenizer.from_pretrained({reference})

        @pytest.fixture(scope="session")
        def pot_candidate(pot_reference):
            return pot_reference
        """
    )
    result = project.run_tests(GATED, "--pot-update")
    result.assert_outcomes(errors=1)
    assert error(result) == [refusal("GPT2LMHeadModel from the fixture pot_candidate", said=False)]


def test_the_command_spells_options_as_the_command_line_does(project: Project) -> None:
    """For example --pot-max-length, which is max_length in Python."""
    project.write(test_it=GATED)
    command = error(project.run("--pot-max-length=100"))[-1].split()
    assert command == ["pytest", "test_it.py::test_it", "--pot-update", "--pot-max-length=100"]
    project.run(*command[1:]).assert_outcomes(passed=1)


def test_the_printed_command_works_where_the_ini_file_names_one_model_in_both_roles(project: Project) -> None:
    tiny = project.tiny
    project.ini(pot_reference=tiny.reference, pot_candidate=tiny.reference, pot_prompts="prompts.jsonl")
    text = 'import pytest\n\n@pytest.mark.pot_identity(reference="base.pot.safetensors")\ndef test_it():\n    pass\n'
    result = project.run_tests(text)
    [command] = [line.strip() for line in result.outlines if "--pot-update" in line and line.strip().startswith("pytest ")]
    project.run(*shlex.split(command)[1:]).assert_outcomes(passed=1)
    project.run().assert_outcomes(passed=1)
