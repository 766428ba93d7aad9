"""``python -m pytest_pot``: what it prints about recordings, and its errors."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerFast

from pytest_pot import Baseline, Prompt, ScoringConfig, TeacherForcedScorer
from pytest_pot.__main__ import main
from pytest_pot.engines.distributions import UNKNOWN_VOCAB
from pytest_pot.report import inspection

from .models import changed, tiny


@pytest.fixture(scope="module")
def files(prompts: list[Prompt], tokenizer: PreTrainedTokenizerFast, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recorded")
    models = {"a": (tiny(), 10), "b": (changed(tiny()), 20), "other": (tiny(), 10)}
    for name, (model, top_k) in models.items():
        some = prompts if name != "other" else [prompts[3]]
        scorer = TeacherForcedScorer(ScoringConfig(top_k=top_k))
        scorer.record(model, some, tokenizer, name=f"model {name}").save(folder / f"{name}.pot.safetensors")
    return folder


def test_inspect_prints_what_a_recording_holds(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = files / "a.pot.safetensors"
    assert main(["inspect", str(path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    lines_by_name = {line[2:].split("  ")[0].strip(): line[2:].split("  ", 1)[1].strip() for line in lines[1:]}
    assert lines[0] == str(path)
    assert lines_by_name["reference"] == "model a, float32 on cpu"
    assert lines_by_name["holds"] == "8 prompts (0 cut on the left), 100 positions, 10 ids and the tail at each, of 97"
    size = path.stat().st_size
    assert lines_by_name["size"] == f"{size:,} bytes, {size / 100:.1f} per position"
    assert lines_by_name["weights print"].startswith("weights of 28 tensors (")
    assert lines_by_name["entropy"].startswith("at least ")
    assert len(lines_by_name["weights"]) == len(lines_by_name["tokenizer vocabulary"]) == 64


def test_a_vocabulary_that_a_server_did_not_tell(files: Path) -> None:
    baseline = replace(Baseline.load(files / "a.pot.safetensors"), vocab_size=UNKNOWN_VOCAB)
    text = "\n".join(inspection.lines(inspection.facts(baseline, 1)))
    assert "weights of 28 tensors (" in text
    assert "10 ids and the tail at each, of a vocabulary whose size the server did not tell" in text


def test_inspect_can_print_json(files: Path, capsys: pytest.CaptureFixture[str], tokenizer: PreTrainedTokenizerFast) -> None:
    assert main(["inspect", "--json", str(files / "a.pot.safetensors")]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["n_positions"] == 100
    assert facts["types"] == {"ids": "uint16", "values": "float32"}
    assert 0 < facts["entropy"] < 4.6  # ln 97
    assert 0 < facts["tail_mass"] < 1
    assert facts["libraries"]["torch"]
    assert facts["weights_print"]["n_tensors"] == 28
    assert 28 * 52 < facts["weights_print"]["n_bytes"] < facts["n_bytes"]


def test_inspect_says_where_nothing_is_kept_of_the_weights(files: Path) -> None:
    facts = inspection.facts(replace(Baseline.load(files / "a.pot.safetensors"), weights_print=None), 1)
    assert facts["weights_print"] == {"n_tensors": 0, "n_bytes": 0}
    [line] = [line for line in inspection.lines(facts) if line.startswith("  weights print")]
    assert line.split() == ["weights", "print", "none"]


def test_compare_prints_the_metrics_of_two_recordings(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", str(files / "a.pot.safetensors"), str(files / "b.pot.safetensors")]) == 0
    out = capsys.readouterr().out
    assert f"reference  {files}/a.pot.safetensors: model a, float32 on cpu, top_k=10\n" in out
    assert "8 of 8 prompts and 100 of 100 positions have the same tokens in both\n" in out
    assert "of the candidate's is outside the ids that both hold\n" in out
    assert "recorded with different settings (A | B):\n  preset (top_k): 10 | 20\n" in out
    assert main(["compare", "--json", str(files / "a.pot.safetensors"), str(files / "b.pot.safetensors")]) == 0
    comparison = json.loads(capsys.readouterr().out)
    assert comparison["n_prompts"] == 8
    assert 0 < comparison["metrics"]["tv"] < 0.5
    assert f"tv          {comparison['metrics']['tv']:.6g}\n" in out


def test_missing_and_damaged_files_are_errors(
    files: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # a relative name is shown with the folder in which it was looked for
    assert main(["inspect", "./y.pot.safetensors"]) == 1
    assert capsys.readouterr().err == f"pytest-pot: there is no recording {tmp_path / 'y.pot.safetensors'}\n"
    assert main(["compare", str(files / "a.pot.safetensors"), "y.pot.safetensors"]) == 1
    assert capsys.readouterr().err == f"pytest-pot: there is no recording {tmp_path / 'y.pot.safetensors'}\n"
    assert main(["inspect", str(tmp_path / "x.pot.safetensors")]) == 1
    assert capsys.readouterr().err == f"pytest-pot: there is no recording {tmp_path / 'x.pot.safetensors'}\n"
    (tmp_path / "x.pot.safetensors").write_bytes(b"no recording")
    assert main(["compare", str(files / "a.pot.safetensors"), str(tmp_path / "x.pot.safetensors")]) == 1
    assert "is damaged, or not a recording of pytest-pot" in capsys.readouterr().err


def test_terminal_control_characters_are_escaped(
    files: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path, tokenizer: PreTrainedTokenizerFast, prompts: list[Prompt]
) -> None:
    scorer = TeacherForcedScorer(ScoringConfig(top_k=5))
    path = scorer.record(tiny(), prompts[:1], tokenizer, name="evil\x1b[2J").save(tmp_path / "x.pot.safetensors")
    assert main(["inspect", str(path)]) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "evil\\x1b[2J, float32 on cpu" in out


@pytest.mark.parametrize(("command", "imported"), [("inspect", []), ("compare", ["torch"])])
def test_the_module_runs_without_pytest_and_inspects_without_torch(command: str, imported: list[str], files: Path) -> None:
    script = (
        "import runpy, sys; sys.argv = ['pytest_pot', *sys.argv[1:]]\n"
        "try: runpy.run_module('pytest_pot', run_name='__main__')\n"
        "except SystemExit as end:\n"
        "    print('exit', end.code, [m for m in ('torch', 'pytest', 'transformers') if m in sys.modules])"
    )
    names = [str(files / "a.pot.safetensors")] * (2 if command == "compare" else 1)
    process = subprocess.run([sys.executable, "-c", script, command, *names], capture_output=True, text=True, check=True)
    assert process.stdout.splitlines()[-1] == f"exit 0 {imported}"
    process = subprocess.run([sys.executable, "-m", "pytest_pot"], capture_output=True, text=True, check=False)
    assert process.returncode == 2
    assert "COMMAND" in process.stderr


def test_help_is_plain_text(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    shown = capsys.readouterr().out
    assert "inspect a recording" in shown
    assert "`" not in shown
