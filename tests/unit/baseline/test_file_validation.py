"""Baseline files are not trusted: a defect is rejected with its reason, and wrong numbers are never used."""

from __future__ import annotations

import copy
import json
import random
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from safetensors.numpy import save
from transformers import PreTrainedTokenizerFast

from pytest_pot import Baseline, PotError, Prompt, ScoringConfig, TeacherForcedScorer
from pytest_pot.baseline.baseline import _arrays, _document
from pytest_pot.baseline.file_format import checksum
from pytest_pot.engines.tokens import Tokens

from ..models import tiny

Rejection = Callable[[bytes], str]
"""Load a file with this content, which must fail, and return the reason."""


@pytest.fixture(scope="module")
def baseline(prompts: list[Prompt], tokenizer: PreTrainedTokenizerFast) -> Baseline:
    return TeacherForcedScorer(ScoringConfig(top_k=10)).record(tiny(), prompts, tokenizer, name="the model")


@pytest.fixture(scope="module")
def content(baseline: Baseline) -> bytes:
    return baseline.to_bytes()


@pytest.fixture
def rejection(tmp_path: Path) -> Rejection:
    def rejection(content: bytes) -> str:
        path = tmp_path / "x.pot.safetensors"
        path.write_bytes(content)
        with pytest.raises(PotError) as error:
            Baseline.load(path)
        message = str(error.value)
        assert message.startswith(f"the recording {path} is damaged, or not a recording of pytest-pot: ")
        assert message.endswith("Restore it from version control, or record it again with --pot-update")
        return message.split("not a recording of pytest-pot: ")[1].split(". Restore it from")[0]

    return rejection


def test_a_truncated_file_is_rejected(content: bytes, rejection: Rejection) -> None:
    for length in np.linspace(0, len(content) - 1, 200).astype(int):
        rejection(content[:length])


def test_a_file_with_an_extra_byte_is_rejected(content: bytes, rejection: Rejection) -> None:
    rejection(content + b"\0")


def test_a_flipped_bit_anywhere_is_rejected(content: bytes, rejection: Rejection) -> None:
    draw = random.Random(0)
    for _ in range(1000):
        place, bit = draw.randrange(len(content)), draw.randrange(8)
        flipped = bytearray(content)
        flipped[place] ^= 1 << bit
        rejection(bytes(flipped))


def test_a_flipped_bit_in_any_byte_of_the_header_is_rejected(content: bytes, rejection: Rejection) -> None:
    (length,) = struct.unpack("<Q", content[:8])
    draw = random.Random(0)
    for place in range(8 + length):
        flipped = bytearray(content)
        flipped[place] ^= 1 << draw.randrange(8)
        rejection(bytes(flipped))


HOSTILE = {
    "a header of 2^60 bytes": struct.pack("<Q", 1 << 60),
    "no header": b"",
    "a shape of 2^62 elements": {"values": {"dtype": "F32", "shape": [1 << 31, 1 << 31], "data_offsets": [0, 4]}},
    "a shape whose product overflows": {"values": {"dtype": "F64", "shape": [1 << 32, 1 << 32], "data_offsets": [0, 0]}},
    "a negative shape": {"values": {"dtype": "F32", "shape": [-1, 4], "data_offsets": [0, 4]}},
    "offsets beyond the file": {"values": {"dtype": "F32", "shape": [1], "data_offsets": [1 << 40, (1 << 40) + 4]}},
    "offsets that run backwards": {"values": {"dtype": "F32", "shape": [1], "data_offsets": [4, 0]}},
    "an unknown type": {"values": {"dtype": "F31", "shape": [1], "data_offsets": [0, 4]}},
    "no tensor at all": {},
    "metadata that is no JSON": {"__metadata__": {"pytest_pot": "{"}},
    "metadata that is a list": {"__metadata__": {"pytest_pot": "[1]"}},
    "a thousand brackets": {"__metadata__": {"pytest_pot": "[" * 100_000}},
    "a number of a million digits": {"__metadata__": {"pytest_pot": "1" * 1_000_000}},
    "another format": {"__metadata__": {"pytest_pot": '{"format":2}'}},
    "NaN": {"__metadata__": {"pytest_pot": '{"format":NaN}'}},
}


