"""The recorded files of a test session: read once, checked against what a gate asks, and written anew when told to."""

from __future__ import annotations

import os
import shlex
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_pot.baseline.naming import is_baseline
from pytest_pot.core.errors import PotError
from pytest_pot.plugin import options as settings
from pytest_pot.plugin.inputs.model_store import is_overridden
from pytest_pot.prompts.prompt import Prompt, as_prompts

if TYPE_CHECKING:  # it needs numpy: imported where a recording is read or written
    from pytest_pot.baseline.baseline import Baseline
    from pytest_pot.core.config import ScoringConfig
    from pytest_pot.scoring.scorer import TeacherForcedScorer

__all__ = ["RECORDINGS", "Live", "Recordings"]


@dataclass(frozen=True)
class Live:
    """A reference in memory to record from."""

    model: Any
    name: str
    """As the user wrote it."""
    path: str | None
    """Where its files are, if it has any here."""


class Recordings:
    """Reads and writes recorded files for the gates of one process."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._started = time.time()
        self._loaded: dict[Path, tuple[tuple[int, int], Baseline]] = {}
        self._written: dict[Path, Baseline] = {}
        self._files: dict[str, dict[str, str]] = {}

    def shown(self, path: Path) -> str:
        """``path`` as people call it: from pytest's root on, where it is below it."""
        root = self._config.rootpath
        return str(path.relative_to(root)) if path.is_relative_to(root) else str(path)

    def called(self, spec: str) -> str:
        """What a model is called in a recording: a path from pytest's root on, or its last part, and no one's home folder."""
        path = Path(spec)
        if not path.exists():
            return spec
        root = self._config.rootpath.resolve()
        path = path.resolve()
        return path.relative_to(root).as_posix() if path.is_relative_to(root) else path.name

    def read(
        self, path: Path, item: pytest.Item, config: ScoringConfig, tokenizer: Any, prompts: Sequence[str | Prompt]
    ) -> Baseline:
        """The recording in ``path``, which must be of this tokenizer, these prompts and this configuration.

        Raises:
            PotError: it is missing, damaged, or of something else; the message says what differs and how to record it.
        """
        from pytest_pot.baseline.replay import stale_parts

        if not path.is_file():
            raise PotError(
                f"the recorded reference {self.shown(path)} does not exist. This records it:\n  {self._command(item)}"
            )
        baseline = replace(self._load(path), source=self.shown(path))
        differ = stale_parts(baseline, config, tokenizer, as_prompts(prompts))
        differ += self._reference_differences(baseline, path)
        if differ:
            lines = "".join(f"\n  {line}" for line in differ)
            raise PotError(
                f"{self.shown(path)} was recorded with something else:{lines}\nIf that is meant, this records it anew:\n  "
                f"{self._command(item)}"
            )
        return baseline

    def _load(self, path: Path) -> Baseline:
        from pytest_pot.baseline.baseline import Baseline

        status = path.stat()
        state = status.st_mtime_ns, status.st_size
        held = self._loaded.get(path)
        if held is None or held[0] != state:
            held = self._loaded[path] = state, Baseline.load(path)
        return held[1]

    def _reference_differences(self, baseline: Baseline, path: Path) -> list[str]:
        """What the reference's files have become since, where the options name it and it lies on this machine."""
        from pytest_pot.baseline.provenance import file_digests, mapping_differences

        place = settings.option_path(self._config, "reference")
        if place is None or is_baseline(place) or not baseline.provenance.files:
            return []
        given = settings.option_path(self._config, "baseline")
        if self.called(place) != baseline.provenance.reference and (given is None or Path(given) != path):
            return []  # a suite may have recordings of several models; the options name one of them
        if place not in self._files:
            self._files[place] = file_digests(place)
        now = self._files[place]
        recorded = {name: sha256 for name, sha256 in baseline.provenance.files.items() if name in now}
        return mapping_differences("reference file ", recorded, {name: now[name] for name in recorded})

    def write(
        self,
        path: Path,
        live: Live,
        scorer: TeacherForcedScorer,
        tokenizer: Any,
        prompts: Sequence[str | Prompt],
        max_length: int | None,
        tell: Callable[[str], None],
    ) -> Baseline:
        """Record ``live`` into ``path``, once for all gates of this process; ``tell`` gets a line of what was done.

        ``max_length`` is the longest sequence that the candidate takes.

        Raises:
            PotError: another gate of this run has recorded something else into the same file.
        """
        from pytest_pot.baseline.replay import refuse_stale

        prompts = as_prompts(prompts)
        done = self._written.get(path)
        if done is None:
            made = scorer.record(live.model, prompts, tokenizer, name=live.path or live.name, max_length=max_length)
            done = replace(made, source=self.shown(path), provenance=replace(made.provenance, reference=live.name))
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                with _alone_in(path.parent):
                    tell(self._replace(path, done))
            except OSError as error:
                raise PotError(f"cannot write {self.shown(path)}: {error}") from error
            self._written[path] = done
            return done
        try:
            refuse_stale(done, scorer.config, tokenizer, prompts)
        except PotError as error:
            raise PotError(f"two gates of this run record different things; give each a file of its own: {error}") from error
        return done

    def _replace(self, path: Path, new: Baseline) -> str:
        """Write ``new`` where it is not what is there, and say what that changes."""
        from pytest_pot.baseline.baseline import Baseline
        from pytest_pot.baseline.file_format import to_bytes, write_bytes
        from pytest_pot.baseline.replay import changes

        content = to_bytes(new)
        size = f"{new.n_prompts} prompts, {new.n_positions} positions, {len(content) / 1000:.0f} kB"
        if not path.is_file():
            write_bytes(content, path)
            return f"recorded {self.shown(path)}: {size}"
        if path.read_bytes() == content:
            return f"unchanged {self.shown(path)}: {size}"
        try:
            old = Baseline.load(path)
        except PotError:
            write_bytes(content, path)
            return f"replaced {self.shown(path)}, which was damaged: {size}"
        changed = changes(old, new)
        if path.stat().st_mtime >= self._started and changed.things:
            raise PotError(
                f"two gates of this run record different things into {self.shown(path)}; give each a file of its own: "
                + "; ".join(changed.things)
            )
        write_bytes(content, path)
        return f"updated {self.shown(path)}: {size}; {changed}"

    def _command(self, item: pytest.Item) -> str:
        file, colons, name = item.nodeid.partition("::")
        here = os.path.relpath(self._config.rootpath / file, self._config.invocation_params.dir)
        words = ["pytest", Path(here).as_posix() + colons + name, "--pot-update"]
        # What the command line said of models, prompts and so on is part of what is recorded.
        for option in settings.OPTIONS:
            given = self._config.getoption(f"pot_{option}")
            if given is not None and option not in ("report", "latency") and not (option == "reference" and is_baseline(given)):
                words.append(f"--pot-{option}={'KEY' if option == 'key' else given}")  # it is a secret
        live = settings.option(self._config, "reference")
        if (live is None or is_baseline(live)) and not is_overridden(item, "pot_reference"):
            words.append("--pot-reference=MODEL")
        return shlex.join(words)


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Keeps other workers out, between looking at a file and replacing it; where the system cannot, the last one wins."""
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # a file system without locks
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


RECORDINGS = pytest.StashKey[Recordings]()
"""Where a session's :class:`Recordings` is kept in ``config.stash``."""
