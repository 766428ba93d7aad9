"""What a failure message says of the cause: what is known of it, and a guess where nothing is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_pot.core.text import printable, shorten
from pytest_pot.gates.verdict.limits import IdentityLimits
from pytest_pot.gates.verdict.result import ScoreOutcome

if TYPE_CHECKING:
    from pytest_pot.scoring.diagnosis.diagnosis import Diagnosis

__all__ = ["cause_lines", "diagnosis_lines", "diagnosis_properties", "quiet_lines"]

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
        trace = None if diagnosis is None else diagnosis.trace
        cause = likely_cause(
            outcome.report,
            changed=None if diagnosis is None else diagnosis.changed,
            first=None if trace is None else trace.first,
        )
        if cause is not None:
            lines.append(printable(f"  likely cause: {cause}"))
    return lines


def quiet_lines(outcome: ScoreOutcome) -> list[str]:
    """What is left of the diagnosis with ``-q``: a line of what changed and one of where it starts, or all if the user asks for
    that."""
    diagnosis = outcome.diagnosis
    if diagnosis is None:
        return []
    if outcome.settings.diagnosis == "full":
        return diagnosis_lines(diagnosis, whole=True)
    return _first(diagnosis, 1, 1)


def diagnosis_lines(diagnosis: Diagnosis, *, whole: bool) -> list[str]:
    """The diagnosis in lines: all of them, or four at most."""
    changed, starts = diagnosis.what_changed, diagnosis.where_it_starts
    if whole:
        return [printable(_CHANGED + line) for line in changed] + [printable(_STARTS + line) for line in starts]
    lines = _first(diagnosis, _MOST - len(starts[:1]), 1)
    more = len(changed) + len(starts) - len(lines)
    if more:
        lines[-1] += f" ({more} more line{'s' * (more > 1)} with -v)"
    return lines


def _first(diagnosis: Diagnosis, n_changed: int, n_starts: int) -> list[str]:
    lines = [_CHANGED + shorten(line, _WIDTH) for line in diagnosis.what_changed[:n_changed]]
    return lines + [_STARTS + shorten(line, _WIDTH) for line in diagnosis.where_it_starts[:n_starts]]


def diagnosis_properties(diagnosis: Diagnosis) -> dict[str, list[str]]:
    """The lines of the diagnosis alone, for people who read the properties of a test. Reports have all of it."""
    return {
        "what_changed": [shorten(line, _LONG) for line in diagnosis.what_changed[:_MANY]],
        "where_it_starts": [shorten(line, _LONG) for line in diagnosis.where_it_starts],
    }
