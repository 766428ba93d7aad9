"""Recordings and prompts from strangers: forged provenance, texts that a terminal would obey, and names of what is no file."""

from __future__ import annotations

import json
import os
import shutil
import stat
import unicodedata
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pytest_pot import Baseline

from .conftest import Project
from .test_recorded import COMMAND, GATED, failure, recorded, stale_parts

__all__ = ["recorded"]  # a fixture

FILE = "ref.pot.safetensors"
EVIL = "\x1b]0;evil\x07\x9b2J\x7f\x85\u202e\u2066\u200b\u2028\r\0 <b>|"
"""Sets the title of a terminal, clears it, reverses lines, hides, breaks lines."""
ESCAPED = "\\x1b]0;evil\\x07\\x9b2J\\x7f\\x85\\u202e\\u2066\\u200b\\u2028\\r\\x00 <b>|"


def forge(path: Path, **fields: Any) -> None:
    """Write the recording ``path`` anew with other provenance."""
    baseline = Baseline.load(path)
    replace(baseline, provenance=replace(baseline.provenance, **fields)).save(path)


def harmful(text: str) -> set[str]:
    return {c for c in text if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp") and c != "\n"}


# -- the reference's files ---------------------------------------------------------------------------------------------


def test_a_recording_without_digests_of_the_named_folder_is_stale(recorded: Project) -> None:
    names = sorted(Baseline.load(recorded.path / FILE).provenance.files)
    forge(recorded.path / FILE, files={})
    lines = stale_parts(failure(recorded))
    assert [line.partition(": ")[0] for line in lines] == [f"reference file {name}" for name in names]
    assert all(": nothing recorded, sha256 " in line for line in lines)


def test_a_recording_with_digests_of_other_files_is_stale(recorded: Project) -> None:
    files = Baseline.load(recorded.path / FILE).provenance.files
    forge(recorded.path / FILE, files={f"other-{name}": sha256 for name, sha256 in files.items()})
    assert len(stale_parts(failure(recorded))) == len(files)


def test_weights_that_were_not_recorded_make_the_file_stale(recorded: Project) -> None:
    shutil.copy(recorded.path / "model" / "model.safetensors", recorded.path / "model" / "more.safetensors")
    [line] = stale_parts(failure(recorded))
    assert line.startswith("reference file more.safetensors: nothing recorded, sha256 ")


def test_a_recording_from_a_fixtures_model_needs_no_digests(recorded: Project) -> None:
    """Nothing on this machine can be compared with it."""
    recorded.ini(pot_reference="model", pot_baseline=FILE, pot_candidate=recorded.tiny.copy, pot_prompts="prompts.jsonl")
    forge(recorded.path / FILE, files={}, reference="GPT2LMHeadModel from the fixture pot_reference")
    recorded.run().assert_outcomes(passed=1)


def test_a_cut_prompt_that_is_not_marked_is_refused(recorded: Project) -> None:
    path = recorded.path / FILE
    baseline = Baseline.load(path)
    first = baseline.tokens[0]
    short = replace(first, ids=first.ids[2:], prompt_len=first.prompt_len - 2)
    replace(baseline, tokens=(short, *baseline.tokens[1:])).save(path)
    assert stale_parts(failure(recorded)) == [
        f"prompt 0: 'The old mill by the river' was recorded without the first 2 of its {first.prompt_len} tokens, and is not "
        "marked as cut"
    ]


def test_flags_that_turn_top1_flip_off_are_refused(recorded: Project) -> None:
    path = recorded.path / FILE
    baseline = Baseline.load(path)
    clear = baseline.recorded.clear & False
    path.write_bytes(replace(baseline, recorded=replace(baseline.recorded, clear=clear)).to_bytes())
    recorded.write(test_it=GATED.replace("max_score=0", 'max_score=0, metric="top1_flip"'))
    assert failure(recorded) == [
        f"pot_identity: the recording {path} is damaged, or not a recording of pytest-pot: prompt 0, position 1: the "
        "likeliest token leads the second by more than rounding error, but is marked as if it did not, so that top1_flip "
        "would not count it. Restore it from version control, or record it again with --pot-update"
    ]


# -- texts that a terminal would obey ------------------------------------------------------------------------------------


@pytest.fixture
def evil(project: Project) -> Project:
    """Every text in prompts and recordings, and the candidate's folder, has such characters."""
    shutil.copytree(project.tiny.reference, project.path / "model")
    shutil.copytree(project.tiny.perturbed, project.path / "candidate\x1b[31m\u202e")
    row = {"text": f"Text {EVIL}", "continuation": f" more {EVIL}", "kind": f"kind {EVIL}\nPASSED"}
    project.prompts("prompts.jsonl", row, {**row, "kind": f"{EVIL}"}, {"text": f"last {EVIL}", "continuation": EVIL})
    project.ini(pot_reference="model", pot_candidate=project.tiny.copy, pot_prompts="prompts.jsonl")
    project.run_tests(GATED, "--pot-update").assert_outcomes(passed=1)
    path = project.path / FILE
    pairs = {f"{EVIL} {n}": f"value {EVIL}" for n in range(3)}
    forge(path, label=f"label {EVIL}", machine=f"machine {EVIL}", libraries=pairs, weights=EVIL, prompts=EVIL, reference=EVIL)
    project.write(test_it=GATED.replace("max_score=0", 'candidate="candidate\\x1b[31m\\u202e"'))
    return project


def output(project: Project, *arguments: str, passes: bool = False) -> str:
    """The raw output of a run of pytest or of ``python -m pytest_pot``, in another process."""
    result = project.run_module(*arguments)
    assert result.ret == (0 if passes or arguments[0] == "pytest_pot" else 1)
    return "".join((project.path / name).read_bytes().decode("utf-8") for name in ("stdout", "stderr"))


def test_a_failure_escapes_what_a_terminal_would_obey(evil: Project) -> None:
    text = output(evil, "pytest", "-vv", "--color=no", "--pot-report=report.md")
    assert not harmful(text)
    for shown in (f"Text {ESCAPED[:20]}", f"label {ESCAPED}", f"({f'kind {ESCAPED}'[:39]}…)", "candidate\\x1b[31m\\u202e;"):
        assert shown in text, shown
    assert not harmful((evil.path / "report.md").read_text(encoding="utf-8"))


def test_a_pass_escapes_what_a_terminal_would_obey(evil: Project) -> None:
    evil.prompts("prompts.jsonl", {"text": f"{EVIL} long " * 40, "continuation": EVIL, "kind": EVIL})  # which is cut
    evil.write(test_it=GATED)
    evil.run("--pot-update").assert_outcomes(passed=1)
    forge(evil.path / FILE, label=f"label {EVIL}")
    text = output(evil, "pytest", "-vv", "--color=no", passes=True)
    assert not harmful(text)
    assert f"label {ESCAPED} (recorded) and float32 on cpu" in text


def test_a_stale_recording_and_the_json_report_escape_too(evil: Project) -> None:
    forge(evil.path / FILE, tokenizer={EVIL: EVIL})
    text = output(evil, "pytest", "-vv", "--color=no", "--pot-report=report.json")
    assert not harmful(text)
    assert f"  tokenizer.{ESCAPED}: sha256 \\x1b]0;evil\\… recorded, nothing now" in text
    report = (evil.path / "report.json").read_text(encoding="utf-8")
    assert not harmful(report)
    json.loads(report)


def test_the_commands_escape_too(evil: Project) -> None:
    for command in (["inspect", FILE], ["inspect", "--json", FILE], ["compare", FILE, FILE], ["compare", "--json", FILE, FILE]):
        assert not harmful(output(evil, "pytest_pot", *command)), command


def test_an_error_escapes_what_it_quotes(evil: Project) -> None:
    """The configuration of a model, which transformers quotes in its error."""
    path = evil.path / "candidate\x1b[31m\u202e" / "config.json"
    path.write_text(json.dumps({"model_type": f"new {EVIL}"}), encoding="utf-8")
    text = output(evil, "pytest", "-vv", "--color=no")
    assert not harmful(text)
    assert "cannot load the candidate " in text


# -- names of what is no file ----------------------------------------------------------------------------------------------


LONG = "x" * 300
IMPOSSIBLE = {"300 characters": LONG, "NUL": "a\0b"}


@pytest.mark.parametrize("name", IMPOSSIBLE.values(), ids=IMPOSSIBLE)
def test_impossible_names_of_models_are_errors(project: Project, name: str) -> None:
    for role in ("reference", "candidate"):
        result = project.run_tests(f"import pytest\n\n@pytest.mark.pot_identity({role}={name!r})\ndef test_it(): pass\n")
        result.assert_outcomes(errors=1)
        result.stdout.fnmatch_lines([f"cannot load the {role} *"])
        result.stdout.no_fnmatch_line("*Traceback*")
    project.write(conftest=f"import pytest\n\n@pytest.fixture\ndef pot_candidate():\n    return {name!r}\n")
    result = project.run_tests("import pytest\n\n@pytest.mark.pot_identity\ndef test_it(): pass\n")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["cannot load the candidate *"])


