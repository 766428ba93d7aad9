"""What the documentation links to is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("**/*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_link_to_a_file_leads_to_one(page: Path) -> None:
    targets = re.findall(r"\]\((?!https?:|#|mailto:)([^)#\s]+)", page.read_text(encoding="utf-8"))
    missing = [target for target in targets if not (page.parent / target).exists()]
    assert missing == []
    assert targets or page.name != "what-a-pass-means.md"


def test_the_engine_that_is_shown_is_the_one_that_is_tested() -> None:
    shown = re.findall(
        r"```python\n(.*?)```", (ROOT / "docs" / "how-to" / "own-engine.md").read_text(encoding="utf-8"), re.DOTALL
    )
    assert shown[0] == (ROOT / "examples" / "own_engine" / "numpy_engine.py").read_text(encoding="utf-8")


def test_every_fault_in_the_table_names_its_test() -> None:
    rows = [
        line.split(" | ")
        for line in (ROOT / "docs" / "explanation" / "what-a-pass-means.md").read_text(encoding="utf-8").splitlines()
        if line.startswith("| ") and not line.startswith("| fault")
    ]
    assert len(rows) > 30
    assert [row[0] for row in rows if ".py)" not in row[2]] == []


def test_the_readme_can_be_read_in_three_minutes() -> None:
    """At most 150 lines, a picture with a text for those who cannot see it, and links to all guides and explanations."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(readme.splitlines()) <= 150
    [(text, picture)] = re.findall(r"!\[(.*?)\]\((.*?)\)", readme, re.DOTALL)
    assert len(text) > 100
    assert (ROOT / picture).suffix == ".svg"
    pages = {
        path.relative_to(ROOT).as_posix() for kind in ("how-to", "explanation") for path in (ROOT / "docs" / kind).glob("*.md")
    }
    linked = set(re.findall(r"\]\((docs/[^)#]+)", readme))
    assert pages - linked - {"docs/how-to/index.md", "docs/explanation/index.md"} == set()
