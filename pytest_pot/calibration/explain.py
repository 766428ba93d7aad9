"""A calibration in words: the ladder as a table, and marker lines with the limits that follow from it."""

from __future__ import annotations

from pytest_pot.calibration.ladder import Calibration, Proposal
from pytest_pot.core.text import number

__all__ = ["ladder_lines", "proposal_lines"]


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
    lines = []
    for proposal in calibration.proposals():
        metric = "" if calibration.metric == "tv" else f"metric={calibration.metric!r}, "
        lines.append(f"@pytest.mark.pot_identity({metric}max_score={number(proposal.limit)})")
        lines.append(
            f"    lets {proposal.kind} pass: {proposal.highest.name} is at {number(proposal.highest.mean)}{_margin(proposal)}"
        )
        passing = [rung.name for rung in proposal.passing() if rung.mean > proposal.highest.mean / 2]
        if passing:
            lines.append(f"    of that size, and let pass too: {', '.join(passing)}")
        if proposal.near():
            lines.append(f"    just above the limit: {', '.join(rung.name for rung in proposal.near())}")
        misses = proposal.misses()
        rates = f"    expected false alarms: {_rate(proposal.false_alarms())}"
        if misses is not None and proposal.next is not None:
            rates += f"; {proposal.next.name} would pass in {_rate(misses)}"
        lines.append(rates + f", on {calibration.n_prompts} prompts like these")
    return lines


def _margin(proposal: Proposal) -> str:
    if proposal.next is None or proposal.separation is None:
        return ", and nothing that was tried is above it: the limit is twice that"
    return f", {proposal.next.name} {proposal.separation:.3g} times above it"


def _rate(share: float) -> str:
    return "fewer than 1 run in 10,000" if share == 0 else f"{share:.2%} of runs"
