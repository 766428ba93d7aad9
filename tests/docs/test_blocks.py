"""Every code block and command of the documentation runs, in order, in a project of its page."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.docs.blocks import ROOT, Page, PageError, pages, read, skipped
from tests.docs.project import Failure, PageProject, is_shown

SKIPPED = Path(__file__).with_name("skipped.txt")
needs_bash = pytest.mark.skipif(os.name != "posix", reason="the documentation's commands are for a POSIX shell")


def _parameter(path: Path) -> object:
    real = "<!-- test: models=smollm2 -->" in path.read_text(encoding="utf-8")
    return pytest.param(path, id=path.relative_to(ROOT).as_posix(), marks=[pytest.mark.real, pytest.mark.slow] if real else [])


@needs_bash
@pytest.mark.parametrize("path", [_parameter(path) for path in pages()])
def test_every_block_of_the_page_runs(
    path: Path, tmp_path: Path, forked_commands: Path, request: pytest.FixtureRequest
) -> None:
    page = read(path)
    project = PageProject(tmp_path, request.getfixturevalue(f"{page.models}_models"), forked_commands)
    try:
        project.do_all(page)
    except Failure as failure:
        pytest.fail(str(failure), pytrace=False)


def test_no_block_is_skipped_but_those_that_are_listed() -> None:
    listed = SKIPPED.read_text(encoding="utf-8").splitlines()
    assert sorted(listed) == skipped(pages()), "list them in skipped.txt: python -m tests.docs.blocks --skipped"


def _page(folder: Path, text: str) -> Page:
    path = folder / "page.md"
    path.write_text(text, encoding="utf-8")
    return read(path)


@pytest.mark.parametrize(
    ("text", "actions"),
    [
        ("```python\nprint(1)\n```\n", ["run"]),
        ("```python\ndef test_it():\n    pass\n```\n", ["pytest"]),
        ("```python\n# conftest.py\nx = 1\n```\n", ["file"]),
        ("```ini\n# pytest.ini\n[pytest]\n```\n", ["file"]),
        ("<!-- test: file=a.json -->\n```json\n{}\n```\n", ["file"]),
        ("<!-- test: skip because it installs packages -->\n```sh\npip install x\n```\n", ["skip"]),
        ("<!-- test: setup\ntouch a\n-->\n\n```sh\ntest -e a\n```\n", ["setup", "run"]),
        ("<!-- test: project other -->\n\n```sh\ntrue\n```\n", ["project", "run"]),
        ("```{toctree}\nx\n```\n", []),
        ("- item\n\n  ```sh\n  true\n  ```\n", ["run"]),
    ],
)
def test_what_a_block_does(text: str, actions: list[str], tmp_path: Path) -> None:
    assert [step.action for step in _page(tmp_path, text).steps] == actions


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("# T\n\n```text\nsome output\n```\n", "page.md:3: a block of text needs a comment"),
        ("```\nx\n```\n", "page.md:1: a block of no language needs a comment"),
        ("<!-- test: skip -->\n```sh\nx\n```\n", "page.md:2: a skip needs a reason"),
        ("<!-- test: skip because -->\n```sh\nx\n```\n", "page.md:2: a skip needs a reason"),
        ("<!-- test: runs -->\n```sh\nx\n```\n", "page.md:2: 'test: runs' is none of"),
        ("<!-- test: run exti=1 -->\n```sh\nx\n```\n", "page.md:2: 'test: run exti=1' is none of"),
        ("<!-- test: run exit=1 -->\n\n```sh\nx\n```\n", "page.md:1: 'test: run exit=1' stands directly above no block"),
        ("<!-- test: run -->\n```{note}\nx\n```\n", "page.md:2: a directive of the site is not tested"),
    ],
)
def test_an_unclear_page_is_an_error(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(PageError) as error:
        _page(tmp_path, text)
    assert message in str(error.value)


@needs_bash
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("```sh\nfalse\n```\n", "exit status 1 in place of 0"),
        ("<!-- test: run exit=2 -->\n```sh\ntrue\n```\n", "exit status 0 in place of 2"),
        ("```python\nraise SystemExit(3)\n```\n", "exit status 3 in place of 0"),
        ("```sh\necho a\n```\n<!-- test: output -->\n```text\nb\n```\n", "this is not in the output:\nb\n"),
        ("```sh\necho a > f\n```\n<!-- test: contents=f -->\n```text\nb\n```\n", "this is not in f:\nb\n"),
        ("<!-- test: same-as=examples/pytest.ini -->\n```ini\n[pytest]\n```\n", "not the text of examples/pytest.ini"),
    ],
)
def test_a_block_that_does_something_else_fails(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    project = PageProject(tmp_path, tmp_path / "models")
    page = _page(tmp_path, text)
    with pytest.raises(Failure) as failure:
        project.do_all(page)
    assert message in str(failure.value)


@needs_bash
def test_blocks_see_what_blocks_before_them_left_but_not_those_of_another_project(tmp_path: Path) -> None:
    (tmp_path / "models" / "base").mkdir(parents=True)
    project = PageProject(tmp_path, tmp_path / "models")
    page = _page(
        tmp_path,
        "```python\n# helper.py\nX = 2\n```\n```python\nimport helper\nprint(helper.X)\n```\n"
        "<!-- test: output -->\n```text\n2\n```\n"
        "<!-- test: project other -->\n\n```sh\ntest ! -e helper.py\ntest -d models/base\n```\n",
    )
    project.do_all(page)


@pytest.mark.parametrize(
    ("shown", "matches"),
    [
        ("one\ntwo", True),
        ("two\nthree", True),
        ("one\nthree", False),
        ("one\n...\nthree", True),
        ("t...o", True),
        ("two ", True),
        ("on", False),
        ("three\n...\none", False),
    ],
)
def test_what_counts_as_shown(shown: str, matches: bool) -> None:
    assert is_shown(shown, "one\ntwo\nthree\n") is matches


def test_there_are_pages_to_test() -> None:
    names = {path.relative_to(ROOT).as_posix() for path in pages()}
    assert {"README.md", "docs/index.md", "docs/reference/markers.md"} <= names


@needs_bash
def test_a_block_that_hangs_is_ended_with_all_that_it_started(
    tmp_path: Path, forked_commands: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it started would keep its output open."""
    monkeypatch.setattr("tests.docs.project._SECONDS", 1)
    (tmp_path / "models").mkdir()
    project = PageProject(tmp_path, tmp_path / "models", forked_commands)
    code = "import subprocess; subprocess.run(['sh', '-c', 'sleep 100; true'])"
    with pytest.raises(Failure, match=r"page\.md:1: has not ended after 1 s:"):
        project.do_all(_page(tmp_path, f'```sh\npython -c "{code}"\ntrue\n```\n'))
