"""``--pot-update``: what it writes and reports, and that it never leaves half a file."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from unittest import mock

import pytest

from pytest_pot import Baseline
from pytest_pot.scoring.run import ScoringRun

from .conftest import PROMPTS, Project

GATED = """
import pytest

@pytest.mark.pot_identity(reference="ref.pot.safetensors", max_score=0)
def test_it():
    pass
"""
FILE = "ref.pot.safetensors"


def file_lines(result: pytest.RunResult) -> list[str]:
    return [line for line in result.outlines if line.startswith((f"pot: wrote {FILE}", f"pot: {FILE} is "))]


def test_an_update_reports_recorded_unchanged_and_updated_files(project: Project) -> None:
    result = project.run_tests(GATED, "--pot-update")
    result.assert_outcomes(passed=1)
    path = project.path / FILE
    positions = Baseline.load(path).n_positions
    size = f"{path.stat().st_size / 1000:.0f} kB"
    assert file_lines(result) == [f"pot: wrote {FILE} (3 prompts, {size}; new)"]
    before = path.read_bytes(), path.stat().st_mtime_ns
    assert file_lines(project.run("--pot-update")) == [f"pot: {FILE} is unchanged (3 prompts, {size})"]
    assert (path.read_bytes(), path.stat().st_mtime_ns) == before

    project.ini(pot_candidate=project.tiny.perturbed, pot_prompts="prompts.jsonl")
    result = project.run("--pot-update", f"--pot-reference={project.tiny.perturbed}")
    result.assert_outcomes(passed=1)
    [line] = file_lines(result)
    assert line.startswith(f"pot: wrote {FILE} (3 prompts, {size}; updated: tv between the old and the new file 0.")
    assert line.endswith(f", {positions} positions; reference: reference recorded, perturbed now)")
    assert Baseline.load(path).provenance.reference == "perturbed"  # no path of this machine
    project.run().assert_outcomes(passed=1)


def test_an_update_reports_what_changed(project: Project) -> None:
    project.run_tests(GATED, "--pot-update")
    project.prompts("prompts.jsonl", PROMPTS[0], {**PROMPTS[1], "text": "x = 2"}, PROMPTS[2])
    project.write(test_it=GATED.replace("max_score=0", 'max_score=0, preset="single"'))
    [line] = file_lines(project.run("--pot-update"))
    assert line.endswith("positions; preset (top_k): 100 recorded, 50 now; prompt 1: 'x = 1' recorded, 'x = 2' now)")


def test_a_damaged_file_is_replaced(project: Project) -> None:
    (project.path / FILE).write_bytes(b"something else")
    [line] = file_lines(project.run_tests(GATED, "--pot-update"))
    assert line.startswith(f"pot: wrote {FILE} (3 prompts, ")
    assert line.endswith("; the old one was damaged)")
    project.run().assert_outcomes(passed=1)


def test_an_update_still_gates(project: Project) -> None:
    project.ini(pot_reference=project.tiny.reference, pot_candidate=project.tiny.perturbed, pot_prompts="prompts.jsonl")
    result = project.run_tests(GATED, "--pot-update")
    result.assert_outcomes(failed=1)
    assert len(file_lines(result)) >= 1
    assert (project.path / FILE).is_file()


def test_tests_that_share_a_file_record_it_once(project: Project) -> None:
    project.write(test_it=GATED + "\n\n" + GATED.replace("test_it", "test_too"))
    with mock.patch.object(ScoringRun, "record", autospec=True, side_effect=ScoringRun.record) as record:
        result = project.run("--pot-update")
    result.assert_outcomes(passed=2)
    assert record.call_count == 1
    assert len(file_lines(result)) == 1


def test_nothing_is_written_for_a_gate_whose_candidate_cannot_be_run(project: Project) -> None:
    project.run_tests(GATED, "--pot-update")
    before = (project.path / FILE).read_bytes()
    project.ini(pot_reference=project.tiny.perturbed, pot_candidate=project.tiny.copy, pot_prompts="prompts.jsonl")
    result = project.run_tests(GATED.replace("max_score=0", "max_score=1e-15"), "--pot-update")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*is below the noise floor*"])
    assert (project.path / FILE).read_bytes() == before


@pytest.mark.parametrize("folders", [["/proc"], []], ids=["not writable", "none"])
def test_where_nothing_can_be_locked_the_file_is_written_all_the_same(
    project: Project, monkeypatch: pytest.MonkeyPatch, folders: list[str]
) -> None:
    """The lock is a file in the folder for temporary files, which may not exist or be read-only, as in a container."""
    project.write(test_it=GATED)
    if folders:
        monkeypatch.setattr(tempfile, "tempdir", folders[0])
    else:  # what tempfile does where none of the usual places can be written
        monkeypatch.setattr(tempfile, "gettempdir", mock.Mock(side_effect=FileNotFoundError("No usable temporary directory")))
    project.run("--pot-update", "-p", "no:tmpdir", "-s").assert_outcomes(passed=1)
    assert (project.path / FILE).is_file()


def test_two_gates_cannot_record_different_things_into_one_file(project: Project) -> None:
    project.write(test_it=GATED + "\n\n" + GATED.replace("test_it", "test_too").replace("max_score=0", 'preset="single"'))
    result = project.run("--pot-update")
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(
        [
            "pot_identity: two gates of this run record different things; give each a file of its own: ref.pot.safetensors was "
            "recorded with something else:",
            "  preset (top_k): 100 recorded, 50 now",
        ]
    )


def test_an_update_without_a_model_to_record_is_an_error(project: Project) -> None:
    project.ini(pot_candidate=project.tiny.copy, pot_prompts="prompts.jsonl")
    result = project.run_tests(GATED, "--pot-update")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(
        [
            "--pot-update has no model to record ref.pot.safetensors from. Name the live reference with --pot-reference or the "
            "ini key pot_reference, or let the fixture pot_reference return it"
        ]
    )


def test_a_fixtures_model_can_be_recorded(project: Project) -> None:
    project.ini(pot_candidate=project.tiny.copy, pot_prompts="prompts.jsonl")
    project.write(
        conftest="""
        import pytest
        from transformers import AutoTokenizer, GPT2LMHeadModel

        @pytest.fixture(scope="session")
        def pot_reference():
            print("making the reference")
            return GPT2LMHeadModel.from_pretrained({reference}), AutoTokenizer.from_pretrained({reference})
        """
    )
    project.run_tests(GATED, "--pot-update").assert_outcomes(passed=1)
    assert Baseline.load(project.path / FILE).provenance.reference == "GPT2LMHeadModel from the fixture pot_reference"
    result = project.run("-s")
    result.assert_outcomes(passed=1)
    result.stdout.no_fnmatch_line("*making the reference*")


def test_a_live_reference_in_the_marker_is_not_recorded(project: Project) -> None:
    project.write(test_it=GATED.replace('"ref.pot.safetensors"', "{reference}"))
    result = project.run("--pot-update")
    result.assert_outcomes(passed=1)
    assert not list(project.path.rglob("*.pot.safetensors"))


def test_the_header_says_that_the_run_updates(project: Project) -> None:
    result = project.run_tests(GATED, "--pot-update", "--pot-baseline=x.pot.safetensors")
    line = next(line for line in result.outlines if line.startswith("pot: "))
    assert line.endswith(", baseline x.pot.safetensors, update")


@pytest.mark.slow
def test_many_workers_write_one_valid_file(project: Project) -> None:
    project.write(test_it=GATED + "".join("\n\n" + GATED.replace("test_it", f"test_{i}") for i in range(7)))
    result = project.run_workers(4, "--pot-update")
    result.assert_outcomes(passed=8)
    assert len(file_lines(result)) >= 1
    baseline = Baseline.load(project.path / FILE)
    assert baseline.n_prompts == 3
    assert sorted(path.name for path in project.path.iterdir() if "pot.safetensors" in path.name) == [FILE]
    project.run().assert_outcomes(passed=8)


def test_workers_cannot_record_different_things_into_one_file(project: Project) -> None:
    project.write(test_one=GATED, test_two=GATED.replace("max_score=0", 'preset="single"'))
    result = project.run_workers(2, "--dist=loadfile", "--pot-update")
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["*two gates of this run record different things*"])


@pytest.mark.skipif(os.name != "posix", reason="needs SIGKILL")
def test_a_killed_update_leaves_the_old_or_the_new_file(project: Project) -> None:
    """Kill a process that keeps replacing the file at least 50 times, until both contents have been seen."""
    writer = """
