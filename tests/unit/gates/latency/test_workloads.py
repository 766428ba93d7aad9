"""What is timed of a real model: the work itself, the memory that it takes, and nothing left behind."""

from __future__ import annotations

import sys
from collections import namedtuple
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any, NoReturn, cast

import pytest
import torch
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, PretrainedConfig, PreTrainedModel

from pytest_pot import PotError, ScoringConfig
from pytest_pot.engines.base import Engine, OutOfMemory
from pytest_pot.engines.pytorch.engine import TorchEngine
from pytest_pot.engines.pytorch.generation import GreedyGeneration
from pytest_pot.engines.pytorch.memory import peak_of, weights_size
from pytest_pot.engines.tokens import Tokens
from pytest_pot.gates.latency.workloads import same_path, synchroniser, work

CONFIG = ScoringConfig()
on_linux = pytest.mark.skipif(sys.platform != "linux", reason="counted by Linux")
SIZES: dict[str, Any] = {"vocab_size": 97, "bos_token_id": 0, "eos_token_id": 0}


def made(cls: type[PreTrainedModel], config: PretrainedConfig) -> PreTrainedModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model: PreTrainedModel = cls(config).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(4)  # or else all positions say the same
    return model


def gpt2() -> PreTrainedModel:
    return made(GPT2LMHeadModel, GPT2Config(n_layer=2, n_embd=32, n_head=2, n_positions=64, **SIZES))


