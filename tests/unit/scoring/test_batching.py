"""Which prompts share a batch with ``batch_size="auto"``."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Iterator

import pytest
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from pytest_pot import Baseline, Prompt, ScoreReport, ScoringConfig, TeacherForcedScorer
from pytest_pot.engines.base import Room
from pytest_pot.engines.pytorch.engine import TorchEngine
from pytest_pot.engines.registry import opened
from pytest_pot.prompts.tokenization import EncodedPrompts
from pytest_pot.scoring.batch_plan import cheapest
from pytest_pot.scoring.run import ScoringRun

from ..models import changed, tiny


def cost(sizes: list[int], lengths: list[int], room: Room) -> int:
    starts = list(itertools.accumulate(sizes, initial=0))
    return sum(lengths[start] * size + room.fixed for start, size in zip(starts, sizes, strict=False))


def all_partitions(n: int) -> Iterator[list[int]]:
    for cuts in itertools.product([False, True], repeat=n - 1):
        places = [0, *(i + 1 for i, cut in enumerate(cuts) if cut), n]
        yield [b - a for a, b in itertools.pairwise(places)]


@pytest.mark.parametrize("most", [None, 3])
@pytest.mark.parametrize("seed", range(5))
def test_no_other_batches_cost_less(seed: int, most: int | None) -> None:
    generator = random.Random(seed)
    lengths = sorted((generator.randint(5, 90) for _ in range(9)), reverse=True)
    room = Room(most=240, fixed=32)

    def fits(sizes: list[int]) -> bool:
        starts = itertools.accumulate(sizes, initial=0)
        return all(
            size == 1 or (lengths[start] * size <= room.most and size <= (most or 9))
            for start, size in zip(starts, sizes, strict=False)
        )

    cheapest_sizes = cheapest(lengths, room, most)
    assert fits(cheapest_sizes)
    assert cost(cheapest_sizes, lengths, room) == min(cost(sizes, lengths, room) for sizes in all_partitions(9) if fits(sizes))


def test_prompts_of_similar_length_share_a_batch_within_the_token_limit() -> None:
    assert cheapest([50] * 20, Room(most=400, fixed=1)) == [8, 8, 4]
    assert cheapest([300, 10, 10], Room(most=1000, fixed=32)) == [1, 2]
    assert cheapest([500], Room(most=100, fixed=32)) == [1]


def test_a_thousand_prompts_are_each_in_one_batch_within_the_token_limit() -> None:
    sizes = cheapest([60 - i // 25 for i in range(1000)], Room(most=1024, fixed=32))
    assert sum(sizes) == 1000
    assert max(sizes) * 21 <= 1024


def record_shapes(model: PreTrainedModel) -> list[tuple[int, ...]]:
    shapes: list[tuple[int, ...]] = []
    model.register_forward_pre_hook(lambda module, arguments: shapes.append(tuple(arguments[0].shape)))
    return shapes


def test_auto_pads_little_and_reports_its_largest_batch(prompts: list[Prompt], tokenizer: PreTrainedTokenizerFast) -> None:
    model = tiny()
    shapes = record_shapes(model)
    mixed = [*prompts, *(Prompt("z" * 90, "end") for _ in range(3))]
    report = TeacherForcedScorer(ScoringConfig(batch_size="auto")).score_batch(model, changed(tiny()), mixed, tokenizer)
    lengths = sorted((len(t.ids) for t in report.tokens), reverse=True)
    assert shapes[0] == (3, 93)
    assert sum(n * length for n, length in shapes) + 32 * len(shapes) == cost(
        [n for n, _ in shapes], lengths, Room(most=1024, fixed=32)
    )
    assert report.batch_size == report.to_dict()["batch_size"] == max(n for n, _ in shapes)


def test_a_model_scores_zero_against_its_recording_with_auto(prompts: list[Prompt], tokenizer: PreTrainedTokenizerFast) -> None:
    wide = tiny("llama", hidden_size=384, intermediate_size=768)  # sums so long that their rounding depends on the batch shape
    scorer = TeacherForcedScorer(ScoringConfig(batch_size="auto"))
    mixed = [*prompts, *(Prompt("z" * 90, "end") for _ in range(30))]
    assert scorer.score_baseline(scorer.record(wide, mixed, tokenizer), wide, tokenizer).max == 0.0


class Planned:
    """Sets the room of all engines of this process."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.room = Room(most=1024, fixed=32)
        monkeypatch.setattr(TorchEngine, "room", property(lambda _: self.room))


@pytest.fixture
def planned(monkeypatch: pytest.MonkeyPatch) -> Planned:
    return Planned(monkeypatch)


def replayed(
    baseline: Baseline, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, same_batches: bool = False
) -> ScoreReport:
    run = ScoringRun(ScoringConfig(batch_size="auto"), EncodedPrompts(baseline.prompts, tokenizer))
    with opened(model, "candidate", run.config) as engine:
        return run.replay(baseline, engine, same_batches=same_batches)


