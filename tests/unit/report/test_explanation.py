"""``python -m pytest_pot explain``, on tiny models on disk."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from pytest_pot import Baseline, Prompt, ScoringConfig, TeacherForcedScorer
from pytest_pot.__main__ import main

from ..models import tiny

UNREAD = "model.embed_tokens.weight"
Q_PROJ = "model.layers.1.self_attn.q_proj.weight"
ROW = 5
"""A row of the embeddings that no prompt here reads."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tokenizer: PreTrainedTokenizerFast, prompts: list[Prompt]) -> Path:
    home = tmp_path_factory.mktemp("models")

    def save(name: str, model: PreTrainedModel) -> None:
        model.save_pretrained(home / name)
        tokenizer.save_pretrained(home / name)

    reference = tiny("llama")
    save("reference", reference)
    for name in ("a", "b"):
        recorded = TeacherForcedScorer(ScoringConfig()).record(reference, prompts, tokenizer)
        recorded.save(home / f"{name}.pot.safetensors")
    with torch.no_grad():
        reference.get_parameter("model.embed_tokens.weight")[ROW] *= 1.1
        reference.get_parameter("model.layers.1.self_attn.q_proj.weight").mul_(1.5)
    save("candidate", reference)
    reference.config.rms_norm_eps = 1e-3
    save("config", reference)
    return home


def explained(folder: Path, capsys: pytest.CaptureFixture[str], *arguments: str) -> list[str]:
    names = [str(folder / name) if (folder / name).exists() else name for name in arguments]
    code = main(["explain", *names, "--device=cpu"])
    captured = capsys.readouterr()
    assert (code, captured.err) == (0, "")
    return captured.out.splitlines()


