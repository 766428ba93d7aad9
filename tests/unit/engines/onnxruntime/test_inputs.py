"""What each input of a graph gets, and which graphs are refused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from pytest_pot import PotError
from pytest_pot.engines.onnxruntime.inputs import Feeds, output_of


@dataclass
class Arg:
    name: str
    type: str = "tensor(int64)"
    shape: Sequence[int | str | None] = field(default_factory=lambda: ["batch", "length"])


IDS, MASK = Arg("input_ids"), Arg("attention_mask", shape=["batch", "total"])
KEY = Arg("past_key_values.0.key", "tensor(float)", ["batch", 2, "past", 8])
READ = np.array([[5, 6, 7], [8, 9, 0]])
REAL = np.array([[1, 1, 1], [1, 1, 0]])


def feeds(*arguments: Arg, config: Mapping[str, Any] | None = None) -> Feeds:
    return Feeds.of(arguments, config or {}, "the candidate")


def arrays(*arguments: Arg, config: Mapping[str, Any] | None = None) -> dict[str, Any]:
    return {name: array for name, (array, _) in feeds(*arguments, config=config).arrays(READ, REAL).items()}


def test_ids_mask_and_positions() -> None:
    given = arrays(IDS, MASK, Arg("position_ids"))
    np.testing.assert_array_equal(given["input_ids"], READ)
    np.testing.assert_array_equal(given["attention_mask"], REAL)
    np.testing.assert_array_equal(given["position_ids"], [[0, 1, 2], [0, 1, 2]])
    assert {array.dtype for array in given.values()} == {np.dtype(np.int64)}


def test_types_are_those_of_the_graph() -> None:
    given = arrays(Arg("input_ids", "tensor(int32)"), Arg("attention_mask", "tensor(int32)"))
    assert {array.dtype for array in given.values()} == {np.dtype(np.int32)}


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [
        ("tensor(float)", np.float32),
        ("tensor(float16)", np.float16),
        ("tensor(double)", np.float64),
        ("tensor(bfloat16)", np.uint16),
    ],
)
def test_a_cache_of_no_tokens(kind: str, dtype: type) -> None:
    given = arrays(IDS, Arg("past_key_values.0.value", kind, ["batch", 3, "past", 16]))["past_key_values.0.value"]
    assert (given.shape, given.dtype) == ((2, 3, 0, 16), np.dtype(dtype))


@pytest.mark.parametrize(
    "name", ["past_key_values.11.key", "past_key_values_0_value", "past_0_key", "past_keys.3", "past_value_2"]
)
def test_names_of_caches(name: str) -> None:
    assert arrays(IDS, Arg(name, "tensor(float)", KEY.shape))[name].shape == (2, 2, 0, 8)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"num_key_value_heads": 3, "num_attention_heads": 9, "head_dim": 5, "hidden_size": 36}, (2, 3, 0, 5)),
        ({"num_attention_heads": 9, "hidden_size": 36}, (2, 9, 0, 4)),
    ],
)
def test_sizes_that_the_graph_leaves_open_are_those_of_the_config(config: dict[str, int], expected: tuple[int, ...]) -> None:
    open_key = Arg("past_key_values.0.key", "tensor(float)", ["batch", "heads", "past", "size"])
    assert arrays(IDS, open_key, config=config)["past_key_values.0.key"].shape == expected
    with pytest.raises(PotError, match=r"neither its graph .* nor a config.json beside it says how many key-value heads"):
        feeds(IDS, open_key)


def test_other_inputs_that_have_one_meaning() -> None:
    given = arrays(
        IDS,
        Arg("use_cache_branch", "tensor(bool)", [1]),
        Arg("num_logits_to_keep", shape=[]),
        Arg("logits_to_keep", shape=[1]),
        Arg("cache_position", shape=["length"]),
    )
    assert given["use_cache_branch"].tolist() == [False]
    assert (given["num_logits_to_keep"].shape, given["num_logits_to_keep"].item()) == ((), 0)
    assert given["logits_to_keep"].tolist() == [0]
    assert given["cache_position"].tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    "argument",
    [
        Arg("token_type_ids"),
        Arg("encoder_hidden_states", "tensor(float)", ["batch", "length", 32]),
        Arg("past_conv.0", "tensor(float)", ["batch", 32, 3]),
        Arg("past_key_values.0.key", "tensor(float)", ["batch", 32, "past"]),
        Arg("past_ssm.0", "tensor(float)", ["batch", 2, 16, 16]),
        Arg("attention_mask", "tensor(float)"),
        Arg("attention_mask", shape=["batch", 1, "length", "length"]),
        Arg("position_ids", shape=[3, "batch", "length"]),
    ],
    ids=lambda argument: f"{argument.name} {argument.type} {len(argument.shape)}",
)
def test_inputs_that_are_not_known_are_refused_by_name(argument: Arg) -> None:
    with pytest.raises(
        PotError, match=rf"cannot run the candidate: its graph has the input {argument.name}, and pytest-pot does"
    ):
        feeds(IDS, argument)


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        (Arg("input_ids", shape=["batch", 16]), r"sequences of exactly 16 tokens \(input_ids is \[batch, 16\]\).*dynamic_axes"),
        (Arg("input_ids", shape=[4, "length"]), r"exactly 4 sequences at a time"),
        (Arg("past_key_values.0.key", "tensor(float)", ["b", 2, 1024, 8]), r"its cache has a fixed length .*\[b, 2, 1024, 8\]"),
        (Arg("inputs_embeds"), r"has the input inputs_embeds"),
        (MASK, r"its graph has no input input_ids, but attention_mask"),
    ],
)
def test_shapes_that_cannot_be_given(argument: Arg, message: str) -> None:
    with pytest.raises(PotError, match=message):
        feeds(argument)


def test_a_graph_for_one_sequence_at_a_time() -> None:
    assert feeds(Arg("input_ids", shape=[1, "length"])).one_by_one
    assert not feeds(IDS).one_by_one


def test_the_output() -> None:
    logits, scores = (Arg(name, "tensor(float)", ["batch", "length", 9]) for name in ("logits", "scores"))
    present = Arg("present.0.key", "tensor(float)", ["batch", 2, "total", 8])
    assert output_of([present, logits, scores], "it") is logits
    assert output_of([present, scores], "it") is scores
    with pytest.raises(PotError, match=r"has no output logits, but scores, other"):
        output_of([scores, Arg("other", "tensor(float)", ["batch", "length", 9])], "it")
    with pytest.raises(PotError, match=r"output logits is tensor\(int64\)"):
        output_of([Arg("logits", "tensor(int64)", ["batch", "length", 9])], "it")
    with pytest.raises(PotError, match=r"of shape \[batch, 9\]; expected floats"):
        output_of([Arg("logits", "tensor(float)", ["batch", 9])], "it")
    with pytest.raises(PotError, match=r"has the last position only"):
        output_of([Arg("logits", "tensor(float)", ["batch", 1, 9])], "it")
