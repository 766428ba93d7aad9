"""The site builds, and every warning of the build is an error."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

import pytest_pot
from pytest_pot.plugin.markers import MARKERS
from pytest_pot.plugin.options import INI_KEYS, OPTIONS, option_flag
from tests.docs.blocks import ROOT

pytest.importorskip("furo")
pytest.importorskip("myst_parser")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built as ``tox run -e docs`` builds it."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-n", "-E", "-d", str(folder / "doctrees")]
    environment = {**os.environ, "PYTHONPATH": str(Path(pytest_pot.__file__).parents[1])}
    done = subprocess.run(
        [*command, str(ROOT / "docs"), str(folder / "html")], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return folder / "html"


class _Page(HTMLParser):
    """The text, the links and the ids of a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.text, self.links, self.ids = "", set[str](), set[str]()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.ids.add(values.get("id", ""))
        self.links |= {values[name] for name in ("href", "src") if name in values}

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_front_page_has_four_doors(site: Path) -> None:
    page = _Page(site / "index.html")
    assert {"how-to/index.html", "reference/index.html", "explanation/index.html"} <= page.links
    assert "Tutorial" in page.text


def test_every_marker_argument_option_and_key_is_on_the_site(site: Path) -> None:
    markers, options = (_Page(site / "reference" / f"{name}.html") for name in ("markers", "options"))
    assert all(argument in markers.text for marker in MARKERS.values() for argument in marker.gate.arguments)
    assert all(name in options.text for name in (*map(option_flag, OPTIONS), *INI_KEYS))


def test_the_api_shows_signatures_and_docstrings(site: Path) -> None:
    text = _Page(site / "reference" / "api.html").text
    assert "TeacherForcedScorer" in text
    assert re.search(r"score_batch\(", text)
    assert "A recorded reference: its distributions on a suite of prompts" in text
    assert not re.search(r":\w+:`", text), "a role that was not understood"


def test_links_within_the_site_lead_somewhere(site: Path) -> None:
    pages = {path: _Page(path) for path in site.rglob("*.html")}
    assert len(pages) > 15
    for path, page in pages.items():
        for link in page.links:
            target, _, anchor = link.partition("#")
            if re.match(r"\w+:", target):
                continue
            file = (path.parent / target.partition("?")[0]).resolve() if target else path
            assert file.exists(), f"{path.name}: {link}"
            if anchor and file in pages:
                assert anchor in pages[file].ids, f"{path.name}: {link}"


def test_no_page_needs_the_network(site: Path) -> None:
    for path in site.rglob("*.html"):
        loaded = re.findall(r"<(?:script|link|img)[^>]*?(?:src|href)=\"(https?:[^\"]+)", path.read_text(encoding="utf-8"))
        assert [url for url in loaded if "canonical" not in url] == []
