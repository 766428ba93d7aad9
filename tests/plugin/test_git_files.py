"""What Git leaves in the place of a file, seen through the markers and the commands."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from pytest_pot import Baseline
from pytest_pot.__main__ import main

from ..unit.core.test_git_files import conflict, pointer
from .conftest import PROMPTS, Project
from .test_bad_input import MARKED, section
from .test_recorded import GATED, failure, recorded

__all__ = ["recorded"]  # a fixture

FILE = "ref.pot.safetensors"
KEEP = "Keep one side and remove the markers. While the merge is under way, this keeps ours, and --theirs the other side:"


@pytest.fixture(autouse=True)
def checkout(project: Project) -> None:
    (project.path / ".git").mkdir()


@pytest.mark.parametrize("role", ["reference", "candidate"])
@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_a_pointer_in_the_place_of_a_models_file(project: Project, role: str, name: str) -> None:
    folder = project.path / "models" / "new"
    shutil.copytree(project.tiny.copy, folder)
    (folder / name).write_text(pointer())
    project.ini(**{f"pot_{r}": folder if r == role else project.tiny.copy for r in ("reference", "candidate")})
    result = project.run_tests(MARKED)
    result.assert_outcomes(errors=1)
    assert section(result, "_ ERROR at setup of test_it _") == [
        f"cannot load the {role} {str(folder)!r}: {folder / name} is a Git LFS pointer to 1,234,567 bytes, not the file "
        "itself. This fetches what is missing:",
        f"  git -C {project.path} lfs pull --include=models/new/{name}",
    ]


def test_a_pointer_in_the_place_of_a_tokenizers_file(project: Project) -> None:
    folder = project.path / "new"
    shutil.copytree(project.tiny.copy, folder)
    (folder / "tokenizer.json").write_text(pointer())
    (folder / "model.safetensors").write_text("not even read")
    project.ini(pot_reference=project.tiny.reference, pot_candidate=folder, pot_prompts="prompts.jsonl")
    result = project.run_tests(MARKED)
    result.assert_outcomes(errors=1)
    assert section(result, "_ ERROR at setup of test_it _") == [
        f"cannot load the tokenizer of the candidate {str(folder)!r}: {folder / 'tokenizer.json'} is a Git LFS pointer to "
        "1,234,567 bytes, not the file itself. This fetches what is missing:",
        f"  git -C {project.path} lfs pull --include=new/tokenizer.json",
    ]


def test_a_pointer_in_the_place_of_a_gguf_file(project: Project) -> None:
    (project.path / "model.gguf").write_text(pointer())
    project.ini(pot_reference=project.tiny.reference, pot_candidate="model.gguf", pot_prompts="prompts.jsonl")
    result = project.run_tests(MARKED)
    result.assert_outcomes(errors=1)
    path = project.path / "model.gguf"
    assert section(result, "_ ERROR at setup of test_it _") == [
        f"cannot load the candidate {str(path)!r}: {path} is a Git LFS pointer to 1,234,567 bytes, not the file itself. This "
        "fetches what is missing:",
        f"  git -C {project.path} lfs pull --include=model.gguf",
    ]


def test_a_pointer_in_the_place_of_a_recording(recorded: Project, capsys: pytest.CaptureFixture[str]) -> None:
    path = recorded.path / FILE
    path.write_text(pointer())
    lines = [
        f"cannot read the recording: {path} is a Git LFS pointer to 1,234,567 bytes, not the file itself. This fetches what is "
        "missing:",
        f"  git -C {recorded.path} lfs pull --include={FILE}",
    ]
    assert failure(recorded) == [f"pot_identity: {lines[0]}", lines[1]]
    capsys.readouterr()
    assert main(["inspect", str(path)]) == 1
    assert capsys.readouterr().err.splitlines() == [f"pytest-pot: {lines[0]}", lines[1]]
    recorded.run("--pot-update").assert_outcomes(passed=1)
    assert Baseline.load(path).n_prompts == 3


def test_weights_that_are_not_fetched_can_be_held_against_a_recording(recorded: Project) -> None:
    path = recorded.path / "model" / "model.safetensors"
    sha256 = Baseline.load(recorded.path / FILE).provenance.files["model.safetensors"]
    path.write_text(pointer(sha256))
    recorded.run().assert_outcomes(passed=1)
    path.write_text(pointer())
    assert any(line.startswith("  reference file model.safetensors: sha256 ") for line in failure(recorded))


def conflicting(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    path.write_text(conflict(text.rstrip() + "\n", text.rstrip() + "\n"), encoding="utf-8")


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json"])
def test_a_conflict_in_a_models_file(recorded: Project, name: str) -> None:
    folder = recorded.path / "new"
    shutil.copytree(recorded.tiny.copy, folder)
    conflicting(folder / name)
    recorded.write(test_it=GATED.replace("max_score=0", 'candidate="new"'))
    result = recorded.run()
    result.assert_outcomes(errors=1)
    what = f"cannot load the candidate {str(folder)!r}"
    if name != "config.json":
        what = f"cannot load the tokenizer of the candidate {str(folder)!r}"
    assert section(result, "_ ERROR at setup of test_it _") == [
        f"{what}: {folder / name} has the markers of a conflict that a merge in Git left (line 1: '<<<<<<< HEAD'). {KEEP}",
        f"  git -C {recorded.path} checkout --ours -- new/{name}",
    ]


def test_a_conflict_in_prompts(project: Project) -> None:
    path = project.prompts("prompts.jsonl", *PROMPTS)
    conflicting(path)
    result = project.run_tests(MARKED)
    result.assert_outcomes(errors=1)
    assert section(result, "_ ERROR at setup of test_it _") == [
        f"cannot read the prompts: {path} has the markers of a conflict that a merge in Git left (line 1: "
        f"'<<<<<<< HEAD'). {KEEP}",
        f"  git -C {project.path} checkout --ours -- prompts.jsonl",
    ]


def test_a_pointer_in_the_place_of_prompts(project: Project) -> None:
    path = project.path / "prompts.jsonl"
    path.write_text(pointer())
    result = project.run_tests(MARKED)
    result.assert_outcomes(errors=1)
    assert section(result, "_ ERROR at setup of test_it _") == [
        f"cannot read the prompts: {path} is a Git LFS pointer to 1,234,567 bytes, not the file itself. This fetches what is "
        "missing:",
        f"  git -C {project.path} lfs pull --include=prompts.jsonl",
    ]
