"""The page: a summary, a table of all gates, and a section for each gate, as long as there is room."""

from __future__ import annotations

import functools
import math
import platform
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib import metadata, resources
from typing import TYPE_CHECKING

from pytest_pot.core.errors import PotError
from pytest_pot.core.text import count, printable
from pytest_pot.core.version import __version__
from pytest_pot.report.gate_words import Status
from pytest_pot.report.html.status import MARKS, STYLES, closeness
from pytest_pot.report.html.tokens import SHADES
from pytest_pot.report.html.views import GateView, gate_views
from pytest_pot.report.table import Row

if TYPE_CHECKING:  # slow to import, and needed only where a page is written
    from jinja2 import Environment

__all__ = ["RunFacts", "html_report"]

_DETAILS_BYTES, _SECTIONS_BYTES = 2_500_000, 3_500_000
"""Characters up to which gates get sections with plots and prompts, and up to which they get sections at all. Each gate has
its line in the table, so that a page of a thousand gates stays below 5 MB."""
_MOST_DETAILS = 60
"""Gates with plots and prompts: drawing takes time too."""
_MAY_BREAK = re.compile(r"(::|[_/.])")
"""After what a long name of a test may go on in the next line."""
_LIBRARIES = ("torch", "transformers")


@dataclass(frozen=True)
class RunFacts:
    """What a page says of the run."""

    date: str
    versions: str

    @classmethod
    def now(cls) -> RunFacts:
        """Of a run that ends now, with what is installed."""
        libraries = [f"{name} {metadata.version(name)}" for name in _LIBRARIES]
        versions = ", ".join([f"pytest-pot {__version__}", *libraries, f"Python {platform.python_version()}"])
        return cls(datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"), versions)


def html_report(rows: Sequence[Row], facts: RunFacts | None = None) -> str:
    """One HTML page on all gates, which loads nothing and needs no scripts.

    Args:
        rows: the gates, as :func:`pytest_pot.report.properties.rows_of` gives them.
        facts: what to say of the run; None: that it ends now.

    Raises:
        PotError: jinja2 is not installed.
    """
    environment = _environment()
    views = gate_views(rows)
    sections, left_out = _sections(environment, views)
    counts = Counter(view.status for view in views)
    page = environment.get_template("report.html").render(
        facts=facts or RunFacts.now(),
        headline=_headline(counts, len(views)),
        counts=[(status, counts[status]) for status in Status if counts[status]],
        views=views,
        shares=_shares(counts, len(views)),
        dot=_dot,
        sections=sections,
        left_out=left_out,
        linked=len(sections),
    )
    return page + "\n"


def _sections(environment: Environment, views: Sequence[GateView]) -> tuple[list[str], str]:
    """The sections of the first gates, which are the worst, and in words what is left out."""
    template = environment.get_template("gate.html")
    sections: list[str] = []
    size = n_detailed = n_cut = 0
    for view in views:
        details = view.details() if n_detailed < _MOST_DETAILS and size < _DETAILS_BYTES else None
        section = template.render(view=view, details=details, shades=SHADES)
        if details is not None and size + len(section) > _SECTIONS_BYTES:
            details = None
            section = template.render(view=view, details=None, shades=SHADES)
        n_detailed += details is not None
        n_cut += details is None and view.has_details
        if size + len(section) > _SECTIONS_BYTES:
            break
        size += len(section)
        sections.append(section)
    parts = []
    if n_cut:
        parts.append(f"plots and prompts of {count(n_cut, 'gate')} are left out; the worst {n_detailed} have theirs")
    if len(sections) < len(views):
        parts.append(f"{len(views) - len(sections)} gates have only their line in the table")
    return sections, "; ".join(parts)


def _headline(counts: Counter[Status], n: int) -> str:
    bad = counts[Status.FAILED] + counts[Status.ERROR]
    if not n:
        return "No gate ran"
    if bad:
        return f"{bad} of {count(n, 'gate')} failed" if n > 1 else "The gate failed"
    if counts[Status.PASSED] == n:
        return f"All {n} gates passed" if n > 1 else "The gate passed"
    return f"{count(n, 'gate')}, no unexpected failure" if counts[Status.EXPECTED] else f"{count(n, 'gate')}, none failed"


def _shares(counts: Counter[Status], n: int) -> list[tuple[str, float, float]]:
    """Style, start and width, of 100, of the parts of a bar."""
    shares, start = [], 0.0
    for status in Status:
        if counts[status]:
            width = 100 * counts[status] / n
            shares.append((STYLES[status], round(start, 1), round(width, 1)))
            start += width
    return shares


def _dot(view: GateView) -> int | None:
    """Where a gate's score lies beside its limit, 0 to 100 with the limit at 50, a decade being 20; None where not known."""
    factor = closeness(view.row)
    if view.score is None or not factor:
        return None if view.score is None else 5
    return 95 if math.isinf(factor) else round(min(max(50 + 20 * math.log10(factor), 5), 95))


@functools.cache
def _environment() -> Environment:
    """Templates that escape all they show: markup, and what is no plain character.

    Raises:
        PotError: jinja2 is not installed.
    """
    try:
        import jinja2
        from markupsafe import Markup, escape
    except ImportError as error:
        raise PotError(f"a report in HTML needs jinja2, which PyTorch usually brings ({error}): pip install jinja2") from None

    def shown(value: object) -> object:
        return printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value

    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        loader=jinja2.PackageLoader("pytest_pot.report.html"),
        finalize=shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    style = resources.files("pytest_pot.report.html").joinpath("templates", "style.css").read_text(encoding="utf-8")
    environment.globals["style"] = Markup(style)
    environment.filters["breakable"] = lambda text: Markup(_MAY_BREAK.sub(r"\1<wbr>", str(escape(printable(text)))))
    environment.filters["mark"] = MARKS.__getitem__
    environment.filters["style"] = STYLES.__getitem__
    environment.filters["drawn"] = Markup  # SVG of ours, whose texts are escaped
    return environment
