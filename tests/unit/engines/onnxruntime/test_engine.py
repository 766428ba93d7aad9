"""What an ONNX graph says is what its model says: against the oracle, and against the torch engine."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from pytest_pot import PotError, Prompt, ScoringConfig, TeacherForcedScorer
from pytest_pot.engines.base import Described, Engine, OutOfMemory
from pytest_pot.engines.distributions import TopK
from pytest_pot.engines.onnxruntime.engine import OnnxEngine
from pytest_pot.engines.pytorch.engine import TorchEngine
from pytest_pot.engines.registry import load_model, opened
from pytest_pot.engines.tensors import reads
from pytest_pot.engines.tokens import Tokens

from ...models import VOCAB, tiny
from ...onnx_export import Export, export, export_by_dynamo, weights_in_blocks
from ...oracle import full_log_probs
from .conftest import Graphs

CONFIG = ScoringConfig(device="cpu")
ALL = ["plain", "no mask", "positions", "cache", "cache and positions", "int32", "one at a time", "merged", "one data file",
       "many data files", "other output"]  # fmt: skip


def tokens(*, longest: int = 30, seed: int = 0) -> list[Tokens]:
    """Sequences of different lengths, two of them of the same."""
    draw = np.random.default_rng(seed)
    lengths = [2, 7, 7, 19, longest]
    sequences = [tuple(int(i) for i in draw.integers(0, VOCAB, n)) for n in lengths]
    return [Tokens(ids, max(1, len(ids) // 2)) for ids in sequences]


@contextmanager
def engine_of(path: Path, config: ScoringConfig = CONFIG) -> Iterator[OnnxEngine]:
    model = load_model(str(path), "candidate", config).model
    with opened(model, "candidate", config) as engine:
        assert isinstance(engine, OnnxEngine)
        yield engine


def rows(top: TopK) -> dict[int, float]:
    assert top.ids is not None
    return {int(i): float(p) for i, p in zip(top.ids[0], top.log_probs[0], strict=True)}


@pytest.mark.parametrize("kind", ALL)
def test_the_whole_vocabulary_is_the_oracles(graphs: Graphs, model: PreTrainedModel, kind: str) -> None:
    batch = tokens()
    expected = [row for each in batch for row in full_log_probs(model, each)]
    with engine_of(graphs(kind)) as engine:
        top = engine.top_k(batch, None)
        assert top.ids is None
        assert top.log_tail is None
        np.testing.assert_allclose(top.log_probs, expected, rtol=0, atol=2e-5)
        targets = [t for each in batch for t in each.targets]
        np.testing.assert_allclose(top.targets, [row[t] for row, t in zip(expected, targets, strict=True)], rtol=0, atol=2e-5)
        np.testing.assert_array_equal(top.top_ids, np.argmax(expected, axis=1))


@pytest.mark.parametrize(
    "overrides", [{}, {"temperature": 0.7}, {"tail": "renormalise", "top_k": 20}, {"every_position": True}]
)
@pytest.mark.parametrize("kind", ["plain", "cache and positions"])
def test_top_k_and_given_ids_are_those_of_the_torch_engine(
    graphs: Graphs, model: PreTrainedModel, kind: str, overrides: dict[str, Any]
) -> None:
    config = replace(CONFIG, **overrides)
    batch = tokens()
    with engine_of(graphs(kind), config) as engine, TorchEngine.opened(model, "reference", config) as torch_engine:
        mine, theirs = engine.top_k(batch, 20), torch_engine.top_k(batch, 20)
        assert_alike(mine, theirs)
        assert theirs.ids is not None
        assert_alike(engine.at(batch, theirs.ids), torch_engine.at(batch, theirs.ids))
        assert_alike(engine.at(batch, 40), torch_engine.at(batch, 40))
        assert_alike(engine.at(batch, VOCAB + 9), torch_engine.at(batch, VOCAB + 9))
        with pytest.raises(PotError, match=r"the candidate's vocabulary has 97 tokens, but .* include id 97"):
            engine.at(batch, np.full_like(theirs.ids, VOCAB))


def assert_alike(mine: TopK, theirs: TopK) -> None:
    assert (mine.ids is None) == (theirs.ids is None)
    if mine.ids is not None and theirs.ids is not None:
        np.testing.assert_array_equal(mine.ids, theirs.ids)
    for name in ("log_probs", "targets", "top_log_probs"):
        np.testing.assert_allclose(getattr(mine, name), getattr(theirs, name), rtol=0, atol=2e-5, err_msg=name)
    np.testing.assert_array_equal(mine.top_ids, theirs.top_ids)
    np.testing.assert_array_equal(mine.clear, theirs.clear)
    assert mine.vocab_size == theirs.vocab_size
    assert (mine.log_tail is None) == (theirs.log_tail is None)
    if mine.log_tail is not None and theirs.log_tail is not None:
        np.testing.assert_allclose(mine.log_tail, theirs.log_tail, rtol=0, atol=2e-5)


@pytest.mark.parametrize("kind", ["plain", "no mask", "cache", "one at a time", "int32"])
def test_a_prompt_scores_alike_whatever_is_beside_it(graphs: Graphs, kind: str) -> None:
    batch = tokens()
    with engine_of(graphs(kind)) as engine:
        together = engine.top_k(batch, None)
        alone = TopK.concatenate([engine.top_k([each], None) for each in batch])
        np.testing.assert_allclose(together.log_probs, alone.log_probs, rtol=0, atol=1e-5)


def test_one_scale_for_all_activations_makes_each_prompt_be_read_alone(graphs: Graphs) -> None:
    batch = tokens()
    with engine_of(graphs("dynamic int8")) as engine:
        together = engine.top_k(batch, None)
        alone = TopK.concatenate([engine.top_k([each], None) for each in batch])
        np.testing.assert_array_equal(together.log_probs, alone.log_probs)
        padded = engine._logits([each.ids for each in batch])[0, 0].double().log_softmax(-1).numpy()
        assert np.abs(padded - together.log_probs[0]).max() > 1e-4  # it would matter
        assert engine.description.format == "ONNX int8 (dynamic)"
        assert "each prompt is read alone" in engine.description.notes[0]


def test_scoring_a_model_against_its_graph(
    graphs: Graphs, model: PreTrainedModel, prompts: list[Prompt], tokenizer: PreTrainedTokenizerFast
) -> None:
    graph = load_model(str(graphs("cache")), "candidate", CONFIG).model
    scorer = TeacherForcedScorer(CONFIG)
    report = scorer.score_batch(model, graph, prompts, tokenizer)
    assert 0 < report.mean < 1e-6
    assert scorer.score_batch(graph, graph, prompts, tokenizer).max == 0.0
    int8 = load_model(str(graphs("dynamic int8")), "candidate", CONFIG).model
    assert scorer.score_batch(model, int8, prompts, tokenizer).mean > 1e-3
    recorded = scorer.score_baseline(scorer.record(graph, prompts, tokenizer), graph, tokenizer)
    assert recorded.max == 0.0


def test_half_precision_is_converted_without_loss(graphs: Graphs) -> None:
    half = tiny("llama").half()
    batch = tokens()
    with engine_of(graphs("float16")) as engine:
        assert engine.label == "float16 on cpu by ONNX Runtime"
        top = engine.top_k(batch, None)
        logits = top.log_probs + top.log_normalisers[:, None]
        assert np.array_equal(logits.astype(np.float16).astype(np.float64), logits)
        expected = [row for each in batch for row in full_log_probs(half, each)]
        np.testing.assert_allclose(top.log_probs, expected, rtol=0, atol=0.05)
        # A lead is clear if it is more than float16 rounds away, though the logits come as float32.
        assert engine.reading(batch, torch.device("cpu")).softmax.eps == torch.finfo(torch.float16).eps


def test_bfloat16_logits_which_numpy_does_not_have(graphs: Graphs, tmp_path: Path) -> None:
    graph = onnx.load(graphs("plain"))
    [output] = graph.graph.output
    graph.graph.node.append(onnx.helper.make_node("Cast", ["logits"], ["rounded"], to=onnx.TensorProto.BFLOAT16))
    output.CopyFrom(onnx.helper.make_tensor_value_info("rounded", onnx.TensorProto.BFLOAT16, ["batch", "length", VOCAB]))
    onnx.save(graph, tmp_path / "bf16.onnx")
    batch = tokens()
    with engine_of(tmp_path / "bf16.onnx") as rounded, engine_of(graphs("plain")) as exact:
        expected = exact._rows(batch).to(torch.bfloat16).float()
        assert torch.equal(rounded._rows(batch), expected)
        assert rounded.label == "bfloat16 on cpu by ONNX Runtime"


def test_ids_outside_the_vocabulary_are_refused_before_they_are_looked_up(graphs: Graphs) -> None:
    with engine_of(graphs("plain")) as engine:
        message = rf"the tokenizer gives id {VOCAB}, but the candidate's vocabulary has only {VOCAB} tokens"
        for call in (
            lambda: engine.top_k([Tokens((1, VOCAB, 3), 1)], 5),
            lambda: engine.reading([Tokens((1, 2, VOCAB), 2)], torch.device("cpu")),
            lambda: engine.sample([[1, VOCAB]], 1, 0),
        ):
            with pytest.raises(PotError, match=message):
                call()


def test_rows_that_the_graph_does_not_tell_are_missed_while_it_runs(graphs: Graphs) -> None:
    with engine_of(graphs("plain")) as engine:
        engine._model.facts.embedding_rows = None
        try:
            with pytest.raises(
                PotError, match=r"looks up a row that does not exist.*it read ids up to 97 in sequences of 2 tokens"
            ):
                engine.top_k([Tokens((1, VOCAB, 3), 1)], 5)
        finally:
            engine._model.facts.embedding_rows = VOCAB


def test_nan_is_refused_with_role_and_position(
    tmp_path: Path, model: PreTrainedModel, prompts: list[Prompt], tokenizer: PreTrainedTokenizerFast
) -> None:
    broken = tiny("llama")
    with torch.no_grad():
        broken.get_parameter("lm_head.weight")[5] = torch.nan
    graph = load_model(str(export(broken, tmp_path / "nan.onnx")), "candidate", CONFIG).model
    with pytest.raises(PotError, match=r"the candidate's log-probabilities are NaN at prompt"):
        TeacherForcedScorer(CONFIG).score_batch(model, graph, prompts, tokenizer)


def test_sampling_follows_the_seed_and_is_that_of_the_model(graphs: Graphs, model: PreTrainedModel) -> None:
    contexts: Sequence[Sequence[int]] = [[5, 6, 7], [9]]
    with engine_of(graphs("cache")) as engine, TorchEngine.opened(model, "reference", CONFIG) as torch_engine:
        drawn = engine.sample(contexts, 6, seed=3)
        assert drawn == torch_engine.sample(contexts, 6, seed=3)
        assert engine.sample(contexts[1:], 6, seed=3) == drawn[1:]
        assert engine.sample(contexts, 6, seed=4) != drawn


def write(path: Path, nodes: Sequence[onnx.NodeProto], **constants: Sequence[int]) -> Path:
    """A graph that looks ``input_ids`` up in a table as ``rows``, and makes ``logits`` of them."""
    h, kinds = onnx.helper, onnx.TensorProto
    draw = np.random.default_rng(0)
    table = h.make_tensor("table", kinds.FLOAT, [VOCAB, VOCAB], draw.normal(size=VOCAB * VOCAB))
    numbers = [h.make_tensor(name, kinds.INT64, [len(values)], values) for name, values in constants.items()]
    inputs = [h.make_tensor_value_info(name, kinds.INT64, ["batch", "length"]) for name in ("input_ids", "attention_mask")]
    logits = h.make_tensor_value_info("logits", kinds.FLOAT, ["batch", "length", VOCAB])
    lookup = h.make_node("Gather", ["table", "input_ids"], ["rows"])
    graph = h.make_graph([lookup, *nodes], "graph", inputs, [logits], [table, *numbers])
    onnx.save(h.make_model(graph, opset_imports=[h.make_opsetid("", 18)], ir_version=9), path)
    return path


def test_a_batch_that_does_not_fit_is_halved(tmp_path: Path, prompts: list[Prompt], tokenizer: PreTrainedTokenizerFast) -> None:
    """One sequence needs little memory, and two of them more than there are addresses."""
    node = onnx.helper.make_node
    nodes = [
        node("Shape", ["input_ids"], ["size"], end=1),
        node("Sub", ["size", "one"], ["others"]),
        node("Mul", ["others", "many"], ["copies"]),
        node("Add", ["copies", "one"], ["count"]),
        node("Concat", ["count", "three"], ["shape"], axis=0),
        node("Expand", ["rows", "shape"], ["expanded"]),
        node("ReduceMax", ["expanded", "zero"], ["logits"], keepdims=0),
    ]
    path = write(tmp_path / "large.onnx", nodes, one=[1], zero=[0], many=[10**13], three=[1, 1, 1])
    with engine_of(path) as engine:
        with pytest.raises(OutOfMemory, match=r"the candidate .*large.onnx' ran out of memory on cpu: .*allocate memory"):
            engine.top_k(tokens(), 5)
        assert len(engine.top_k(tokens()[:1], 5)) == 1
        report = TeacherForcedScorer(CONFIG).score_batch(engine._model, engine._model, prompts, tokenizer)
        assert report.max == 0.0
        assert report.batch_size == 1


def test_a_graph_in_which_padding_matters_reads_each_prompt_alone(tmp_path: Path) -> None:
    """Its logits are those of the token, times the length of what it reads."""
    node = onnx.helper.make_node
    nodes = [
        node("Shape", ["input_ids"], ["size"], start=1),
        node("Cast", ["size"], ["length"], to=onnx.TensorProto.FLOAT),
        node("Mul", ["rows", "length"], ["logits"]),
    ]
    with engine_of(write(tmp_path / "length.onnx", nodes)) as engine:
        assert "padding changes its numbers, so each prompt is read alone" in engine.description.notes
        batch = tokens()
        alone = TopK.concatenate([engine.top_k([each], None) for each in batch])
        np.testing.assert_array_equal(engine.top_k(batch, None).log_probs, alone.log_probs)


def test_a_config_tells_above_which_length_padding_matters(graphs: Graphs) -> None:
    with engine_of(graphs("plain")) as engine:
        engine._traits.config.rope_scaling = {"rope_type": "longrope", "original_max_position_embeddings": 10}
        assert engine._groups([3, 9, 10]) == [[0, 1, 2]]
        assert engine._groups([3, 9, 11]) == [[0], [1], [2]]


@pytest.mark.parametrize("name", ["gpt2", "opt", "bloom", "qwen3", "gemma3", "gemma2-softcap", "phi", "mistral-window"])
def test_architectures(tmp_path: Path, name: str) -> None:
    """Positions that are learned, rotary or a bias (ALiBi), windows, and capped logits."""
    model, batch = tiny(name), tokens()
    with engine_of(export(model, tmp_path / "model.onnx")) as engine:
        expected = [row for each in batch for row in full_log_probs(model, each)]
        np.testing.assert_allclose(engine.top_k(batch, None).log_probs, expected, rtol=0, atol=2e-5)
        assert not engine._model.reads_alone


def test_weights_in_blocks(graphs: Graphs, model: PreTrainedModel, tmp_path: Path) -> None:
    batch, path = tokens(), weights_in_blocks(graphs("plain"), tmp_path / "blocks.onnx")
    with engine_of(path) as engine:
        assert engine.description.format == "ONNX 4-bit weights (MatMulNBits)"
        error = np.abs(engine.top_k(batch, None).log_probs - [row for each in batch for row in full_log_probs(model, each)])
        assert 1e-2 < error.max() < 1.0
        alone = TopK.concatenate([engine.top_k([each], None) for each in batch])
        np.testing.assert_allclose(engine.top_k(batch, None).log_probs, alone.log_probs, rtol=0, atol=1e-5)


@pytest.mark.slow
def test_a_graph_of_torchs_newer_exporter(model: PreTrainedModel, tmp_path: Path) -> None:
    batch = tokens()
    with engine_of(export_by_dynamo(model, tmp_path / "model.onnx")) as engine:
        assert engine._model.facts.files == {"model.onnx.data"}
        assert engine._model.embedding_rows == VOCAB
        expected = [row for each in batch for row in full_log_probs(model, each)]
        np.testing.assert_allclose(engine.top_k(batch, None).log_probs, expected, rtol=0, atol=2e-5)


def test_what_it_offers(graphs: Graphs) -> None:
    with engine_of(graphs("plain")) as engine:
        assert isinstance(engine, Engine)
        assert isinstance(engine, Described)
        assert reads(engine)
        assert (engine.label, engine.max_positions) == ("float32 on cpu by ONNX Runtime", None)
        assert (engine.room.most, engine.room.fixed) == (1024, 32)
        assert engine.description.format == "ONNX"


def test_a_large_vocabulary_makes_batches_smaller(graphs: Graphs, monkeypatch: pytest.MonkeyPatch) -> None:
    with engine_of(graphs("plain")) as engine:
        monkeypatch.setattr(engine._session, "vocab_size", 1 << 18)
        assert engine.room.most == 512


@pytest.mark.parametrize("overrides", [{"dtype": "bfloat16"}, {"dtype": "float16"}, {"use_amp": True}])
def test_another_precision_is_refused(graphs: Graphs, overrides: dict[str, Any]) -> None:
    with pytest.raises(PotError, match=r"cannot score the candidate .*plain.onnx' with .*precision built in"):
        load_model(str(graphs("plain")), "candidate", replace(CONFIG, **overrides))


def test_its_own_precision_may_be_named(graphs: Graphs) -> None:
    with engine_of(graphs("plain"), replace(CONFIG, dtype="float32")) as engine:
        assert engine.description.dtype == "float32"


def test_a_pruned_head_is_refused(graphs: Graphs) -> None:
    with pytest.raises(PotError, match=r"output logits has the last position only.*Export the model without logits_to_keep"):
        load_model(str(graphs("last only")), "candidate", CONFIG)


def test_a_model_that_looks_ahead_is_refused(tmp_path: Path) -> None:
    from transformers import BertConfig, BertForMaskedLM

    config = BertConfig(
        vocab_size=VOCAB,
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        initializer_range=0.5,
    )
    path = export(BertForMaskedLM(config).eval(), tmp_path / "bert.onnx", Export())
    with pytest.raises(PotError, match=r"the candidate .* is no causal language model"):
        load_model(str(path), "candidate", CONFIG)