@pytest.mark.parametrize("what", HOSTILE)
def test_hostile_headers_are_rejected(what: str, rejection: Rejection) -> None:
    header = HOSTILE[what]
    if isinstance(header, bytes):
        rejection(header)
        return
    text = json.dumps(header).encode()
    rejection(struct.pack("<Q", len(text)) + text + b"\0" * 8)


def test_another_safetensors_file_is_rejected(rejection: Rejection) -> None:
    assert rejection(save({"weight": np.zeros((2, 2), np.float32)})) == (
        "it is a safetensors file without the metadata of a recording"
    )


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(PotError, match=r"there is no recording .*x\.pot\.safetensors"):
        Baseline.load(tmp_path / "x.pot.safetensors")
    with pytest.raises(PotError) as error:
        Baseline.load(tmp_path)
    assert str(error.value) == f"the recording {tmp_path} is a folder, not a file"


Numbers = npt.NDArray[Any]
Change = Callable[[Numbers], Numbers | None]


def with_array(baseline: Baseline, name: str, change: Change) -> bytes:
    """A forged file with a valid checksum, in which ``change`` edits one array."""
    array = getattr(baseline.recorded, name).copy()
    new_array = change(array)
    recorded = replace(baseline.recorded, **{name: array if new_array is None else new_array})
    return replace(baseline, recorded=recorded).to_bytes()


def set_at(row: int | tuple[int, int], value: float) -> Change:
    def change(array: Numbers) -> None:
        array[row] = value

    return change


# The fixture's prompts have positions 0-9, 10-41, ...: row 12 is prompt 1, position 2.
@pytest.mark.parametrize(
    ("name", "change", "reason"),
    [
        ("values", set_at((12, 3), np.nan), "prompt 1, position 2: a log-probability is NaN or infinite"),
        ("log_tail", set_at(12, -np.inf), "prompt 1, position 2: a log-probability is NaN or infinite"),
        ("target_values", set_at(0, np.inf), "prompt 0, position 0: a log-probability is NaN or infinite"),
        ("log_normalisers", set_at(12, 0.0), "prompt 1, position 2: the probabilities sum to more than 1"),
        ("log_tail", set_at(12, 0.01), "prompt 1, position 2: the probabilities sum to more than 1"),
        ("log_tail", set_at(12, 1e300), "prompt 1, position 2: the probabilities sum to more than 1"),
        ("log_tail", set_at(12, -50.0), "prompt 1, position 2: the probabilities sum to less than 1"),
        ("ids", set_at((12, 3), 97), "prompt 1, position 2: an id is outside the vocabulary of 97 ids"),
        ("values", lambda a: a[:, ::-1].copy(), "prompt 0, position 0: the ids are not sorted from the likeliest down"),
        (
            "target_values",
            set_at(12, 60.0),
            "prompt 1, position 2: the continuation's token is more probable than the whole tail",
        ),
    ],
)
def test_forged_numbers_are_rejected(baseline: Baseline, rejection: Rejection, name: str, change: Change, reason: str) -> None:
    assert rejection(with_array(baseline, name, change)) == reason


def test_a_duplicate_id_is_rejected(baseline: Baseline, rejection: Rejection) -> None:
    def twice(ids: Numbers) -> None:
        ids[12, 5] = ids[12, 4]

    assert rejection(with_array(baseline, "ids", twice)) == "prompt 1, position 2: an id occurs twice"


def test_two_log_probabilities_of_one_token_are_rejected(baseline: Baseline, rejection: Rejection) -> None:
    targets = np.array([token for tokens in baseline.tokens for token in tokens.targets])
    assert baseline.recorded.ids is not None
    row = int(np.argmax(np.equal(baseline.recorded.ids, targets[:, None]).any(axis=1)))
    reason = rejection(with_array(baseline, "target_values", lambda values: values.__setitem__(row, values[row] - 1)))
    assert reason.endswith("the continuation's token has two log-probabilities")


