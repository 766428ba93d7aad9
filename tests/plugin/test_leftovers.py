"""Recorded files that no test names are told at the end of a run that saw all tests, and of no other."""

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
TOLD = "pot: recorded files that no test uses: sub/old.pot.safetensors"


@pytest.fixture
def full(project: Project) -> Project:
    project.run_tests(GATED, "--pot-update").assert_outcomes(passed=2, skipped=1)
    (project.path / "sub").mkdir()
    for name in ("sub/old", "skipped"):
        shutil.copy(project.path / "used.pot.safetensors", project.path / f"{name}.pot.safetensors")
    for folder in (".hidden", "venv", "build"):
        (project.path / folder).mkdir()
        shutil.copy(project.path / "used.pot.safetensors", project.path / folder / "x.pot.safetensors")
    (project.path / "venv" / "pyvenv.cfg").touch()
    return project


def told(result: pytest.RunResult) -> list[str]:
    return [line for line in result.outlines if line.startswith("pot: recorded files")]


@pytest.mark.parametrize("arguments", [(), (".",), ("-x",), ("--pot-update",), ("-p", "no:cacheprovider")], ids=" ".join)
def test_a_full_run(full: Project, arguments: tuple[str, ...]) -> None:
    assert told(full.run(*arguments)) == [TOLD]


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
def test_a_run_of_some_tests(full: Project, arguments: tuple[str, ...]) -> None:
    assert told(full.run(*arguments)) == []


def test_a_full_run_of_workers_and_one_of_some_tests(full: Project) -> None:
    """All gated tests are skipped, since workers that load no model start sooner: what a marker names counts as used."""
    full.write(test_it=GATED.replace("import pytest\n\n@", "import pytest\n\n@pytest.mark.skip\n@"))
    assert told(full.run_workers(2)) == [TOLD]
    assert told(full.run_workers(2, "-k", "not other")) == []


def test_only_below_the_folders_that_were_asked_for(full: Project) -> None:
    (full.path / "tests").mkdir()
    shutil.move(full.path / "test_it.py", full.path / "tests")
    shutil.copy(full.path / "sub" / "old.pot.safetensors", full.path / "tests" / "gone.pot.safetensors")
    assert told(full.run("tests")) == ["pot: recorded files that no test uses: tests/gone.pot.safetensors"]


def test_a_suite_that_does_not_use_recordings_is_not_searched(full: Project) -> None:
    full.write(test_it="def test_other(): pass")
    assert told(full.run()) == []


def test_a_file_that_a_fixture_or_the_option_for_the_reference_names_is_used(full: Project) -> None:
    full.ini(pot_reference="sub/old.pot.safetensors", pot_candidate=full.tiny.copy, pot_prompts="prompts.jsonl")
    assert told(full.run()) == []
    full.ini(pot_reference=full.tiny.reference, pot_candidate=full.tiny.copy, pot_prompts="prompts.jsonl")
    (full.path / "sub" / "conftest.py").write_text(
        "import pytest\n\n@pytest.fixture\ndef pot_reference(): return 'old.pot.safetensors'\n", encoding="utf-8"
    )
    (full.path / "sub" / "test_sub.py").write_text(
        "import pytest\n\n@pytest.mark.pot_identity\ndef test_it(): pass\n", encoding="utf-8"
    )
    assert told(full.run()) == []


def test_the_records_of_the_cache_are_not_listed(full: Project) -> None:
    full.ini(
        pot_reference=full.tiny.reference, pot_candidate=full.tiny.copy, pot_prompts="prompts.jsonl", cache_dir="sub/cache"
    )
    (full.path / "sub" / "cache").mkdir()
    shutil.copy(full.path / "used.pot.safetensors", full.path / "sub" / "cache" / "x.pot.safetensors")
    assert told(full.run()) == [TOLD]


def test_the_options_file_is_used(full: Project) -> None:
    full.ini(
        pot_reference=full.tiny.reference,
        pot_candidate=full.tiny.copy,
        pot_prompts="prompts.jsonl",
        pot_baseline="sub/old.pot.safetensors",
    )
    assert told(full.run()) == []
