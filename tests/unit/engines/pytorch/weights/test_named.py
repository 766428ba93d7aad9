"""The weights of a live model by name: which there are, what is shared, and what cannot be read."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pytest_pot.engines.pytorch.weights.named import NamedWeights
from pytest_pot.engines.pytorch.weights.prints import digest_of, print_of
from pytest_pot.engines.registry import weights
from pytest_pot.engines.weights import TensorInfo, Weights

from ....models import tiny


class Fused(nn.Module):
    """A model whose matrices are views of one buffer, with a name twice, a part, and a buffer that no checkpoint holds."""

    def __init__(self) -> None:
        super().__init__()
        storage = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
        self.first = nn.Parameter(storage[:3])
        self.again = nn.Parameter(storage[:3])
        self.whole = nn.Parameter(storage)
        self.turned = nn.Parameter(storage[:3].view(4, 3))
        self.twice = self.whole
        self.table: Tensor
        self.counts: Tensor
        self.register_buffer("table", torch.arange(7.0), persistent=False)
        self.register_buffer("counts", torch.arange(3))


def test_each_tensor_is_there_once() -> None:
    named = NamedWeights(Fused())
    assert named.ties == {"again": "first", "twice": "whole"}
    assert named.tensors == {
        "first": TensorInfo((3, 4), "float32"),
        "whole": TensorInfo((6, 4), "float32"),
        "turned": TensorInfo((4, 3), "float32"),
        "table": TensorInfo((7,), "float32", saved=False),
        "counts": TensorInfo((3,), "int64"),
    }
    assert named.unreadable is None


def test_empty_tensors_share_nothing() -> None:
    assert NamedWeights(nn.ParameterDict({"a": torch.zeros(0), "b": torch.zeros(0)})).ties == {}


def test_tied_embeddings_are_under_their_first_name() -> None:
    model = tiny("gpt2")
    named = weights(model)
    assert isinstance(named, Weights)
    assert named.ties == {"lm_head.weight": "transformer.wte.weight"}
    assert "lm_head.weight" not in named.tensors
    assert named.digest("lm_head.weight") == named.digest("transformer.wte.weight")
    assert named.model_class == "GPT2LMHeadModel"
    assert named.config is not None
    assert named.config["n_embd"] == 32


def test_a_digest_is_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []

    def counted(values: Tensor) -> bytes:
        read.append(values.numel())
        return digest_of(values)

    monkeypatch.setattr("pytest_pot.engines.pytorch.weights.named.digest_of", counted)
    model = Fused()
    named = NamedWeights(model)
    digests = {name: named.digest(name) for name in reversed(list(named.tensors))}
    assert digests == {name: digest_of(named.values(name)) for name in named.tensors}
    assert all(named.digest(name) == digest for name, digest in digests.items())
    named.print()
    assert sorted(read) == [3, 7, 12, 12, 24]


def test_a_print_is_that_of_each_tensor() -> None:
    model = tiny("llama").bfloat16()
    printed = NamedWeights(model).print()
    state = model.state_dict()
    assert list(printed.tensors) == list(NamedWeights(model).tensors)
    assert set(state) == {name for name, tensor in printed.tensors.items() if tensor.info.saved}
    assert printed.model_class == "LlamaForCausalLM"
    for name, made in printed.tensors.items():
        expected = print_of(model.get_parameter(name) if name in state else model.get_buffer(name), made.info)
        assert (made.digest, made.norm, made.zeros) == (expected.digest, expected.norm, expected.zeros)
        np.testing.assert_array_equal(made.projection, expected.projection)


def test_the_same_weights_in_another_precision_have_the_same_digests() -> None:
    model = tiny("llama").bfloat16()
    halves, floats = NamedWeights(model), NamedWeights(tiny("llama").bfloat16().float())
    assert all(halves.digest(name) == floats.digest(name) for name in halves.tensors)


def test_inference_mode_and_gradients_do_not_matter() -> None:
    with torch.inference_mode():
        inside = NamedWeights(tiny("llama")).print()
    outside = NamedWeights(tiny("llama").train()).print()
    assert all(inside.tensors[name].digest == each.digest for name, each in outside.tensors.items())


def test_what_is_not_in_memory_cannot_be_read() -> None:
    model: Any = tiny("llama")
    model.model.layers[1].mlp.to("meta")
    assert NamedWeights(model).unreadable == (
        "model.layers.1.mlp.gate_proj.weight is not in memory: it was offloaded, or never loaded"
    )
    assert len(NamedWeights(model).tensors) == len(NamedWeights(tiny("llama")).tensors)


def test_what_is_spread_over_processes_cannot_be_read() -> None:
    # torch exports HashStore, but its __all__ does not say so.
    from torch.distributed import HashStore, destroy_process_group, init_process_group  # type: ignore[attr-defined]
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor.parallel import ColwiseParallel, parallelize_module

    init_process_group("gloo", rank=0, world_size=1, store=HashStore())
    try:
        model: Any = tiny("llama")
        parallelize_module(model.model.layers[0].mlp, init_device_mesh("cpu", (1,)), {"up_proj": ColwiseParallel()})
        unreadable = NamedWeights(model).unreadable
    finally:
        destroy_process_group()
    assert unreadable == "model.layers.0.mlp.up_proj.weight is spread over several processes"


def test_a_layout_that_is_not_known_cannot_be_read() -> None:
    model = nn.Module()
    model.register_buffer("table", torch.eye(4).to_sparse())
    assert NamedWeights(model).unreadable == "table is kept as a sparse tensor, which cannot be read here"


def test_the_configuration_of_a_wrapped_model_is_that_of_the_model() -> None:
    model = tiny("llama")
    for wrapped in (nn.DataParallel(model), nn.DataParallel(nn.DataParallel(model))):
        assert NamedWeights(wrapped).config == NamedWeights(model).config is not None
    assert NamedWeights(nn.DataParallel(nn.Linear(2, 2))).config is None


def test_a_configuration_that_is_too_deep_for_json_is_none() -> None:
    model: Any = tiny("llama")
    deepest: dict[str, Any] = {}
    model.config.deep = deepest
    for _ in range(5000):
        deepest["a"] = {}
        deepest = deepest["a"]
    assert NamedWeights(model).config is None
