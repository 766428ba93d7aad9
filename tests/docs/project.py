"""A project in a temporary folder, in which the blocks of one page are written and run."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest_pot
from tests.docs.blocks import ROOT, Page, Step
from tests.environment import without_outer_run

__all__ = ["Failure", "PageProject", "is_shown"]

_SECONDS = 600
_KILLED_SECONDS = 60
"""For what a killed block had started to end too."""


class Failure(AssertionError):
    """A block does not do what its page says."""


class PageProject:
    """Does the steps of a page, in order."""

    def __init__(self, folder: Path, models: Path, commands: Path = Path(sys.executable).parent) -> None:
        """``commands``: where ``python`` and ``pytest`` are."""
        self.folder, self._models, self._commands = folder, models, commands
        self._home, self._output, self._n_tests = folder, "", 0
        self._new_project("first")

    def do_all(self, page: Page) -> None:
        """Do the steps of a page.

        Raises:
            Failure: one goes otherwise than the page says; the message says where.
        """
        for step in page.steps:
            try:
                self._do(step)
            except Failure as failure:
                raise Failure(f"{page.name}:{step.line}: {failure}") from None

    def _do(self, step: Step) -> None:
        match step.action:
            case "project":
                self._new_project(step.value)
            case "file":
                self._write(step.value, step.text)
            case "same-as":
                self._same(step)
            case "pytest":
                self._n_tests += 1
                name = f"test_block_{self._n_tests}.py"
                self._write(name, _with_pytest(step.text))
                self._run(["pytest", *step.arguments, name], step)
            case "run" if step.block is not None and step.block.language == "python":
                self._write("script.py", step.text)
                self._run(["python", "script.py"], step)
            case "run" | "setup":
                self._run(["bash", "-euo", "pipefail", "-c", step.text], step)
            case "output":
                if not is_shown(step.text, self._output):
                    raise Failure(f"this is not in the output:\n{step.text}\nThe output:\n{self._output}")
            case "contents":
                text = (self._home / step.value).read_text(encoding="utf-8")
                if not is_shown(step.text, text):
                    raise Failure(f"this is not in {step.value}:\n{step.text}\nIt holds:\n{text}")
            case action:
                assert action == "skip", action

    def _new_project(self, name: str) -> None:
        self._home = self.folder / name
        self._home.mkdir()
        # Copies of links: a page may record into the folder, or write a model there.
        shutil.copytree(self._models, self._home / "models", copy_function=os.link)

    def _write(self, name: str, text: str) -> None:
        path = self._home / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")

    def _same(self, step: Step) -> None:
        original = (ROOT / step.value).read_text(encoding="utf-8")
        if step.text != original:
            raise Failure(f"the block is not the text of {step.value}")
        self._write(Path(step.value).name, original)

    def _run(self, command: Sequence[str], step: Step) -> None:
        environment = without_outer_run()
        environment |= {
            "PATH": os.pathsep.join([str(self._commands), str(Path(sys.executable).parent), environment["PATH"]]),
            "PYTHONPATH": str(Path(pytest_pot.__file__).parents[1]),
            "OMP_NUM_THREADS": "1",
            # Plugins that take long to import, and that no page is about.
            "PYTEST_ADDOPTS": "-p no:hypothesispytest -p no:anyio",
            "COLUMNS": "80",
        }
        with subprocess.Popen(
            command,
            cwd=self._home,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            start_new_session=True,
        ) as process:
            try:
                self._output, _ = process.communicate(timeout=_SECONDS)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                self._output, _ = process.communicate(timeout=_KILLED_SECONDS)
                raise Failure(f"has not ended after {_SECONDS} s:\n{step.text}\n{self._output}") from None
            except BaseException:  # Ctrl-C, which reaches this session alone
                os.killpg(process.pid, signal.SIGKILL)
                raise
        if process.returncode != step.exit:
            raise Failure(f"exit status {process.returncode} in place of {step.exit}:\n{step.text}\n{self._output}")


def is_shown(shown: str, output: str) -> bool:
    """Whether the lines of ``shown`` follow each other in ``output``; ``...`` stands for anything."""
    lines = [re.escape(line.rstrip()).replace(r"\.\.\.", ".*") for line in shown.strip("\n").splitlines()]
    pattern = "".join(r"(?:.*\n)*?" if line.strip() == ".*" else rf"{line}[ \t]*\n" for line in lines)
    return re.search(f"^{pattern}", output.rstrip("\n") + "\n", re.MULTILINE) is not None


def _with_pytest(text: str) -> str:
    """``text`` with an import of pytest where it is an excerpt that uses it without one."""
    imported = re.search(r"^import pytest$", text, re.MULTILINE)
    return text if imported or "pytest." not in text else f"import pytest\n\n{text}"
