"""ONNX graphs gated through the markers: live and recorded, as candidate and as reference."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from pathlib import Path

import onnxruntime  # noqa: F401 - in-process runs forget what they import, and this cannot be imported twice
import pytest
from transformers import AutoModelForCausalLM

from ..unit.onnx_export import Export, dynamic_int8, export, with_external_data
from .conftest import WITH_CACHE, Models, Project, table_rows

IDENTITY = "import pytest\n\n@pytest.mark.pot_identity({})\ndef test_it():\n    pass\n"
DISTINCT = IDENTITY.replace("identity", "distinct")


@pytest.fixture(scope="module")
def folders(tiny: Models, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    """Folders as optimum makes them, each with the tokenizer and the config of its source."""
    home = tmp_path_factory.mktemp("onnx")

    def folder(name: str, source: Path) -> Path:
        target = home / name
        target.mkdir()
        for file in source.iterdir():
            if file.suffix != ".safetensors":
                shutil.copy(file, target)
        return target

    found = {}
    for name in ("reference", "perturbed", "nan", "small"):
        source: Path = getattr(tiny, name)
        found[name] = folder(name, source)
        export(AutoModelForCausalLM.from_pretrained(source), found[name] / "model.onnx", Export(positions=True))
    found["int8"] = folder("int8", tiny.reference)
    dynamic_int8(found["reference"] / "model.onnx", found["int8"] / "model_quantized.onnx")
    found["data"] = folder("data", tiny.reference)
    (found["data"] / "onnx").mkdir()
    with_external_data(found["reference"] / "model.onnx", found["data"] / "onnx" / "model.onnx", files="model.onnx_data")
    return found


@pytest.mark.parametrize("name", ["reference", "data"])
def test_a_graph_is_the_model_that_it_was_made_of(project: Project, folders: Mapping[str, Path], name: str) -> None:
    [gate] = project.run_gates(IDENTITY.format(f"candidate={str(folders[name])!r}, tolerance='numeric'"))
    assert gate["passed"]
    assert 0 < gate["score"] < 1e-6
    assert gate["candidate_ran"]["format"] == "ONNX"
    assert "the candidate is ONNX, scored in float32" in gate["notes"]


def test_two_gates_of_one_graph_are_exactly_alike(project: Project, folders: Mapping[str, Path]) -> None:
    spec = str(folders["reference"] / "model.onnx")
    [gate] = project.run_gates(IDENTITY.format(f"candidate={spec!r}, reference={spec!r}, tolerance='identical'"))
    assert gate["passed"]
    assert gate["score"] == 0.0


def test_another_model_and_a_quantised_one_are_told_apart(project: Project, folders: Mapping[str, Path]) -> None:
    for name in ("perturbed", "int8"):
        [gate] = project.run_gates(DISTINCT.format(f"candidate={str(folders[name])!r}, tolerance='numeric'"))
        assert gate["passed"]
    assert gate["candidate_ran"]["format"] == "ONNX int8 (dynamic)"
    assert any("each prompt is read alone" in note for note in gate["notes"])
    result = project.run_tests(IDENTITY.format(f"candidate={str(folders['perturbed'])!r}"))
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*pot_identity: DIFFERENT: tv *", "  the candidate is ONNX, scored in float32"])
    assert table_rows(result) == [["test_it.py::test_it", "perturbed", "0.649 / 0.01", "DIFFERENT, failed"]]


@pytest.mark.parametrize("role", ["candidate", "reference"])
def test_recorded(project: Project, folders: Mapping[str, Path], role: str) -> None:
    """A graph against a recorded model, and a model against a recorded graph."""
    graph, source = str(folders["reference"]), str(project.tiny.reference)
    reference, candidate = (graph, source) if role == "reference" else (source, graph)
    project.ini(pot_reference=reference, pot_candidate=candidate, pot_prompts="prompts.jsonl")
    project.write(test_it=IDENTITY.format("tolerance='numeric'"))
    options = ["--pot-baseline=x.pot.safetensors"]
    assert project.run(*options, "--pot-update").ret == 0
    [gate] = project.gates(*options)
    assert gate["passed"]
    assert 0 < gate["score"] < 1e-6
    project.run(*options, f"--pot-candidate={folders['perturbed']}").assert_outcomes(failed=1)


def test_a_recorded_graph_that_was_written_again_is_stale(project: Project, folders: Mapping[str, Path]) -> None:
    build = shutil.copytree(folders["data"], project.path / "build")
    project.ini(pot_reference="build", pot_candidate=project.tiny.copy, pot_prompts="prompts.jsonl")
    project.write(test_it=IDENTITY.format("tolerance='numeric'"))
    options = ["--pot-baseline=x.pot.safetensors"]
    assert project.run(*options, "--pot-update").ret == 0
    weights = bytearray((build / "onnx" / "model.onnx_data").read_bytes())
    weights[5] ^= 1
    (build / "onnx" / "model.onnx_data").write_bytes(weights)
    result = project.run(*options)
    assert result.ret != 0
    result.stdout.fnmatch_lines(["*reference file onnx/model.onnx_data: sha256 *recorded, sha256 *now*"])


def test_a_reference_graph_is_kept_in_the_cache_until_it_is_written_again(
    project: Project, folders: Mapping[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTEST_ADDOPTS", WITH_CACHE)
    build = shutil.copytree(folders["data"], project.path / "build")
    project.ini(pot_reference="build", pot_candidate=project.tiny.copy, pot_prompts="prompts.jsonl")
    project.write(test_it=IDENTITY.format("tolerance='numeric'"))
    first, second = (project.run("-v", "-rA") for _ in range(2))
    for result in (first, second):
        result.assert_outcomes(passed=1)
    records = list((project.path / ".pytest_cache" / "d" / "pot").glob("*.pot.safetensors"))
    assert len(records) == 1
    shutil.copy(folders["perturbed"] / "model.onnx", build / "onnx" / "model.onnx")
    project.run().assert_outcomes(failed=1)


WRITTEN_AGAIN = """
import os
import numpy as np
import pytest

