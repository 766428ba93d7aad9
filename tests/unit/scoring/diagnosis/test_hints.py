"""What the sentences about groups say of where a change comes from."""

from __future__ import annotations

import pytest

from pytest_pot.engines.weights import ChangeKind
from pytest_pot.scoring.diagnosis.groups import summary

from .tensors import infos
from .test_groups import changed, matching, of_llama

ADAPTED = "as of a merged adapter or training: which one, a recording does not tell"


@pytest.mark.parametrize(
    ("pattern", "relative", "live", "recorded"),
    [
        (r"proj", 0.01, "as of training or noise", "as of training, a merged adapter or noise"),
        (r"", 0.01, "as of training or noise", "as of training, a merged adapter or noise"),
        (r"[qv]_proj", 0.01, "", ADAPTED),
        (r"up_proj", None, "", ADAPTED),
        (r"layers\.[0-5]\.self_attn\.q_proj", 0.01, "", ""),
        (r"[qv]_proj|embed", 0.01, "", ""),
        (r"norm", 0.01, "", ""),
        (r"proj", 1.4, "", ""),
        (r"[qv]_proj", 1.4, "", ""),
    ],
)
def test_what_a_change_without_structure_comes_from(pattern: str, relative: float | None, live: str, recorded: str) -> None:
    changes = changed(matching(pattern), relative=relative)
    for words, is_recorded in ((live, False), (recorded, True)):
        (line,) = of_llama(changes, recorded=is_recorded)
        assert line.split(" (relative")[0].endswith(f" changed, {words}" if words else " changed"), line
        also = of_llama(changes + changed(["model.norm.weight"] if pattern else [], ChangeKind.ZERO), recorded=is_recorded)
        assert not pattern or pattern == "norm" or not any("as of" in line for line in also), "something else changed, too"


def test_a_change_of_few_rows_comes_from_none_of_these() -> None:
    changes = changed(matching("proj"), what="1 of 48 rows")
    assert of_llama(changes) == ["all 56 matrices changed in 1 of 48 rows (relative change 0.01)"]


@pytest.mark.parametrize(
    ("name", "pattern", "adapted"),
    [
        ("mamba", r"A_log", False),
        ("mamba", r"conv1d\.weight", False),
        ("mamba", r"in_proj\.weight", True),
        ("mixtral", r"experts\.down_proj", True),
        ("gpt2", r"wte|c_attn\.weight", True),
    ],
)
def test_only_a_linear_layer_or_embeddings_have_merged_adapters(name: str, pattern: str, adapted: bool) -> None:
    tensors, ties = infos(name)
    changes = changed(matching(pattern, tensors), ChangeKind.LOW_RANK, amount=1, relative=None)
    (line,) = summary(changes, tensors, ties)
    assert line.endswith(": a difference of rank 1, as of a merged adapter" if adapted else ": a difference of rank 1")


def test_what_has_no_merged_adapter_does_not_hide_that_of_others() -> None:
    tensors, ties = infos("mamba")
    changes = changed(matching(r"A_log|in_proj\.weight", tensors), ChangeKind.LOW_RANK, amount=1, relative=None)
    lines = summary(changes, tensors, ties)
    assert sorted(line.partition(": ")[2] for line in lines) == [
        "a difference of rank 1",
        "a difference of rank 1, as of a merged adapter",
    ]
