"""The likely cause, for artificial divergences; tests/real checks it on a real model with known damage."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, Literal, cast

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from pytest_pot import Prompt, ScoreReport, ScoringConfig, TeacherForcedScorer, builtin_prompts
from pytest_pot.engines.distributions import Floats, Ints, TopK
from pytest_pot.engines.module_differences import ModuleDifference
from pytest_pot.engines.tokens import Tokens
from pytest_pot.scoring.diagnosis.likely_cause import likely_cause

from ...conftest import make_tokenizer
from ...models import tiny


class FakeReport:
    """The parts of a report that the diagnosis reads."""

    labels = ("float32 on cpu", "float32 on cpu")
    config = ScoringConfig()

    def __init__(
        self, divergence: list[Floats], reference_ids: list[Ints] | None = None, candidate_ids: list[Ints] | None = None
    ) -> None:
        self.divergences = {"tv": divergence}
        self.tokens = [Tokens(tuple(range(4 + len(values))), 4) for values in divergence]
        self.n_positions = sum(len(values) for values in divergence)
        self.indices = range(len(divergence))
        zeros = [np.zeros(len(values), dtype=np.int64) for values in divergence]
        self.distributions = [[top(ids) for ids in choices or zeros] for choices in (reference_ids, candidate_ids)]


def cause_of(report: FakeReport, changed: bool | None = None) -> str | None:
    return likely_cause(cast(ScoreReport, report), changed)


def top(ids: Ints) -> TopK:
    n = len(ids)
    floats = np.zeros(n)
    return TopK(None, np.zeros((n, 0)), None, floats, ids, floats, floats > 0, floats, 10)


def noisy(level: Floats, generator: np.random.Generator) -> Floats:
    noisy: Floats = np.clip(level * generator.lognormal(0, 0.5, np.shape(level)), 0, 1)
    return noisy


@pytest.fixture
def generator() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        (lambda j: 0.03 + 0 * j, "all prompts and positions alike"),
        (lambda j: 0.02 + 0.01 * j, "grows with the position: look at the position encoding"),
        (lambda j: 0.2 + 0.01 * j, "grows along the text, but is there from the first tokens on: the weights changed"),
        (lambda j: 0.3 * np.exp(-j / 8) + 0.02, "from the first position on"),
        (lambda j: 0.85 + 0 * j, "little in common"),
    ],
)
def test_the_trend_over_positions_names_the_cause(
    generator: np.random.Generator, shape: Callable[[Floats], Floats], words: str
) -> None:
    divergence = [noisy(shape(np.arange(32.0)), generator) for _ in range(12)]
    if words == "little in common":
        divergence = [np.clip(0.85 + 0.02 * generator.normal(size=32), 0, 1) for _ in range(12)]
    report = FakeReport(divergence)
    assert words in (cause_of(report) or "")
    assert cause_of(report, changed=True) is None
    blames_weights = words not in ("grows with the position: look at the position encoding", "from the first position on")
    assert (cause_of(report, changed=False) is None) == blames_weights


@pytest.mark.parametrize(
    ("first", "positions"),
    [
        (("model.layers.7.mlp", "LlamaMLP", None), False),
        (("model.layers.7.self_attn.q_proj", "Linear", None), False),
        (("model.layers.7.self_attn", "LlamaAttention", None), True),
        (("model.rotary_emb", "LlamaRotaryEmbedding", None), True),
        (("model", "MistralModel", "attention_mask"), True),
        (("model", "LlamaModel", "position_ids"), True),
    ],
)
@pytest.mark.parametrize("changed", [False, None])
def test_no_guess_contradicts_a_known_start(
    generator: np.random.Generator, first: tuple[str, str, str | None], positions: bool, changed: bool | None
) -> None:
    name, kind, argument = first
    known = ModuleDifference(name, kind, before=0.0, after=0.1, noise=0.0, argument=argument)

    def cause(shape: Callable[[Floats], Floats]) -> str:
        report = FakeReport([noisy(shape(np.arange(32.0)), generator) for _ in range(12)])
        return likely_cause(cast(ScoreReport, report), changed, known) or ""

    assert ("look at the position encoding" in cause(lambda j: 0.02 + 0.01 * j)) == positions
    assert "BOS" not in cause(lambda j: 0.3 * np.exp(-j / 8) + 0.02)
    assert ("position encoding" in cause(lambda j: 0.03 + 0 * j)) == (positions and changed is None)


def test_a_few_prompts_are_named(generator: np.random.Generator) -> None:
    levels = np.full(24, 1e-3)
    levels[[3, 17]] = 0.4
    divergence = [noisy(np.full(32, level), generator) for level in levels]
    cause = cause_of(FakeReport(divergence))
    assert cause is not None
    assert cause.startswith("prompts 3, 17 alone have 9")
    assert "% of the divergence: look at what they have in common" in cause
    assert (cause_of(FakeReport(divergence[:10])) or "").startswith("prompt 3 alone has 9")
    assert cause_of(FakeReport(divergence), changed=False) == cause
    assert cause_of(FakeReport(divergence), changed=True) is None


@pytest.mark.parametrize(("shift", "words"), [(1, "one position late"), (-1, "one position early")])
def test_choices_shifted_by_one_position_are_named(generator: np.random.Generator, shift: int, words: str) -> None:
    reference = [generator.integers(0, 1000, 32) for _ in range(8)]
    candidate = [np.roll(ids, shift) for ids in reference]
    divergence = [np.full(32, 0.8) for _ in range(8)]
    for changed in (None, False, True):  # no change of weights shifts tokens
        assert words in (cause_of(FakeReport(divergence, reference, candidate), changed) or "")
    cause = cause_of(FakeReport(divergence, reference, reference))
    assert cause is not None
    assert "shifted by one" not in cause


def test_no_divergence_has_no_cause() -> None:
    assert cause_of(FakeReport([np.zeros(32) for _ in range(12)])) is None


def test_too_little_evidence_shows_no_pattern(generator: np.random.Generator) -> None:
    assert cause_of(FakeReport([noisy(np.full(10, 0.1), generator)])) is None
    # Prompts that differ widely, none of them dominant, and no trend: nothing to say.
    levels = np.geomspace(0.001, 0.2, 16)
    assert cause_of(FakeReport([noisy(np.full(16, level), generator) for level in levels])) is None


@pytest.mark.parametrize(
    ("labels", "level", "explained"),
    [
        (("float32 on cpu", "float32 on cuda:0"), 5e-7, True),
        (("float32 on cpu, cached", "float32 on cpu"), 5e-7, False),
        (("float32 on cpu", "float32 on cuda:0"), 1e-2, False),
        (("float32 on cpu", "float32 on cuda:0"), 0.0, False),
    ],
)
def test_rounding_differences_of_two_devices_are_named(labels: tuple[str, str], level: float, explained: bool) -> None:
    """Even with few positions, because any one of them can miss a limit of 0."""
    report = FakeReport([np.full(4, level)])
    report.labels = labels
    cause = cause_of(report) or ""
    assert cause.startswith("the reference ran in float32 on cpu and the candidate in float32 on cuda:0, ") == explained
    assert (cause_of(report, changed=False) or "") == cause
    assert cause_of(report, changed=True) is None  # it would say that the weights are not to blame


@pytest.mark.parametrize(
    ("path", "first", "later", "named"),
    [
        ("decode", 1e-7, 0.02, True),
        ("decode", 0.01, 0.2, True),
        ("decode", 0.02, 0.03, False),
        ("decode", 1e-7, 5e-4, False),  # may be rounding in low precision
        ("prefill", 1e-7, 0.02, False),
    ],
)
def test_a_cache_is_named_where_only_the_tokens_read_through_it_differ(
    path: Literal["prefill", "decode"], first: float, later: float, named: bool
) -> None:
    report = FakeReport([np.array([first, *[later] * 15]) for _ in range(8)])
    report.config = ScoringConfig(path=path)
    for changed in (None, False, True):  # changed weights show in the first token too
        assert ("cache" in (cause_of(report, changed) or "")) == named


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_rounding_in_half_precision_is_not_taken_for_a_wrong_cache(dtype: str) -> None:
    report = FakeReport([np.array([1e-4, *[5e-3] * 15]) for _ in range(8)])
    report.config, report.labels = ScoringConfig(path="decode"), (f"{dtype} on cuda:0", f"{dtype} on cuda:0")
    assert "cache" not in (cause_of(report) or "")


def test_continuations_of_one_token_say_nothing_of_the_cache() -> None:
    report = FakeReport([np.array([0.5]) for _ in range(8)])
    report.config = ScoringConfig(path="decode")
    assert "cache" not in (cause_of(report) or "")


def cause_of_change(seed: int, change: Callable[[PreTrainedModel], PreTrainedModel]) -> str:
    """The likely cause of what ``change`` does to a tiny random model with an adapter, on prompts of four characters."""
    model = tiny("llama", seed=seed, scale=1.0)
    texts = [prompt.text + (prompt.continuation or "") for prompt in builtin_prompts()[:16]]
    prompts = [Prompt(text[:4], text[4:60]) for text in texts]
    reference = with_adapter(model, seed)
    report = TeacherForcedScorer(ScoringConfig(device="cpu")).score_batch(
        reference, change(reference), prompts, make_tokenizer()
    )
    return likely_cause(report) or ""


def with_adapter(model: PreTrainedModel, seed: int) -> PreTrainedModel:
    """``model`` with a low-rank change of its attention merged."""
    merged = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weights in merged.named_parameters():
            if name.endswith(("q_proj.weight", "k_proj.weight", "v_proj.weight", "o_proj.weight")):
                up = torch.randn(weights.shape[0], 4, generator=generator)
                weights.add_(0.05 * up @ torch.randn(4, weights.shape[1], generator=generator))
    return merged


@pytest.mark.parametrize("seed", [1, 7])
def test_an_adapter_that_is_applied_twice_is_no_wrong_position_encoding(seed: int) -> None:
    """With these seeds its divergence grows along the text, as that of a wrong position encoding does."""
    cause = cause_of_change(seed, lambda model: with_adapter(model, seed))
    assert cause == (
        "the divergence grows along the text, but is there from the first tokens on: the weights changed (merging, training, "
        "an adapter applied twice or not at all)"
    )


@pytest.mark.parametrize("seed", [1, 7])
def test_a_wrong_position_encoding_is_named(seed: int) -> None:
    def other_base(model: PreTrainedModel) -> PreTrainedModel:
        config: Any = copy.deepcopy(model.config)
        if hasattr(config, "rope_parameters"):
            config.rope_parameters = {**config.rope_parameters, "rope_theta": 1e6}
        else:  # transformers 4
            config.rope_theta = 1e6
        changed: PreTrainedModel = AutoModelForCausalLM.from_config(config)
        changed.load_state_dict(model.state_dict())
        changed.eval()
        return changed

    cause = cause_of_change(seed, other_base)
    assert cause.startswith("the divergence grows with the position: look at the position encoding")