def llama() -> PreTrainedModel:
    sizes: dict[str, Any] = {"num_hidden_layers": 2, "hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2}
    return made(LlamaForCausalLM, LlamaConfig(max_position_embeddings=64, **sizes, **SIZES))


BATCH = [Tokens((5, 6, 7, 8, 9, 0, 0, 0, 0), 5), Tokens((11, 12, 0, 0, 0, 0), 2)]


@pytest.mark.parametrize("make", [gpt2, llama])
def test_decoding_goes_on_with_the_cache_and_chooses_what_the_model_would(make: Callable[[], PreTrainedModel]) -> None:
    model = make()
    expected = []
    with torch.inference_mode():
        for tokens in BATCH:
            ids = list(tokens.ids[: tokens.prompt_len])
            for _ in range(4):
                ids.append(int(model(torch.tensor([ids]), use_cache=False).logits[0, -1].argmax()))
            expected.append(ids[tokens.prompt_len :])
    lengths = []
    model.register_forward_pre_hook(lambda _, args: lengths.append(args[0].shape[1]))
    with TorchEngine.opened(model, "candidate", CONFIG) as engine:
        decoding = GreedyGeneration(engine, "candidate", BATCH)
        decoding.first_token()
        chosen = [decoding.last_tokens]
        original = decoding._keep

        def keep(output: object) -> None:
            original(output)
            chosen.append(decoding.last_tokens)

        decoding._keep = keep  # type: ignore[method-assign]
        decoding.other_tokens()
    assert torch.cat(chosen, dim=1).tolist() == expected
    assert lengths == [5, 1, 1, 1], "after the prompt, one token at a time"


def test_a_model_without_a_cache_cannot_be_timed_at_decoding() -> None:
    class Plain(nn.Module):
        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            return torch.zeros(*ids.shape, 97)

    with TorchEngine.opened(Plain(), "candidate", CONFIG) as engine, pytest.raises(PotError) as caught:
        work(engine, "candidate", BATCH, "decode", None)
    assert str(caught.value).startswith("the candidate does not take and return a key-value cache (cache or past_key_values or")


def test_an_engine_of_ones_own_can_be_timed_at_scoring_alone() -> None:
    Own = namedtuple("Own", ["label"])
    with pytest.raises(PotError, match=r"the reference is a custom engine \(a server\), which can be timed with what='score'"):
        work(cast(Engine, Own("a server")), "reference", BATCH, "prefill", None)


@pytest.mark.parametrize("what", ["score", "prefill", "decode"])
def test_the_shapes_that_are_run(what: str) -> None:
    model = gpt2()
    shapes = []
    model.register_forward_hook(lambda _, args, output: shapes.append((*args[0].shape, output.logits.shape[1])))
    with TorchEngine.opened(model, "candidate", CONFIG) as engine:
        timed = work(engine, "candidate", BATCH, what, 10)
        assert not shapes, "nothing is run before it is timed"
        if timed.lead is not None:
            timed.lead()
        timed.run()
    # score: only the columns that predict something; prefill: all; decode: the prompt, whose last token counts, then three.
    assert shapes == {"score": [(2, 9, 7)], "prefill": [(2, 9, 9)], "decode": [(2, 5, 1)] + [(2, 1, 1)] * 3}[what]


HEAD = tuple(range(1, 49))
SHARING = [Tokens((*HEAD, i, i, i, i), 50) for i in range(60, 64)]


def lengths_read(model: PreTrainedModel) -> list[tuple[int, ...]]:
    """The lengths of the sequences that it reads from now on; hooks on the model itself would keep it whole."""
    read: list[tuple[int, ...]] = []
    model.get_input_embeddings().register_forward_pre_hook(lambda _, arguments: read.append(tuple(arguments[0].shape)))
    return read


def test_every_run_reads_all_of_every_prompt() -> None:
    model = llama()
    with TorchEngine.opened(model, "candidate", CONFIG) as engine:
        same_path([engine], SHARING, 10)
        read = lengths_read(model)
        timed = work(engine, "candidate", SHARING, "score", 10)
        timed.run()
        timed.run()
    assert read == [(4, 51)] * 2


def test_both_are_run_whole_where_one_of_them_has_to_be() -> None:
    """Else a model is told to be slower for a hook that does nothing."""
    plain, other, hooked = llama(), llama(), llama()
    hooked.register_forward_hook(lambda *_: None)
    for candidate, split in ((other, True), (hooked, False)):
        with (
            TorchEngine.opened(plain, "reference", CONFIG) as ours,
            TorchEngine.opened(candidate, "candidate", CONFIG) as theirs,
        ):
            same_path([ours, theirs], SHARING, 10)
            for engine in (ours, theirs):
                work(engine, "candidate", SHARING, "score", 10).run()
                assert engine.reader is not None
                assert (engine.reader.output_layer is not None) == split


@pytest.mark.parametrize("what", ["prefill", "decode"])
def test_an_id_outside_the_vocabulary_is_told_before_anything_is_run(what: str) -> None:
    with (
        TorchEngine.opened(gpt2(), "candidate", CONFIG) as engine,
        pytest.raises(PotError, match="the tokenizer gives id 97, but"),
    ):
        work(engine, "candidate", [Tokens((5, 97, 6), 2)], what, None)


@pytest.mark.parametrize("what", ["score", "prefill", "decode"])
def test_memory_that_runs_out_is_told_as_such(what: str) -> None:
    model = gpt2()
    with TorchEngine.opened(model, "candidate", CONFIG) as engine:
        timed = work(engine, "candidate", BATCH, what, 10)

        def refuse(*_: object) -> NoReturn:
            raise torch.OutOfMemoryError("no room")

        model.register_forward_pre_hook(refuse)
        with pytest.raises(OutOfMemory, match="the candidate ran out of memory on cpu: no room"):
            (timed.lead or timed.run)()


def in_pieces(megabytes: int, pieces: int, kept: list[torch.Tensor]) -> None:
    """Hold so much three times over; something small stays behind each time."""
    for _ in range(3):
        held = [torch.ones(megabytes * 250_000 // pieces) for _ in range(pieces)]
        kept.append(torch.ones(1000))
        held.clear()


@on_linux
@pytest.mark.parametrize("megabytes", [64, 256])
def test_peak_memory_is_what_the_run_needs_above_rest_and_its_own_weights(megabytes: int) -> None:
    model = nn.Linear(1000, 1000, bias=False)
    # Once, and gone at the end: a second time might find what was freed too small by a few bytes, and take as much again.
    peak = peak_of(lambda: torch.ones(megabytes * 250_000).sum(), model, torch.device("cpu"))
    assert peak is not None
    assert peak.weights == 4_000_000
    assert (peak.bytes - peak.weights) / 1e6 == pytest.approx(megabytes, abs=5)


@on_linux
def test_memory_that_the_allocator_keeps_for_later_hides_nothing() -> None:
    kept: list[torch.Tensor] = []
    for pieces in (1, 10, 200, 1000):
        in_pieces(100, pieces, kept)  # what is freed here is used again below, and was resident all the time
        peak = peak_of(partial(in_pieces, 100, pieces, kept), nn.Linear(1, 1), torch.device("cpu"))
        assert peak is not None
        assert peak.bytes / 1e6 > 95


def test_tied_weights_are_counted_once() -> None:
    model: Any = gpt2()
    assert model.lm_head.weight is model.transformer.wte.weight
    unique = {id(p): p.numel() * 4 for p in model.parameters()}
    assert weights_size(model) == sum(unique.values()) + sum(buffer.nbytes for buffer in model.buffers())


def test_the_memory_of_other_devices_is_not_guessed() -> None:
    assert peak_of(lambda: None, nn.Linear(1, 1), torch.device("meta")) is None


@on_linux
def test_the_cache_of_keys_and_values_counts_although_a_run_before_left_one() -> None:
    # Many narrow layers keep several times as much as any one of them computes with.
    config = GPT2Config(n_layer=32, n_embd=64, n_head=2, n_positions=512, **SIZES)
    batch = [Tokens((*[0] * 400, *range(1, 9)), 400)] * 4
    cache = 32 * 2 * 4 * 64 * 4 * 407  # layers, keys and values, prompts, width, bytes, tokens
    with TorchEngine.opened(made(GPT2LMHeadModel, config), "candidate", CONFIG) as engine:
        timed = work(engine, "candidate", batch, "decode", None)
        assert timed.lead is not None
        timed.lead()
        timed.run()
        peak = timed.peak()
    assert peak is not None
    assert peak.bytes - peak.weights > 0.9 * cache


def test_every_device_that_a_model_is_on_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[torch.device] = []
    monkeypatch.setattr(torch, "get_device_module", lambda device: SimpleNamespace(synchronize=waited.append))
    places = [torch.device("cuda:0"), torch.device("cuda:1"), torch.device("xpu:0"), torch.device("cpu"), torch.device("meta")]
    with TorchEngine.opened(gpt2(), "candidate", CONFIG) as engine:
        parameters = [SimpleNamespace(device=place) for place in [*places, *places]]
        monkeypatch.setattr(engine.model, "parameters", lambda: iter(parameters))
        synchroniser([engine])()
    assert sorted(map(str, waited)) == ["cuda:0", "cuda:1", "xpu:0"]


def test_waiting_does_not_walk_over_the_model_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would count as the model's time, and make a slower model look less slow."""
    with TorchEngine.opened(gpt2(), "candidate", CONFIG) as engine:
        wait = synchroniser([engine])
        monkeypatch.setattr(engine.model, "parameters", lambda: pytest.fail("walked over the parameters"))
        wait()
