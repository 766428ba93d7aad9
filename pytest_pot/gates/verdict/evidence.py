"""Whether a score is evidence: what merged cells hide, and figures of one run that contradict each other."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_pot.core.errors import PotError
from pytest_pot.core.text import number

if TYPE_CHECKING:  # these need numpy
    from pytest_pot.gates.verdict.settings import ScoreSettings
    from pytest_pot.scoring.score_report import ScoreReport

__all__ = ["contradictions", "refuse_hidden", "refuse_unseen"]

_LOWER_BOUNDS = ("tv", "jsd", "kl", "kl_reverse")
"""The metrics that merged cells can only lower. The two others are exact whatever the tail holds."""

_FLIPS, _FLIPS_PER_TV = 0.1, 5.0
_DELTA_CE, _DELTA_CE_PER_TV = 0.25, 10.0
"""From where on the exact metrics contradict a small ``tv``: an amount that is no accident, and at least twice the largest
ratio to ``tv`` that known changes of trained models have (``tests/benchmarks/results/ladder.md``)."""

_UNSEEN_PER_TAIL = 2.0
"""How many times the reference's own tail may be unseen."""
_UNSEEN = 1e-6
"""What may be unseen in any case: a tail so small is made of rounding."""


def refuse_hidden(report: ScoreReport, settings: ScoreSettings) -> None:
    """Refuse a verdict on a reference that has most of its probability outside the compared tokens.

    Merging cells gives a lower bound of a divergence, and a lower bound over next to nothing says nothing.

    Raises:
        PotError: the reference's mean tail mass is above ``settings.max_tail``.
    """
    tail, config = report.tail_mass, settings.config
    if tail <= settings.max_tail or config.top_k is None:
        return
    recorded = report.labels[0].endswith(", recorded")
    again = ": with it, record the reference again (--pot-update)" if recorded else ""
    raise PotError(
        f"the score is no evidence: the reference has {tail:.1%} of its probability outside its {config.top_k} likeliest "
        f"tokens, which are all that is compared one by one; at most {settings.max_tail:.1%} may be outside. Trained models "
        "are seldom so undecided: check the reference. If it is meant to be, as with random weights, raise max_tail (marker, "
        f"--pot-max-tail or the ini key pot_max_tail). preset='accurate' compares the whole vocabulary{again}"
    )


def refuse_unseen(report: ScoreReport, settings: ScoreSettings) -> None:
    """Refuse a verdict on a candidate that does not know enough of the ids that the reference finds likely.

    The same weights know all but a few of them, so that what both know leaves out hardly more than the reference's own tail.

    Raises:
        PotError: more than twice that tail, or more than ``settings.max_tail``, is outside the ids that both know.
    """
    if report.unseen is None:
        return
    unseen, tail = report.unseen[0], report.tail_mass
    if unseen > max(_UNSEEN_PER_TAIL * tail, _UNSEEN):
        above = f"more than twice the {tail:.2%} that the reference leaves out itself"
    elif unseen > settings.max_tail:
        above = f"and at most {settings.max_tail:.1%} may be (max_tail)"
    else:
        return
    ids = "all tokens" if report.n_ids is None else f"the reference's {report.n_ids} likeliest tokens"
    more = f"To compare more, {report.to_tell_more}" if report.to_tell_more else "Let its engine tell more ids per position"
    raise PotError(
        f"the score is no evidence: the candidate, {report.labels[1]}, tells only its own likeliest tokens. Of {ids}, those "
        f"that it does not tell leave {unseen:.2%} of the reference's probability unseen, {above}. {more}, or compare fewer "
        "tokens: preset='single' compares the 50 likeliest"
    )


def contradictions(report: ScoreReport, settings: ScoreSettings) -> tuple[str, ...]:
    """A warning, in a tuple, where the exact metrics say that a score within its limit is too small."""
    if settings.config.metric not in _LOWER_BOUNDS:
        return ()
    metrics = report.metrics
    tv, flips, delta_ce = metrics["tv"], metrics["top1_flip"], metrics["delta_ce"]
    found = []
    if flips > max(_FLIPS, _FLIPS_PER_TV * tv):
        found.append(f"the likeliest token differs at {flips:.0%} of the positions (top1_flip)")
    if delta_ce > max(_DELTA_CE, _DELTA_CE_PER_TV * tv):
        found.append(f"the logarithm of the next token's probability changed by {number(delta_ce)} on average (delta_ce)")
    if not found:
        return ()
    where = f"; {report.tail_mass:.1%} of the reference's probability is not compared token by token" * (report.tail_mass > 0)
    return (
        f"{settings.gate}: {' and '.join(found)}, which contradicts so small a tv as {number(tv)}{where}. Compare the whole "
        "vocabulary with preset='accurate' before you trust this pass",
    )
