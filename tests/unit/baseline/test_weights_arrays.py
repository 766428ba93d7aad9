"""What a recording keeps of weights: equal in memory and in the file, small, and checked like the rest of the file."""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import nn
from transformers import PreTrainedTokenizerFast

from pytest_pot import Baseline, PotError, Prompt, ScoringConfig, TeacherForcedScorer
from pytest_pot.baseline.file_validation import Malformed
from pytest_pot.baseline.weights_arrays import weights_arrays, weights_in
from pytest_pot.engines.pytorch.weights.named import NamedWeights
from pytest_pot.engines.weights import TensorInfo, TensorPrint, WeightsPrint

from ..models import CONFIGS, tiny

Arrays = dict[str, npt.NDArray[Any]]


def assert_equal(first: WeightsPrint | None, second: WeightsPrint | None) -> None:
    assert first is not None
    assert second is not None
    assert (first.model_class, first.config, first.ties) == (second.model_class, second.config, second.ties)
    assert list(first.tensors) == list(second.tensors)
    for name, tensor in first.tensors.items():
        other = second.tensors[name]
        assert (tensor.info, tensor.digest, tensor.zeros, tensor.grid) == (other.info, other.digest, other.zeros, other.grid)
        np.testing.assert_equal(tensor.norm, other.norm)
        np.testing.assert_array_equal(tensor.projection, other.projection)


def through_a_file(printed: WeightsPrint) -> WeightsPrint | None:
    return weights_in(dict(weights_arrays(printed)))


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_print_in_memory_and_from_its_file_are_equal(name: str, dtype: torch.dtype) -> None:
    model: Any = tiny(name)
    printed = NamedWeights(model.to(dtype)).print()
    assert_equal(through_a_file(printed), printed)


def test_odd_tensors_are_kept_too() -> None:
    model: Any = nn.Module()
    for name, values in {
        "scalar": torch.tensor(3.0),
        "nothing": torch.zeros(0, 4),
        "zeros": torch.zeros(3),
        "bad": torch.tensor([1.0, math.nan]),
        "infinite": torch.tensor([1.0, -math.inf]),
        "huge": torch.full((2,), 1e300, dtype=torch.float64),
        "tiny": torch.full((2,), 1e-44),
        "tiniest": torch.full((2,), 1e-300, dtype=torch.float64),
        "mask": torch.ones(4, 4).tril().bool(),
        "complex": torch.zeros(3, dtype=torch.complex64),
        "Ünïcode \n": torch.ones(2),
    }.items():
        model.register_buffer(name, values, persistent=name != "mask")
    printed = NamedWeights(model).print()
    assert_equal(through_a_file(printed), printed)


def test_grids_infinite_settings_and_many_zeros_are_kept() -> None:
    info = TensorInfo((1 << 20, 1 << 20), "float32")
    tensors = {
        "a": TensorPrint(info, b"12345678", 2.0, 2**32 - 1, np.linspace(-2, 1, 16) * 0, "4 bits in groups of 32"),
        "b": TensorPrint(info, b"12345678", 2.0, 0, np.linspace(-2, 1, 16) * 0),
    }
    printed = WeightsPrint("Model", {"time_step_limit": [0.0, math.inf]}, tensors, {"c": "b"})
    assert_equal(through_a_file(printed), printed)


def test_nothing_is_kept_of_nothing() -> None:
    assert weights_arrays(None) == {}
    assert weights_arrays(WeightsPrint("Model", None, {})) == {}
    assert weights_in({}) is None


def test_many_layers_take_less_than_60_bytes_per_tensor() -> None:
    model = tiny("llama", num_hidden_layers=30)
    printed = NamedWeights(model).print()
    arrays = weights_arrays(printed)
    n_bytes = sum(array.nbytes for array in arrays.values())
    assert len(printed.tensors) == 30 * 9 + 5
    assert n_bytes + 200 < 60 * len(printed.tensors)  # 200: both tensors in the file's header


@pytest.fixture(scope="module")
def genuine() -> Arrays:
    return dict(weights_arrays(NamedWeights(tiny("gpt2")).print()))


def with_index(change: Callable[[dict[str, Any]], object]) -> Callable[[Arrays], Arrays]:
    def forge(arrays: Arrays) -> Arrays:
        index = json.loads(zlib.decompress(arrays["weights_index"].tobytes()))
        change(index)
        return {**arrays, "weights_index": np.frombuffer(zlib.compress(json.dumps(index).encode()), np.uint8)}

    return forge


def with_bytes(start: int, value: bytes) -> Callable[[Arrays], Arrays]:
    def forge(arrays: Arrays) -> Arrays:
        rows = arrays["weights"].copy()
        rows[1, start : start + len(value)] = np.frombuffer(value, np.uint8)
        return {**arrays, "weights": rows}

    return forge


def with_content(content: bytes) -> Callable[[Arrays], Arrays]:
    return lambda arrays: {**arrays, "weights_index": np.frombuffer(content, np.uint8)}


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = {"a": [value]}
    return value


