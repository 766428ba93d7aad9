"""The fenced blocks of the documentation's pages, and what a test does with each of them.

``python -m tests.docs.blocks --skipped`` prints the blocks that are skipped, one a line, as ``skipped.txt`` lists them."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = ["ROOT", "Block", "Page", "PageError", "Step", "pages", "read", "skipped"]

ROOT = Path(__file__).parents[2]

_FENCE = re.compile(r"( *)(`{3,}|~{3,})\s*([^\s`]*)(.*)")
_ONE_LINE = re.compile(r" *<!-- *test: *(.*?) *--> *")
_SETUP = re.compile(r" *<!-- *test: *setup *")
_NAMED = re.compile(r"(?:#|//|;) *([\w./-]+\.(?:py|ini|toml|cfg|ya?ml|jsonl))\b")
_ACTIONS = ("file", "pytest", "run", "output", "contents", "same-as", "skip")


class PageError(ValueError):
    """A block or a comment that says not clearly what to do; the message says where."""


@dataclass(frozen=True)
class Block:
    """A fenced block."""

    language: str
    text: str
    line: int
    """Of the fence, counted from 1."""


@dataclass(frozen=True)
class Step:
    """What a test does at one place of a page."""

    action: str
    """``file``, ``pytest``, ``run``, ``output``, ``contents``, ``same-as``, ``skip``, ``setup`` or ``project``."""
    line: int
    value: str = ""
    """The file, the reason of a skip, the name of a project."""
    exit: int = 0
    arguments: Sequence[str] = ()
    block: Block | None = None

    @property
    def text(self) -> str:
        return "" if self.block is None else self.block.text


@dataclass(frozen=True)
class Page:
    """A page of the documentation as steps of a test."""

    path: Path
    steps: Sequence[Step]
    models: str = "tiny"
    """``tiny`` or ``smollm2``."""

    @property
    def name(self) -> str:
        return (self.path.relative_to(ROOT) if self.path.is_relative_to(ROOT) else self.path).as_posix()


def pages() -> list[Path]:
    """README and all pages in ``docs``."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("**/*.md"))]


def read(path: Path) -> Page:
    """The steps of a page.

    Raises:
        PageError: a block needs a comment, or a comment is none that we know.
    """
    models, steps = "tiny", []
    for step in _steps(path.read_text(encoding="utf-8").splitlines()):
        if isinstance(step, PageError):
            raise PageError(f"{path.relative_to(ROOT) if path.is_relative_to(ROOT) else path}:{step}")
        if step.action == "models":
            models = step.value
        else:
            steps.append(step)
    return Page(path, steps, models)


def skipped(paths: Sequence[Path]) -> list[str]:
    """A line for each block that is skipped: page, first line, reason."""
    steps = [(page.name, step) for page in map(read, paths) for step in page.steps if step.action == "skip"]
    return sorted(f"{name}: {next(iter(step.text.splitlines()), '')[:60].strip()}: {step.value}" for name, step in steps)


def _steps(lines: Sequence[str]) -> Iterator[Step | PageError]:
    index, comment = 0, None
    while index < len(lines):
        line = lines[index]
        if _SETUP.fullmatch(line):
            end = _index(lines, index, "-->")
            yield Step("setup", index + 1, block=Block("sh", _joined(lines[index + 1 : end]), index + 1))
            index = end + 1
        elif (found := _ONE_LINE.fullmatch(line)) is not None:
            following = lines[index + 1] if index + 1 < len(lines) else ""
            if _FENCE.match(following):
                comment = found[1]
            else:
                yield _alone(found[1], index + 1)
            index += 1
        elif (fence := _FENCE.fullmatch(line)) is not None:
            end = _index(lines, index, fence[2])
            text = _joined([inner.removeprefix(fence[1]) for inner in lines[index + 1 : end]])
            if fence[3].startswith("{") and fence[3] != "{code-block}":
                if comment is not None:
                    yield PageError(f"{index + 1}: a directive of the site is not tested; remove the comment above it")
            else:
                language = fence[4].strip() if fence[3] == "{code-block}" else fence[3]
                yield _step(Block(language, text, index + 1), comment)
            comment, index = None, end + 1
        else:
            index += 1


def _index(lines: Sequence[str], start: int, closing: str) -> int:
    return next((index for index in range(start + 1, len(lines)) if lines[index].strip() == closing), len(lines))


def _joined(lines: Sequence[str]) -> str:
    return "".join(f"{line}\n" for line in lines)


def _alone(comment: str, line: int) -> Step | PageError:
    """A comment that stands above no block."""
    if comment.startswith("project "):
        return Step("project", line, comment.removeprefix("project ").strip())
    if comment.startswith("models="):
        return Step("models", line, comment.removeprefix("models="))
    return PageError(f"{line}: 'test: {comment}' stands directly above no block")


def _step(block: Block, comment: str | None) -> Step | PageError:
    if comment is None:
        return _default(block)
    if comment.startswith("skip"):
        reason = comment.removeprefix("skip").strip().removeprefix("because").strip()
        return Step("skip", block.line, reason, block=block) if reason else PageError(f"{block.line}: a skip needs a reason")
    words = dict(word.partition("=")[::2] for word in shlex.split(comment))
    actions = [word for word in words if word in _ACTIONS]
    if len(actions) != 1 or words.keys() - {*actions, "exit", "args"}:
        return PageError(f"{block.line}: 'test: {comment}' is none of {', '.join(_ACTIONS)}, with exit= or args=")
    exit_code, arguments = int(words.get("exit", 0)), shlex.split(words.get("args", ""))
    return Step(actions[0], block.line, words[actions[0]], exit_code, arguments, block)


def _default(block: Block) -> Step | PageError:
    """What is done with a block without a comment."""
    first = next(iter(block.text.splitlines()), "")
    if (named := _NAMED.match(first)) is not None:
        return Step("file", block.line, named[1], block=block)
    if block.language == "python":
        return Step("pytest" if re.search(r"^\s*def test_", block.text, re.MULTILINE) else "run", block.line, block=block)
    if block.language in ("sh", "bash"):
        return Step("run", block.line, block=block)
    return PageError(
        f"{block.line}: a block of {block.language or 'no language'} needs a comment that says what it is: "
        "<!-- test: output -->, <!-- test: file=NAME --> or <!-- test: skip because ... -->; see docs/contributing.md"
    )


if __name__ == "__main__":
    sys.stdout.write("\n".join(skipped(pages())) + "\n" if "--skipped" in sys.argv else f"{__doc__}\n")
