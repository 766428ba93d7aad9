"""``--pot-calibrate``: the ladder of the user's own reference, and the marker lines that follow from it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pytest_pot.core.errors import PotError
from pytest_pot.gates.verdict.explain import number
from pytest_pot.plugin import options as settings
from pytest_pot.plugin.inputs.model_store import STORE, no_model, no_tokenizer
from pytest_pot.prompts.challenges import challenge_prompts
from pytest_pot.prompts.prompt import builtin_prompts, load_prompts

if TYPE_CHECKING:
    from pytest_pot.calibration.ladder import Calibration, Proposal

__all__ = ["run"]


def run(config: pytest.Config) -> int:
    """Calibrate on the reference that the options name and print what was found; the exit status."""
    writer = config.get_terminal_writer()
    try:
        lines = _lines(config)
    except PotError as error:
        writer.line(f"ERROR: {error}", red=True)
        return pytest.ExitCode.USAGE_ERROR
    for line in lines:
        writer.line(line)
    return pytest.ExitCode.OK


def _lines(config: pytest.Config) -> list[str]:
    from pytest_pot.calibration.ladder import calibrate
    from pytest_pot.scoring.scorer import TeacherForcedScorer

    store = config.stash[STORE]
    if settings.recorded_reference(config):
        raise PotError(
            "--pot-calibrate changes the reference's weights, and a recording has none: give a model, --pot-reference"
        )
    reference = store.from_options("reference")
    if reference is None:
        raise no_model("reference")
    tokenizer = store.tokenizer() or store.tokenizer_of(reference)
    if tokenizer is None:
        raise no_tokenizer()
    path, key = settings.option_path(config, "prompts"), settings.option(config, "key")
    if key is not None:
        prompts = challenge_prompts(key, len(builtin_prompts()))
    else:
        prompts = builtin_prompts() if path is None else load_prompts(path)
    preset, scoring = settings.option_config(config)
    writer = config.get_terminal_writer()

    def tell(name: str) -> None:
        if writer.hasmarkup:  # a terminal; a log has no use for what is going on
            writer.write(f"\rpot: trying {name:<24}\r", flush=True)

    found = calibrate(TeacherForcedScorer(scoring), reference.model, prompts, tokenizer, tell=tell)
    name = settings.option(config, "reference")
    head = f"pot: {name}, {found.label}; preset {preset}, {found.metric} on {found.n_prompts} prompts"
    return [head, *_ladder(found), "", *_proposals(found)]


def _ladder(found: Calibration) -> list[str]:
    width = max((len(rung.name) for rung in found.rungs), default=0)
    floor = "not measured" if found.noise_floor is None else number(found.noise_floor)
    lines = [f"noise floor {floor}", f"{'change'.ljust(width)}  {found.metric:>9}  worst prompt    cv  top1_flip"]
    for rung in found.rungs:
        flips = rung.metrics["top1_flip"]
        worst = number(float(rung.scores.max()))
        lines.append(f"{rung.name.ljust(width)}  {number(rung.mean):>9}  {worst:>12}  {rung.cv:4.2f}  {flips:9.3f}")
    lines += [f"left out: {name}: {reason}" for name, reason in found.left_out.items()]
    return lines


def _proposals(found: Calibration) -> list[str]:
    lines = []
    for proposal in found.proposals():
        metric = "" if found.metric == "tv" else f"metric={found.metric!r}, "
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
        told = f"    expected false alarms: {_rate(proposal.false_alarms())}"
        if misses is not None and proposal.next is not None:
            told += f"; {proposal.next.name} would pass in {_rate(misses)}"
        lines.append(told + f", on {found.n_prompts} prompts like these")
    return lines


def _margin(proposal: Proposal) -> str:
    if proposal.next is None or proposal.separation is None:
        return ", and nothing that was tried is above it: the limit is twice that"
    return f", {proposal.next.name} {proposal.separation:.3g} times above it"


def _rate(share: float) -> str:
    return "fewer than 1 run in 10,000" if share == 0 else f"{share:.2%} of runs"