def refused(folder: Path, capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    names = [str(folder / name) if (folder / name).exists() else name for name in arguments]
    assert main(["explain", *names]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    return captured.err


def test_all_that_changed_is_listed_by_name(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = explained(folder, capsys, "reference", "config")
    assert lines[:3] == [f"reference  {folder / 'reference'}", f"candidate  {folder / 'config'}", "what changed:"]
    starts = lines.index("where it starts:")
    assert lines[starts + 1].startswith("  model.layers.0.input_layernorm (LlamaRMSNorm): its output differs by 0.07")
    assert lines[3] == "  rms_norm_eps 1e-06 -> 0.001"
    assert lines[starts - 1] == "  19 of 21 tensors are equal"
    assert any("embeddings" in line for line in lines[4 : starts - 1])
    assert any(Q_PROJ in line for line in lines[4 : starts - 1])
    assert lines[lines.index("configuration, reference -> candidate:") :] == [
        "configuration, reference -> candidate:",
        "  rms_norm_eps: 1e-06 -> 0.001",
        "tensors, 19 of 21 equal:",
        f"  {UNREAD}               changed 1 of 97 rows  relative change 0.00884",
        f"  {Q_PROJ}  scaled by 1.5         relative change 0.5",
    ]


def test_nothing_changed(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = explained(folder, capsys, "reference", "reference")[2:]
    assert lines[:3] == ["what changed:", "  all 21 tensors are equal, and so is the configuration", "where it starts:"]
    assert lines[3].startswith("  in no module")
    assert len(lines) == 4


def test_a_recorded_reference(folder: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    lines = explained(folder, capsys, "a.pot.safetensors", "candidate")
    assert lines[lines.index("tensors, 19 of 21 equal; sizes are estimated from the recording:") + 1].startswith(
        f"  {UNREAD}  "
    )
    assert "where it starts:" not in lines
    assert lines[lines.index("not told:") + 1].startswith("  the numbers that modules keep beside their tensors")
    old = replace(Baseline.load(folder / "a.pot.safetensors"), weights_print=None).save(tmp_path / "old.pot.safetensors")
    title, reason = explained(folder, capsys, str(old), "candidate")[2:]
    assert title == "not told:"
    assert reason.startswith("  the recording holds nothing of the reference's weights")


def test_json_has_the_whole_diagnosis(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    document = json.loads("\n".join(explained(folder, capsys, "reference", "config", "--json")))
    assert document["candidate"] == str(folder / "config")
    [change] = document["config"]
    assert (change["field"], change["reference"], change["candidate"]) == ("rms_norm_eps", 1e-6, 1e-3)
    changes = {change["name"]: change["kind"] for change in document["weights"]["changes"]}
    assert changes.keys() == {UNREAD, Q_PROJ}


def test_prompts_of_ones_own(folder: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "prompts.jsonl").write_text('"The old mill"\n', encoding="utf-8")
    prompts = f"--prompts={tmp_path / 'prompts.jsonl'}"
    assert "where it starts:" in explained(folder, capsys, "reference", "candidate", prompts)
    assert "--prompts is for two live models: " in refused(folder, capsys, "a.pot.safetensors", "candidate", prompts)
    missing = refused(folder, capsys, "reference", "candidate", f"--prompts={tmp_path / 'none.jsonl'}")
    assert "none.jsonl" in missing


def test_models_without_a_tokenizer(folder: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    bare = shutil.copytree(folder / "reference", tmp_path / "bare", ignore=shutil.ignore_patterns("tokenizer*", "special*"))
    lines = explained(folder, capsys, str(bare), str(bare))[2:]
    assert lines[:2] == ["what changed:", "  all 21 tensors are equal, and so is the configuration"]
    assert lines[2] == "where it starts:"
    assert lines[3].startswith("  not known: neither model comes with a tokenizer, ")


def test_usage_errors_are_one_line(folder: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    message = refused(folder, capsys, "a.pot.safetensors", "b.pot.safetensors")
    assert message == (
        "pytest-pot: both are recordings, and explain needs the candidate's weights; their weights are equal. What both "
        "recorded is compared by python -m pytest_pot compare\n"
    )
    message = refused(folder, capsys, "reference", "b.pot.safetensors")
    assert message == (
        f"pytest-pot: the candidate {folder / 'b.pot.safetensors'} is a recording, and explain needs the candidate's weights: "
        "name a model. Only the reference may be a recording\n"
    )
    message = refused(folder, capsys, "reference", str(tmp_path / "nowhere"))
    assert message.startswith(f"pytest-pot: cannot load the candidate '{tmp_path}/nowhere': {tmp_path}/nowhere does not exist")
    assert message.count("\n") == 1
    message = refused(folder, capsys, str(tmp_path / "x.pot.safetensors"), "candidate")
    assert message == f"pytest-pot: there is no recording {tmp_path / 'x.pot.safetensors'}\n"
    assert refused(folder, capsys, "reference", "candidate", "--dtype=int3").count("\n") == 1
    assert refused(folder, capsys, "reference", "candidate", "--device=gpu").count("\n") == 1


@pytest.mark.parametrize("made", ["None", "5"])
@pytest.mark.parametrize("role", ["reference", "candidate"])
def test_what_is_no_model_is_refused(
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    made: str,
    role: str,
) -> None:
    (tmp_path / f"made_{role}_{made}.py").write_text(f"def model():\n    return {made}\n", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    spec = f"made_{role}_{made}:model"
    message = refused(folder, capsys, *((spec, "candidate") if role == "reference" else ("reference", spec)))
    kind = "NoneType" if made == "None" else "int"
    assert message.startswith(f"pytest-pot: the {role} '{spec}' is {kind}, not a model: ")


def test_an_engine_without_weights_is_told_and_is_no_error(
    folder: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "made_oracle.py").write_text(
        "class Oracle:\n"
        "    max_positions, label = None, 'an oracle'\n"
        "    def top_k(self, batch, k): ...\n"
        "    def sample(self, contexts, n_tokens, seed): ...\n",
        encoding="utf-8",
    )
    monkeypatch.syspath_prepend(tmp_path)
    lines = explained(folder, capsys, "reference", "made_oracle:Oracle")
    assert lines[2:4] == ["not told:", "  the candidate (an oracle) shows no weights; a gate compares its answers"]


def test_a_corrupt_file_is_no_traceback(folder: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    broken = Path(shutil.copytree(folder / "candidate", tmp_path / "broken"))
    (broken / "model.safetensors").write_bytes(b"no weights")
    message = refused(folder, capsys, "reference", str(broken))
    assert message.startswith(f"pytest-pot: cannot load the candidate '{broken}'")
    (tmp_path / "x.pot.safetensors").write_bytes(b"no recording")
    message = refused(folder, capsys, str(tmp_path / "x.pot.safetensors"), "candidate")
    assert "is damaged, or not a recording of pytest-pot" in message
