"""Whole gates on models that a server of vLLM's, SGLang's or OpenAI's shape serves: live and recorded, as either role."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM

from ..unit.engines.server.playing_sglang import PlayingSglang
from ..unit.engines.server.playing_vllm import PlayingVllm
from ..unit.engines.server.serving import App, serving
from .conftest import VOCAB, Models, Project

IDENTITY = """
import pytest
@pytest.mark.pot_identity(preset="balanced", max_score=1e-4)
def test_it():
    pass
"""
DISTINCT = """
import pytest
@pytest.mark.pot_distinct(preset="balanced", min_score=0.01)
def test_it():
    pass
"""


def app(kind: str, folder: Path, most: int) -> App:
    model = AutoModelForCausalLM.from_pretrained(folder)
    if kind == "sglang":
        return PlayingSglang(model)
    return PlayingVllm(model, max_logprobs=most, scale_out=kind == "given ids")


class Servers:
    """Starts servers, and ends them all."""

    def __init__(self, tiny: Models, stack: ExitStack) -> None:
        self._tiny, self._stack = tiny, stack

    def __call__(self, kind: str, name: str, most: int = 200) -> str:
        """The spec of a server of the model ``name``."""
        url = self._stack.enter_context(serving(app(kind, getattr(self._tiny, name), most)))
        return f"openai+{url}" if kind == "openai" else url


@pytest.fixture
def served(tiny: Models) -> Iterator[Servers]:
    with ExitStack() as stack:
        yield Servers(tiny, stack)


@pytest.mark.parametrize("kind", ["vllm", "given ids", "sglang", "openai"])
def test_the_same_weights_pass_and_others_fail(project: Project, served: Servers, kind: str) -> None:
    tokenizer = f"--pot-tokenizer={project.tiny.reference}"
    same, other = served(kind, "copy"), served(kind, "perturbed")
    project.run_tests(IDENTITY, f"--pot-candidate={same}", tokenizer).assert_outcomes(passed=1)
    project.run(f"--pot-candidate={other}", tokenizer).assert_outcomes(failed=1)
    project.run(f"--pot-reference={same}", f"--pot-candidate={project.tiny.copy}", tokenizer).assert_outcomes(passed=1)
    project.run_tests(DISTINCT, f"--pot-candidate={other}", tokenizer).assert_outcomes(passed=1)
    project.run(f"--pot-reference={other}", tokenizer).assert_outcomes(passed=1)


@pytest.mark.parametrize("kind", ["vllm", "given ids", "sglang", "openai"])
def test_a_served_reference_is_recorded_and_gates_either_kind_of_candidate(
    project: Project, served: Servers, kind: str
) -> None:
    tokenizer = f"--pot-tokenizer={project.tiny.reference}"
    baseline = "--pot-baseline=served.pot.safetensors"
    same, other = served(kind, "reference"), served(kind, "perturbed")
    project.write(test_it=IDENTITY)
    project.run(f"--pot-reference={same}", f"--pot-candidate={same}", tokenizer, baseline, "--pot-update")
    assert (project.path / "served.pot.safetensors").is_file()
    project.run(f"--pot-candidate={same}", tokenizer, baseline).assert_outcomes(passed=1)
    project.run(f"--pot-candidate={project.tiny.copy}", tokenizer, baseline).assert_outcomes(passed=1)
    project.run(f"--pot-candidate={other}", tokenizer, baseline).assert_outcomes(failed=1)


def test_a_server_that_tells_too_few_ids_is_refused_with_the_flag_that_helps(project: Project, served: Servers) -> None:
    result = project.run_tests(
        IDENTITY, f"--pot-candidate={served('vllm', 'copy', most=3)}", f"--pot-tokenizer={project.tiny.reference}"
    )
    result.assert_outcomes(failed=1)
    text = re.sub(r"\s+", " ", result.stdout.str())
    assert "restart it with --max-logprobs N" in text
    assert "Traceback" not in text


@pytest.mark.parametrize("kind", ["vllm", "given ids", "sglang"])
def test_the_whole_vocabulary_is_compared_exactly(project: Project, served: Servers, kind: str) -> None:
    gates = project.run_gates(
        IDENTITY.replace("balanced", "original").replace("1e-4", "1e-5"),
        f"--pot-candidate={served(kind, 'copy', most=-1)}",
        f"--pot-tokenizer={project.tiny.reference}",
    )
    assert [gate["passed"] for gate in gates] == [True]
    project.run(
        f"--pot-candidate={served(kind, 'copy', most=-1 if kind == 'sglang' else VOCAB - 1)}",
        f"--pot-tokenizer={project.tiny.reference}",
    ).assert_outcomes(passed=1 if kind == "sglang" else 0, failed=0 if kind == "sglang" else 1)
