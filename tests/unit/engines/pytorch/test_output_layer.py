"""We compute only the logits that are needed, and use the model's own logits if it does more than multiply."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode
from transformers import (
    AutoModelForCausalLM,
    ChameleonConfig,
    ChameleonForConditionalGeneration,
    CohereConfig,
    GraniteConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    ProphetNetConfig,
)

from pytest_pot import Prompt, ScoreReport, ScoringConfig, TeacherForcedScorer
from pytest_pot.engines.pytorch.engine import TorchEngine
from pytest_pot.engines.pytorch.output_layer import OutputLayer

from ...models import ATTENTION, CONFIGS, VOCAB, changed, tiny

SCALED: dict[str, Callable[[], PretrainedConfig]] = {
    "cohere": lambda: CohereConfig(**ATTENTION, logit_scale=0.3),
    "granite": lambda: GraniteConfig(**ATTENTION, logits_scaling=3.0),
}


def scaled(name: str) -> PreTrainedModel:
    """A model with strongly scaled logits whose distributions are not flat."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model: PreTrainedModel = AutoModelForCausalLM.from_config(SCALED[name]()).eval()
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(40)
    return model


def is_split(model: torch.nn.Module, prompts: list[Prompt], tokenizer: PreTrainedTokenizerFast, **fields: Any) -> bool:
    """Whether the engine computes the logits itself after its first run of the model."""
    scorer = TeacherForcedScorer(ScoringConfig(**fields))
    tokens = scorer.record(tiny(), prompts, tokenizer).tokens
    with TorchEngine.opened(model, "reference", scorer.config) as engine:
        engine.top_k(tokens, 10)
        assert engine._reader is not None
        return engine._reader.output_layer is not None


@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_an_architecture_that_ends_in_a_matrix_product_is_split(
    name: str, prompts: list[Prompt], tokenizer: PreTrainedTokenizerFast
) -> None:
    assert is_split(tiny(name), prompts, tokenizer)


@pytest.mark.parametrize("fields", [{}, {"dtype": "bfloat16"}, {"top_k": None}, {"top_k": 20, "tail": "renormalise"}])
@pytest.mark.parametrize("name", SCALED)
def test_a_logit_scale_also_applies_to_a_split_model(
    name: str,
    fields: dict[str, Any],
    prompts: list[Prompt],
    tokenizer: PreTrainedTokenizerFast,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert is_split(scaled(name), prompts, tokenizer, **fields)
    pair = scaled(name), changed(scaled(name))
    scorer = TeacherForcedScorer(ScoringConfig(batch_size=8, **fields))
    split = scorer.score_batch(*pair, prompts, tokenizer)
    monkeypatch.setattr(OutputLayer, "of", lambda *_: None)
    whole = scorer.score_batch(*pair, prompts, tokenizer)
    assert whole.mean > 0.01
    np.testing.assert_allclose(split.scores, whole.scores, atol=0.02 if "dtype" in fields else 1e-6)


def test_the_last_token_is_read_only_if_the_model_might_need_it(
    prompts: list[Prompt], tokenizer: PreTrainedTokenizerFast
) -> None:
    """The last token predicts nothing, so we skip it; but a module that we do not know may need it."""
    lengths_by_name: dict[str, list[int]] = {}
    for name, model in {"known": tiny(), "own": shifted(tiny())}.items():
        lengths = lengths_by_name[name] = []
        model.get_input_embeddings().register_forward_pre_hook(lambda _, ids, to=lengths: to.append(ids[0].shape[1]))
        report = TeacherForcedScorer(ScoringConfig(batch_size=1)).score_batch(tiny(), model, prompts, tokenizer)
    longest_first = sorted((len(tokens.ids) for tokens in report.tokens), reverse=True)
    assert lengths_by_name == {"known": [length - 1 for length in longest_first], "own": longest_first}


def shifted(model: PreTrainedModel) -> PreTrainedModel:
    """A user's subclass with another forward."""

    class Shifted(type(model)):  # type: ignore[misc]  # the base class is known only at run time
        def forward(self, *arguments: Any, **named: Any) -> Any:
            output = super().forward(*arguments, **named)
            output.logits = output.logits.roll(1, dims=-1)
            return output

    model.__class__ = Shifted
    return model


def hooked(model: PreTrainedModel) -> PreTrainedModel:
    model.register_forward_hook(lambda module, inputs, output: output)
    return model


def hooked_layer(model: PreTrainedModel) -> PreTrainedModel:
    model.lm_head.register_forward_pre_hook(lambda module, inputs: None)
    return model


def with_hidden_soft_cap(model: PreTrainedModel) -> PreTrainedModel:
    """Its configuration does not mention the soft cap; only a run shows it."""
    forward = type(model).forward

    class Capped(type(model)):  # type: ignore[misc]  # as above
        def forward(self, *arguments: Any, **named: Any) -> Any:
            output = forward(self, *arguments, **named)
            output.logits = torch.tanh(output.logits / 5) * 5
            return output

    Capped.forward.__module__ = forward.__module__
    model.__class__ = Capped
    return model


def prophetnet() -> PreTrainedModel:
    """Its last layer gets states for this token and the next one, [batch, 2, length, d]."""
    sizes: dict[str, Any] = {
        "num_decoder_layers": 2,
        "num_encoder_layers": 1,
        "encoder_ffn_dim": 32,
        "decoder_ffn_dim": 32,
        "ngram": 2,
    }
    heads: dict[str, Any] = {"num_encoder_attention_heads": 4, "num_decoder_attention_heads": 4}
    config = ProphetNetConfig(vocab_size=VOCAB, hidden_size=32, is_decoder=True, pad_token_id=0, **sizes, **heads)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config).eval()
    return model


