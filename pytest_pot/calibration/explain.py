"""A calibration in words: the ladder as a table, and marker lines with the limits that follow from it."""

from __future__ import annotations

from pytest_pot.calibration.ladder import Calibration
from pytest_pot.core.text import number

__all__ = ["ENOUGH_PROMPTS", "ladder_lines", "proposal_lines"]

ENOUGH_PROMPTS = 16
"""With fewer prompts, limits that are proposed come with a warning."""


def ladder_lines(calibration: Calibration) -> list[str]:
    """The noise floor, and a line for each change, the smallest first."""
    width = max((len(rung.name) for rung in calibration.rungs), default=0)
    floor = "not measured" if calibration.noise_floor is None else number(calibration.noise_floor)
    lines = [f"noise floor {floor}", f"{'change'.ljust(width)}  {calibration.metric:>9}  worst prompt    cv  top1_flip"]
    for rung in calibration.rungs:
        flips = rung.metrics["top1_flip"]
        worst = number(float(rung.scores.max()))
        lines.append(f"{rung.name.ljust(width)}  {number(rung.mean):>9}  {worst:>12}  {rung.cv:4.2f}  {flips:9.3f}")
    lines += [f"left out: {name}: {reason}" for name, reason in calibration.left_out.items()]
    return lines


def proposal_lines(calibration: Calibration) -> list[str]:
    """A marker line for each proposal, and what to expect of it."""
    n = calibration.n_prompts
    lines = []
    if n < ENOUGH_PROMPTS:
        lines.append(
            f"only {n} prompt{'s' * (n != 1)}: limits from so few may pass or fail by the choice of prompts; give at least "
            f"{ENOUGH_PROMPTS}. Without prompts of your own, 32 built-in ones are used"
        )
    for proposal in calibration.proposals():
        metric = "" if calibration.metric == "tv" else f"metric={calibration.metric!r}, "
        lines.append(f"@pytest.mark.pot_identity({metric}max_score={number(proposal.limit)})")
        lines.append(
            f"    lets {proposal.kind} pass: {proposal.highest.name} is at {number(proposal.highest.mean)}, "
            f"{proposal.next.name} {proposal.separation:.3g} times above it"
        )
        if proposal.passing():
            lines.append(f"    lets pass too: {', '.join(rung.name for rung in proposal.passing())}")
        if proposal.near():
            lines.append(f"    just above the limit: {', '.join(rung.name for rung in proposal.near())}")
        lines.append(
            f"    expected false alarms: {_rate(proposal.false_alarms(), n)}; {proposal.next.name} would pass in "
            f"{_rate(proposal.misses(), n)}, on {n} prompts like these"
        )
    for kind, highest in calibration.without_limit():
        lines.append(
            f"no limit for {kind}: {highest.name} is at {number(highest.mean)}, and nothing that was tried is clearly above "
            "it, so that a limit there would let everything pass that was tried"
        )
    return lines


def _rate(share: float, n_prompts: int) -> str:
    """A share of runs; prompts that were seen once each cannot show a smaller one than one in their number."""
    if n_prompts < 2:
        return "an unknown share of runs (one prompt shows no spread)"
    return f"fewer than 1 run in {n_prompts}" if share < 1 / n_prompts else f"{share:.2%} of runs"