import os, sys
from pytest_pot import Baseline
old, new = (Baseline.load(path) for path in sys.argv[1:3])
for _ in sys.stdin:  # each line starts another child, which writes until it is killed
    child = os.fork()
    while not child:
        os.kill(int(sys.argv[4]), 0)  # an error where the test itself was killed
        for baseline in (new, old):
            baseline.save(sys.argv[3])
    print(child, flush=True)
    os.waitpid(child, 0)
    print("gone", flush=True)
"""
    contents = []
    for name, model in (("old", project.tiny.reference), ("new", project.tiny.perturbed)):
        project.ini(pot_reference=model, pot_candidate=project.tiny.copy, pot_prompts="prompts.jsonl")
        project.run_tests(GATED.replace("ref.pot", f"{name}.pot"), "--pot-update")
        contents.append((project.path / f"{name}.pot.safetensors").read_bytes())
    assert contents[0] != contents[1]
    target = project.path / "target" / FILE
    target.parent.mkdir()
    shutil.copy(project.path / "old.pot.safetensors", target)
    draw, seen = random.Random(0), set[int]()
    command = [sys.executable, "-c", writer, "old.pot.safetensors", "new.pot.safetensors", str(target), str(os.getpid())]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, bufsize=1, cwd=project.path) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for kills in range(1000):
            if kills >= 50 and seen == {0, 1}:
                break
            process.stdin.write("\n")
            child = int(process.stdout.readline())
            time.sleep(draw.uniform(0, 0.02 if kills < 50 else 1.0))  # a busy machine gives the child little of it
            os.kill(child, signal.SIGKILL)
            assert process.stdout.readline() == "gone\n"
            content = target.read_bytes()
            assert content in contents
            seen.add(contents.index(content))
    assert seen == {0, 1}
    Baseline.load(target)


def test_an_update_removes_old_temporary_files_of_killed_writers(project: Project) -> None:
    project.run_tests(GATED, "--pot-update")
    old_file, recent_file = (project.path / f".{FILE}.{pid}-abcd.tmp" for pid in (1, 2))
    for path in (old_file, recent_file):
        path.write_bytes(b"half a file")
    os.utime(old_file, (time.time() - 3600, time.time() - 3600))
    project.ini(pot_reference=project.tiny.perturbed, pot_candidate=project.tiny.copy, pot_prompts="prompts.jsonl")
    project.run("--pot-update")
    assert not old_file.exists()
    assert recent_file.exists()
