"""A page as html.parser reads it, with what must hold of every page."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from html.parser import HTMLParser

VOID = ("meta", "link", "br", "wbr")
SELF_CLOSING = ("path", "rect", "circle")


@dataclass
class Element:
    """An element, with all text in it."""

    tag: str
    attributes: dict[str, str | None]
    parent: Element | None = None
    children: list[Element] = field(default_factory=list)
    words: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        return "".join(self.words)

    def inside(self, tag: str) -> bool:
        return self.parent is not None and (self.parent.tag == tag or self.parent.inside(tag))


class Page(HTMLParser):
    """Parses on construction; a tag that is closed in the wrong order is an error."""

    def __init__(self, source: str) -> None:
        super().__init__(convert_charrefs=True)
        self.source = source
        self.elements: list[Element] = []
        self._open: list[Element] = []
        self.feed(source)
        self.close()
        assert not self._open, [element.tag for element in self._open]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names)), (tag, names)
        parent = self._open[-1] if self._open else None
        element = Element(tag, dict(attrs), parent)
        if parent is not None:
            parent.children.append(element)
        self.elements.append(element)
        if tag not in VOID:
            self._open.append(element)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in SELF_CLOSING
        self.handle_starttag(tag, attrs)
        self._open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self._open[-1].tag == tag, (self.getpos(), tag, [element.tag for element in self._open])
        self._open.pop()

    def handle_data(self, data: str) -> None:
        for element in self._open:
            element.words.append(data)

    def all(self, tag: str, style: str | None = None) -> list[Element]:
        """The elements with this tag and, where one is given, this class."""
        elements = [element for element in self.elements if element.tag == tag]
        return [e for e in elements if style is None or style in (e.attributes.get("class") or "").split()]

    @property
    def text(self) -> str:
        return self.all("body")[0].text


def check(source: str) -> Page:
    """Parse a page, and assert what holds of each."""
    page = Page(source)
    ids = [e.attributes["id"] for e in page.elements if "id" in e.attributes]
    known = set(ids)
    assert len(ids) == len(known)
    for element in page.elements:
        for name in ("aria-labelledby", "aria-describedby"):
            assert set((element.attributes.get(name) or "").split()) <= known
        assert not any(name.startswith("on") or name == "style" for name in element.attributes), element
        assert element.tag not in ("script", "iframe", "object", "embed", "base", "form", "img")
    for link in page.all("a"):
        target = link.attributes["href"]
        assert target is not None
        assert target.startswith("#")
        assert target[1:] in known
    levels = [int(e.tag[1]) for e in page.elements if e.tag in ("h1", "h2", "h3", "h4", "h5", "h6")]
    assert levels.count(1) == 1
    assert levels[0] == 1
    assert all(later <= earlier + 1 for earlier, later in itertools.pairwise(levels))
    assert all(len(page.all(tag)) == 1 for tag in ("header", "main", "footer"))
    for table in page.all("table"):
        assert table.children[0].tag == "caption"
    assert all("scope" in e.attributes for e in page.all("th"))
    for svg in page.all("svg"):
        named = svg.attributes.get("role") == "img" and ("aria-label" in svg.attributes or "aria-labelledby" in svg.attributes)
        assert named or svg.attributes.get("aria-hidden") == "true"
        if "aria-labelledby" in svg.attributes:
            assert [child.tag for child in svg.children[:2]] == ["title", "desc"]
            assert all(child.text for child in svg.children[:2])
    # A message may hold an address as text; nothing loads one.
    assert not any("//" in (value or "") for element in page.elements for value in element.attributes.values())
    assert not any(word in page.all("style")[0].text for word in ("url(", "@import"))
    assert all(character.isprintable() or character == "\n" for character in source)
    return page
