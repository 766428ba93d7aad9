"""Gates that the examples do not have: hostile prompts, a verdict with a confidence, a slow candidate, a missing one.

The fixture ``report`` copies this file to one that pytest collects."""

from __future__ import annotations

import pytest

from pytest_pot import Prompt

HOSTILE = [
    Prompt("<script>alert(1)</script>\n\t\u202eolleh\u202c\x00\x07\"'", " & </p> <b>the\n\tend</b> of it", "<i>kind</i>"),
    Prompt("word " * 2000, " and the end of ten thousand characters"),
]
SHORT = [Prompt(f"Item {n}:", " the old mill stood empty") for n in range(8)]


@pytest.mark.pot_identity(candidate="smollm2:int8", prompts=HOSTILE, max_score=0.001, max_length=64)
@pytest.mark.parametrize("name", ["<img src=x onerror=alert(1)>"])
def test_hostile_prompts(name: str) -> None:
    assert name


@pytest.mark.pot_identity(candidate="smollm2:int8", prompts=SHORT, confidence=0.9)
def test_a_verdict_with_a_confidence() -> None:
    pass


@pytest.mark.pot_latency(candidate="smollm2:int8", max_slowdown=0.5, prompts=SHORT[:1])
def test_a_candidate_that_is_too_slow() -> None:
    pass


@pytest.mark.pot_identity(candidate="no_such_module:model", prompts=SHORT)
def test_a_candidate_that_is_missing() -> None:
    pass
