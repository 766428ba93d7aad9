"""Gates against recorded references: valid, missing, stale or damaged. Only --pot-update writes files."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from pytest_pot import Baseline
from pytest_pot.baseline.file_format import unpack

from .conftest import PROMPTS, VOCAB, Project, table_rows

GATED = """
import pytest

@pytest.mark.pot_identity(reference="ref.pot.safetensors", max_score=0)
def test_it():
    pass
"""


@pytest.fixture
def recorded(project: Project) -> Project:
    """A project with ``ref.pot.safetensors`` beside the test, and its own copy of the reference to change."""
    shutil.copytree(project.tiny.reference, project.path / "model")
    project.ini(pot_reference="model", pot_candidate=project.tiny.copy, pot_prompts="prompts.jsonl")
    result = project.run_tests(GATED, "--pot-update")
    result.assert_outcomes(passed=1)
    assert (project.path / "ref.pot.safetensors").is_file()
    return project


def failure(project: Project, *arguments: str) -> list[str]:
    """Run the only test, which must fail, and return its message."""
    result = project.run(*arguments)
    result.assert_outcomes(failed=1)
    start = next(i for i, line in enumerate(result.outlines) if line.startswith("pot_identity: "))
    stop = next(i for i, line in enumerate(result.outlines) if i > start and line.startswith("==="))
    return result.outlines[start:stop]


def test_a_recorded_reference_is_not_loaded(recorded: Project) -> None:
    shutil.rmtree(recorded.path / "model")
    recorded.write(
        conftest="""
        def pytest_pot_load_model(spec, role):
            print("loading the", role)
        """
    )
    result = recorded.run("-s")
    result.assert_outcomes(passed=1)
    assert [line for line in result.outlines if "loading" in line] == ["test_it.py loading the candidate"]
    assert table_rows(result) == [["test_it.py::test_it", "copy", "0 / 0", "SAME"]]


def test_a_file_keeps_what_tells_later_weights_from_these(recorded: Project) -> None:
    printed = Baseline.load(recorded.path / "ref.pot.safetensors").weights_print
    model = GPT2LMHeadModel.from_pretrained(recorded.path / "model")
    assert printed is not None
    assert printed.model_class == "GPT2LMHeadModel"
    assert printed.ties == {"lm_head.weight": "transformer.wte.weight"}
    saved = [name for name, tensor in printed.tensors.items() if tensor.info.saved]
    assert [*saved, "lm_head.weight"] == list(model.state_dict())
    assert all(printed.tensors[name].norm == pytest.approx(float(model.state_dict()[name].norm()), rel=1e-5) for name in saved)
    assert str(recorded.path) not in json.dumps(printed.config)


def test_scores_equal_those_of_the_live_reference(recorded: Project) -> None:
    recorded.ini(pot_reference="model", pot_candidate=recorded.tiny.perturbed, pot_prompts="prompts.jsonl")
    [from_file] = recorded.gates()
    recorded.write(test_it="import pytest\n\n@pytest.mark.pot_identity\ndef test_it(): pass\n")
    [live] = recorded.gates()
    assert from_file["score"] == live["score"] > 0.5
    assert {name: from_file[name] for name in ("kl", "jsd", "delta_ce", "top1_flip", "tail_mass")} == {
        name: live[name] for name in ("kl", "jsd", "delta_ce", "top1_flip", "tail_mass")
    }
    assert from_file["reference"] == "ref.pot.safetensors"


WIDE = """
import pytest
import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

def wide():
    torch.manual_seed(0)  # sums so long that their rounding depends on the batch shape
    sizes = dict(hidden_size=384, intermediate_size=768, num_attention_heads=4, num_hidden_layers=2)
    model = LlamaForCausalLM(LlamaConfig(vocab_size={VOCAB}, **sizes)).eval()
    model.lm_head.weight.data *= 10  # little probability is in the tail
    return model, AutoTokenizer.from_pretrained({{reference}})

@pytest.fixture(scope="session")
def pot_reference():
    return wide()

@pytest.fixture(scope="session")
def pot_candidate():
    return wide()
