"""Whatever somebody writes into a recording, with a checksum that fits: it is refused, or no score gets better."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from safetensors.numpy import save
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from pytest_pot import Baseline, PotError, Prompt, ScoringConfig, TeacherForcedScorer
from pytest_pot.baseline.file_format import checksum, unpack
from pytest_pot.core.names import METRICS
from pytest_pot.engines.distributions import Ints, TopK
from pytest_pot.engines.tokens import Tokens

from ..engines.pytorch.test_engine import Uniform
from ..models import changed, tiny

Array = npt.NDArray[Any]
Document = dict[str, Any]

CONFIGS = {
    "top 10 and a tail": ScoringConfig(top_k=10, max_length=40),
    "renormalised": ScoringConfig(top_k=10, tail="renormalise"),
    "the whole vocabulary": ScoringConfig(top_k=None, max_length=40),
}


class Forger:
    """A genuine recording, and the true scores of another model."""

    def __init__(self, config: ScoringConfig, prompts: list[Prompt], tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
        self.scorer = TeacherForcedScorer(config)
        self.prompts, self.tokenizer = prompts, tokenizer
        self.candidate: PreTrainedModel = changed(tiny(), 0.5)
        self.path = folder / "x.pot.safetensors"
        self.baseline = self.scorer.record(tiny(), prompts, tokenizer, name="the model")
        self.baseline.save(self.path)
        self.arrays, self.document = unpack(self.path)
        self.truth = self.scores()
        assert self.truth is not None
        assert min(self.truth[name] for name in METRICS) > 0

    def forge(self, arrays: Mapping[str, Array], document: Document) -> None:
        """Write a file of ``arrays`` and ``document`` with the right checksum."""
        with suppress(TypeError, BufferError, ValueError):  # a scalar or an empty array is refused before its checksum
            document = {**document, "checksum": checksum(arrays, document)}
        contiguous = {name: np.ascontiguousarray(a) if a.ndim else a for name, a in arrays.items()}
        self.path.write_bytes(save(contiguous, {"pytest_pot": json.dumps(document)}))

    def scores(self) -> dict[str, float] | None:
        """What a gate says of the candidate; None if the file is refused."""
        try:
            baseline = Baseline.load(self.path)
            report = self.scorer.score_baseline(baseline, self.candidate, self.tokenizer, prompts=self.prompts)
        except PotError:
            return None
        return {**report.metrics, "cut": report.n_truncated}

    def check(self, what: str, except_for: str = "") -> bool:
        """Whether the file is refused; if not, it must give the true scores, or worse ones: other numbers may be plausible."""
        scores = self.scores()
        if scores is not None:
            for name, truth in (self.truth or {}).items():
                assert name == except_for or scores[name] >= truth * (1 - 1e-9), f"{what} improves {name}"
        return scores is None


@pytest.fixture(params=CONFIGS)
def forger(request: pytest.FixtureRequest, prompts: list[Prompt], tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> Forger:
    return Forger(CONFIGS[request.param], prompts[:3], tokenizer, tmp_path)


def filled(value: float) -> Callable[[Array], Array]:
    def change(array: Array) -> Array:
        limits: Any = np.finfo(array.dtype) if array.dtype.kind == "f" else np.iinfo(array.dtype)
        if array.dtype.kind != "f" and not np.isfinite(value):
            return np.full_like(array, limits.max)
        return np.full_like(array, np.clip(value, limits.min, limits.max) if np.isfinite(value) else value)

    return change


def at_first(change: Callable[[Array], Array]) -> Callable[[Array], Array]:
    """Only the first position or prompt is changed."""

    def first(array: Array) -> Array:
        return np.concatenate([change(array[:1]).astype(array.dtype), array[1:]])

    return first


VALUES: dict[str, Callable[[Array], Array]] = {
    "zeros": filled(0),
    "ones": filled(1),
    "all -1, or 0": filled(-1),
    "NaN": filled(np.nan),
    "infinity": filled(np.inf),
    "the largest number": filled(1.7e308),
    "the smallest number": filled(-1.7e308),
    "a tiny number": filled(5e-324),
    "negated": lambda a: (0 - a).astype(a.dtype),
    "doubled": lambda a: (a * 2).astype(a.dtype),
    "reversed": lambda a: a[::-1],
    "reversed in each row": lambda a: a[..., ::-1],
}
SHAPES: dict[str, Callable[[Array], Array]] = {
    "a scalar": lambda a: np.array(a.flat[0]),
    "one number": lambda a: a.ravel()[:1],
    "one more dimension": lambda a: a[None],
    "a column": lambda a: a.reshape(-1, 1),
    "flat": lambda a: a.ravel()[:, None] if a.ndim == 1 else a.ravel(),
    "empty": lambda a: a[:0],
    "empty rows": lambda a: a.reshape(len(a), -1)[:, :0],
    "cut at the end": lambda a: a[:-1],
    "twice as long": lambda a: np.concatenate([a, a]),
}
TYPES = (np.float16, np.float32, np.float64, np.uint8, np.uint16, np.uint32, np.int64, np.bool_)


def test_no_change_of_a_tensor_improves_a_score(forger: Forger) -> None:
    refused = tried = 0
    for name in forger.arrays:
        array = forger.arrays[name]
        with np.errstate(all="ignore"):
            forms = {what: change(array) for what, change in (VALUES | SHAPES).items()}
            forms |= {f"{what}, at first": at_first(change)(array) for what, change in VALUES.items()}
            forms |= {f"as {np.dtype(kind)}": array.astype(kind) for kind in TYPES}
        for what, form in forms.items():
            forger.forge({**forger.arrays, name: form}, forger.document)
            # The logit of a token that is not among the likeliest can be anything that the tail has room for.
            unknown = "delta_ce" if name == "target_values" and what.endswith("at first") else ""
            refused += forger.check(f"{name}: {what}", except_for=unknown)
            tried += 1
        forger.forge({key: value for key, value in forger.arrays.items() if key != name}, forger.document)
        assert forger.check(f"without {name}"), name
    assert refused > 0.8 * tried


def test_an_additional_tensor_is_refused(forger: Forger) -> None:
    for name in ("more", "ids", "log_tail", "\x1b", "x" * 10_000):
        if name not in forger.arrays:
            forger.forge({**forger.arrays, name: forger.arrays["clear"]}, forger.document)
            assert forger.check(name)


ENTRIES: dict[str, Any] = {
    "nothing": None,
    "an empty text": "",
    "a text": "x",
    "NUL": "a\0b",
    "control characters": "\x1b]0;x\x07\x9b2J\u202e",
    "a long text": "x" * 100_000,
    "a number": 3,
    "a negative number": -1,
    "zero": 0,
    "a huge number": 10**30,
    "a fraction": 0.1,
    "a tiny fraction": 5e-324,
    "truth": True,
    "an empty list": [],
    "a list": ["x"],
    "an empty mapping": {},
    "a mapping": {"x": "y"},
    "a mapping of control characters": {"\x1b\0": "\x1b\0"},
}


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place in ``value``, with one entry of each list."""
    if path:
        yield path
    if isinstance(value, dict):
        for key, entry in value.items():
            yield from places(entry, (*path, key))
    elif isinstance(value, list):
        for index in {0, len(value) - 1} if value else ():
            yield from places(value[index], (*path, index))


