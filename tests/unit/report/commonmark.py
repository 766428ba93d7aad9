"""Markdown, rendered by a real CommonMark renderer with GitHub's tables, and what is in the page."""

from __future__ import annotations

from dataclasses import dataclass, field
from html.parser import HTMLParser

from markdown_it import MarkdownIt

OURS = {"h2", "h3", "p", "table", "thead", "tbody", "tr", "th", "td", "code", "pre", "details", "summary", "strong", "ul", "li"}
"""The elements that our reports are made of. None of them leads anywhere or runs anything."""


@dataclass
class Page(HTMLParser):
    """The elements of a page, its text inside code and outside, and the cells of its tables."""

    tags: list[str] = field(default_factory=list)
    attributes: list[tuple[str, str | None]] = field(default_factory=list)
    plain: list[str] = field(default_factory=list)
    codes: list[str] = field(default_factory=list)
    cells: list[list[str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()
        self._open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag != "br":
            self._open.append(tag)
        if tag == "code":
            self.codes.append("")
        if tag == "tr":
            self.cells.append([])
        if tag in ("td", "th"):
            self.cells[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        if tag != "br":
            assert self._open.pop() == tag, "an element is not closed where it should be"

    def handle_data(self, data: str) -> None:
        if "code" in self._open:
            self.codes[-1] += data
        else:
            self.plain.append(data)
        if self._open and {"td", "th"} & set(self._open):
            self.cells[-1][-1] += data


def rendered(markdown: str) -> Page:
    """``markdown`` as a page, HTML and links without angle brackets included, as on GitHub."""
    page = Page()
    renderer = MarkdownIt("commonmark", {"html": True}).enable("table")
    page.feed(renderer.render(markdown))
    page.close()
    assert page._open == []
    return page
