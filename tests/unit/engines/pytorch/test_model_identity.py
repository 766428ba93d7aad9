"""What identifies a model by its content: a cached record of another model must never be taken for its own."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch.nn import functional
from transformers import PreTrainedModel

from pytest_pot.engines.pytorch.model_identity import content_of

from ...models import tiny


def set_attribute(model: PreTrainedModel, value: object) -> None:
    next(module for name, module in model.named_modules() if name.endswith("mlp")).__dict__["setting"] = value


PAIRS = [
    ({"scale": 1.0}, {"scale": 2.0}),
    ({"scale": {"inner": 1}}, {"scale": {"inner": 2}}),
    ({1, 2}, {1, 3}),
    ([1, [2]], [1, [3]]),
    (functional.gelu, functional.silu),
    (torch.relu, torch.tanh),
    (partial(functional.gelu, approximate="tanh"), partial(functional.gelu, approximate="none")),
    (1, 1.5),
]


@pytest.mark.parametrize(("first", "second"), PAIRS)
def test_an_attribute_that_differs_makes_another_content(first: object, second: object) -> None:
    contents = []
    for value in (first, second):
        model = tiny()
        set_attribute(model, value)
        contents.append(content_of(model))
    assert None not in contents
    assert contents[0] != contents[1]


@pytest.mark.parametrize("value", [value for pair in PAIRS for value in pair])
def test_equal_attributes_make_equal_contents(value: object) -> None:
    contents = []
    for _ in range(2):
        model = tiny()
        set_attribute(model, value)
        contents.append(content_of(model))
    assert contents[0] == contents[1]


@pytest.mark.parametrize("make", [lambda: torch.zeros(2), lambda: [torch.zeros(2)], lambda: {"a": lambda x: x}])
def test_content_that_no_digest_covers_is_none(make: Callable[[], object]) -> None:
    model = tiny()
    set_attribute(model, make())
    assert content_of(model) is None
