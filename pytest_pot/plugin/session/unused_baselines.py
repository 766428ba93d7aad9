"""Recorded files that no test names: told at the end of a run that has seen all tests, as snapshot tools do."""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from pytest_pot.baseline.naming import is_baseline
from pytest_pot.plugin.options import option_path

__all__ = ["Leftovers"]

_OUTPUT = "pot_recorded_files"


class Leftovers:
    """Gathers which recorded files the collected tests name, in this process and, under xdist, in its workers."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._named: set[str] = set()
        self._partial = bool(
            config.getoption("lf", False)
            or config.getoption("ignore", None)
            or config.getoption("ignore_glob", None)
            or config.getoption("deselect", None)
        )

    def name(self, path: Path) -> None:
        """A gate compares with ``path``, whether it runs or is skipped."""
        self._named.update((str(path.absolute()), str(path.resolve())))

    def pytest_deselected(self, items: Sequence[pytest.Item]) -> None:
        self._partial = self._partial or bool(items)

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self) -> None:
        output = getattr(self._config, "workeroutput", None)
        if output is not None:
            output[_OUTPUT] = [self._partial, *sorted(self._named)]

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        partial, *named = getattr(node, "workeroutput", {}).get(_OUTPUT, [True])
        self._partial = self._partial or partial
        self._named.update(named)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter, exitstatus: int) -> None:
        ran = exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED)
        if not self._named or self._partial or not ran or self._config.option.collectonly:
            return
        unused = [path for path in self._files() if not {str(path.absolute()), str(path.resolve())} & self._named]
        if unused:
            root = self._config.rootpath
            names = ", ".join(str(path.relative_to(root) if path.is_relative_to(root) else path) for path in unused)
            terminalreporter.write_line(f"pot: recorded files that no test uses: {names}")

    def _files(self) -> list[Path]:
        """The recorded files below the folders that were asked for; none where single files or tests were."""
        given = [self._config.invocation_params.dir / argument for argument in self._config.args]
        if not all(path.is_dir() for path in given):
            return []
        for option in ("baseline", "reference"):
            spec = option_path(self._config, option)
            if spec is not None and is_baseline(spec):
                self.name(Path(spec))
        return sorted({found for path in given for found in self._below(path)})

    def _below(self, folder: Path) -> Iterator[Path]:
        passed_over = self._config.getini("norecursedirs")
        cache = self._cache()
        for here, folders, files in os.walk(folder):
            # A name that starts with a dot, a virtual environment, a build folder: where pytest looks for no test either.
            folders[:] = [
                name
                for name in folders
                if not any(fnmatch.fnmatch(name, pattern) for pattern in passed_over)
                and not (Path(here) / name / "pyvenv.cfg").exists()
                and Path(here) / name != cache
            ]
            yield from (Path(here) / name for name in files if is_baseline(name))

    def _cache(self) -> Path | None:
        """pytest's own folder, which holds records of live references; None where pytest's plugin for it is not there."""
        try:
            return self._config.rootpath / str(self._config.getini("cache_dir") or ".")
        except ValueError:  # -p no:cacheprovider
            return None