@pytest.mark.parametrize("name", ["ids", "values", "target_values", "log_normalisers", "log_tail", "clear"])
def test_a_tensor_without_one_position_is_rejected(baseline: Baseline, rejection: Rejection, name: str) -> None:
    reason = rejection(with_array(baseline, name, lambda array: array[:-1].copy()))
    if name == "log_normalisers":  # its length is the expected number of positions
        assert " but there are 99 positions" in reason
    else:
        assert reason.startswith(f"the tensor '{name}' has the shape ")


def test_a_whole_vocabulary_without_some_ids_is_rejected(
    prompts: list[Prompt], tokenizer: PreTrainedTokenizerFast, rejection: Rejection
) -> None:
    whole = TeacherForcedScorer(ScoringConfig(top_k=None)).record(tiny(), prompts, tokenizer)
    reason = rejection(with_array(whole, "values", lambda values: values[:, :50].copy()))
    assert reason == (
        "the tensor 'values' is of shape [100, 50], but must be of shape [100, 97] for 100 positions with top_k=None of 97 ids"
    )


def forged(baseline: Baseline, **fields: Any) -> bytes:
    return replace(baseline, **fields).to_bytes()


def test_a_token_outside_the_vocabulary_is_rejected(baseline: Baseline, rejection: Rejection) -> None:
    first = baseline.tokens[0]
    tokens = (Tokens((97, *first.ids[1:]), first.prompt_len), *baseline.tokens[1:])
    assert rejection(forged(baseline, tokens=tokens)) == "prompt 0 has the token 97, outside the vocabulary of 97 ids"


def test_a_missing_text_is_rejected(baseline: Baseline, rejection: Rejection) -> None:
    reason = rejection(forged(baseline, prompts=baseline.prompts[1:]))
    assert reason == "it claims 293 tokens and 100 positions of 8 prompts, but has 7 texts"


def test_a_prompt_without_positions_is_rejected(baseline: Baseline, rejection: Rejection) -> None:
    first = baseline.tokens[0]
    tokens = (Tokens(first.ids, len(first.ids)), *baseline.tokens[1:])
    assert rejection(forged(baseline, tokens=tokens)) == f"prompt 0 claims {len(first.ids)} tokens and 0 positions"


@pytest.mark.parametrize("size", [0, -1, 2**40, True])
def test_an_impossible_vocabulary_size_is_rejected(baseline: Baseline, rejection: Rejection, size: int | bool) -> None:
    assert rejection(forged(baseline, vocab_size=size)) == f"vocab_size is {size!r}, not a count"


def test_a_sparse_file_that_claims_more_than_memory_holds_is_rejected(
    baseline: Baseline, content: bytes, rejection: Rejection, tmp_path: Path
) -> None:
    """The claimed sizes are consistent, but the sparse file takes only 4 kB on disk."""
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    n = 30_000_000
    del header["weights"], header["weights_index"]
    end = 0
    for name, width in (
        ("values", 10),
        ("ids", 10),
        ("target_values", 0),
        ("log_normalisers", 0),
        ("log_tail", 0),
        ("clear", 0),
    ):
        size = {"F32": 4, "F64": 8, "U16": 2, "U8": 1}[header[name]["dtype"]]
        shape = [n, width] if width else [n]
        header[name] = {**header[name], "shape": shape, "data_offsets": [end, end + size * n * max(width, 1)]}
        end = header[name]["data_offsets"][1]
    for name, shape, size in (("tokens", [2 * n], 2), ("lengths", [8, 3], 4)):
        count = shape[0] * (shape[1] if len(shape) > 1 else 1)
        header[name] = {**header[name], "shape": shape, "data_offsets": [end, end + size * count]}
        end = header[name]["data_offsets"][1]
    text = json.dumps(header).encode()
    path = tmp_path / "holes.pot.safetensors"
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + end)
    with pytest.raises(PotError, match=r"holes\.pot\.safetensors is damaged, .* claims 60000000 tokens and 30000000 positions"):
        Baseline.load(path)


