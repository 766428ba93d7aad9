"""A prefix that prompts share is read once, and sharing changes no score."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, BartConfig, PreTrainedModel, PreTrainedTokenizerFast, RobertaConfig

from pytest_pot import Prompt, ScoringConfig, TeacherForcedScorer
from pytest_pot.engines.pytorch.engine import TorchEngine
from pytest_pot.engines.pytorch.prefix_cache import PrefixCaches, shared_prefix
from pytest_pot.engines.tokens import Tokens
from pytest_pot.scoring.batch_plan import longest_first

from ...models import CONFIGS, VOCAB, changed, tiny

HEAD = "You are a helpful assistant. Answer in one word, and never say why. "  # 68 characters, a token each
SHARING = [Prompt(HEAD + text, " word") for text in ("What is blue?", "Who?", "Why not?", "Where is it?", "When?", "How?")]
WITHOUT_SHARING = {"gemma3", "gemma2-softcap", "mamba"}
"""Models with sliding windows or a recurrent state, which do not share prefixes."""


def record_shapes(model: PreTrainedModel) -> list[tuple[int, ...]]:
    """The shapes of ids that the embedding reads from now on; we would not split a model with its own hooks."""
    shapes: list[tuple[int, ...]] = []
    model.get_input_embeddings().register_forward_pre_hook(lambda module, inputs: shapes.append(tuple(inputs[0].shape)))
    return shapes


@pytest.mark.parametrize("preset", ["balanced", "accurate", "fastest"])
@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_sharing_changes_no_score(
    name: str, preset: str, tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = tiny(name), changed(tiny(name))
    scorer = TeacherForcedScorer(ScoringConfig.preset(preset, batch_size=4))
    shapes = record_shapes(pair[1])
    shared = scorer.score_batch(*pair, SHARING, tokenizer)
    shortest = min(length for _, length in shapes)
    assert (shortest >= len(HEAD)) == (name in WITHOUT_SHARING)
    monkeypatch.setattr(TorchEngine, "share_prefixes", False)
    apart = scorer.score_batch(*pair, SHARING, tokenizer)
    assert apart.mean > 0.01
    np.testing.assert_allclose(shared.scores, apart.scores, atol=1e-5)


@pytest.mark.parametrize("batch_size", [3, 4, "auto"])
@pytest.mark.parametrize("preset", ["balanced", "fastest"])
def test_a_model_scores_zero_against_itself_live_and_recorded(
    preset: str, batch_size: int | str, tokenizer: PreTrainedTokenizerFast
) -> None:
    wide = tiny("llama", hidden_size=384, intermediate_size=768)  # sums so long that their rounding depends on the batch shape
    scorer = TeacherForcedScorer(ScoringConfig.preset(preset, batch_size=batch_size))
    assert scorer.score_batch(wide, wide, SHARING, tokenizer).max == 0.0
    assert scorer.score_baseline(scorer.record(wide, SHARING, tokenizer), wide, tokenizer).max == 0.0


def test_a_shared_prefix_is_read_once_for_all_batches(tokenizer: PreTrainedTokenizerFast) -> None:
    model = tiny("llama")
    shapes = record_shapes(model)
    TeacherForcedScorer(ScoringConfig(batch_size=3)).record(model, SHARING, tokenizer)
    whole = max(len(HEAD + prompt.text + " word") for prompt in SHARING)
    assert [shape for shape in shapes if shape[1] == 64] == [(1, 64)]
    # One whole prompt is read again as a check.
    assert sum(n * length for n, length in shapes) < 64 + len(SHARING) * (whole - 64) + whole + 1


def test_a_longer_prefix_extends_a_shorter_one(tokenizer: PreTrainedTokenizerFast) -> None:
    """The 79 common tokens are read as 64, which shorter prefixes could share, and 15, once for both batches."""
    model = tiny("llama")
    prompts = [Prompt(HEAD + "x" * 11 + first + "?", " word") for first in "abcdefghijkl"]
    scorer = TeacherForcedScorer(ScoringConfig(batch_size=6))
    baseline = scorer.record(model, prompts, tokenizer)
    shapes = record_shapes(model)
    assert scorer.score_baseline(baseline, model, tokenizer).max == 0.0
    assert [shape for shape in shapes if shape[0] == 1][:2] == [(1, 64), (1, 15)]
    assert [length for n, length in shapes if n == 6] == 2 * [len("a? word") - 1]
    assert len(shapes) == 5  # the fifth reads one whole prompt as a check


def test_a_cache_that_gives_other_scores_is_not_used(tokenizer: PreTrainedTokenizerFast) -> None:
    """The model forgets what it has read if it gets a cache."""
    model = tiny("llama")
    calls: list[bool] = []

    def forget(module: torch.nn.Module, inputs: tuple[object, ...], named: dict[str, Any]) -> None:
        cache = named.get("past_key_values", named.get("cache"))
        if cache is not None and cache.get_seq_length():
            calls.append(True)
            for layer in cache.layers:
                layer.values = torch.zeros_like(layer.values)

    model.model.register_forward_pre_hook(forget, with_kwargs=True)
    report = TeacherForcedScorer(ScoringConfig(batch_size=4)).score_batch(tiny("llama"), model, SHARING, tokenizer)
    assert report.max < 1e-5
    assert calls


def bart(encoder_layers: int, decoder_layers: int) -> PreTrainedModel:
    """The decoder of a model whose configuration counts the encoder's layers first."""
    heads: dict[str, Any] = {
        "encoder_attention_heads": 4,
        "decoder_attention_heads": 4,
        "encoder_ffn_dim": 32,
        "decoder_ffn_dim": 32,
    }
    layers: dict[str, Any] = {"encoder_layers": encoder_layers, "decoder_layers": decoder_layers}
    config = BartConfig(vocab_size=VOCAB, d_model=32, max_position_embeddings=160, is_decoder=True, **heads, **layers)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config).eval()
    return model


