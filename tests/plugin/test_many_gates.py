"""A suite of several gates reads each file once, and keeps no more in memory than one gate does."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from pytest_pot.core import files

from .conftest import WITH_CACHE, Project

COUNTING = """
from collections import Counter

import pytest

from pytest_pot.baseline import provenance
from pytest_pot.baseline.baseline import Baseline
from pytest_pot.core.files import KeptFiles
from transformers import AutoTokenizer

counts = Counter()


def counted(name, function):
    def count(*arguments, **keywords):
        counts[name] += 1
        return function(*arguments, **keywords)
    return count


@pytest.fixture(autouse=True, scope="session")
def count():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(provenance, "_FILE_DIGESTS", KeptFiles(100))  # of this run alone
        patch.setattr(provenance, "_file_digest", counted("digests", provenance._file_digest))
        patch.setattr(Baseline, "load", counted("recordings", Baseline.load))
        patch.setattr(AutoTokenizer, "from_pretrained", counted("tokenizers", AutoTokenizer.from_pretrained))
        yield


def pytest_unconfigure():
    print("counts:", *(f"{name}={counts[name]}" for name in ("digests", "recordings", "tokenizers")))
"""
THREE = """
import pytest

@pytest.mark.pot_identity(ARGUMENTS)
@pytest.mark.parametrize("n", range(3))
def test_it(n):
    pass
"""


@pytest.fixture
def many(project: Project, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A project whose reference is in the folder ``model``, the candidate elsewhere; files count as old at once."""
    monkeypatch.setattr(files, "_SETTLED_S", 0.0)
    shutil.copytree(project.tiny.reference, project.path / "model")
    project.ini(pot_reference="model", pot_candidate=project.tiny.copy, pot_prompts="prompts.jsonl")
    project.write(conftest=COUNTING, test_it=THREE.replace("ARGUMENTS", "max_score=0"))
    return project


def counts(project: Project, *arguments: str, passed: int = 3, failed: int = 0) -> dict[str, int]:
    result = project.run("-s", *arguments)
    result.assert_outcomes(passed=passed, failed=failed)
    line = next(line for line in result.outlines if "counts:" in line)
    return {name: int(n) for name, n in (pair.split("=") for pair in line.split("counts:")[1].split())}


def n_files(folder: Path) -> int:
    return len([*folder.glob("*config.json"), *folder.glob("*.safetensors")])


def test_gates_on_one_recording_read_it_and_the_references_files_once(many: Project) -> None:
    many.write(test_it=THREE.replace("ARGUMENTS", "max_score=0, reference='ref.pot.safetensors'"))
    many.run("--pot-update").assert_outcomes(passed=3)
    assert counts(many) == {"digests": n_files(many.path / "model"), "recordings": 1, "tokenizers": 1}