@pytest.mark.parametrize("name", IMPOSSIBLE.values(), ids=IMPOSSIBLE)
def test_impossible_names_of_recordings_are_errors(project: Project, name: str) -> None:
    project.write(test_it=GATED.replace("ref.pot", name.replace("\0", "\\0") + ".pot"))
    shown = name.replace("\0", "\\x00") + ".pot.safetensors"
    lines = failure(project)
    assert f"pot_identity: there is no recording {shown}: {project.path / shown} does not exist. This records it:" in (
        lines[0],
        " ".join(line.strip() for line in lines[:-1]),
    )
    assert failure(project, "--pot-update")[0].startswith("pot_identity: cannot write ")


@pytest.mark.parametrize("name", IMPOSSIBLE.values(), ids=IMPOSSIBLE)
def test_impossible_names_in_a_recording_are_names_of_another_model(recorded: Project, name: str) -> None:
    forge(recorded.path / FILE, reference=name)
    recorded.run().assert_outcomes(passed=1)
    forge(recorded.path / FILE, reference="model", files={name: "0"})
    assert len(stale_parts(failure(recorded))) >= 3


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs FIFOs")
def test_only_files_are_read_and_written(recorded: Project) -> None:
    path = recorded.path / FILE
    path.unlink()
    os.mkfifo(path)
    assert failure(recorded) == [f"pot_identity: the recording {FILE} is a FIFO, not a file"]
    for link in (False, True):
        if link:
            shutil.move(path, recorded.path / "pipe")
            path.symlink_to("pipe")
        what = f"a link to {recorded.path.resolve() / 'pipe'}, which is a FIFO" if link else "a FIFO"
        assert failure(recorded, "--pot-update") == [
            f"pot_identity: cannot write the recording {path}: it is {what}, and recordings are written to files only"
        ]
        assert stat.S_ISFIFO(path.stat().st_mode)


def test_a_folder_in_the_place_of_a_recording_is_an_error(recorded: Project) -> None:
    (recorded.path / FILE).unlink()
    (recorded.path / FILE).mkdir()
    assert failure(recorded) == [f"pot_identity: the recording {FILE} is a folder, not a file"]


def test_the_command_for_a_stale_file_still_follows(recorded: Project) -> None:
    forge(recorded.path / FILE, files={})
    assert failure(recorded)[-2:] == COMMAND
    recorded.run("--pot-update").assert_outcomes(passed=1)
    recorded.run().assert_outcomes(passed=1)