def test_an_unpaired_surrogate_is_rejected(baseline: Baseline, rejection: Rejection) -> None:
    """JSON can escape an unpaired surrogate, but UTF-8 cannot encode it."""
    odd = replace(baseline, provenance=replace(baseline.provenance, reference="\ud800"))
    arrays, document = _arrays(odd), _document(odd)
    document["checksum"] = checksum(arrays, document)
    reason = rejection(save(dict(arrays), {"pytest_pot": json.dumps(document)}))
    assert reason == "provenance.reference is not valid text: it has half of a character (a lone surrogate)"
    with pytest.raises(PotError, match="cannot record a text with half of a character"):
        odd.to_bytes()


@pytest.mark.parametrize("name", ["reference", "label", "machine", "prompts"])
def test_provenance_that_is_not_text_is_rejected(baseline: Baseline, rejection: Rejection, name: str) -> None:
    number: dict[str, Any] = {name: 1}
    reason = rejection(forged(baseline, provenance=replace(baseline.provenance, **number)))
    assert reason == f"provenance.{name} is int, not a string"


def test_metadata_of_another_form_is_rejected(baseline: Baseline, rejection: Rejection) -> None:
    files: Any = ["not", "a", "mapping"]
    reason = rejection(forged(baseline, provenance=replace(baseline.provenance, files=files)))
    assert reason.startswith("its metadata has another structure (AttributeError: ")


@pytest.mark.parametrize(
    ("batches", "reason"),
    [
        ([[0, 1, 2], [3, 4, 5, 6]], "batches must have each prompt once, but prompt 7 is in no batch"),
        ([[0, 1, 2, 3], [3, 4, 5, 6, 7]], "batches must have each prompt once, but 1 of its entries occur twice"),
        ([[0, 1, 2, 3], [4, 5, 6, 8]], "batches has the prompt 8, but there are 8 prompts"),
        ([[0, 1, 2, 3], [4, 5, 6, -1]], "batches has the prompt -1, but there are 8 prompts"),
        ([[0, True, 2, 3], [4, 5, 6, 7]], "batches has the prompt True, but there are 8 prompts"),
        ([[0, 1, 2, 3], [], [4, 5, 6, 7]], "batches is not a list of lists of prompts"),
        ([0, 1, 2, 3, 4, 5, 6, 7], "batches is not a list of lists of prompts"),
        ("all", "batches is not a list of lists of prompts"),
    ],
)
def test_batches_that_do_not_have_each_prompt_once_are_rejected(
    batches: object, reason: str, baseline: Baseline, rejection: Rejection
) -> None:
    arrays, document = _arrays(baseline), {**_document(baseline), "batches": batches}
    document["checksum"] = checksum(arrays, document)
    assert rejection(save(dict(arrays), {"pytest_pot": json.dumps(document)})) == reason


def test_an_invalid_configuration_is_rejected(baseline: Baseline, rejection: Rejection) -> None:
    config = copy.copy(baseline.config)
    object.__setattr__(config, "temperature", -1.0)
    assert rejection(forged(baseline, config=config)) == "temperature=-1.0 must be a finite number above 0"


def test_lengths_without_dimensions(baseline: Baseline, rejection: Rejection) -> None:
    arrays, document = _arrays(baseline), _document(baseline)
    arrays = {**arrays, "lengths": np.array(3, dtype=np.uint32)}
    document["checksum"] = checksum({**arrays, "lengths": np.array([3], dtype=np.uint32)}, document)
    reason = rejection(save(dict(arrays), {"pytest_pot": json.dumps(document)}))
    assert reason == "it claims 293 tokens and 100 positions of 0 prompts, but has 8 texts"
