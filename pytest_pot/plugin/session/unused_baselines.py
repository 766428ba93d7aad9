"""List unused recorded files after a full run, as snapshot tools do."""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from pytest_pot.core.text import printable, to_copy, wrapped
from pytest_pot.plugin.pytest_internals import selects_tests, terminal_width

__all__ = ["UNUSED_BASELINES", "UnusedBaselines"]

_OUTPUT = "pot_recorded_files"


class UnusedBaselines:
    """Collects which recorded files the tests use, in this process and, under xdist, in its workers."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._used: set[str] = set()
        self._partial = selects_tests(config)

    def note_use(self, path: Path) -> None:
        """A gate compares with ``path``, whether it runs or is skipped."""
        with suppress(ValueError, OSError):  # there is no file by a name with NUL
            self._used.update((str(path.absolute()), str(path.resolve())))

    def pytest_deselected(self, items: Sequence[pytest.Item]) -> None:
        self._partial = self._partial or bool(items)

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self) -> None:
        output = getattr(self._config, "workeroutput", None)
        if output is not None:
            output[_OUTPUT] = [self._partial, *sorted(self._used)]

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        partial, *used = getattr(node, "workeroutput", {}).get(_OUTPUT, [True])
        self._partial = self._partial or partial
        self._used.update(used)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter, exitstatus: int) -> None:
        ran = exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED)
        if not self._used or self._partial or not ran or self._config.option.collectonly:
            return
        from pytest_pot.plugin.paths import shown

        unused = [path for path in self._files() if not {str(path.absolute()), str(path.resolve())} & self._used]
        if unused:
            names = ", ".join(to_copy(printable(shown(self._config, path))) for path in unused)
            line = f"pot: recordings that no test uses: {names}"
            terminalreporter.write_line(wrapped(line, terminal_width(self._config)))

    def _files(self) -> list[Path]:
        """The recorded files below the folders that pytest was asked for; none where it was asked for single files or tests."""
        from pytest_pot.baseline.naming import is_baseline
        from pytest_pot.plugin.paths import option_path

        folders = [self._config.invocation_params.dir / argument for argument in self._config.args]
        if not all(path.is_dir() for path in folders):
            return []
        for option in ("baseline", "reference"):
            spec = option_path(self._config, option)
            if spec is not None and is_baseline(spec):
                self.note_use(Path(spec))
        return sorted({path for folder in folders for path in self._below(folder)})

    def _below(self, folder: Path) -> Iterator[Path]:
        from pytest_pot.baseline.naming import is_baseline

        skipped = self._config.getini("norecursedirs")
        cache = self._cache()
        for here, folders, files in os.walk(folder):
            # Names that start with a dot, virtual environments, build folders: pytest looks for no tests there either.
            folders[:] = [
                name
                for name in folders
                if not any(fnmatch.fnmatch(name, pattern) for pattern in skipped)
                and not (Path(here) / name / "pyvenv.cfg").exists()
                and Path(here) / name != cache
            ]
            yield from (Path(here) / name for name in files if is_baseline(name))

    def _cache(self) -> Path | None:
        """pytest's own cache folder, which holds records of live references; None where its plugin is not there."""
        try:
            return self._config.rootpath / str(self._config.getini("cache_dir") or ".")
        except ValueError:  # -p no:cacheprovider
            return None


UNUSED_BASELINES = pytest.StashKey[UnusedBaselines]()
"""Where a session's :class:`UnusedBaselines` is kept in ``config.stash``."""