def single(number: float) -> bytes:
    return np.float32(number).tobytes()


FORGERIES: dict[str, tuple[Callable[[Arrays], Arrays], str]] = {
    "an infinite norm": (with_bytes(8, single(math.inf)), "tensor 1: its norm is infinite or negative"),
    "a negative norm": (with_bytes(8, single(-1.0)), "tensor 1: its norm is infinite or negative"),
    "a norm that is not known": (with_bytes(8, single(math.nan)), "tensor 1: the magnitude of its projections"),
    "more zeros than values": (with_bytes(12, b"\xff\xff\xff\xff"), r"4294967295 zeros in 'transformer\.wpe\.weight'"),
    "an infinite magnitude": (with_bytes(16, single(math.inf)), "tensor 1: the magnitude of its projections is infinite"),
    "a negative magnitude": (
        with_bytes(16, single(-1.0)),
        "tensor 1: the magnitude of its projections is infinite",
    ),
    "no magnitude": (with_bytes(16, single(0.0)), "tensor 1: its projections are not in units of their magnitude"),
    "too large a projection": (with_bytes(20, b"\x00\x80"), "tensor 1: its projections are not in units"),
    "another unit": (with_bytes(20, bytes(32)), "tensor 1: its projections are not in units"),
    "not compressed": (with_content(b"{}"), "not compressed by zlib"),
    "cut": (lambda arrays: {**arrays, "weights_index": arrays["weights_index"][:-3]}, "ends too early, or too late"),
    "more behind it": (with_content(zlib.compress(b"{}") + b"x"), "ends too early, or too late"),
    "a bomb": (with_content(zlib.compress(b" " * 50_000_000)), "larger than .* bytes, which is enough for"),
    "not JSON": (with_content(zlib.compress(b"{")), "not JSON"),
    "not UTF-8": (with_content(zlib.compress(b'"\xff"')), "not JSON"),
    "deep JSON": (with_content(zlib.compress(b"[" * 100_000)), "not JSON"),
    "a list": (with_content(zlib.compress(b"[]")), "not a JSON object"),
    "no names": (with_index(lambda index: index.pop("names")), "names is NoneType, not list"),
    "a name less": (with_index(lambda index: index["names"].pop()), "names has 27 entries, not 28"),
    "a number as a name": (with_index(lambda index: index["names"].__setitem__(1, 5)), "a name of a tensor is int"),
    "half of a character": (with_index(lambda index: index["names"].__setitem__(1, "\ud800")), "half of a character"),
    "a long name": (with_index(lambda index: index["names"].__setitem__(1, "x" * 1001)), "longer than 1000 characters"),
    "a name twice": (with_index(lambda index: index["names"].__setitem__(1, index["names"][0])), "two tensors of one name"),
    "a negative size": (with_index(lambda index: index["shapes"][0].__setitem__(0, [-1])), "a shape that no tensor has"),
    "half a size": (with_index(lambda index: index["shapes"][0].__setitem__(0, [1.5])), "a shape that no tensor has"),
    "true as a size": (with_index(lambda index: index["shapes"][0].__setitem__(0, [True])), "a shape that no tensor has"),
    "no shape": (with_index(lambda index: index["shapes"][0].__setitem__(0, None)), "a shape that no tensor has"),
    "a huge shape": (with_index(lambda index: index["shapes"][0].__setitem__(0, [1 << 40] * 2)), "a shape that no tensor has"),
    "many dimensions": (with_index(lambda index: index["shapes"][0].__setitem__(0, [1] * 17)), "a shape that no tensor has"),
    "a shape less": (with_index(lambda index: index["shapes"][1].pop()), "shapes does not have one entry for each of 28"),
    "shapes as texts": (with_index(lambda index: index.__setitem__("shapes", ["a", "b"])), "shapes does not have one entry"),
    "a shape that is not there": (with_index(lambda index: index["shapes"][1].__setitem__(0, 99)), "the entry 99 of"),
    "a number as a type": (with_index(lambda index: index["dtypes"][0].__setitem__(0, 3)), "a type of tensors is int"),
    "a list as a grid": (with_index(lambda index: index["grids"][0].__setitem__(0, [])), "a grid is list"),
    "a computed tensor too many": (with_index(lambda index: index["computed"].append(28)), "the entry 28 of 28"),
    "true as a tensor": (with_index(lambda index: index["computed"].append(True)), "the entry True of 28"),
    "ties as a list": (with_index(lambda index: index.__setitem__("ties", [])), "ties is list, not dict"),
    "tied to nothing": (with_index(lambda index: index["ties"].__setitem__("x", -1)), "the entry -1 of 28"),
    "tied and not": (with_index(lambda index: index["ties"].__setitem__(index["names"][3], 0)), "and ties it to another one"),
    "a class of no text": (with_index(lambda index: index.__setitem__("class", None)), "the model's class is NoneType"),
    "a config as a list": (with_index(lambda index: index.__setitem__("config", [])), "config is list, not a JSON object"),
    "a deep config": (with_index(lambda index: index.__setitem__("config", nested(20))), "nested more than 32 deep"),
    "half a character in it": (with_index(lambda index: index["config"].__setitem__("\udc00", 1)), "half of a character"),
}