@pytest.mark.pot_identity(candidate={spec!r})
def test_before():
    pass

def test_export():
    weights = np.fromfile({file!r}, dtype="float32")
    weights[:1000] *= 1.5
    os.remove({file!r})  # a graph that is loaded goes on with the old file
    weights.tofile({file!r})

@pytest.mark.pot_identity(candidate={spec!r})
def test_after():
    pass
"""


@pytest.mark.parametrize("spec", ["build", "build/onnx/model.onnx"])
def test_weights_beside_a_graph_that_were_written_again_are_read_again(
    project: Project, folders: Mapping[str, Path], spec: str
) -> None:
    build = shutil.copytree(folders["data"], project.path / "build")
    text = WRITTEN_AGAIN.format(spec=spec, file=str(build / "onnx" / "model.onnx_data"))
    project.run_tests(text).assert_outcomes(passed=2, failed=1)


def test_what_is_wrong_with_a_graph_is_said_without_a_traceback(project: Project, folders: Mapping[str, Path]) -> None:
    cut = project.path / "cut.onnx"
    cut.write_bytes((folders["reference"] / "model.onnx").read_bytes()[:9999])
    for spec, message in (
        (cut, "is no ONNX file, or was cut off when it was written or copied (it has 9,999 bytes)"),
        (project.path / "missing.onnx", "missing.onnx does not exist"),
        (folders["nan"], "the candidate's log-probabilities are NaN at prompt 0"),
        (folders["small"], "the tokenizer gives id"),
    ):
        result = project.run_tests(IDENTITY.format(f"candidate={str(spec)!r}"))
        assert result.ret != 0
        text = " ".join(result.outlines)
        assert message in re.sub(r"\s+", " ", text), text
        assert "Traceback" not in text
    result = project.run_tests(IDENTITY.format(f"candidate={str(folders['reference'])!r}, path='decode'"))
    assert result.ret != 0
    assert "path='decode'" in " ".join(result.outlines)


def test_a_precision_that_a_graph_does_not_have(project: Project, folders: Mapping[str, Path]) -> None:
    project.write(test_it=IDENTITY.format(f"candidate={str(folders['reference'])!r}"))
    result = project.run("--pot-dtype=bfloat16")
    assert result.ret != 0
    assert "with dtype='bfloat16': it is an ONNX graph in float32" in " ".join(result.outlines)
    [gate] = project.gates("--pot-dtype=bfloat16", "--pot-candidate-dtype=auto")
    assert gate["candidate_ran"]["dtype"] == "float32"
    assert gate["reference_ran"]["dtype"] == "bfloat16"


def test_without_onnx_runtime_one_line_says_what_to_install(project: Project, folders: Mapping[str, Path]) -> None:
    project.write(
        conftest="import sys\nsys.modules['onnxruntime'] = None\n",
        test_it=IDENTITY.format(f"candidate={str(folders['reference'])!r}"),
    )
    result = project.run_subprocess()
    assert result.ret != 0
    assert "running ONNX graphs needs the package onnxruntime: pip install 'pytest-pot[onnx]'" in " ".join(result.outlines)


def test_texts_that_a_graph_continues_itself(project: Project, folders: Mapping[str, Path]) -> None:
    """The reference samples where a prompt has no continuation."""
    spec = str(folders["reference"])
    project.prompts("prompts.jsonl", {"text": "The old mill"}, {"text": "Who is there"})
    [gate] = project.run_gates(IDENTITY.format(f"reference={spec!r}, tolerance='numeric', positions=4"))
    assert gate["passed"]
    assert gate["positions"] == 8


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (
            "what='decode', budget_ms=1000",
            "pot_latency: what='decode' times generation token by token, which is not possible with what runs the candidate "
            "(float32 on cpu by ONNX Runtime): it can be timed with what='score' only.*",
        ),
        (
            "max_memory_mb=1000",
            "pot_latency: max_memory_mb limits peak memory, which cannot be measured with what runs the candidate (float32 on "
            "cpu by ONNX Runtime). Leave max_memory_mb out.*",
        ),
    ],
)
def test_what_cannot_be_timed_is_said_of_the_graph(
    project: Project, folders: Mapping[str, Path], arguments: str, line: str
) -> None:
    candidate = str(folders["reference"])
    result = project.run_tests(IDENTITY.replace("identity", "latency").format(f"candidate={candidate!r}, {arguments}"))
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines([line])