def test_gates_on_one_cached_reference_read_its_record_and_files_once(many: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTEST_ADDOPTS", WITH_CACHE)
    many.run().assert_outcomes(passed=3)
    assert counts(many) == {"digests": n_files(many.path / "model"), "recordings": 1, "tokenizers": 2}


def test_an_update_that_several_gates_share_records_once(many: Project) -> None:
    many.write(test_it=THREE.replace("ARGUMENTS", "max_score=0, reference='ref.pot.safetensors'"))
    assert counts(many, "--pot-update")["recordings"] <= 1
    assert (many.path / "ref.pot.safetensors").is_file()


REPLACED = """
import os
import shutil

import pytest

@pytest.mark.pot_identity(tolerance="half", reference="ref.pot.safetensors")
def test_before():
    pass

def test_replace():
    status = os.stat("ref.pot.safetensors")
    with open("SOURCE", "rb") as file:
        content = file.read()
    with open("ref.pot.safetensors", "r+b") as file:  # the same inode
        file.write(content)
        file.truncate()
    os.utime("ref.pot.safetensors", ns=(status.st_atime_ns, status.st_mtime_ns))

@pytest.mark.pot_identity(tolerance="half", reference="ref.pot.safetensors")
def test_after():
    pass
"""


@pytest.mark.parametrize("source", ["damaged", "other.pot.safetensors"])
def test_a_recording_that_is_replaced_while_the_suite_runs_is_seen(many: Project, source: str) -> None:
    """It has the size, the inode and the time of modification of the one that was read before."""
    update = "import pytest\n\n@pytest.mark.pot_identity(reference='{}.pot.safetensors', max_score=1)\ndef test_it(): pass\n"
    many.write(test_it=update.format("ref"))
    many.run("--pot-update").assert_outcomes(passed=1)
    many.write(test_it=update.format("other"))
    many.run("--pot-update", f"--pot-reference={many.tiny.perturbed}").assert_outcomes(passed=1)
    content = bytearray((many.path / "ref.pot.safetensors").read_bytes())
    content[-1] ^= 1
    (many.path / "damaged").write_bytes(content)
    many.ini(pot_candidate=many.tiny.copy, pot_prompts="prompts.jsonl")
    many.write(test_it=REPLACED.replace("SOURCE", source))
    result = many.run("-v")
    result.assert_outcomes(passed=2, failed=1)
    result.stdout.fnmatch_lines(["*test_before PASSED*", "*test_after FAILED*"])


REWRITTEN = """
import os

import pytest

@pytest.mark.pot_identity
def test_before():
    pass

def test_rewrite():
    status = os.stat("model/model.safetensors")
    with open({perturbed} + "/model.safetensors", "rb") as file:
        content = file.read()
    assert len(content) == status.st_size
    with open("model/model.safetensors", "r+b") as file:
        file.write(content)
    os.utime("model/model.safetensors", ns=(status.st_atime_ns, status.st_mtime_ns))

@pytest.mark.pot_identity
def test_after():
    pass
"""


@pytest.mark.parametrize("cache", [False, True], ids=["no cache", "cache"])
def test_weights_that_are_written_in_place_with_their_old_time_are_seen(
    many: Project, monkeypatch: pytest.MonkeyPatch, cache: bool
) -> None:
    if cache:
        monkeypatch.setenv("PYTEST_ADDOPTS", WITH_CACHE)
    many.write(test_it=REWRITTEN)
    result = many.run("-v")
    result.assert_outcomes(passed=2, failed=1)
    result.stdout.fnmatch_lines(["*test_before PASSED*", "*test_after FAILED*"])


EDITED = """
import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

@pytest.fixture(scope="session")
def pot_reference():
    return AutoModelForCausalLM.from_pretrained({reference}), AutoTokenizer.from_pretrained({reference})
"""
EDITS = """
import pytest

@pytest.mark.pot_identity(max_score=0)
def test_before():
    pass

@pytest.mark.pot_identity(max_score=0)
def test_again():
    pass

def test_edit(pot_reference):
    model, _ = pot_reference
    EDIT

@pytest.mark.pot_identity(max_score=0)
def test_after():
    pass
"""


@pytest.mark.parametrize(
    "edit",
    ["model.transformer.wte.weight.data[3, 5] += 1", "model.transformer.h[1].mlp.c_fc.weight.detach().numpy()[0, 0] += 1"],
    ids=["data", "numpy"],
)
def test_a_model_that_is_edited_in_place_is_run_again(many: Project, monkeypatch: pytest.MonkeyPatch, edit: str) -> None:
    monkeypatch.setenv("PYTEST_ADDOPTS", WITH_CACHE)
    many.write(conftest=EDITED, test_it=EDITS.replace("EDIT", edit))
    for _ in range(2):
        result = many.run("-v")
        result.assert_outcomes(passed=3, failed=1)
        result.stdout.fnmatch_lines(["*test_again PASSED*", "*test_after FAILED*"])


REFERENCES = """
import gc
import weakref

results = []


def pytest_pot_gate(item, result):
    if result.report is not None:
        results.append(weakref.ref(result.report))


def pytest_runtest_logfinish():
    gc.collect()
    print("reports in memory:", sum(reference() is not None for reference in results), "of", len(results))
"""
KINDS_OF_TESTS = """
import unittest

import pytest

@pytest.mark.pot_identity(max_score=0)
def test_passes(pot_result):
    assert pot_result.report.mean == 0

@pytest.mark.pot_identity(max_score=0)
@pytest.mark.pot_distinct(candidate={perturbed}, min_score=0.01)
def test_two_gates():
    pass

@pytest.mark.pot_identity(candidate={perturbed}, max_score=0)
def test_fails():
    pass

class TestCase(unittest.TestCase):
    @pytest.mark.pot_identity(max_score=0)
    def test_case(self):
        pass

def test_last():
    pass
"""


def test_no_report_outlives_its_test(many: Project) -> None:
    many.write(conftest=REFERENCES, test_it=KINDS_OF_TESTS)
    result = many.run_subprocess("-s")  # pytester keeps what the hooks of a run in this process were called with
    result.assert_outcomes(passed=4, failed=1)
    lines = [line.split("reports in memory: ")[1] for line in result.outlines if "reports in memory: " in line]
    assert lines[-1] == "0 of 5"
    assert lines[:2] == ["0 of 1", "0 of 3"]
