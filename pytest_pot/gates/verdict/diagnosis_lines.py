"""What a failure message says of the cause: what is known of it, and a guess where nothing is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_pot.core.text import printable, shorten
from pytest_pot.gates.verdict.limits import IdentityLimits
from pytest_pot.gates.verdict.result import ScoreOutcome

if TYPE_CHECKING:
    from pytest_pot.scoring.diagnosis.diagnosis import Diagnosis

__all__ = ["cause_lines", "diagnosis_lines", "diagnosis_properties", "weights_changed"]

_CHANGED, _STARTS = "  what changed: ", "  where it starts: "
_MOST = 4
"""Lines of a short diagnosis."""
_WIDTH = 300
"""Characters of each of these."""
_MANY, _LONG = 100, 1000
"""The same for a test's properties."""


def cause_lines(outcome: ScoreOutcome, verbosity: int) -> list[str]:
    """The diagnosis, if there is one, and the likely cause as far as the diagnosis leaves it open."""
    from pytest_pot.scoring.diagnosis.likely_cause import likely_cause

    diagnosis = outcome.diagnosis
    lines = []
    if diagnosis is not None:
        lines += diagnosis_lines(diagnosis, whole=verbosity > 0 or outcome.settings.diagnosis == "full")
    if isinstance(outcome.settings.limits, IdentityLimits) and outcome.report.max > 0:
        cause = likely_cause(outcome.report, None if diagnosis is None else weights_changed(diagnosis))
        if cause is not None:
            lines.append(printable(f"  likely cause: {cause}"))
    return lines


def diagnosis_lines(diagnosis: Diagnosis, *, whole: bool) -> list[str]:
    """The diagnosis in lines: all of them, or four at most."""
    changed, starts = diagnosis.what_changed, diagnosis.where_it_starts
    if whole:
        return [printable(_CHANGED + line) for line in changed] + [printable(_STARTS + line) for line in starts]
    shown_starts = starts[:1]
    shown_changed = changed[: _MOST - len(shown_starts)]
    lines = [_CHANGED + shorten(line, _WIDTH) for line in shown_changed]
    lines += [_STARTS + shorten(line, _WIDTH) for line in shown_starts]
    more = len(changed) + len(starts) - len(lines)
    if more:
        lines[-1] += f" ({more} more line{'s' * (more > 1)} with -v)"
    return lines


def diagnosis_properties(diagnosis: Diagnosis) -> dict[str, list[str]]:
    """The lines of the diagnosis alone, for people who read the properties of a test. Reports have all of it."""
    return {
        "what_changed": [shorten(line, _LONG) for line in diagnosis.what_changed[:_MANY]],
        "where_it_starts": [shorten(line, _LONG) for line in diagnosis.where_it_starts],
    }


def weights_changed(diagnosis: Diagnosis) -> bool | None:
    """Whether weights or configuration are known to have changed; None where the weights are not all known."""
    weights = diagnosis.weights
    if diagnosis.same_weights:
        return False
    if diagnosis.config or (weights is not None and (weights.changes or weights.computed)):
        return True
    all_equal = weights is not None and weights.n_equal == weights.n_tensors and not weights.unconfirmed
    return False if all_equal else None