@pytest.mark.parametrize("what", FORGERIES)
def test_what_no_recording_has_is_refused(genuine: Arrays, what: str) -> None:
    forge, message = FORGERIES[what]
    assert weights_in(genuine) is not None
    with pytest.raises(Malformed, match=message):
        weights_in(forge(genuine))


def test_a_file_keeps_a_print_and_equal_models_give_equal_bytes(
    prompts: list[Prompt], tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    def recorded() -> Baseline:
        return TeacherForcedScorer(ScoringConfig(top_k=10)).record(tiny("llama"), prompts[:3], tokenizer)

    baseline = recorded()
    assert_equal(baseline.weights_print, NamedWeights(tiny("llama")).print())
    assert baseline.to_bytes() == recorded().to_bytes()
    loaded = Baseline.load(baseline.save(tmp_path / "x.pot.safetensors"))
    assert_equal(loaded.weights_print, baseline.weights_print)
    assert loaded.to_bytes() == baseline.to_bytes()
    assert b"path" not in zlib.decompress(dict(weights_arrays(baseline.weights_print))["weights_index"].tobytes())


def test_one_of_the_two_arrays_is_not_enough(
    prompts: list[Prompt], tokenizer: PreTrainedTokenizerFast, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    baseline = TeacherForcedScorer(ScoringConfig(top_k=10)).record(tiny("llama"), prompts[:3], tokenizer)
    path = tmp_path / "x.pot.safetensors"
    for change, message in (
        (lambda arrays: {"weights": arrays["weights"]}, "only one of the tensors 'weights' and 'weights_index'"),
        (lambda arrays: {**arrays, "weights": arrays["weights"][:, 1:].copy()}, r"the shape \[23, 51\], not \[tensors, 52\]"),
        (lambda arrays: {**arrays, "weights_index": arrays["weights"]}, r"the shape \[23, 52\], not that of at most"),
    ):
        monkeypatch.setattr(
            "pytest_pot.baseline.baseline.weights_arrays", lambda printed, change=change: change(weights_arrays(printed))
        )
        baseline.save(path)
        with pytest.raises(PotError, match=message):
            Baseline.load(path)


def test_recordings_without_it_are_read(prompts: list[Prompt], tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    """Earlier versions made no prints, and of an engine without weights there is none."""
    baseline = TeacherForcedScorer(ScoringConfig(top_k=10)).record(tiny("llama"), prompts[:3], tokenizer)
    assert baseline.weights_print is not None
    without = replace(baseline, weights_print=None)
    loaded = Baseline.load(without.save(tmp_path / "x.pot.safetensors"))
    assert loaded.weights_print is None
    assert loaded.to_bytes() == without.to_bytes()


def test_the_recording_of_the_examples_tells_what_changed() -> None:
    printed = Baseline.load(Path(__file__).parents[3] / "examples" / "smollm2.pot.safetensors").weights_print
    assert printed is not None
    assert "model.embed_tokens.weight" in printed.tensors


def with_label_names(model: Any) -> None:
    model.config.id2label = {i: f"a rather long name of the class with the number {i}" for i in range(21843)}


def with_many_fields(model: Any) -> None:
    for group in range(200):
        setattr(model.config, f"group_{group}", {f"a_field_of_the_model_{i}": "x" * 40 for i in range(100)})


def with_nested_fields(model: Any) -> None:
    model.config.deep = nested(40)


def with_a_long_text(model: Any) -> None:
    model.config.text = "x" * 1_200_000


def with_a_long_name(model: Any) -> None:
    model.register_buffer("b" * 1200, torch.ones(3))


def with_many_sizes(model: Any) -> None:
    model.register_buffer("b", torch.ones([1] * 20))


@pytest.mark.parametrize(
    ("change", "keeps"),
    [
        (with_label_names, "all"),
        (with_nested_fields, "all"),
        (with_a_long_text, "all"),
        (with_many_fields, "the weights"),
        (with_a_long_name, "nothing"),
        (with_many_sizes, "nothing"),
    ],
)
def test_what_is_written_can_be_read_back(
    prompts: list[Prompt], tokenizer: PreTrainedTokenizerFast, tmp_path: Path, change: Callable[[Any], None], keeps: str
) -> None:
    model = tiny("llama")
    change(model)
    baseline = TeacherForcedScorer(ScoringConfig(top_k=10)).record(model, prompts[:1], tokenizer)
    loaded = Baseline.load(baseline.save(tmp_path / "x.pot.safetensors"))
    assert loaded.to_bytes() == baseline.to_bytes()
    printed = loaded.weights_print
    if keeps == "nothing":
        assert printed is None
        return
    assert printed is not None
    assert baseline.weights_print is not None
    assert list(printed.tensors) == list(baseline.weights_print.tensors)
    assert printed.config == (baseline.weights_print.config if keeps == "all" else None)
    assert printed.config is None or printed.config["rms_norm_eps"] == 1e-6
