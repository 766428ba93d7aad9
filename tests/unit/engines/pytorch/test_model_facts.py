"""One walk over a model tells what an opening needs, and is made anew for the next one."""

from __future__ import annotations

import weakref
from typing import Any

import pytest
import torch
from torch import nn

from pytest_pot import ScoringConfig
from pytest_pot.engines.pytorch.engine import TorchEngine
from pytest_pot.engines.pytorch.model_facts import ModelFacts
from pytest_pot.engines.pytorch.model_traits import is_causal
from pytest_pot.engines.pytorch.quantised import is_quantised
from pytest_pot.engines.tokens import Tokens

from ...models import CONFIGS, tiny

CONFIG = ScoringConfig(top_k=5)


@pytest.fixture
def walks(monkeypatch: pytest.MonkeyPatch) -> list[nn.Module]:
    """The modules from which a walk over all modules or parameters below them began."""
    begun: list[nn.Module] = []
    named_modules: Any = nn.Module.named_modules

    def counted(self: nn.Module, memo: Any = None, *arguments: Any, **keywords: Any) -> Any:
        if memo is None:
            begun.append(self)
        return named_modules(self, memo, *arguments, **keywords)

    monkeypatch.setattr(nn.Module, "named_modules", counted)
    return begun


def test_an_opening_walks_over_the_model_once(walks: list[nn.Module]) -> None:
    model = tiny("llama")
    walks.clear()
    with TorchEngine.opened(model, "candidate", CONFIG) as engine:
        assert engine.description.format == "in memory"
        engine.synchroniser()
        engine.restart()
    assert walks == [model]


def test_a_converted_copy_is_walked_over_once_too(walks: list[nn.Module]) -> None:
    model = tiny("llama")
    walks.clear()
    with TorchEngine.opened(model, "candidate", ScoringConfig(top_k=5, dtype="bfloat16")) as engine:
        assert engine.description.dtype == "bfloat16"
        engine.synchroniser()
    assert walks == [model, engine.model]


def test_a_plain_module_whose_lookups_are_checked_is_walked_over_once(walks: list[nn.Module]) -> None:
    model = nn.Sequential(nn.Embedding(7, 4), nn.Linear(4, 7))
    with TorchEngine.opened(model, "candidate", CONFIG):
        assert len(model[0]._forward_pre_hooks) == 1
    assert not model[0]._forward_pre_hooks
    assert walks == [model]


def test_the_vocabulary_is_asked_for_once_however_many_prompts_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny("gpt2")
    asked: list[int] = []
    lookup: Any = type(model).get_input_embeddings

    def counted(self: Any) -> Any:
        asked.append(1)
        return lookup(self)

    monkeypatch.setattr(type(model), "get_input_embeddings", counted)
    counts = []
    for n in (1, 6):
        asked.clear()
        with TorchEngine.opened(model, "candidate", CONFIG) as engine:
            engine.top_k([Tokens((5, 6, 7, 8), 2)] * n, 5)
        counts.append(len(asked))
    assert counts[0] == counts[1] > 0


def test_what_changes_between_openings_is_seen() -> None:
    model: Any = tiny("llama")
    labels = []
    for change in (model.float, model.bfloat16, model.double, model.train):
        change()
        with TorchEngine.opened(
            model, "candidate", ScoringConfig(top_k=5, dtype="float32" if change == model.train else "auto")
        ) as engine:
            labels.append(engine.label)
            assert not engine.model.training
    assert labels == ["float32 on cpu", "float32 on cpu", "float64 on cpu", "float32 on cpu"]
    assert model.training


@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_the_facts_are_those_of_torchs_own_walks(name: str) -> None:
    model: Any = tiny(name)
    model.get_output_embeddings().bfloat16()
    next(model.modules()).register_buffer("mask", torch.ones(2, device="meta"))
    model.model_parallel = model.base_model.train()
    facts = ModelFacts.of(model)
    assert facts.classes == {type(module) for module in model.modules()}
    assert facts.float_dtypes == tuple(dict.fromkeys(p.dtype for p in model.parameters()))
    assert facts.devices == tuple(dict.fromkeys(p.device for p in model.parameters()))
    assert facts.training == tuple(module for module in model.modules() if module.training) != ()
    assert facts.embeddings == tuple(module for module in model.modules() if isinstance(module, nn.Embedding))
    assert facts.causal_flags == tuple(bool(module.is_causal) for module in model.modules() if hasattr(module, "is_causal"))
    assert facts.has_meta_tensors
    assert facts.configs == (model.config,)


def test_facts_do_not_keep_weights_that_a_model_has_replaced() -> None:
    model = nn.Sequential(nn.Linear(4, 4))
    weight = weakref.ref(model[0].weight)
    facts = ModelFacts.of(model)
    model[0].weight = nn.Parameter(torch.zeros(4, 4))
    assert weight() is None
    assert facts.float_dtypes == (torch.float32,)


class Forwarding(nn.Module):
    """Hands on what it is asked, as adapters and torch.compile do, without showing what it wraps."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__()
        self._attributes = attributes

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name not in vars(self).get("_attributes", {}):
                raise
            return self._attributes[name]


def test_attributes_that_a_class_hands_on_are_seen() -> None:
    assert is_quantised(Forwarding(quantization_method="bitsandbytes"))
    assert is_quantised(Forwarding(is_loaded_in_8bit=True))
    assert not is_quantised(Forwarding(is_loaded_in_8bit=False))
    assert is_causal(Forwarding(is_causal=True))
    assert not is_causal(Forwarding())


def test_attributes_of_a_class_are_seen() -> None:
    class Causal(nn.Linear):
        is_causal = True

    class Method(nn.Linear):
        quantization_method = property(lambda _: "awq")

    assert is_causal(nn.Sequential(Causal(2, 2)))
    assert is_quantised(nn.Sequential(Method(2, 2)))
    assert not is_quantised(nn.Sequential(Causal(2, 2)))
