"""Models in quantised formats and in half precision, gated through the markers: what ran is said on a pass, too."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch

from pytest_pot import ScoringConfig, TeacherForcedScorer
from pytest_pot.engines.registry import load_model

from ..unit.published_formats import make, save, unquantised, write_adapter, write_config, write_gguf
from .conftest import Models, Project

pytestmark = pytest.mark.filterwarnings("default")  # the libraries of the formats warn while they are imported

GATE = "import pytest\n\n@pytest.mark.pot_identity({arguments}, preset='accurate')\ndef test_it():\n    pass\n"
OBJECT = """
import pytest
from transformers import AutoModelForCausalLM

@pytest.fixture
def pot_candidate():
    return AutoModelForCausalLM.from_pretrained({folder!r}, dtype="auto")
"""


ELSEWHERE = "other kernels run where it is served"
CT = "the candidate is compressed-tensors"
RUN = {
    "bitsandbytes int8": "the candidate is bitsandbytes int8, scored in bfloat16",
    "bitsandbytes nf4": "the candidate is bitsandbytes nf4, scored in bfloat16",
    "torchao int8": "the candidate is torchao Int8WeightOnly, scored in bfloat16",
    "torchao int4": "the candidate is torchao IntxWeightOnly int4, scored in bfloat16",
    "compressed-tensors w8a8": f"{CT} w8a8 int-quantized, dequantised to bfloat16: {ELSEWHERE}",
    "compressed-tensors w4a16": f"{CT} w4a16 pack-quantized, dequantised to bfloat16: {ELSEWHERE}",
    "fp8": f"the candidate is fp8 e4m3, dequantised to float32: {ELSEWHERE}",
}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("formats")


@pytest.fixture(scope="module", autouse=True)
def folders(home: Path, tiny: Models) -> Mapping[str, Path]:
    """A folder for each format that this environment can make.

    Each is loaded and run once, because in-process runs forget what they import, and these libraries, like torch, cannot be
    imported twice.
    """
    config = ScoringConfig(device="cpu")
    found = {}
    for name in RUN:
        with suppress(pytest.skip.Exception):
            found[name] = make(name, home, tiny.tokenizer, torch.bfloat16)
            model = load_model(str(found[name]), "candidate", config).model
            TeacherForcedScorer(config).score_batch(model, model, ["The river ran"], tiny.tokenizer)
    if importlib.util.find_spec("peft") is not None:
        base = save(unquantised(vocab_size=len(tiny.tokenizer)), home / "base", tiny.tokenizer)
        load_model(str(write_adapter(home / "adapter", base)), "candidate", config)
    return found


@pytest.fixture(params=list(RUN))
def name(request: pytest.FixtureRequest, folders: Mapping[str, Path]) -> str:
    """The name of a format."""
    if request.param not in folders:
        pytest.skip(f"this environment cannot make {request.param}")
    return str(request.param)


def what_ran(gate: Mapping[str, Any]) -> list[str]:
    """The notes of a gate on its models; others are on its prompts."""
    return [note for note in gate["notes"] if note.startswith("the ")]


def reference(project: Project, dtype: torch.dtype = torch.float32) -> Path:
    tokenizer = project.tiny.tokenizer
    folder = save(unquantised(dtype, vocab_size=len(tokenizer)), project.path / "reference", tokenizer)
    project.ini(pot_reference=folder, pot_prompts="prompts.jsonl", filterwarnings="default")
    return folder


@pytest.mark.parametrize("what", ["folder", "object"])
def test_a_pass_says_that_half_precision_was_not_run(project: Project, what: str) -> None:
    folder = reference(project, torch.float16)
    if what == "object":
        project.write(conftest=OBJECT.format(folder=str(folder)))
    arguments = f"candidate={str(folder)!r}, tolerance='identical'" if what == "folder" else "tolerance='identical'"
    result = project.run_tests(GATE.format(arguments=arguments), "-v", "--pot-report=gates.json")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(
        ["*the reference is float16, scored in float32", "*the candidate is float16, scored in float32"]
    )
    (gate,) = project.gates()
    kind = "safetensors" if what == "folder" else "in memory"
    assert gate["candidate_ran"] == {
        "format": kind,
        "stored_dtype": "float16",
        "dtype": "float32",
        "device": "cpu",
        "dequantised": False,
        "notes": [],
    }


def test_a_quantised_candidate_is_gated_live_and_against_a_recording(
    project: Project, folders: Mapping[str, Path], name: str
) -> None:
    """Live and against a recording; made from bfloat16 weights, as most are."""
    reference(project)
    folder = folders[name]
    arguments = f"candidate={str(folder)!r}, tolerance='int4'"
    project.write(test_it=GATE.format(arguments=arguments))
    (live,) = project.gates()
    assert live["passed"]
    assert what_ran(live) == [RUN[name]]
    assert live["score"] > 0.001
    project.write(test_it=GATE.format(arguments=f"{arguments}, reference='base.pot.safetensors'"))
    project.run("--pot-update", f"--pot-reference={project.path / 'reference'}").assert_outcomes(passed=1)
    (recorded,) = project.gates()
    assert what_ran(recorded) == [RUN[name]]
    assert recorded["score"] == pytest.approx(live["score"], abs=1e-6)


def test_a_quantised_candidate_from_a_fixture_is_gated(project: Project, folders: Mapping[str, Path], name: str) -> None:
    reference(project)
    folder = folders[name]
    project.write(conftest=OBJECT.format(folder=str(folder)), test_it=GATE.format(arguments="tolerance='int4'"))
    (gate,) = project.gates()
    assert gate["passed"]
    assert what_ran(gate) == [RUN[name]]


def test_a_quantised_model_is_identical_to_itself(project: Project, folders: Mapping[str, Path], name: str) -> None:
    reference(project)
    folder = str(folders[name])
    project.write(test_it=GATE.format(arguments=f"candidate={folder!r}, reference={folder!r}, tolerance='identical'"))
    (gate,) = project.gates()
    assert (gate["verdict"], gate["score"]) == ("SAME", 0)


def test_a_dtype_that_a_quantised_model_cannot_have_fails_the_gate(project: Project, folders: Mapping[str, Path]) -> None:
    reference(project)
    if "bitsandbytes nf4" not in folders:
        pytest.skip("this environment cannot make it")
    folder = str(folders["bitsandbytes nf4"])
    result = project.run_tests(GATE.format(arguments=f"candidate={folder!r}, tolerance='int4'"), "--pot-dtype=float32")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(
        [
            f"*cannot score the candidate {folder!r} with dtype='float32': it is quantised and runs in bfloat16, and "
            "converting a quantised model breaks it. Quantise it again from weights in float32, or set dtype='auto'"
        ]
    )


@pytest.mark.parametrize("kind", ["Q4_1", "Q8_0"])
def test_a_gguf_file_is_said_to_be_dequantised(project: Project, kind: str) -> None:
    pytest.importorskip("accelerate")
    file = str(write_gguf(project.path / "model.gguf", project.tiny.tokenizer, kind))
    project.write(test_it=GATE.format(arguments=f"candidate={file!r}, reference={file!r}, tolerance='identical'"))
    (gate,) = project.gates()
    assert gate["passed"]
    told = f"is GGUF {kind}, dequantised to float32: other kernels run where it is served"
    assert what_ran(gate) == [f"the reference {told}", f"the candidate {told}"]


def test_a_quantised_candidate_whose_package_is_missing_fails_with_one_line(project: Project) -> None:
    if importlib.util.find_spec("aqlm") is not None:
        pytest.skip("aqlm is installed")
    folder = reference(project)
    candidate = project.path / "candidate"
    candidate.mkdir()
    for file in folder.iterdir():
        (candidate / file.name).write_bytes(file.read_bytes())
    write_config(candidate, candidate, quantization_config={"quant_method": "aqlm"})
    result = project.run_tests(GATE.format(arguments=f"candidate={str(candidate)!r}, tolerance='int4'"))
    result.assert_outcomes(errors=1)
    told = "is quantised by aqlm, and that needs *: pip install 'aqlm[[]gpu,cpu]'*"
    result.stdout.fnmatch_lines([f"the candidate {str(candidate)!r} {told}"])


# -- adapters ----------------------------------------------------------------------------------------------------------


def test_an_adapter_needs_peft(project: Project) -> None:
    folder = write_adapter(project.path / "adapter", reference(project))
    result = project.run_tests(GATE.format(arguments=f"candidate={str(folder)!r}, tolerance='int4'"))
    if importlib.util.find_spec("peft") is not None:
        result.assert_outcomes(passed=1)
        (gate,) = project.gates()
        assert what_ran(gate) == ["the candidate is safetensors with a LoRA adapter, scored in float32"]
        assert gate["score"] > 0.05
        return
    result.assert_outcomes(errors=1)
    told = "is an adapter, and that needs a package that is not installed: pip install 'pytest-pot[peft]'"
    assert any(line.endswith(f"the candidate {str(folder)!r} {told}") for line in result.outlines)


def test_an_adapter_whose_base_model_is_missing_fails_with_one_line(project: Project) -> None:
    pytest.importorskip("peft")
    folder = write_adapter(project.path / "adapter", reference(project))
    config = folder / "adapter_config.json"
    config.write_text(config.read_text().replace(str(project.path / "reference"), "/nowhere/base"))
    result = project.run_tests(GATE.format(arguments=f"candidate={str(folder)!r}, tolerance='int4'"))
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(
        [
            f"the candidate {str(folder)!r} is an adapter of '/nowhere/base', which does not exist. That is the "
            f"base_model_name_or_path in its adapter_config.json, as seen from {project.path}: correct it, or put the base "
            "model there"
        ]
    )


def test_an_adapter_left_in_a_merged_folder_is_told_and_changes_nothing(project: Project) -> None:
    """With and without peft, live and against a recording."""
    folder = reference(project)
    left = project.path / "left"
    shutil.copytree(folder, left)
    for file in write_adapter(project.path / "adapter", folder).iterdir():
        shutil.copy(file, left)
    note = (
        "the candidate: adapter_config.json beside full weights: the adapter is not applied; transformers applies it on top "
        "where peft is installed, so remove it if it is merged already"
    )
    arguments = f"candidate={str(left)!r}, tolerance='identical'"
    result = project.run_tests(GATE.format(arguments=arguments), "-v")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines([f"*{note}"])
    project.write(test_it=GATE.format(arguments=f"{arguments}, reference='base.pot.safetensors'"))
    project.run("--pot-update", f"--pot-reference={folder}").assert_outcomes(passed=1)
    (recorded,) = project.gates()
    assert (recorded["verdict"], recorded["score"], what_ran(recorded)) == ("SAME", 0, [note])
