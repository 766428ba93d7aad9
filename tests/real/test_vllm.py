"""SmolLM2 served by a real vLLM on the CPU, against the same weights in this process.

They run where ``POT_VLLM_PYTHON`` names the Python of an environment with vLLM, as ``tox -e vllm`` does.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pytest_pot import Baseline, PotError, Prompt, ScoringConfig, TeacherForcedScorer
from pytest_pot.engines.base import Level, level_of
from pytest_pot.engines.registry import load_model, opened
from pytest_pot.engines.server.vllm import VllmEngine
from pytest_pot.engines.tokens import Tokens
from pytest_pot.prompts.builtin import builtin_prompts
from pytest_pot.testing import check_engine

from .conftest import ModelAndTokenizer
from .vllm_server import PYTHON, vllm_server

pytestmark = [
    pytest.mark.real,
    pytest.mark.vllm,
    pytest.mark.skipif(PYTHON is None, reason="POT_VLLM_PYTHON names no Python with vLLM; tox -e vllm makes one"),
]

CONFIG = ScoringConfig.preset("balanced", positions_per_prompt=16, server_timeout=300.0)
OTHERS = [
    Prompt("日本の首都は", "東京です。人口は約1400万人です。"),
    Prompt("Reactions: 👍🏽 🎉", " 🚀👩‍🚀 and 🏳️‍🌈, they said."),
]


@pytest.fixture(scope="module")
def folder(reference: ModelAndTokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("smollm2")
    for part in reference:
        part.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def prompts() -> list[Prompt]:
    return [*builtin_prompts(None)[::16], *OTHERS]


@pytest.fixture(scope="module")
def float32(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a server that may tell the whole vocabulary."""
    log = tmp_path_factory.mktemp("vllm") / "float32.log"
    with vllm_server(folder, log, "--dtype", "float32", "--max-logprobs", "-1", "--enable-scale-out") as url:
        yield url