@pytest.fixture
def mixed(prompts: list[Prompt]) -> list[Prompt]:
    return [*prompts, *(Prompt("z" * (90 - i), "end") for i in range(30))]


def test_a_recordings_batches_give_exactly_zero_whatever_was_measured_since(
    planned: Planned, mixed: list[Prompt], tokenizer: PreTrainedTokenizerFast
) -> None:
    wide = tiny("llama", hidden_size=384, intermediate_size=768)
    baseline = TeacherForcedScorer(ScoringConfig(batch_size="auto")).record(wide, mixed, tokenizer)
    for room in (Room(most=1 << 16, launch=1 << 14), Room(most=200), Room(most=1024, fixed=4)):
        planned.room = room
        report = replayed(baseline, wide, tokenizer, same_batches=True)
        assert (report.max, list(report.batches), report.room) == (0.0, list(baseline.batches), None)
    planned.room = Room(most=1 << 16, launch=1 << 14)
    own = replayed(baseline, wide, tokenizer)
    assert (len(own.batches), own.room) == (1, planned.room)
    assert 0.0 < own.max < 1e-5  # a plan of its own, which rounds differently


def test_a_recordings_batches_run_where_they_cost_little_more(
    planned: Planned, mixed: list[Prompt], tokenizer: PreTrainedTokenizerFast
) -> None:
    model = tiny()
    baseline = TeacherForcedScorer(ScoringConfig(batch_size="auto")).record(model, mixed, tokenizer)
    planned.room = Room(most=1024, fixed=40)
    assert list(replayed(baseline, model, tokenizer).batches) == list(baseline.batches)
    largest = max(tokens for _, tokens in replayed(baseline, model, tokenizer).batch_shapes)
    planned.room = Room(most=largest - 1, fixed=32)  # the recorded batches do not fit
    own = replayed(baseline, model, tokenizer)
    assert max(tokens for _, tokens in own.batch_shapes) < largest


def test_a_recordings_batches_are_halved_where_they_do_not_fit(mixed: list[Prompt], tokenizer: PreTrainedTokenizerFast) -> None:
    baseline = TeacherForcedScorer(ScoringConfig(batch_size="auto")).record(tiny(), mixed, tokenizer)
    model = tiny()

    def limited(_: torch.nn.Module, arguments: tuple[torch.Tensor, ...]) -> None:
        if len(arguments[0]) > 4:
            raise torch.OutOfMemoryError("out of memory")

    model.get_input_embeddings().register_forward_pre_hook(limited)
    report = replayed(baseline, model, tokenizer, same_batches=True)
    sizes = [len(batch) for batch in report.batches]
    assert max(sizes) <= 4
    assert [index for batch in report.batches for index in batch] == [index for batch in baseline.batches for index in batch]


def test_recording_lets_an_engine_measure_first_and_forgets_those_batches(
    planned: Planned, mixed: list[Prompt], tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, restarts = tiny(), []
    shapes = record_shapes(model)
    planned.room = Room(most=200, settled=False)
    restart = TorchEngine.restart

    def noted(engine: TorchEngine) -> None:
        restarts.append(len(shapes))
        if shapes:
            planned.room = Room(most=1 << 16, launch=1 << 14)
        restart(engine)

    scorer = TeacherForcedScorer(ScoringConfig(batch_size="auto"))
    with monkeypatch.context() as patch:
        patch.setattr(TorchEngine, "restart", noted)
        baseline = scorer.record(model, mixed, tokenizer)
    assert restarts == [0, 8]  # when it is opened, and after the trials
    assert len(set(shapes[:8])) == 1
    assert [len(batch) for batch in baseline.batches] == [len(mixed)]


def test_the_report_says_which_batches_ran_and_why(
    planned: Planned, mixed: list[Prompt], tokenizer: PreTrainedTokenizerFast
) -> None:
    model = tiny()
    shapes = record_shapes(model)
    planned.room = Room(most=2000, fixed=10, launch=500)
    report = TeacherForcedScorer(ScoringConfig(batch_size="auto")).score_batch(model, changed(tiny()), mixed, tokenizer)
    assert sorted(index for batch in report.batches for index in batch) == list(range(len(mixed)))
    assert [(n, n * length) for n, length in shapes] == report.batch_shapes
    document = json.loads(json.dumps(report.to_dict()))
    assert document["batches"] == [{"prompts": n, "tokens": tokens} for n, tokens in report.batch_shapes]
    assert document["batches_planned_with"] == {"launch": 500, "fixed": 10, "most": 2000}
    fixed = TeacherForcedScorer(ScoringConfig(batch_size=16)).score_batch(model, model, mixed, tokenizer)
    assert [len(batch) for batch in fixed.batches] == [16, 16, 6]
    assert fixed.to_dict()["batches_planned_with"] is None
