"""A recording of a whole vocabulary takes gigabytes: to record, save, load and score it must not take several times that.

The recording here takes 32 MB, and is mapped because the limits are lowered.
"""

from __future__ import annotations

import mmap
import struct
import tracemalloc
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import pytest
from transformers import PreTrainedTokenizerFast

from pytest_pot import Baseline, PotError, Prompt, ScoringConfig, TeacherForcedScorer
from pytest_pot.baseline import file_format, file_validation
from pytest_pot.engines.distributions import Ints, TopK
from pytest_pot.engines.tokens import Tokens

VOCAB = 50_000
PROMPTS = [Prompt(f"Prompt {index:02}", "ab") for index in range(80)]
SIZE = 4 * VOCAB * 2 * len(PROMPTS)
SCORER = TeacherForcedScorer(ScoringConfig(top_k=None, batch_size=2))

Result = TypeVar("Result")


class Large:
    """An engine with a large vocabulary, whose float32 logits depend on the last two tokens and on ``noise``."""

    max_positions = None
    label = "nowhere"

    def __init__(self, noise: float = 0.0) -> None:
        draw = np.random.default_rng(0)
        logits = draw.normal(size=VOCAB) * 3 + noise * draw.normal(size=VOCAB)
        self._logits = logits.astype(np.float32).astype(np.float64)
        self._normaliser = np.log(np.exp(self._logits).sum())

    def top_k(self, batch: Sequence[Tokens], k: int | None) -> TopK:
        assert k is None
        return self.at(batch, VOCAB)

    def at(self, batch: Sequence[Tokens], ids: Ints | int) -> TopK:
        assert ids == VOCAB
        shifts, targets = [], []
        for tokens in batch:
            for position in range(tokens.prompt_len, len(tokens.ids)):
                shifts.append(tokens.ids[position - 1] * 97 + tokens.ids[position - 2])
                targets.append(tokens.ids[position])
        log_probs = np.stack([np.roll(self._logits, shift) for shift in shifts])
        log_probs -= self._normaliser
        rows, first = np.arange(len(shifts)), log_probs.argmax(axis=1)
        return TopK(
            ids=None,
            log_probs=log_probs,
            log_tail=None,
            targets=log_probs[rows, targets],
            top_ids=first,
            top_log_probs=log_probs[rows, first],
            clear=np.ones(len(shifts), dtype=bool),
            log_normalisers=np.full(len(shifts), self._normaliser),
            vocab_size=VOCAB,
        )

    def sample(self, contexts: Sequence[Sequence[int]], n_tokens: int, seed: int) -> list[list[int]]:
        raise NotImplementedError


def peak_of(work: Callable[[], Result]) -> tuple[Result, int]:
    """The result of ``work``, and how many bytes NumPy and Python held more than before, at most. Mapped pages do not count."""
    tracemalloc.start()
    try:
        result = work()
        return result, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def is_mapped(array: npt.NDArray[Any]) -> bool:
    owner: Any = array
    while isinstance(owner, np.ndarray):
        owner = owner.base
    return isinstance(owner.obj if isinstance(owner, memoryview) else owner, mmap.mmap)


@pytest.fixture(scope="module")
def baseline(tokenizer: PreTrainedTokenizerFast) -> Baseline:
    return SCORER.record(Large(), PROMPTS, tokenizer)


@pytest.fixture(scope="module")
def saved(baseline: Baseline, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return baseline.save(tmp_path_factory.mktemp("saved") / "x.pot.safetensors")


@pytest.fixture
def own(saved: Path, tmp_path: Path) -> Path:
    """A copy of the file that the test may change."""
    path = tmp_path / "x.pot.safetensors"
    path.write_bytes(saved.read_bytes())
    return path


@pytest.fixture(autouse=True)
def low_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_format, "_MAPPED_BYTES", SIZE)
    monkeypatch.setattr(file_validation, "_CELLS_AT_ONCE", 1 << 17)


def test_recording_holds_the_distributions_once(tokenizer: PreTrainedTokenizerFast) -> None:
    baseline, peak = peak_of(lambda: SCORER.record(Large(), PROMPTS, tokenizer))
    assert baseline.recorded.values.nbytes == SIZE
    assert peak < 1.5 * SIZE


def test_saving_takes_no_memory(baseline: Baseline, tmp_path: Path) -> None:
    path, peak = peak_of(lambda: baseline.save(tmp_path / "x.pot.safetensors"))
    assert path.stat().st_size > SIZE
    assert peak < SIZE / 100


@pytest.mark.skipif(not file_format._CAN_MAP, reason="files are not mapped here")
def test_loading_and_scoring_take_little_memory(saved: Path, baseline: Baseline, tokenizer: PreTrainedTokenizerFast) -> None:
    loaded, peak = peak_of(lambda: Baseline.load(saved))
    assert peak < SIZE / 4
    report, peak = peak_of(lambda: SCORER.score_baseline(loaded, Large(noise=0.1), tokenizer))
    assert peak < SIZE / 2
    assert report.mean > 0.01
    in_memory = SCORER.score_baseline(baseline, Large(noise=0.1), tokenizer)
    np.testing.assert_array_equal(report.scores, in_memory.scores)
    assert report.metrics == in_memory.metrics
    assert report.worst(5) == in_memory.worst(5)


