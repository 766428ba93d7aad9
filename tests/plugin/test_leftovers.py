"""A run of all tests ends with a list of the recordings that no test uses; other runs do not."""

from __future__ import annotations

import shutil

import pytest

from .conftest import Project

GATED = """
import pytest

@pytest.mark.pot_identity(reference="used.pot.safetensors")
def test_it():
    pass

@pytest.mark.skip
@pytest.mark.pot_identity(reference="skipped.pot.safetensors")
def test_skipped():
    pass

def test_other():
    pass
"""
UNUSED_FILES_LINE = "pot: recordings that no test uses: sub/old.pot.safetensors"


@pytest.fixture
def suite(project: Project) -> Project:
    """A project with a used, a skipped and an unused recorded file, and copies in folders that are not searched."""
    project.run_tests(GATED, "--pot-update").assert_outcomes(passed=2, skipped=1)
    (project.path / "sub").mkdir()
    for name in ("sub/old", "skipped"):
        shutil.copy(project.path / "used.pot.safetensors", project.path / f"{name}.pot.safetensors")
    for folder in (".hidden", "venv", "build"):
        (project.path / folder).mkdir()
        shutil.copy(project.path / "used.pot.safetensors", project.path / folder / "x.pot.safetensors")
    (project.path / "venv" / "pyvenv.cfg").touch()
    return project


def unused_lines(result: pytest.RunResult) -> list[str]:
    return [line for line in result.outlines if line.startswith("pot: recordings")]


@pytest.mark.parametrize("arguments", [(), (".",), ("-x",), ("--pot-update",), ("-p", "no:cacheprovider")], ids=" ".join)
def test_a_run_of_all_tests_lists_unused_files(suite: Project, arguments: tuple[str, ...]) -> None:
    assert unused_lines(suite.run(*arguments)) == [UNUSED_FILES_LINE]


@pytest.mark.parametrize(
    "arguments",
    [
        ("test_it.py",),
        ("test_it.py::test_it",),
        ("-k", "not other"),
        ("-m", "pot_identity"),
        ("--deselect", "test_it.py::test_other"),
        ("--ignore", "sub"),
        ("--collect-only",),
    ],
    ids=" ".join,
)
def test_a_run_of_some_tests_lists_no_unused_files(suite: Project, arguments: tuple[str, ...]) -> None:
    assert unused_lines(suite.run(*arguments)) == []


def test_workers_list_unused_files_only_after_all_tests(suite: Project) -> None:
    """A file that a skipped marker names is in use; workers start faster if all gated tests are skipped."""
    suite.write(test_it=GATED.replace("import pytest\n\n@", "import pytest\n\n@pytest.mark.skip\n@"))
    assert unused_lines(suite.run_workers(2)) == [UNUSED_FILES_LINE]
    assert unused_lines(suite.run_workers(2, "-k", "not other")) == []


def test_only_the_folders_on_the_command_line_are_searched(suite: Project) -> None:
    (suite.path / "tests").mkdir()
    shutil.move(suite.path / "test_it.py", suite.path / "tests")
    shutil.copy(suite.path / "sub" / "old.pot.safetensors", suite.path / "tests" / "gone.pot.safetensors")
    assert unused_lines(suite.run("tests")) == ["pot: recordings that no test uses: tests/gone.pot.safetensors"]


def test_a_suite_without_recordings_is_not_searched(suite: Project) -> None:
    suite.write(test_it="def test_other(): pass")
    assert unused_lines(suite.run()) == []


def test_a_file_named_by_pot_reference_is_in_use(suite: Project) -> None:
    suite.ini(pot_reference="sub/old.pot.safetensors", pot_candidate=suite.tiny.copy, pot_prompts="prompts.jsonl")
    assert unused_lines(suite.run()) == []
    suite.ini(pot_reference=suite.tiny.reference, pot_candidate=suite.tiny.copy, pot_prompts="prompts.jsonl")
    (suite.path / "sub" / "conftest.py").write_text(
        "import pytest\n\n@pytest.fixture\ndef pot_reference(): return 'old.pot.safetensors'\n", encoding="utf-8"
    )
    (suite.path / "sub" / "test_sub.py").write_text(
        "import pytest\n\n@pytest.mark.pot_identity\ndef test_it(): pass\n", encoding="utf-8"
    )
    assert unused_lines(suite.run()) == []


def test_cached_references_are_not_listed(suite: Project) -> None:
    suite.ini(
        pot_reference=suite.tiny.reference, pot_candidate=suite.tiny.copy, pot_prompts="prompts.jsonl", cache_dir="sub/cache"
    )
    (suite.path / "sub" / "cache").mkdir()
    shutil.copy(suite.path / "used.pot.safetensors", suite.path / "sub" / "cache" / "x.pot.safetensors")
    assert unused_lines(suite.run()) == [UNUSED_FILES_LINE]


def test_a_file_named_by_pot_baseline_is_in_use(suite: Project) -> None:
    suite.ini(
        pot_reference=suite.tiny.reference,
        pot_candidate=suite.tiny.copy,
        pot_prompts="prompts.jsonl",
        pot_baseline="sub/old.pot.safetensors",
    )
    assert unused_lines(suite.run()) == []
