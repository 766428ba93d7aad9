"""Which plan of batches is chosen, and when that of a recording is repeated."""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import partial

import pytest

from pytest_pot.engines.base import Room
from pytest_pot.engines.tokens import Tokens
from pytest_pot.scoring.batch_plan import cheapest, cost_of, joint_room, remaining_sizes, worth_repeating

from ...processor_time import least_s

CPU = Room(most=1024, fixed=32)


def plain(lengths: Sequence[int], room: Room, most: int | None = None) -> list[int]:
    """:func:`cheapest`, one batch at a time."""
    cost, begin = [0], [0]
    for j in range(1, len(lengths) + 1):
        best, start, longest = None, 0, 0
        for i in range(j - 1, -1, -1):
            longest = max(longest, lengths[i])
            tokens = longest * (j - i)
            if j - i > 1 and (tokens > room.most or (most is not None and j - i > most)):
                break
            total = cost[i] + max(room.launch, room.fixed + tokens)
            if best is None or total < best:
                best, start = total, i
        assert best is not None
        cost.append(best)
        begin.append(start)
    sizes, j = [], len(lengths)
    while j:
        sizes.append(j - begin[j])
        j = begin[j]
    return sizes[::-1]


def without_launch(lengths: Sequence[int], most_tokens: int, per_forward: int, most: int | None) -> list[int]:
    """The plan by padded tokens plus a constant per forward pass, which a CPU must keep."""
    cost, begin = [0], [0]
    for j in range(1, len(lengths) + 1):
        best, start, longest = None, 0, 0
        for i in range(j - 1, -1, -1):
            longest = max(longest, lengths[i])
            tokens = longest * (j - i)
            if j - i > 1 and (tokens > most_tokens or (most is not None and j - i > most)):
                break
            if best is None or cost[i] + tokens < best:
                best, start = cost[i] + tokens, i
        assert best is not None
        cost.append(best + per_forward)
        begin.append(start)
    sizes, j = [], len(lengths)
    while j:
        sizes.append(j - begin[j])
        j = begin[j]
    return sizes[::-1]


def random_lengths(generator: random.Random, most: int = 60) -> list[int]:
    lengths = [generator.randint(1, 90) for _ in range(generator.randint(1, most))]
    # Groups of prompts that share a prefix are not sorted among the others.
    return sorted(lengths, reverse=True) if generator.random() < 0.5 else lengths


@pytest.mark.parametrize("seed", range(20))
def test_the_fast_plan_is_the_plain_one_also_among_plans_that_cost_the_same(seed: int) -> None:
    generator = random.Random(seed)
    for _ in range(50):
        lengths = random_lengths(generator)
        room = Room(
            most=generator.choice([50, 240, 1024, 5000]),
            fixed=generator.choice([0, 1, 32, 64, 500]),
            launch=generator.choice([0, 20, 200, 2000]),
        )
        most = generator.choice([None, None, 1, 3, 16])
        assert cheapest(lengths, room, most) == plain(lengths, room, most), (lengths, room, most)


@pytest.mark.parametrize("seed", range(10))
def test_plans_on_a_cpu_count_padding_and_forwards_only(seed: int) -> None:
    generator = random.Random(seed)
    for _ in range(50):
        lengths, most = random_lengths(generator, 120), generator.choice([None, 1, 7])
        assert cheapest(lengths, CPU, most) == without_launch(lengths, 1024, 32, most)


def test_planning_is_quick_where_all_prompts_fit_into_one_batch() -> None:
    generator = random.Random(0)
    lengths = sorted((generator.randint(20, 200) for _ in range(257)), reverse=True)
    room = Room(most=1 << 16, fixed=64, launch=1 << 14)

    fast, slow = (least_s(partial(plan, lengths, room), 5) for plan in (cheapest, plain))
    assert fast < slow / 1.5  # about 1.6 ms and 9 ms


def test_below_the_launch_time_padding_costs_nothing_and_above_it_batches_cost_nothing() -> None:
    assert cheapest([100, 90, 20, 10], Room(most=10_000, launch=500)) == [4]
    assert cheapest([100, 90, 20, 10], Room(most=10_000, launch=1)) == [1, 1, 1, 1]
    assert cheapest([100, 90, 20, 10], Room(most=10_000, fixed=15)) == [2, 2]


def test_the_cost_of_a_pass() -> None:
    room = Room(most=100, fixed=10, launch=50)
    assert [room.cost(n) for n in (1, 40, 41, 100)] == [50, 50, 51, 110]
    assert cost_of([2, 1], [30, 20, 5], room) == 70 + 50


def test_the_slowest_engine_decides_what_a_batch_costs_and_the_least_memory_what_fits() -> None:
    small = Room(most=4096, fixed=64, launch=16384)
    large = Room(most=8192, fixed=256, launch=256, settled=False)
    assert joint_room([small, large, None]) == Room(most=4096, fixed=256, launch=256, settled=False)
    assert joint_room([small, small]) == small
    assert joint_room([None, CPU]) == joint_room([None, None]) == joint_room([]) == CPU


def tokens_of(*lengths: int) -> list[Tokens]:
    return [Tokens(tuple(range(100 * i, 100 * i + n)), 1) for i, n in enumerate(lengths)]


def test_a_recordings_batches_are_repeated_where_they_cost_about_as_much() -> None:
    tokens = tokens_of(*[50] * 8)
    alone, halves, whole = [[i] for i in range(8)], [[0, 1, 2, 3], [4, 5, 6, 7]], [list(range(8))]
    assert worth_repeating(halves, tokens, Room(most=1000, fixed=32))  # 464 to 432
    assert not worth_repeating(alone, tokens, Room(most=1000, fixed=32))
    assert not worth_repeating(halves, tokens, Room(most=1000, launch=1000))
    assert worth_repeating(whole, tokens, Room(most=400, launch=1000))
    assert not worth_repeating(whole, tokens, Room(most=399))  # does not fit
    assert worth_repeating([[0], [1]], tokens_of(50, 50), Room(most=10))  # nobody can do with less


def test_while_nothing_is_measured_a_recordings_batches_are_repeated() -> None:
    assert worth_repeating([[i] for i in range(8)], tokens_of(*[50] * 8), Room(most=1000, launch=1000, settled=False))


def test_what_remains_of_a_recordings_batches() -> None:
    recorded = [[0, 1, 2, 3, 4], [5, 6], [7]]
    assert remaining_sizes(recorded, 8, None) == [5, 2, 1]
    assert remaining_sizes(recorded, 3, None) == [2, 1]
    assert remaining_sizes(recorded, 8, 2) == [2, 2, 1, 2, 1]
    assert remaining_sizes(recorded, 6, 2) == [2, 1, 2, 1]
    assert remaining_sizes(recorded, 5, 1) == [1] * 5