@pytest.fixture(scope="module")
def bfloat16(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    log = tmp_path_factory.mktemp("vllm") / "bfloat16.log"
    with vllm_server(folder, log, "--dtype", "bfloat16", "--max-logprobs", "200") as url:
        yield url


@pytest.fixture(scope="module")
def recorded(reference: ModelAndTokenizer, prompts: list[Prompt], tmp_path_factory: pytest.TempPathFactory) -> Baseline:
    path = tmp_path_factory.mktemp("recorded") / "smollm2.pot.safetensors"
    return Baseline.load(TeacherForcedScorer(CONFIG).record(*_with(prompts, reference)).save(path))


def _with(prompts: list[Prompt], pair: ModelAndTokenizer) -> tuple[Any, list[Prompt], Any]:
    return pair[0], prompts, pair[1]


def test_the_same_weights_score_the_same(float32: str, reference: ModelAndTokenizer, recorded: Baseline) -> None:
    """Measured: 9e-6."""
    served = load_model(float32, "candidate", CONFIG).model
    report = TeacherForcedScorer(CONFIG).score_baseline(recorded, served, reference[1])
    assert 0 < report.mean < 1e-4
    assert report.max < 1e-3
    assert report.unseen is not None
    assert report.unseen[1] < 2 * report.tail_mass


def test_a_server_can_be_the_reference(
    float32: str, reference: ModelAndTokenizer, prompts: list[Prompt], tmp_path: Path
) -> None:
    served = load_model(float32, "reference", CONFIG).model
    scorer = TeacherForcedScorer(CONFIG)
    path = scorer.record(served, prompts[:4], reference[1]).save(tmp_path / "served.pot.safetensors")
    assert scorer.score_baseline(Baseline.load(path), reference[0], reference[1]).mean < 1e-4


def test_bfloat16_is_told_from_float32(bfloat16: str, reference: ModelAndTokenizer, recorded: Baseline) -> None:
    """Measured: 0.019 over other prompts."""
    served = load_model(bfloat16, "candidate", CONFIG).model
    report = TeacherForcedScorer(CONFIG).score_baseline(recorded, served, reference[1])
    assert 0.005 < report.mean < 0.04


@pytest.fixture
def engine(float32: str) -> Iterator[VllmEngine]:
    loaded = load_model(float32, "candidate", CONFIG)
    assert loaded.model.kind == "vllm"
    with opened(loaded.model, "candidate", CONFIG) as engine:
        assert isinstance(engine, VllmEngine)
        yield engine


def test_the_engine_conforms(bfloat16: str, reference: ModelAndTokenizer) -> None:
    """Where the whole vocabulary is told, the same takes two minutes."""
    with opened(load_model(bfloat16, "candidate", CONFIG).model, "candidate", CONFIG) as engine:
        check_engine(engine, *reference)


def test_the_server_tells_what_it_is(engine: VllmEngine, folder: Path, bfloat16: str) -> None:
    assert engine.version is not None
    assert engine.identity() == {
        "id": "smollm2",
        "root": str(folder),
        "parent": None,
        "max_model_len": 1024,
        "version": engine.version,
    }
    assert (engine.vocab_size, engine.most_ids, engine.to_tell_more) == (49152, 49152, None)
    assert level_of(engine) is Level.OWN_TOP_K, "on a CPU vLLM tells no ids of our choice"
    with opened(load_model(bfloat16, "candidate", CONFIG).model, "candidate", CONFIG) as other:
        assert isinstance(other, VllmEngine)
        assert (other.vocab_size, other.most_ids) == (49152, 200)


def test_the_whole_vocabulary_is_that_of_the_model(engine: VllmEngine, reference: ModelAndTokenizer) -> None:
    ids = tuple(reference[1].encode("The capital of France is Paris."))
    tokens = Tokens(ids, len(ids) - 3)
    told = engine.top_k([tokens], None)
    with opened(reference[0], "reference", ScoringConfig(top_k=None)) as plain:
        expected = plain.top_k([tokens], None)
    assert told.ids is None
    assert told.log_probs.shape == (3, 49152)
    assert np.abs(np.exp(told.log_probs) - np.exp(expected.log_probs)).sum(axis=1).max() / 2 < 1e-4


def test_the_longest_prompt_is_the_longest_that_it_takes(engine: VllmEngine) -> None:
    assert engine.max_positions == 1023
    assert len(engine.top_k([Tokens(tuple(range(100, 1123)), 1021)], 3)) == 2
    with pytest.raises(PotError, match=r"answered 400: .*max_tokens must be at least 1"):
        engine.top_k([Tokens(tuple(range(100, 1124)), 1021)], 3)


def test_sampling_is_repeatable_and_goes_on_after_an_end_of_text(engine: VllmEngine, reference: ModelAndTokenizer) -> None:
    end = reference[1].eos_token_id
    contexts = [reference[1].encode("Once upon a time"), [*reference[1].encode("Done."), end]]
    drawn = engine.sample(contexts, 24, seed=0)
    assert [len(each) for each in drawn] == [24, 24]
    assert engine.sample(contexts[::-1], 24, seed=0) == drawn[::-1]
    assert engine.sample(contexts, 24, seed=1) != drawn


def test_a_stream_brings_as_many_tokens_as_were_asked_for(engine: VllmEngine, reference: ModelAndTokenizer) -> None:
    ids = reference[1].encode("Reactions: 👍🏽 🎉")
    path, body = engine.generation(ids, 20)
    assert sum(engine.tokens_in(event) for event in engine.client.stream(path, body)) == 20
    with torch.inference_mode():
        expected = int(reference[0](torch.tensor([ids])).logits[0, -1].argmax())
    streamed = next(event["choices"][0]["token_ids"] for event in engine.client.stream(path, body))
    assert streamed[0] == expected


GATES = """
import pytest

@pytest.mark.pot_identity(tolerance="numeric")
def test_same():
    pass

@pytest.mark.pot_identity(tolerance="numeric", candidate={other!r})
def test_other():
    pass

@pytest.mark.pot_distinct(min_score=0.005, candidate={other!r})
def test_distinct():
    pass

@pytest.mark.pot_latency(what="decode", budget_ms=60000)
def test_latency():
    pass
"""


def test_whole_gates(
    float32: str, bfloat16: str, folder: Path, prompts: list[Prompt], pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    lines = [json.dumps({"text": each.text, "continuation": each.continuation}) for each in [*prompts[:6], *OTHERS]]
    (pytester.path / "prompts.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    pytester.makepyfile(test_it=GATES.format(other=bfloat16))
    result = pytester.runpytest_subprocess(
        f"--pot-reference={folder}",
        f"--pot-candidate={float32}",
        f"--pot-tokenizer={folder}",
        "--pot-prompts=prompts.jsonl",
        "--pot-device=cpu",
        "--pot-report=gates.json",
        "-p",
        "no:cacheprovider",
    )
    result.assert_outcomes(passed=3, failed=1)
    same, other, distinct, latency = json.loads((pytester.path / "gates.json").read_text(encoding="utf-8"))["gates"]
    assert [gate["passed"] for gate in (same, other, distinct, latency)] == [True, False, True, True]
    result.stdout.fnmatch_lines(["*candidate*vLLM*"])
