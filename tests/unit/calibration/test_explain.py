"""What a calibration promises: no more than its prompts can show."""

from __future__ import annotations

import numpy as np

from pytest_pot.calibration.explain import proposal_lines
from pytest_pot.calibration.ladder import Calibration, Rung

FEW = (
    "only {}: limits from so few may pass or fail by the choice of prompts; give at least 16. Without prompts of your own, 32 "
    "built-in ones are used"
)
NO_INT4 = (
    "no limit for int4: int4 in groups is at 0.339, and nothing that was tried is clearly above it, so that a limit there "
    "would let everything pass that was tried"
)
RUNGS = {
    "fp16": 0.0007,
    "bf16": 0.0037,
    "pruned 1 %": 0.005,
    "int8 per row": 0.033,
    "layers swapped": 0.167,
    "int4 in groups": 0.339,
}


def calibration(n: int, **odd: float) -> Calibration:
    """The figures of SmolLM2, with the same score at each prompt but for the last one of those in ``odd``."""
    scores = {name: np.full(n, mean) for name, mean in RUNGS.items()}
    for name, last in odd.items():
        scores[name.replace("_", " ")][-1] = last
    rungs = [Rung(name, values, {"top1_flip": 0.0}) for name, values in scores.items()]
    return Calibration("tv", n, "float32 on cpu", 1e-7, sorted(rungs, key=lambda rung: rung.mean), {})


def marker_lines(n: int) -> list[str]:
    rate = f"fewer than 1 run in {n}"
    return [
        "@pytest.mark.pot_identity(max_score=0.011)",
        "    lets half pass: bf16 is at 0.0037, int8 per row 8.92 times above it",
        "    lets pass too: pruned 1 %",
        f"    expected false alarms: {rate}; int8 per row would pass in {rate}, on {n} prompts like these",
        "@pytest.mark.pot_identity(max_score=0.0742)",
        "    lets int8 pass: int8 per row is at 0.033, layers swapped 5.06 times above it",
        "    lets pass too: fp16, bf16, pruned 1 %",
        f"    expected false alarms: {rate}; layers swapped would pass in {rate}, on {n} prompts like these",
        NO_INT4,
    ]


def test_no_rate_is_below_what_the_prompts_can_show() -> None:
    assert proposal_lines(calibration(32)) == marker_lines(32)
    assert proposal_lines(calibration(16)) == marker_lines(16)


def test_few_prompts_are_warned_of() -> None:
    assert proposal_lines(calibration(15)) == [FEW.format("15 prompts"), *marker_lines(15)]
    assert proposal_lines(calibration(4)) == [FEW.format("4 prompts"), *marker_lines(4)]
    one = proposal_lines(calibration(1))
    assert one[0] == FEW.format("1 prompt")
    unknown = "an unknown share of runs (one prompt shows no spread)"
    assert one[4] == f"    expected false alarms: {unknown}; int8 per row would pass in {unknown}, on 1 prompts like these"


def test_a_rate_that_the_prompts_do_show_is_given() -> None:
    """One prompt of 16 is far above the limit for one prompt: most runs of 16 prompts like these have it."""
    lines = proposal_lines(calibration(16, bf16=0.3))
    assert any(line.startswith("    expected false alarms: 6") and "% of runs; " in line for line in lines)


def test_a_change_that_fails_on_one_prompt_does_not_pass() -> None:
    """Its mean is within the limit, and a gate fails it all the same."""
    odd = calibration(32)
    [pruned] = [rung for rung in odd.rungs if rung.name == "pruned 1 %"]
    pruned.scores[:] = 0.001
    pruned.scores[0] = 0.13
    assert pruned.mean < 0.0111
    lines = proposal_lines(odd)
    assert "    lets pass too: pruned 1 %" not in lines
    assert "    just above the limit: pruned 1 %" in lines