@pytest.mark.parametrize("can_map", [True, False])
def test_a_mapped_file_has_the_same_values(
    can_map: bool, saved: Path, baseline: Baseline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_format, "_CAN_MAP", can_map and file_format._CAN_MAP)
    loaded = Baseline.load(saved)
    assert is_mapped(loaded.recorded.values) == file_format._CAN_MAP
    for name, array in baseline.recorded.arrays().items():
        ours = getattr(loaded.recorded, name)
        if array is None:
            assert ours is None
        else:
            assert ours.dtype == array.dtype
            np.testing.assert_array_equal(ours, array, err_msg=name)


@pytest.mark.skipif(not file_format._CAN_MAP, reason="files are not mapped here")
def test_rows_of_a_mapped_file_are_views(saved: Path) -> None:
    recorded = Baseline.load(saved).recorded
    part, peak = peak_of(lambda: recorded.rows(30, 90))
    assert part.values.shape == (60, VOCAB)
    assert is_mapped(part.values)
    assert peak < 100_000


@pytest.mark.skipif(not file_format._CAN_MAP, reason="files are not mapped here")
def test_a_top_k_recording_is_mapped_too_if_it_is_large(
    prompts: list[Prompt], tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from ..models import tiny

    path = tmp_path / "x.pot.safetensors"
    baseline = TeacherForcedScorer(ScoringConfig(top_k=10)).record(tiny(), prompts, tokenizer)
    baseline.save(path)
    assert not is_mapped(Baseline.load(path).recorded.values)
    monkeypatch.setattr(file_format, "_MAPPED_BYTES", 1)
    loaded = Baseline.load(path)
    assert loaded.recorded.ids is not None
    assert baseline.recorded.ids is not None
    assert is_mapped(loaded.recorded.ids)
    np.testing.assert_array_equal(loaded.recorded.ids, baseline.recorded.ids)
    np.testing.assert_array_equal(loaded.recorded.values, baseline.recorded.values)
    assert not is_mapped(loaded.recorded.target_values)
    assert loaded.to_bytes() == baseline.to_bytes()


def test_a_loaded_recording_is_saved_with_the_same_bytes(saved: Path, own: Path) -> None:
    Baseline.load(own).save(own)
    assert own.read_bytes() == saved.read_bytes()


@pytest.mark.parametrize("part", [0.1, 0.5, 0.999])
def test_damage_anywhere_is_rejected(part: float, own: Path) -> None:
    with own.open("r+b") as file:
        file.seek(int(part * SIZE))
        byte = file.read(1)[0]
        file.seek(-1, 1)
        file.write(bytes([byte ^ 1]))
    with pytest.raises(PotError, match=r"x\.pot\.safetensors is damaged, .*: its checksum is wrong\. Restore it"):
        Baseline.load(own)


def test_a_file_that_is_cut_off_is_rejected(own: Path) -> None:
    with own.open("r+b") as file:
        file.truncate(own.stat().st_size - 1)
    with pytest.raises(PotError, match=r"x\.pot\.safetensors is damaged, or not a recording of pytest-pot"):
        Baseline.load(own)


def test_a_forged_number_in_the_middle_is_rejected(baseline: Baseline, tmp_path: Path) -> None:
    values = baseline.recorded.values.copy()
    values[91, 40_000] = np.nan
    path = replace(baseline, recorded=replace(baseline.recorded, values=values)).save(tmp_path / "x.pot.safetensors")
    with pytest.raises(PotError, match=r"prompt 45, position 1: a log-probability is NaN or infinite"):
        Baseline.load(path)


def test_a_file_whose_tensors_are_not_aligned_is_read(own: Path, baseline: Baseline) -> None:
    content = own.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    own.write_bytes(struct.pack("<Q", length + 1) + content[8 : 8 + length] + b" " + content[8 + length :])
    loaded = Baseline.load(own)
    assert not is_mapped(loaded.recorded.values)
    np.testing.assert_array_equal(loaded.recorded.values, baseline.recorded.values)


def test_a_recording_may_be_replaced_or_deleted_while_it_is_used(own: Path, baseline: Baseline) -> None:
    loaded = Baseline.load(own)
    values = baseline.recorded.values + np.float32(1)
    normalisers = baseline.recorded.log_normalisers + 1
    targets = baseline.recorded.target_values + np.float32(1)
    shifted = replace(baseline.recorded, values=values, target_values=targets, log_normalisers=normalisers)
    replace(baseline, recorded=shifted).save(own)
    np.testing.assert_array_equal(loaded.recorded.values, baseline.recorded.values)
    np.testing.assert_array_equal(Baseline.load(own).recorded.values, values)
    own.unlink()
    np.testing.assert_array_equal(loaded.recorded.values, baseline.recorded.values)


def test_writing_to_the_arrays_does_not_change_the_file(own: Path, saved: Path) -> None:
    Baseline.load(own).recorded.values[:] = 0
    assert own.read_bytes() == saved.read_bytes()


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs /proc")
def test_the_mapping_ends_with_the_recording(own: Path) -> None:
    def is_open() -> bool:
        return str(own) in Path("/proc/self/maps").read_text()

    loaded = Baseline.load(own)
    assert is_open()
    part = loaded.recorded.rows(3, 5).values
    del loaded
    assert is_open()
    del part
    assert not is_open()