def with_entry(document: Document, path: tuple[Any, ...], change: Callable[[Any, Any], None]) -> Document:
    copy: Document = json.loads(json.dumps(document))
    target: Any = copy
    for key in path[:-1]:
        target = target[key]
    change(target, path[-1])
    return copy


def put(entry: Any, target: Any, key: Any) -> None:
    target[key] = entry


def test_no_change_of_the_metadata_improves_a_score(
    prompts: list[Prompt], tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    forger = Forger(CONFIGS["top 10 and a tail"], prompts[:2], tokenizer, tmp_path)
    found = list(places(forger.document))
    assert {("config", "top_k"), ("provenance", "files"), ("prompts", 0, 2), ("vocab_size",)} <= set(found)
    refused = 0
    for path in found:
        for what, entry in ENTRIES.items():
            forger.forge(forger.arrays, with_entry(forger.document, path, partial(put, entry)))
            refused += forger.check(f"{path}: {what}")
        forger.forge(forger.arrays, with_entry(forger.document, path, lambda target, key: target.__delitem__(key)))
        refused += forger.check(f"without {path}")
    assert refused > len(found)


# -- single forgeries, with their messages ------------------------------------------------------------------------------


def reason(forger: Forger) -> str:
    with pytest.raises(PotError) as error:
        forger.scorer.score_baseline(Baseline.load(forger.path), forger.candidate, forger.tokenizer, prompts=forger.prompts)
    return str(error.value).split("not a recording of pytest-pot: ")[-1].split(". Restore it from")[0]


def test_positions_cannot_be_taken_out_of_top1_flip(forger: Forger) -> None:
    """With all flags 0 no first choice would count. Where only rounding may decide, the flag is believed."""
    clear = forger.arrays["clear"]
    assert clear.any()
    forger.forge({**forger.arrays, "clear": np.zeros_like(clear)}, forger.document)
    message = reason(forger)
    assert message.startswith("prompt 0, position ")
    assert message.split(": ", 1)[1] == (
        "the likeliest token leads the second by more than rounding error, but is marked as if it did not, so that top1_flip "
        "would not count it"
    )


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
@pytest.mark.parametrize("name", ["gpt2", "llama"])
@pytest.mark.parametrize("top_k", [1, 2, None])
def test_genuine_flags_are_believed_in_every_precision(
    name: str, dtype: str, top_k: int | None, prompts: list[Prompt], tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    for tail in ("bucket", "renormalise"):
        for scale in (4.0, 0.05):  # with flat distributions, many first choices are within rounding error
            scorer = TeacherForcedScorer(ScoringConfig(dtype=dtype, top_k=top_k, tail=tail, temperature=0.7))
            baseline = scorer.record(tiny(name, scale=scale), prompts, tokenizer)
            Baseline.load(baseline.save(tmp_path / "x.pot.safetensors"))


def cut(forger: Forger, prompt: int, n: int, flag: int) -> None:
    """Take the first ``n`` tokens of a prompt away."""
    lengths = forger.arrays["lengths"].copy()
    start = int(lengths[:prompt, :2].sum())
    lengths[prompt, 0] -= n
    lengths[prompt, 2] = flag
    tokens = np.delete(forger.arrays["tokens"], slice(start, start + n))
    forger.forge({**forger.arrays, "lengths": lengths, "tokens": tokens}, forger.document)


def test_a_prompt_that_was_cut_without_saying_so_is_refused(
    prompts: list[Prompt], tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    forger = Forger(ScoringConfig(top_k=10), prompts, tokenizer, tmp_path)
    cut(forger, 0, 5, 0)
    message = (
        f"{forger.path} was recorded with something else:\n  prompt 0: 'The capital of France' was recorded without the first "
        "5 of its 21 tokens, and is not marked as cut"
    )
    assert reason(forger) == message
    with pytest.raises(PotError) as error:  # also where the prompts are those of the file
        forger.scorer.score_baseline(Baseline.load(forger.path), forger.candidate, tokenizer)
    assert str(error.value) == message


def test_a_prompt_that_was_cut_more_than_others_is_refused(
    prompts: list[Prompt], tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    forger = Forger(ScoringConfig(top_k=10), prompts, tokenizer, tmp_path)
    cut(forger, 0, 5, 1)
    longest = max(range(8), key=lambda index: len(forger.baseline.tokens[index].ids))
    assert reason(forger) == (
        f"prompt 0 was cut on the left to 26 tokens with its continuation, but prompt {longest} has "
        f"{len(forger.baseline.tokens[longest].ids)}: a prompt is cut only where it has to be"
    )


def test_a_whole_prompt_that_is_marked_as_cut_is_refused(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    forger = Forger(ScoringConfig(top_k=10), [Prompt("The capital of France", " is Paris.")], tokenizer, tmp_path)
    cut(forger, 0, 0, 1)
    assert reason(forger) == (
        f"{forger.path} was recorded with something else:\n  prompt 0: 'The capital of France' is marked as cut on the left, "
        "but all of it was recorded"
    )


def test_a_sequence_longer_than_the_recordings_own_limit_is_refused(
    prompts: list[Prompt], tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    forger = Forger(ScoringConfig(top_k=10, max_length=60), prompts, tokenizer, tmp_path)
    document = with_entry(forger.document, ("config", "max_length"), partial(put, 20))
    forger.forge(forger.arrays, document)
    assert reason(forger) == "prompt 4 has 58 tokens with its continuation, but max_length is 20"


def test_genuine_cut_prompts_are_believed(prompts: list[Prompt], tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    forger = Forger(ScoringConfig(top_k=10, max_length=45), [*prompts, Prompt("Drawn " * 9), "z" * 50], tokenizer, tmp_path)  # type: ignore[list-item]
    assert (forger.truth or {})["cut"] >= 3
    Baseline.load(forger.path)


def test_lengths_without_dimensions_are_refused(forger: Forger) -> None:
    forger.forge({**forger.arrays, "lengths": np.array(3, dtype=np.uint32)}, forger.document)
    n = {name: len(forger.arrays[name]) for name in ("tokens", "clear")}
    assert reason(forger) == f"it claims {n['tokens']} tokens and {n['clear']} positions of 0 prompts, but has 3 texts"


def test_a_message_does_not_grow_with_the_file(forger: Forger) -> None:
    for path in (("provenance", "label"), ("format",), ("vocab_size",)):
        document = with_entry(forger.document, path, partial(put, {"x" * 1_000_000: "y"}))
        forger.forge(forger.arrays, document)
        assert len(reason(forger)) < 1000
    many = {f"part {index}": "x" for index in range(100_000)}
    document = with_entry(forger.document, ("provenance", "tokenizer"), partial(put, many))
    forger.forge(forger.arrays, document)
    assert reason(forger).splitlines()[-1].startswith("  … and ")
    assert len(reason(forger)) < 5000


def test_an_engine_that_leaves_the_flags_0_can_be_recorded(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    class Careless(Uniform):
        """The likeliest token has half of the probability, and no flag says that this is no accident."""

        def _at(self, batch: Sequence[Tokens], ids: Ints | None, m: int) -> TopK:
            top = super()._at(batch, ids, m)
            log_probs = np.full_like(top.log_probs, np.log(0.5 / 96))
            log_probs[:, 0] = np.log(0.5)
            targets = np.full(len(top), np.log(0.5 / 96))
            tail = None if m == 97 else np.full(len(top), np.log(0.5 * (97 - m) / 96))
            return replace(top, log_probs=log_probs, log_tail=tail, targets=targets, top_log_probs=log_probs[:, 0])

    for top_k in (5, None):
        scorer = TeacherForcedScorer(ScoringConfig(top_k=top_k))
        path = scorer.record(Careless(), [Prompt("abc", "xyz")], tokenizer).save(tmp_path / "x.pot.safetensors")
        assert Baseline.load(path).recorded.clear.all()
