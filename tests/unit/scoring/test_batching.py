"""Which prompts share a batch with ``batch_size="auto"``."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator

import pytest
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from pytest_pot import Prompt, ScoringConfig, TeacherForcedScorer
from pytest_pot.engines.base import Room
from pytest_pot.scoring.batch_plan import cheapest

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
