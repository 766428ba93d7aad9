"""How much of a diagnosis a failure message shows."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pytest_pot.gates.verdict.diagnosis_lines import diagnosis_lines, diagnosis_properties
from pytest_pot.scoring.diagnosis.diagnosis import Diagnosis, WeightsDifference

CHANGED = ("rope_theta 1 -> 2", "all norms changed", "one tensor: a.b", "one tensor: c.d", "one tensor: e.f")
STARTS = ("layers.3.mlp (MLP): 0.01", "most of it in layers.7")


def diagnosis(n_changed: int, n_starts: int) -> Diagnosis:
    return Diagnosis(None, None, None, what_changed=CHANGED[:n_changed], where_it_starts=STARTS[:n_starts])


@pytest.mark.parametrize(
    ("n_changed", "n_starts", "shown", "hint"),
    [
        (1, 0, (1, 0), ""),
        (1, 1, (1, 1), ""),
        (3, 1, (3, 1), ""),
        (4, 0, (4, 0), ""),
        (4, 1, (3, 1), " (1 more line with -v)"),
        (5, 0, (4, 0), " (1 more line with -v)"),
        (1, 2, (1, 1), " (1 more line with -v)"),
        (5, 2, (3, 1), " (3 more lines with -v)"),
    ],
)
def test_a_short_diagnosis_has_four_lines_and_says_how_many_there_are(
    n_changed: int, n_starts: int, shown: tuple[int, int], hint: str
) -> None:
    lines = [f"  what changed: {line}" for line in CHANGED[: shown[0]]]
    lines += [f"  where it starts: {line}" for line in STARTS[: shown[1]]]
    lines[-1] += hint
    assert diagnosis_lines(diagnosis(n_changed, n_starts), whole=False) == lines


def test_a_whole_diagnosis_has_all_lines() -> None:
    lines = diagnosis_lines(diagnosis(5, 2), whole=True)
    assert lines == [f"  what changed: {line}" for line in CHANGED] + [f"  where it starts: {line}" for line in STARTS]


def test_long_lines_are_cut_unless_all_is_asked_for_and_all_are_on_one_line() -> None:
    long = replace(diagnosis(5, 0), what_changed=("x\x1b[2J\n" + "y" * 1000, *CHANGED))
    [first, *_] = diagnosis_lines(long, whole=False)
    assert first.startswith("  what changed: x\\x1b[2J\\nyyy")
    assert first.endswith("y…")
    assert len(first) == len("  what changed: ") + 300
    [first, *_] = diagnosis_lines(long, whole=True)
    assert first == "  what changed: x\\x1b[2J\\n" + "y" * 1000


def test_properties_are_bounded() -> None:
    many = replace(diagnosis(0, 2), what_changed=tuple(f"line {i} " + "y" * 2000 for i in range(500)))
    properties = diagnosis_properties(many)
    assert len(properties["what_changed"]) == 100
    assert {len(line) for line in properties["what_changed"]} == {1000}
    assert properties["where_it_starts"] == list(STARTS)


def test_weights_that_may_be_swapped_are_neither_equal_nor_changed() -> None:
    equal = WeightsDifference(2, 2, (), (), recorded=False)
    assert Diagnosis(None, equal, None).changed is False
    assert Diagnosis(None, replace(equal, unconfirmed=("a.weight", "b.weight")), None).changed is None
