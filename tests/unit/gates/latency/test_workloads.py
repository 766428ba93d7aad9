"""The timed work on a real model, and its memory."""

from __future__ import annotations

import gc
import inspect
import subprocess
import sys
from collections import namedtuple
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, ClassVar, NoReturn, Self, cast

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
from pytest_pot.gates.latency.workloads import refuse_memory, same_path, synchroniser, work

CONFIG = ScoringConfig()
on_linux = pytest.mark.skipif(sys.platform != "linux", reason="counted by Linux")
SIZES: dict[str, Any] = {"vocab_size": 97, "bos_token_id": 0, "eos_token_id": 0}


def build(cls: type[PreTrainedModel], config: PretrainedConfig) -> PreTrainedModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model: PreTrainedModel = cls(config).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(4)  # otherwise all positions predict the same
    return model


def gpt2() -> PreTrainedModel:
    return build(GPT2LMHeadModel, GPT2Config(n_layer=2, n_embd=32, n_head=2, n_positions=64, **SIZES))


def llama() -> PreTrainedModel:
    sizes: dict[str, Any] = {"num_hidden_layers": 2, "hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2}
    return build(LlamaForCausalLM, LlamaConfig(max_position_embeddings=64, **sizes, **SIZES))


BATCH = [Tokens((5, 6, 7, 8, 9, 0, 0, 0, 0), 5), Tokens((11, 12, 0, 0, 0, 0), 2)]


@pytest.mark.parametrize("make", [gpt2, llama])
def test_decoding_uses_the_cache_and_chooses_the_models_tokens(make: Callable[[], PreTrainedModel]) -> None:
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
        steps = [decoding.last_tokens]
        original = decoding._keep

        def keep(output: object) -> None:
            original(output)
            steps.append(decoding.last_tokens)

        decoding._keep = keep  # type: ignore[method-assign]
        decoding.other_tokens()
    assert torch.cat(steps, dim=1).tolist() == expected
    assert lengths == [5, 1, 1, 1], "after the prompt, one token at a time"


def test_a_model_without_a_cache_cannot_be_timed_at_decoding() -> None:
    class Plain(nn.Module):
        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            return torch.zeros(*ids.shape, 97)

    with TorchEngine.opened(Plain(), "candidate", CONFIG) as engine, pytest.raises(PotError) as error:
        work(engine, "candidate", BATCH, "decode", None)
    assert str(error.value).startswith("the candidate does not take and return a key-value cache (cache or past_key_values or")


def test_a_custom_engine_can_be_timed_only_at_scoring() -> None:
    Own = namedtuple("Own", ["label"])
    engine = cast(Engine, Own("my runtime"))
    with pytest.raises(PotError) as error:
        work(engine, "reference", BATCH, "prefill", None)
    assert str(error.value).startswith(
        "what='prefill' times the bare forward pass, which is not possible with what runs the reference (my runtime): it can "
        "be timed with what='score' only"
    )
    with pytest.raises(PotError, match=r"^what='decode' times generation token by token, which is not possible with what runs"):
        work(engine, "candidate", BATCH, "decode", None)


def test_memory_is_limited_only_where_it_can_be_measured() -> None:
    Own = namedtuple("Own", ["label"])
    message = r"^max_memory_mb limits peak memory, which cannot be measured with what runs the candidate \(my runtime\)\. Leave"
    with pytest.raises(PotError, match=message):
        refuse_memory(cast(Engine, Own("my runtime")), "candidate", "max_memory_mb")
    with TorchEngine.opened(llama(), "candidate", CONFIG) as engine:
        refuse_memory(engine, "candidate", "max_memory_mb")


def test_a_custom_engine_that_generates_can_be_timed_at_decoding() -> None:
    class Own:
        label, max_positions = "my runtime", None
        calls: ClassVar[list[str]] = []

        def top_k(self, *_: object) -> NoReturn:
            raise NotImplementedError

        sample = top_k

        def generate(self, batch: object) -> Self:
            assert batch is BATCH
            return self

        def first_token(self) -> None:
            self.calls.append("first")

        def other_tokens(self) -> None:
            self.calls.append("others")

        def forget(self) -> None:
            self.calls.append("forget")

    task = work(cast(Engine, Own()), "candidate", BATCH, "decode", None)
    assert task.lead is not None
    task.lead()
    task.run()
    assert Own.calls == ["first", "others"]
    assert (task.requests, task.peak()) == (None, None)
    assert Own.calls.pop() == "forget"
    with pytest.raises(PotError, match="can be timed with what='score' or what='decode' only"):
        work(cast(Engine, Own()), "candidate", BATCH, "prefill", None)


@pytest.mark.parametrize("what", ["score", "prefill", "decode"])
def test_each_kind_of_work_runs_the_expected_shapes(what: str) -> None:
    model = gpt2()
    shapes = []
    model.register_forward_hook(lambda _, args, output: shapes.append((*args[0].shape, output.logits.shape[1])))
    with TorchEngine.opened(model, "candidate", CONFIG) as engine:
        task = work(engine, "candidate", BATCH, what, 10)
        assert not shapes, "nothing is run before it is timed"
        if task.lead is not None:
            task.lead()
        task.run()
    # score: only columns that predict; prefill: all columns; decode: the prompt's last column, then three single tokens.
    assert shapes == {"score": [(2, 9, 7)], "prefill": [(2, 9, 9)], "decode": [(2, 5, 1)] + [(2, 1, 1)] * 3}[what]


HEAD = tuple(range(1, 49))
SHARING = [Tokens((*HEAD, i, i, i, i), 50) for i in range(60, 64)]


def record_shapes(model: PreTrainedModel) -> list[tuple[int, ...]]:
    """The shapes of ids that the embedding reads from now on; we would not split a model with its own hooks."""
    shapes: list[tuple[int, ...]] = []
    model.get_input_embeddings().register_forward_pre_hook(lambda _, arguments: shapes.append(tuple(arguments[0].shape)))
    return shapes


def test_every_run_reads_whole_prompts() -> None:
    model = llama()
    with TorchEngine.opened(model, "candidate", CONFIG) as engine:
        same_path([engine], SHARING, 10)
        shapes = record_shapes(model)
        task = work(engine, "candidate", SHARING, "score", 10)
        task.run()
        task.run()
    assert shapes == [(4, 51)] * 2


def test_both_models_run_unsplit_if_one_of_them_must() -> None:
    """Otherwise a hook that does nothing would make a model look slower."""
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
def test_an_id_outside_the_vocabulary_is_an_error_before_any_run(what: str) -> None:
    with (
        TorchEngine.opened(gpt2(), "candidate", CONFIG) as engine,
        pytest.raises(PotError, match="the tokenizer gives id 97, but"),
    ):
        work(engine, "candidate", [Tokens((5, 97, 6), 2)], what, None)


@pytest.mark.parametrize("what", ["score", "prefill", "decode"])
def test_out_of_memory_names_the_role_and_the_device(what: str) -> None:
    model = gpt2()
    with TorchEngine.opened(model, "candidate", CONFIG) as engine:
        task = work(engine, "candidate", BATCH, what, 10)

        def raise_out_of_memory(*_: object) -> NoReturn:
            raise torch.OutOfMemoryError("no room")

        model.register_forward_pre_hook(raise_out_of_memory)
        with pytest.raises(OutOfMemory, match="the candidate ran out of memory on cpu: no room"):
            (task.lead or task.run)()


def allocate_in_pieces(megabytes: int, pieces: int, small_tensors: list[torch.Tensor]) -> None:
    """Allocate and free ``megabytes`` three times, and keep a small tensor each time."""
    for _ in range(3):
        block = [torch.ones(megabytes * 250_000 // pieces) for _ in range(pieces)]
        small_tensors.append(torch.ones(1000))
        block.clear()


@on_linux
@pytest.mark.parametrize("megabytes", [64, 256])
def test_peak_memory_is_that_of_the_run_plus_the_weights(megabytes: int) -> None:
    model = nn.Linear(1000, 1000, bias=False)
    # Allocate once: a second tensor might not fit into the freed memory by a few bytes, and double the peak.
    peak = peak_of(lambda: torch.ones(megabytes * 250_000).sum(), model, torch.device("cpu"))
    assert peak is not None
    assert peak.weights == 4_000_000
    assert (peak.bytes - peak.weights) / 1e6 == pytest.approx(megabytes, abs=5)


REUSED = f"""
from __future__ import annotations

from functools import partial

import torch
from pytest_pot.engines.pytorch.memory import peak_of

{inspect.getsource(allocate_in_pieces)}

small_tensors = []
for pieces in (1, 10, 200, 1000):
    # The allocator keeps this memory resident, and reuses it below.
    allocate_in_pieces(100, pieces, small_tensors)
    peak = peak_of(partial(allocate_in_pieces, 100, pieces, small_tensors), torch.nn.Linear(1, 1), torch.device("cpu"))
    assert peak.bytes / 1e6 > 95, (pieces, peak)
"""


@on_linux
def test_memory_that_the_allocator_reuses_is_counted() -> None:
    """In a process of its own: what earlier tests left of the heap changes what the allocator reuses."""
    subprocess.run([sys.executable, "-c", REUSED], check=True)


def test_tied_weights_are_counted_once() -> None:
    model: Any = gpt2()
    assert model.lm_head.weight is model.transformer.wte.weight
    unique = {id(p): p.numel() * 4 for p in model.parameters()}
    assert weights_size(model) == sum(unique.values()) + sum(buffer.nbytes for buffer in model.buffers())


def test_the_memory_of_other_devices_is_unknown() -> None:
    assert peak_of(lambda: None, nn.Linear(1, 1), torch.device("meta")) is None


@on_linux
def test_the_key_value_cache_is_counted_even_after_an_earlier_run() -> None:
    # With many narrow layers, the cache is several times larger than the activations of any one layer.
    config = GPT2Config(n_layer=32, n_embd=64, n_head=2, n_positions=512, **SIZES)
    batch = [Tokens((*[0] * 400, *range(1, 9)), 400)] * 4
    cache = 32 * 2 * 4 * 64 * 4 * 407  # layers, keys and values, prompts, width, bytes, tokens
    with TorchEngine.opened(build(GPT2LMHeadModel, config), "candidate", CONFIG) as engine:
        task = work(engine, "candidate", batch, "decode", None)
        assert task.lead is not None
        task.lead()
        task.run()
        peak = task.peak()
    assert peak is not None
    assert peak.bytes - peak.weights > 0.9 * cache


@on_linux
def test_garbage_that_is_collected_during_a_run_takes_nothing_off_its_memory() -> None:
    n_bytes = 64 << 20
    garbage: list[Any] = [torch.ones(n_bytes, dtype=torch.uint8)]
    garbage.append(garbage)

    def run() -> None:
        gc.collect()
        torch.ones(n_bytes, dtype=torch.uint8)

    gc.disable()
    try:
        del garbage
        peak = peak_of(run, torch.nn.Linear(1, 1), torch.device("cpu"))
    finally:
        gc.enable()
    assert peak is not None
    assert peak.bytes - peak.weights > 0.9 * n_bytes


def test_every_device_of_a_model_is_synchronised(monkeypatch: pytest.MonkeyPatch) -> None:
    devices: list[torch.device] = []
    monkeypatch.setattr(torch, "get_device_module", lambda device: SimpleNamespace(synchronize=devices.append))
    places = tuple(torch.device(name) for name in ("cuda:0", "cuda:1", "xpu:0", "cpu", "meta"))
    with TorchEngine.opened(gpt2(), "candidate", CONFIG) as engine:
        monkeypatch.setattr(engine, "_facts", replace(engine._facts, devices=places))
        synchroniser([engine])()
    assert sorted(map(str, devices)) == ["cuda:0", "cuda:1", "xpu:0"]


def test_waiting_does_not_walk_over_the_model_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would count as the model's time, and make a slower model look less slow."""
    with TorchEngine.opened(gpt2(), "candidate", CONFIG) as engine:
        wait = synchroniser([engine])
        monkeypatch.setattr(engine.model, "parameters", lambda: pytest.fail("walked over the parameters"))
        wait()
