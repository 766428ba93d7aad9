from __future__ import annotations

from collections import namedtuple
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.modeling_outputs import CausalLMOutputWithPast

from pytest_pot.engines.pytorch.module_trace.nested import leaves, with_leaves

Pair = namedtuple("Pair", ["left", "right"])


@dataclass(frozen=True)
class Frozen:
    states: Tensor
    rest: object = "text"


ONE, TWO, NEW = torch.ones(2), torch.zeros(3), torch.full((2,), 7.0)


@pytest.mark.parametrize(
    ("value", "paths"),
    [
        (ONE, [()]),
        ((ONE, TWO), [(0,), (1,)]),
        ([ONE, {"a": TWO}], [(0,), (1, "a")]),
        (Pair(ONE, (TWO, 5)), [("left",), ("right", 0)]),
        (CausalLMOutputWithPast(logits=ONE), [("logits",)]),
        (Frozen(ONE), [("states",)]),
        (SimpleNamespace(logits=ONE), [("logits",)]),
        ({"a": None, "b": 1, "c": DynamicCache()}, [("a",)]),
        (torch.nn.Parameter(ONE), []),
        (torch.empty(2, device="meta"), []),
    ],
    ids=lambda value: type(value).__name__,
)
def test_every_tensor_is_seen_and_can_be_replaced(value: Any, paths: list[tuple[object, ...]]) -> None:
    places = [(0 if key == "left" else 1 if key == "right" else key for key in path) for path in paths]
    seen = dict(leaves(value))
    assert list(seen) == [tuple(place) for place in places]
    for path in seen:
        other = with_leaves(value, {path: NEW})
        assert type(other) is type(value) or path == ()
        after = dict(leaves(other))
        assert after.keys() == seen.keys()
        assert all(after[key] is (NEW if key == path else seen[key]) for key in seen)
        assert all(dict(leaves(value))[key] is seen[key] for key in seen)  # the original is as it was


def test_what_is_not_replaced_stays_the_same_object() -> None:
    value = {"cache": object(), "states": (ONE, TWO)}
    assert with_leaves(value, {}) is value
    other = with_leaves(value, {("states", 0): NEW})
    assert other["cache"] is value["cache"]
    assert other["states"][1] is TWO


def test_a_list_that_contains_itself_ends() -> None:
    value: list[Any] = [ONE]
    value.append(value)
    assert len(dict(leaves(value))) == 8