def chameleon() -> PreTrainedModel:
    """It overwrites the logits of image ids, in the tensor that its last layer returned."""
    names = {"<image>": VOCAB - 1, **{f"IMGIMG{chr(65 + i)}Z": 40 + i for i in range(20)}}
    images = {"embed_dim": 8, "num_embeddings": 20, "latent_channels": 8, "resolution": 32, "base_channels": 32}
    config = ChameleonConfig(
        **ATTENTION, vocabulary_map=names, vq_config={**images, "channel_multiplier": [1], "num_res_blocks": 1}
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model: PreTrainedModel = ChameleonForConditionalGeneration(config).eval()
    return model


NOT_SPLIT: dict[str, Callable[[], PreTrainedModel]] = {
    "ids that are never said, written over in place": chameleon,
    "soft cap that no configuration tells of": lambda: with_hidden_soft_cap(tiny("llama")),
    "other states than one per token": prophetnet,
    "a field on logits that is not known": lambda: tiny("llama", logit_shift=2.0),
    "a field on logits that is no number": lambda: tiny("llama", logit_scale="inv_sqrt_d_model"),
    "two fields on logits": lambda: tiny("gemma2-softcap", logit_scale=0.5),
    "a known field that the model does not heed": lambda: tiny("llama", logits_scaling=3.0),
    "another forward": lambda: shifted(tiny("llama")),
    "a hook": lambda: hooked(tiny("llama")),
    "a hook on the last layer": lambda: hooked_layer(tiny("llama")),
    "a forward put in its place": lambda: _with_own_forward(tiny("llama")),
}


def _with_own_forward(model: PreTrainedModel) -> PreTrainedModel:
    forward = model.forward
    model.forward = lambda *arguments, **named: forward(*arguments, **named)
    return model


@pytest.mark.parametrize("kind", NOT_SPLIT)
def test_a_model_that_does_more_than_multiply_is_not_split(
    kind: str, prompts: list[Prompt], tokenizer: PreTrainedTokenizerFast
) -> None:
    """Its scores equal those of the unoptimised path."""
    model = NOT_SPLIT[kind]()
    assert not is_split(model, prompts, tokenizer)
    pair = model, tiny("llama")
    report = TeacherForcedScorer(ScoringConfig(top_k=None, batch_size=8)).score_batch(*pair, prompts, tokenizer)
    plain = TeacherForcedScorer(ScoringConfig.preset("original")).score_batch(*pair, prompts, tokenizer)
    np.testing.assert_allclose(report.scores, plain.scores, atol=1e-6)


@pytest.mark.parametrize(
    "fields", [{}, {"use_amp": True}, {"dtype": "bfloat16"}, {"top_k": None}, {"top_k": 20, "tail": "renormalise"}]
)
@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_splitting_changes_no_score(
    name: str,
    fields: dict[str, Any],
    prompts: list[Prompt],
    tokenizer: PreTrainedTokenizerFast,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pair = tiny(name), changed(tiny(name))
    scorer = TeacherForcedScorer(ScoringConfig(batch_size=8, **fields))
    split = scorer.score_batch(*pair, prompts, tokenizer)
    monkeypatch.setattr(OutputLayer, "of", lambda *_: None)
    whole = scorer.score_batch(*pair, prompts, tokenizer)
    assert whole.mean > 0
    # Products of other shapes round differently: by 1 in 2^24 of a logit, or 1 in 2^8 in half precision.
    half = "use_amp" in fields or "dtype" in fields
    np.testing.assert_allclose(split.scores, whole.scores, atol=0.02 if half else 1e-6)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("name", ["llama", "phi", "gemma2-softcap"])
def test_computing_only_the_rows_of_compared_ids_changes_no_figure(
    name: str, temperature: float, prompts: list[Prompt], tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For live and recorded references, and for every figure of the report."""
    pair = tiny(name), changed(tiny(name))
    scorer = TeacherForcedScorer(ScoringConfig.preset("fastest", top_k=20, temperature=temperature))

    def reports() -> ScoreReport:
        baseline = scorer.record(pair[0], prompts, tokenizer)
        live, recorded = scorer.score_batch(*pair, prompts, tokenizer), scorer.score_baseline(baseline, pair[1], tokenizer)
        assert live.metrics == recorded.metrics
        assert scorer.score_baseline(baseline, pair[0], tokenizer).max == 0.0
        return live

    some = reports()
    monkeypatch.setattr(OutputLayer, "some_ids", False)
    every = reports()
    assert every.metrics["kl"] > 0.001
    for metric, values in every.divergences.items():
        np.testing.assert_allclose(np.concatenate(some.divergences[metric]), np.concatenate(values), atol=1e-6, rtol=1e-5)
    assert some.tail_mass == pytest.approx(every.tail_mass, abs=1e-6)
    for ours, theirs in zip(some.worst(5), every.worst(5), strict=True):
        assert ours.candidate_probability == pytest.approx(theirs.candidate_probability, abs=1e-5)


def test_a_candidates_layer_multiplies_only_the_rows_of_compared_ids(
    prompts: list[Prompt], tokenizer: PreTrainedTokenizerFast
) -> None:
    model = tiny("llama", vocab_size=5000)
    scorer = TeacherForcedScorer(ScoringConfig.preset("fastest", top_k=5))
    baseline = scorer.record(model, prompts, tokenizer)
    tokens, top = baseline.tokens, baseline.top_k().ids
    assert top is not None
    n = sum(t.n_positions for t in tokens)
    with TorchEngine.opened(model, "candidate", scorer.config) as engine:
        engine.at(tokens, top)  # the first run also shows that the model can be split
        with FlopCounterMode(display=False) as counter:
            engine.at(tokens, top)
    ids = {*top.ravel().tolist(), *(token for t in tokens for token in t.targets)}
    assert head_flops(counter) == 2 * n * 32 * len(ids)
    assert len(ids) < 2500


@pytest.mark.parametrize("name", ["llama", "gemma2-softcap"])
def test_rows_are_not_used_if_the_layer_multiplies_by_other_weights(
    name: str, prompts: list[Prompt], tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For example, a library may patch ``nn.Linear`` to try a quantisation."""
    model = tiny(name)
    scorer = TeacherForcedScorer(ScoringConfig.preset("fastest", top_k=20))
    baseline = scorer.record(model, prompts, tokenizer)
    plain = torch.nn.Linear.forward

    def rounded(layer: torch.nn.Linear, states: torch.Tensor) -> torch.Tensor:
        if layer is not model.lm_head:
            return plain(layer, states)
        step = layer.weight.abs().amax(1, keepdim=True) / 127
        return torch.nn.functional.linear(states, torch.round(layer.weight / step) * step, layer.bias)

    monkeypatch.setattr(torch.nn.Linear, "forward", rounded)
    report = scorer.score_baseline(baseline, model, tokenizer)
    monkeypatch.setattr(OutputLayer, "of", lambda *_: None)
    whole = scorer.score_baseline(baseline, model, tokenizer)
    assert whole.mean > 1e-4
    np.testing.assert_allclose(report.scores, whole.scores, atol=1e-6)


def test_a_bias_and_hooks_inside_the_model_change_the_score(prompts: list[Prompt], tokenizer: PreTrainedTokenizerFast) -> None:
    reference, candidate = tiny("phi"), tiny("phi")
    with torch.no_grad():
        candidate.lm_head.bias[17] += 3.0
    assert TeacherForcedScorer().score_batch(reference, candidate, prompts, tokenizer).mean > 0.01
    same = tiny("phi")

    def roll(module: object, inputs: object, output: Any) -> Any:
        """Before version 5 of transformers, a layer returns a tuple."""
        return (roll(module, inputs, output[0]), *output[1:]) if isinstance(output, tuple) else output.roll(1, dims=-1)

    same.model.layers[1].register_forward_hook(roll)
    assert TeacherForcedScorer().score_batch(reference, same, prompts, tokenizer).mean > 0.01


class Largest(TorchDispatchMode):
    """Records the size of the largest tensor that an operation creates."""

    elements = 0

    def __torch_dispatch__(
        self, func: Callable[..., object], types: object, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> object:
        output = func(*args, **(kwargs or {}))
        if isinstance(output, torch.Tensor):
            self.elements = max(self.elements, output.numel())
        return output


@pytest.mark.parametrize("preset", ["balanced", "fastest"])
def test_no_tensor_has_all_positions_and_the_whole_vocabulary(
    preset: str, tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pytest_pot.engines.tensors._LOGITS_PER_BLOCK", {"cpu": 1})
    model = tiny("llama", vocab_size=5000)
    prompts = [Prompt("a" * 60, "b" * 30)] * 16
    with Largest() as largest:  # type: ignore[no-untyped-call]  # torch gives the mode's own __init__ no types
        TeacherForcedScorer(ScoringConfig.preset(preset, batch_size=16)).score_batch(model, model, prompts, tokenizer)
    assert largest.elements <= max(64 * 5000, sum(p.numel() for p in model.parameters()))


def test_the_output_layer_reads_only_the_positions_that_are_needed(
    prompts: list[Prompt], tokenizer: PreTrainedTokenizerFast
) -> None:
    model = tiny("llama")
    scorer = TeacherForcedScorer(ScoringConfig(batch_size=len(prompts), top_k=10))
    tokens = scorer.record(model, prompts, tokenizer).tokens
    with TorchEngine.opened(model, "reference", scorer.config) as engine:
        engine.top_k(tokens, 10)  # the first run also shows that the model can be split
        with FlopCounterMode(display=False) as counter:
            engine.top_k(tokens, 10)
    assert head_flops(counter) == 2 * sum(t.n_positions for t in tokens) * 32 * VOCAB


def head_flops(counter: FlopCounterMode) -> int:
    flops = counter.get_flop_counts()
    return sum(flops["Global"].values()) - sum(flops["LlamaForCausalLM.model"].values())


class CountsFromTheEnd(torch.nn.Module):
    """A user's module that takes ``logits_to_keep`` as a number."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: torch.Tensor, attention_mask: torch.Tensor, logits_to_keep: int = 0) -> torch.Tensor:
        logits: torch.Tensor = self.model(ids, attention_mask=attention_mask, use_cache=False).logits
        return logits[:, -logits_to_keep:] if logits_to_keep else logits


@pytest.mark.parametrize("continuation", ["c", "cde"])
def test_a_users_forward_does_not_get_logits_to_keep(continuation: str, tokenizer: PreTrainedTokenizerFast) -> None:
    pair = CountsFromTheEnd(tiny("llama")), CountsFromTheEnd(changed(tiny("llama")))
    prompts = [Prompt("ab", continuation)]
    report = TeacherForcedScorer(ScoringConfig(top_k=None)).score_batch(*pair, prompts, tokenizer)
    plain = TeacherForcedScorer(ScoringConfig.preset("original")).score_batch(*pair, prompts, tokenizer)
    np.testing.assert_allclose(report.scores, plain.scores, atol=1e-6)