"""


@pytest.mark.parametrize(("recorded_with", "gated_with"), [("balanced", "auto"), ("auto", "balanced")])
@pytest.mark.parametrize("confidence", ["", ", confidence=0.95"])
def test_a_recording_made_with_balanced_serves_auto_and_the_other_way_round(
    project: Project, recorded_with: str, gated_with: str, confidence: str
) -> None:
    texts = [{"text": f"The old mill by the river, number {i}: " + i % 7 * "on ", "continuation": " stood."} for i in range(64)]
    project.prompts("prompts.jsonl", *texts)
    project.ini(pot_prompts="prompts.jsonl")
    project.write(
        conftest=WIDE.format(VOCAB=VOCAB),
        test_it=f"""
        import pytest

        @pytest.mark.pot_identity(reference="ref.pot.safetensors", tolerance="numeric"{confidence})
        def test_numeric():
            pass

        @pytest.mark.pot_identity(reference="ref.pot.safetensors", max_score=0{confidence})
        def test_exact():
            pass
        """,
    )
    project.run(f"--pot-preset={recorded_with}", "--pot-update").assert_outcomes(passed=2)
    numeric, exact = project.gates(f"--pot-preset={gated_with}")
    assert (numeric["preset"], exact["preset"]) == (gated_with, gated_with)
    assert (numeric["verdict"], exact["verdict"]) == ("SAME", "SAME")
    assert 0 < numeric["score"] < 5e-6  # the preset's own batches round otherwise
    assert exact["score"] == exact["kl"] == 0  # in the batches that were recorded
    largest = Baseline.load(project.path / "ref.pot.safetensors").batch_size
    assert largest == 4 if recorded_with == "balanced" else largest > 4


def test_a_failure_says_that_the_reference_was_recorded(recorded: Project) -> None:
    recorded.ini(pot_candidate=recorded.tiny.perturbed, pot_prompts="prompts.jsonl")
    lines = failure(recorded)
    candidate = recorded.tiny.perturbed
    assert lines[1].startswith(f"  reference ref.pot.safetensors, candidate {candidate}; preset auto, 3 prompts, ")
    assert ", float32 on cpu (reference recorded), noise floor " in lines[1]


def test_a_missing_file_fails_with_the_command_that_records_it(project: Project) -> None:
    project.write(test_it=GATED)
    assert failure(project) == [
        f"pot_identity: there is no recording ref.pot.safetensors: {project.path / 'ref.pot.safetensors'} does not exist. "
        "This records it:",
        "  pytest test_it.py::test_it --pot-update",
    ]
    assert not list(project.path.glob("**/*.pot.safetensors"))


def test_the_command_has_a_placeholder_if_no_model_is_configured(project: Project) -> None:
    project.ini(pot_candidate=project.tiny.copy, pot_prompts="prompts.jsonl")
    project.write(test_it=GATED.replace(", max_score=0", ""))
    assert failure(project)[1] == "  pytest test_it.py::test_it --pot-update --pot-reference=MODEL"


def test_the_command_repeats_the_options_and_works(project: Project) -> None:
    project.ini(pot_candidate=project.tiny.copy, pot_prompts="prompts.jsonl")
    project.write(test_it="import pytest\n\n@pytest.mark.pot_identity\ndef test_it(): pass\n")
    options = f"--pot-reference={project.tiny.reference}", "--pot-baseline=some/ref.pot.safetensors"
    lines = failure(project, *options)
    assert lines == [
        f"pot_identity: there is no recording some/ref.pot.safetensors: {project.path / 'some/ref.pot.safetensors'} does not "
        "exist. This records it:",
        f"  pytest test_it.py::test_it --pot-update {options[0]} {options[1]}",
    ]
    project.run(*lines[1].split()[1:]).assert_outcomes(passed=1)
    project.run(*options).assert_outcomes(passed=1)


def test_pot_baseline_and_pot_reference_may_name_the_file(recorded: Project) -> None:
    recorded.write(
        test_it="""
        import pytest

        @pytest.mark.pot_identity(max_score=0)
        def test_open(): pass

        @pytest.mark.pot_identity(reference={reference}, max_score=0)
        def test_own_reference(): pass
        """
    )
    for values in ({"pot_baseline": "ref.pot.safetensors"}, {"pot_reference": "ref.pot.safetensors"}):
        recorded.ini(**{"pot_candidate": recorded.tiny.copy, "pot_prompts": "prompts.jsonl", **values})
        assert [gate["reference"] for gate in recorded.gates()] == ["ref.pot.safetensors", str(recorded.tiny.reference)]


def test_a_markers_file_is_beside_the_test_or_in_the_root(recorded: Project) -> None:
    (recorded.path / "sub").mkdir()
    shutil.move(recorded.path / "test_it.py", recorded.path / "sub" / "test_it.py")
    recorded.run().assert_outcomes(passed=1)
    shutil.move(recorded.path / "ref.pot.safetensors", recorded.path / "sub" / "ref.pot.safetensors")
    recorded.run().assert_outcomes(passed=1)
    (recorded.path / "sub" / "ref.pot.safetensors").unlink()
    assert failure(recorded)[0] == (
        "pot_identity: there is no recording sub/ref.pot.safetensors: none of these exists: "
        f"{recorded.path / 'sub/ref.pot.safetensors'}, {recorded.path / 'ref.pot.safetensors'}. This records it:"
    )


def test_nothing_is_written_without_pot_update(recorded: Project) -> None:
    path = recorded.path / "ref.pot.safetensors"
    recorded.prompts("prompts.jsonl", *PROMPTS[:2])
    before = path.read_bytes(), path.stat().st_mtime_ns, sorted(recorded.path.rglob("*.pot.safetensors"))
    failure(recorded)
    assert (path.read_bytes(), path.stat().st_mtime_ns, sorted(recorded.path.rglob("*.pot.safetensors"))) == before


COMMAND = ["If that is meant, this records it anew:", "  pytest test_it.py::test_it --pot-update"]


def stale_parts(lines: list[str]) -> list[str]:
    """The differences that the message of a stale file lists."""
    assert lines[0] == "pot_identity: ref.pot.safetensors was recorded with something else:"
    assert lines[-2:] == COMMAND
    return [line.strip() for line in lines[1:-2]]


def test_a_changed_weight_makes_the_file_stale(recorded: Project) -> None:
    model: Any = GPT2LMHeadModel.from_pretrained(recorded.path / "model")
    with torch.no_grad():
        model.transformer.h[1].mlp.c_fc.weight[3, 5] += 1e-4
    model.save_pretrained(recorded.path / "model")
    [line] = stale_parts(failure(recorded))
    assert line.startswith("reference file model.safetensors: sha256 ")


def test_a_changed_model_configuration_makes_the_file_stale(recorded: Project) -> None:
    path = recorded.path / "model" / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**config, "layer_norm_epsilon": 1e-4}), encoding="utf-8")
    [line] = stale_parts(failure(recorded))
    assert line.startswith("reference file config.json: sha256 ")


def test_a_changed_prompt_makes_the_file_stale(recorded: Project) -> None:
    recorded.prompts("prompts.jsonl", PROMPTS[0], {**PROMPTS[1], "text": "x = 2"}, PROMPTS[2])
    assert stale_parts(failure(recorded)) == ["prompt 1: 'x = 1' recorded, 'x = 2' now"]


def test_a_changed_tokenizer_entry_makes_the_file_stale(recorded: Project) -> None:
    candidate = recorded.path / "candidate"
    shutil.copytree(recorded.tiny.copy, candidate)
    path = candidate / "tokenizer.json"
    parts = json.loads(path.read_text(encoding="utf-8"))
    vocab = parts["model"]["vocab"]
    vocab["!"], vocab["~"] = vocab["~"], vocab["!"]
    path.write_text(json.dumps(parts), encoding="utf-8")
    recorded.ini(pot_candidate="candidate", pot_prompts="prompts.jsonl")
    lines = failure(recorded)
    assert lines[0] == "pot_identity: ref.pot.safetensors was recorded with something else:"
    assert lines[1].startswith("  tokenizer.vocabulary: sha256 ")
    assert lines[2].startswith(
        "Give the candidate the reference's tokenizer; or, if its own is not meant to be used, name the one "
    )


def test_a_changed_scoring_setting_makes_the_file_stale(recorded: Project) -> None:
    recorded.write(test_it=GATED.replace("max_score=0", 'max_score=0, preset="single"'))
    assert stale_parts(failure(recorded)) == ["preset (top_k): 100 recorded, 50 now"]


def test_another_tokenizer_makes_the_file_stale(recorded: Project) -> None:
    recorded.ini(pot_candidate=recorded.tiny.copy, pot_prompts="prompts.jsonl", pot_tokenizer=recorded.tiny.other_tokenizer)
    lines = failure(recorded)
    assert [line.split(":")[0].strip() for line in lines[1:-2]] == ["tokenizer.merges", "tokenizer.vocabulary"]


def test_another_path_to_the_same_folder_is_the_same_reference(recorded: Project) -> None:
    recorded.ini(pot_reference="./sub/../model", pot_candidate=recorded.tiny.copy, pot_prompts="prompts.jsonl")
    (recorded.path / "sub").mkdir()
    recorded.run().assert_outcomes(passed=1)
    test_a_changed_weight_makes_the_file_stale(recorded)


def test_a_missing_weights_file_does_not_make_the_file_stale(recorded: Project) -> None:
    (recorded.path / "model" / "model.safetensors").unlink()
    recorded.run().assert_outcomes(passed=1)


def test_the_file_has_no_path_of_this_machine(recorded: Project) -> None:
    assert str(recorded.path).encode() not in (recorded.path / "ref.pot.safetensors").read_bytes()
    assert Baseline.load(recorded.path / "ref.pot.safetensors").provenance.reference == "model"


def test_a_candidate_with_fewer_positions_can_be_scored(recorded: Project) -> None:
    config = json.loads((recorded.path / "model" / "config.json").read_text(encoding="utf-8"))
    short = GPT2LMHeadModel(GPT2Config(**{**config, "n_positions": 20}))
    short.save_pretrained(recorded.path / "short")
    recorded.tiny.tokenizer.save_pretrained(recorded.path / "short")
    recorded.prompts("prompts.jsonl", {"text": "The old mill by the river " * 4, "continuation": " stood empty."})
    recorded.ini(pot_reference="model", pot_candidate="short", pot_prompts="prompts.jsonl")
    recorded.write(test_it=GATED.replace("max_score=0", "max_score=1"))
    recorded.run("--pot-update").assert_outcomes(passed=1)
    recorded.run().assert_outcomes(passed=1)


def test_the_command_works_from_the_working_folder_and_repeats_the_settings(
    recorded: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    (recorded.path / "tests").mkdir()
    shutil.move(recorded.path / "test_it.py", recorded.path / "tests" / "test_it.py")
    (recorded.path / "ref.pot.safetensors").unlink()
    monkeypatch.chdir(recorded.path / "tests")
    options = "--pot-preset=fastest", "--pot-dtype=float64"
    lines = failure(recorded, *options)
    assert lines[1] == "  pytest test_it.py::test_it --pot-update --pot-preset=fastest --pot-dtype=float64"
    recorded.run(*lines[1].split()[1:]).assert_outcomes(passed=1)
    recorded.run(*options).assert_outcomes(passed=1)


def test_the_command_does_not_reveal_the_key(recorded: Project) -> None:
    (recorded.path / "ref.pot.safetensors").unlink()
    lines = failure(recorded, "--pot-key=sesame")
    assert lines[1] == "  POT_KEY=KEY pytest test_it.py::test_it --pot-update"


def test_a_recording_is_not_checked_against_another_model_in_the_ini_file(recorded: Project) -> None:
    recorded.ini(pot_reference=recorded.tiny.perturbed, pot_candidate=recorded.tiny.copy, pot_prompts="prompts.jsonl")
    recorded.run().assert_outcomes(passed=1)


def test_a_damaged_file_fails(recorded: Project) -> None:
    path = recorded.path / "ref.pot.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    [line] = failure(recorded)
    assert line.startswith(f"pot_identity: the recording {path} is damaged, or not a recording of pytest-pot: ")


@pytest.mark.parametrize("value", ["'ref.pot.safetensors'", "pytest_pot.Baseline.load('ref.pot.safetensors')"])
def test_a_fixture_may_return_a_recording(recorded: Project, value: str) -> None:
    recorded.ini(pot_candidate=recorded.tiny.copy, pot_prompts="prompts.jsonl")
    recorded.write(
        conftest=f"""
        import pytest, pytest_pot

        @pytest.fixture
        def pot_reference():
            return {value}
        """,
        test_it="import pytest\n\n@pytest.mark.pot_identity(max_score=0)\ndef test_it(): pass\n",
    )
    recorded.run().assert_outcomes(passed=1)
    recorded.prompts("prompts.jsonl", *PROMPTS[:2])
    assert any("prompts: 3 recorded, 2 now" in line for line in failure(recorded))


def test_the_fixtures_work_with_a_recording(recorded: Project) -> None:
    recorded.ini(pot_reference="ref.pot.safetensors", pot_candidate=recorded.tiny.copy, pot_prompts="prompts.jsonl")
    result = recorded.run_tests(
        """
        def test_it(pot_scorer, pot_reference, pot_candidate, pot_tokenizer, pot_prompts):
            assert pot_scorer.score_baseline(pot_reference, pot_candidate, pot_tokenizer, prompts=pot_prompts).max == 0
        """
    )
    result.assert_outcomes(passed=1)


def test_a_recorded_candidate_is_a_usage_error(project: Project) -> None:
    project.write(test_it=GATED.replace("reference=", "candidate="))
    result = project.run()
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(
        [
            "ERROR: test_it.py::test_it: pot_identity: candidate='ref.pot.safetensors' is a recording, and a gate runs its "
            "candidate; python -m pytest_pot compare scores two recordings against each other"
        ]
    )


def test_a_baseline_without_the_file_extension_is_a_usage_error(project: Project) -> None:
    result = project.run("--pot-baseline=x.safetensors")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: --pot-baseline='x.safetensors' must end in .pot.safetensors"])


def test_the_file_is_read_once_for_many_tests(recorded: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pytest_pot.core.files._SETTLED_S", 0.0)  # a file that was written just now is not kept
    recorded.write(test_it=GATED + "\n\n" + GATED.replace("test_it", "test_too"))
    with mock.patch("pytest_pot.baseline.baseline.unpack", side_effect=unpack) as read:
        recorded.run().assert_outcomes(passed=2)
    assert read.call_count == 1


def test_junit_names_the_recorded_file(recorded: Project) -> None:
    recorded.run("--junitxml=out.xml")
    assert '<property name="pot_reference" value="ref.pot.safetensors"' in Path("out.xml").read_text(encoding="utf-8")
