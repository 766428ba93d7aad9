"""The page: a summary, a table of all gates, and a section for each gate, as long as there is room."""

from __future__ import annotations

import functools
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import TYPE_CHECKING

from pytest_pot.core.errors import PotError
from pytest_pot.core.text import count, cut_middle, printable
from pytest_pot.core.version import __version__
from pytest_pot.report.gate_words import Status
from pytest_pot.report.html.status import MARKS, STYLES, closeness
from pytest_pot.report.html.tokens import SHADES
from pytest_pot.report.html.views import GateView, gate_views
from pytest_pot.report.table import Row

if TYPE_CHECKING:  # slow to import, and needed only where a page is written
    from jinja2 import Environment

__all__ = ["html_report"]

_MOST_BYTES, _MOST_SECTION_BYTES, _MOST_TABLE_BYTES = 4_950_000, 3_500_000, 3_000_000
"""Sizes in UTF-8, so that a page of a thousand gates stays below 5 MB: of the page, of its sections, and of all but these,
which is mostly the table, with a line for each gate. Sections have the room that the table leaves."""
_DETAILS_SHARE = 0.7
"""Gates get plots and prompts until their sections have this share of the room."""
_TABLE_WIDTHS = (900, 150, 75, 40)
"""Columns of a name in the table: as many as fit the table's size."""
_LINK_BYTES = 40
"""A link from the table to a section."""
_MOST_DETAILS = 60
"""Gates with plots and prompts: drawing takes time too."""
_MAY_BREAK = re.compile(r"(::|[_/.])")
"""After what a long name of a test may go on in the next line."""
_NO_PACKAGES = ("started", "python", "platform")
"""Facts of a run that are no versions of packages."""


def html_report(rows: Sequence[Row], run: Mapping[str, str | None]) -> str:
    """One HTML page on all gates, which loads nothing and needs no scripts.

    Args:
        rows: the gates, as :func:`pytest_pot.report.properties.rows_of` gives them.
        run: what :func:`~pytest_pot.report.run_facts.run_facts` gives.

    Raises:
        PotError: jinja2 is not installed.
    """
    environment = _environment()
    views = gate_views(rows)
    counts = Counter(view.status for view in views)
    page = functools.partial(
        environment.get_template("report.html").render,
        run=_run(run),
        headline=_headline(counts, len(views)),
        counts=[(status, counts[status]) for status in Status if counts[status]],
        views=views,
        shares=_shares(counts, len(views)),
        dot=_dot,
    )
    for width in _TABLE_WIDTHS:
        table_bytes = _bytes(page(width=width, sections=[], left_out="", linked=0)) + _LINK_BYTES * len(views)
        if table_bytes <= _MOST_TABLE_BYTES:
            break
    sections, left_out = _sections(environment, views, min(_MOST_SECTION_BYTES, _MOST_BYTES - table_bytes))
    return page(width=width, sections=sections, left_out=left_out, linked=len(sections)) + "\n"


def _run(run: Mapping[str, str | None]) -> str:
    """The facts of the run in one line."""
    started = str(run["started"]).replace("T", " ").replace("+00:00", " UTC")
    packages = {name: version for name, version in run.items() if version is not None and name not in _NO_PACKAGES}
    versions = {"pytest-pot": __version__, "Python": run["python"], **packages}
    named = ", ".join(f"{name} {version}" for name, version in versions.items())
    return f"started {started} · {named} · {run['platform']}"


def _bytes(page: str) -> int:
    """Its size in a file."""
    return len(page.encode("utf-8", "backslashreplace"))


def _sections(environment: Environment, views: Sequence[GateView], most_bytes: int) -> tuple[list[str], str]:
    """The sections of the first gates, which are the worst, in ``most_bytes`` at most, and in words what is left out."""
    template = environment.get_template("gate.html")
    sections: list[str] = []
    size = n_detailed = n_cut = 0
    for view in views:
        details = view.details() if n_detailed < _MOST_DETAILS and size < _DETAILS_SHARE * most_bytes else None
        section = template.render(view=view, details=details, shades=SHADES)
        if details is not None and size + _bytes(section) > most_bytes:
            details = None
            section = template.render(view=view, details=None, shades=SHADES)
        n_detailed += details is not None
        n_cut += details is None and view.has_details
        if size + _bytes(section) > most_bytes:
            break
        size += _bytes(section)
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
    environment.filters["cut"] = lambda text, width: cut_middle(printable(text), width)
    environment.filters["mark"] = MARKS.__getitem__
    environment.filters["style"] = STYLES.__getitem__
    environment.filters["drawn"] = Markup  # SVG of ours, whose texts are escaped
    return environment
