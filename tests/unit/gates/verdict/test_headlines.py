"""Headlines of gates with a confidence that no run of tiny models gives by itself."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from pytest_pot.gates.verdict.explain import headline
from pytest_pot.gates.verdict.sequential import SequentialTest


def outcome(scores: list[float], limit: float, pool: int) -> Any:
    """What a gate knows after one batch of these scores."""
    test = SequentialTest(limit, confidence=0.9, pool=pool)
    test.update(scores)
    return SimpleNamespace(
        decision=test.decision(),
        report=SimpleNamespace(metric="tv", mean=sum(scores) / len(scores), n_prompts=len(scores)),
        settings=SimpleNamespace(gate="pot_identity", confidence=0.9, score_clip=test.clip, max_outliers=0.05),
        limit=limit,
        pool=pool,
    )


def test_a_mean_that_the_rest_of_a_batch_has_lowered_is_that_of_the_prompts_that_decided() -> None:
    decided = outcome([1.0] * 3 + [0.0] * 57, 0.1, pool=1000)
    assert decided.report.mean < 0.1
    n = decided.decision.decided_after
    assert headline(decided) == (
        f"pot_identity: DIFFERENT at 90% confidence after 60 of 1000 prompts: tv 1 > 0.1 on the {n} prompts that decided"
    )
    assert n <= 3


def test_a_pool_within_its_limit_with_too_many_outliers_says_so() -> None:
    exhausted = outcome([0.0] * 38 + [1.5, 1.5], 0.1, pool=40)
    assert headline(exhausted) == (
        "pot_identity: UNDECIDED at 90% confidence after 40 of 40 prompts: tv 0.075, the limit is 0.1; 2 of the 40 prompts are "
        "above 1, the limit for one prompt: too many for SAME, though the mean is within its limit. Inspect them"
    )