@pytest.mark.parametrize("layers", [(1, 2), (2, 1)])
def test_a_model_that_does_not_support_the_cache_reads_whole_prompts(
    layers: tuple[int, int], tokenizer: PreTrainedTokenizerFast
) -> None:
    pair = bart(*layers), changed(bart(*layers))
    report = TeacherForcedScorer(ScoringConfig(top_k=None)).score_batch(*pair, SHARING, tokenizer)
    plain = TeacherForcedScorer(ScoringConfig.preset("original")).score_batch(*pair, SHARING, tokenizer)
    assert plain.mean > 1e-3
    np.testing.assert_allclose(report.scores, plain.scores, atol=1e-6)


def test_out_of_memory_halves_the_batch_but_does_not_end_sharing(
    tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The smaller batches still use the prefix cache."""
    model = tiny("llama")
    sizes: list[int] = []
    get = PrefixCaches.get

    def raise_out_of_memory_above_2(caches: PrefixCaches, ids: tuple[int, ...], n: int, read: Any) -> object:
        sizes.append(n)
        if n > 2:
            raise MemoryError
        return get(caches, ids, n, read)

    monkeypatch.setattr(PrefixCaches, "get", raise_out_of_memory_above_2)
    TeacherForcedScorer(ScoringConfig(batch_size=4)).record(model, SHARING, tokenizer)
    assert sizes[0] == 4
    assert set(sizes[1:]) == {2}


@pytest.mark.parametrize("fields", [{"use_amp": True}, {"dtype": "bfloat16"}, {"dtype": "float16"}], ids=str)
def test_half_precision_models_share_prefixes(fields: dict[str, Any], tokenizer: PreTrainedTokenizerFast) -> None:
    """The check allows for their rounding, which is coarser than that of float32."""
    model = tiny("llama", hidden_size=256, intermediate_size=512)
    scorer = TeacherForcedScorer(ScoringConfig(batch_size=6, **fields))
    tokens = scorer.record(model, SHARING, tokenizer).tokens
    with TorchEngine.opened(model, "reference", scorer.config) as engine:
        engine.top_k(tokens, 10)
        assert engine._reader is not None
        assert engine._reader.prefixes is not None


def test_only_a_long_prefix_that_predicts_nothing_is_shared() -> None:
    def batch(*beginnings: tuple[int, ...], prompt_len: int) -> list[Tokens]:
        return [Tokens((*beginning, 1, 2, 3), prompt_len) for beginning in beginnings]

    alike = tuple(range(100))
    assert shared_prefix(batch(alike, alike, prompt_len=100)) == alike[:96]
    assert shared_prefix(batch(alike, alike, prompt_len=96)) == alike[:80]  # index 95 predicts the first position
    assert shared_prefix(batch(alike, (*alike[:90], *alike[:10]), prompt_len=100)) == alike[:80]
    assert shared_prefix(batch(alike, prompt_len=100)) == ()
    assert shared_prefix(batch(alike[:40], alike[:40], prompt_len=40)) == ()
    assert shared_prefix(batch(alike[:40], alike[:40], alike[:40], prompt_len=40)) == alike[:32]


def test_prompts_with_the_same_prefix_are_sorted_together() -> None:
    a, b = tuple(range(40)), tuple(range(50, 90))
    sequences = [(*beginning, *range(n)) for n in range(5, 10) for beginning in (a, b)] + [tuple(range(100, 142)), (7,) * 60]
    order = longest_first([Tokens((*ids, 1), len(ids)) for ids in sequences], range(12))
    assert [sequences[i][0] for i in order] == [7, 100, *[0] * 5, *[50] * 5]
    assert sorted(order) == list(range(12))


def test_a_prefix_with_the_padding_id_is_checked_again(
    tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RoBERTa does not count padding as positions, but with a cache it counts all cached tokens."""
    sizes: dict[str, Any] = {
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 48,
        "max_position_embeddings": 200,
    }
    pad = tokenizer("~")["input_ids"][-1]
    config = RobertaConfig(vocab_size=VOCAB, hidden_size=32, is_decoder=True, pad_token_id=pad, **sizes)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        model.get_input_embeddings().weight.mul_(20)
        model.roberta.embeddings.position_embeddings.weight.mul_(20)
    plain = [Prompt(prompt.text + " Say it in a few words.", prompt.continuation) for prompt in SHARING[:4]]
    padded = [Prompt("~~~~~~~~" + prompt.text, prompt.continuation) for prompt in SHARING[:4]]
    scorer = TeacherForcedScorer(ScoringConfig(batch_size=4, top_k=None))
    shared = scorer.score_batch(model, changed(model), [*plain, *padded], tokenizer)
    monkeypatch.setattr(TorchEngine, "share_prefixes", False)
    apart = scorer.score_batch(model, changed(model), [*plain, *padded], tokenizer)
    assert apart.mean > 1e-3
    np.testing.assert_allclose(shared.scores, apart.scores, atol=1e-6)
