"""The recorded files of a test session: read once, checked against what a gate asks, and written when told to."""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import pytest

from pytest_pot.baseline.naming import is_baseline
from pytest_pot.core.errors import PotError
from pytest_pot.core.files import FILE, KeptFiles, kind_of_file
from pytest_pot.core.text import count, first_lines, to_copy
from pytest_pot.engines.llamacpp.spec import PREFIX, path_in
from pytest_pot.engines.loading import none_exists
from pytest_pot.engines.server.address import is_server
from pytest_pot.gates.base import RecordReference
from pytest_pot.plugin.options import OPTIONS, option, option_flag
from pytest_pot.plugin.paths import option_bases, option_path, placed, shown
from pytest_pot.plugin.pytest_internals import is_overridden
from pytest_pot.plugin.session.start import session_start

if TYPE_CHECKING:  # these need numpy: imported where a recording is read or written
    from pytest_pot.baseline.baseline import Baseline
    from pytest_pot.core.config import ScoringConfig
    from pytest_pot.prompts.tokenization import EncodedPrompts

__all__ = ["BaselineStore", "LiveReference", "baseline_store"]

_FACTORY = re.compile(r"[A-Za-z_]\w*(\.\w+)*:\w+(\.\w+)*")
_LOADED_BY_NAME = re.compile(r"\w[\w.-]*/[\w.-]+|\w+://\S+")
"""Names of models that are no paths: ``package.module:factory``; ``org/name`` and ``registry://name``."""
_OTHER_TOKENIZER = (
    "Give the candidate the reference's tokenizer; or, if its own is not meant to be used, name the one to use with "
    "--pot-tokenizer or the pot_tokenizer fixture"
)
_LOCK_S = 600.0
"""How long a worker waits for another one to compare and replace a file."""
_KEPT_BYTES = 64_000_000
"""Recordings that are kept in memory between gates, by the size of their files."""


OfReference: TypeAlias = "Callable[[Baseline], bool | None]"


@dataclass(frozen=True)
class LiveReference:
    """A reference in memory to record from."""

    model: Any
    name: str
    """What it is called in the recording."""
    spec: str | None
    """The name that it was loaded by, if it was."""
    max_length: int | None
    """The longest sequence that the candidate takes."""


class BaselineStore:
    """Reads and writes recorded files for the gates of one process."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._loaded: KeptFiles[Baseline] = KeptFiles(most=8, most_bytes=_KEPT_BYTES)
        self._written: set[Path] = set()

    def shown(self, path: Path) -> str:
        """``path`` as people call it."""
        return shown(self._config, path)

    def name_of(self, spec: str) -> str:
        """What a model is called in a recording: a path relative to pytest's root, or its last part, and no home folder."""
        inner = path_in(spec)
        if inner is not None:
            return PREFIX + self.name_of(inner)
        if kind_of_file(spec) is None:
            return spec
        root = self._config.rootpath.resolve()
        path = Path(spec).resolve()
        return path.relative_to(root).as_posix() if path.is_relative_to(root) else path.name

    def read(
        self, path: Path, item: pytest.Item, config: ScoringConfig, prompts: EncodedPrompts, of_reference: OfReference
    ) -> Baseline:
        """The recording in ``path``, which must be of these prompts, their tokenizer and this configuration.

        Args:
            of_reference: whether that tokenizer is also the one that ``--pot-update`` would record with; None if unknown.

        Raises:
            PotError: it is missing, damaged, or of something else; the message says what differs and how to record it.
        """
        from pytest_pot.baseline.staleness import is_about_tokenizer, stale_parts

        kind = kind_of_file(path)
        if kind is not None and kind != FILE:
            raise PotError(f"the recording {self.shown(path)} is {kind}, not a file")
        if kind is None:
            missing = none_exists(*self._looked_for(path, item))
            raise PotError(f"there is no recording {self.shown(path)}: {missing}. This records it:\n  {self._command(item)}")
        baseline = replace(self._load(path), source=self.shown(path))
        differences = stale_parts(baseline, config, prompts, allow_unseen=True) + self._reference_differences(baseline, path)
        if differences:
            lines = "".join(f"\n  {line}" for line in first_lines(differences))
            what_to_do = "If that is meant, this records it anew:\n  " + self._command(item, baseline.provenance.reference)
            if all(map(is_about_tokenizer, differences)) and (helps := of_reference(baseline)) is not True:
                what_to_do = _OTHER_TOKENIZER if helps is False else f"{_OTHER_TOKENIZER}. {what_to_do}"
            raise PotError(f"{self.shown(path)} was recorded with something else:{lines}\n{what_to_do}")
        return baseline

    def _looked_for(self, path: Path, item: pytest.Item) -> tuple[str, Sequence[Path]]:
        """The name by which a marker or an option asks for ``path``, and the folders in which that was looked for."""
        marked = [(mark.kwargs.get("reference"), [item.path.parent, item.config.rootpath]) for mark in item.iter_markers()]
        options = [(option(self._config, name), option_bases(self._config, name)) for name in ("baseline", "reference")]
        for name, bases in (*marked, *options):
            if is_baseline(name) and placed(str(name), bases) == str(path):
                return str(name), bases
        return str(path), [path.parent]

    def recorded_from(self, path: Path) -> str | None:
        """What the recording in ``path`` calls its reference; None where there is no recording, or none that can be read."""
        try:
            return self._load(path).provenance.reference if os.path.isfile(path) else None
        except PotError:
            return None

    def files_recorded_in(self, path: Path) -> Mapping[str, str]:
        """The digests of the files of the model that ``path`` was recorded from; empty where there were none, or where there is
        no recording that can be read."""
        try:
            return self._load(path).provenance.files if os.path.isfile(path) else {}
        except PotError:
            return {}

    def spec_of(self, name: str) -> str | None:
        """The model that a recording calls ``name``, to load it again: a path below pytest's root, a hub id, or a name for a
        hook of the project. None elsewhere, and for a factory or a server: nothing that a file names is executed or
        contacted."""
        root = self._config.rootpath.resolve()
        inner = path_in(name)
        if inner is not None:
            file = self.spec_of(inner) if os.path.isfile(root / inner) else None
            return None if file is None else PREFIX + file
        if os.path.exists(root / name):
            path = (root / name).resolve()
            return str(path) if path.is_relative_to(root) else None
        if is_server(name):
            return None  # nor does a file decide which server is contacted, which would get the key in POT_API_KEY
        return name if _LOADED_BY_NAME.fullmatch(name) else None

    def write(
        self, path: Path, live: LiveReference, record: RecordReference, config: ScoringConfig, prompts: EncodedPrompts
    ) -> tuple[Baseline, str | None]:
        """Record ``live`` into ``path``, once for all gates of this process.

        Returns:
            the recording, and a line that says what was done; None where another gate of this process had recorded it.

        Raises:
            PotError: another gate of this run has recorded something else into the same file.
        """
        from pytest_pot.baseline.staleness import refuse_stale

        if path not in self._written:
            recorded = record(live.model, name=live.spec or live.name, max_length=live.max_length)
            provenance = replace(recorded.provenance, reference=live.name)
            baseline = replace(recorded, source=self.shown(path), provenance=provenance)
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                with _locked(path.parent):
                    line = self._replace(path, baseline)
            except (OSError, ValueError) as error:  # ValueError: a name with NUL
                raise PotError(f"cannot write {self.shown(path)}: {error}") from error
            self._written.add(path)
            return baseline, line
        baseline = replace(self._load(path), source=self.shown(path))
        try:
            refuse_stale(baseline, config, prompts)
        except PotError as error:
            raise PotError(f"two gates of this run record different things; give each a file of its own: {error}") from error
        return baseline, None

    def _load(self, path: Path) -> Baseline:
        from pytest_pot.baseline.baseline import Baseline

        try:
            return self._loaded.get(path, lambda: Baseline.load(path))
        except (OSError, ValueError) as error:  # it went away
            raise PotError(f"cannot read the recording {self.shown(path)}: {error}") from error

    def _reference_differences(self, baseline: Baseline, path: Path) -> list[str]:
        """How the reference's files differ from the recorded ones, where the options name it and it is on this machine."""
        from pytest_pot.baseline.provenance import file_digests, mapping_differences

        place = option_path(self._config, "reference")
        if place is None or is_baseline(place):
            return []
        named = option_path(self._config, "baseline")
        if self.name_of(place) != baseline.provenance.reference and (named is None or Path(named) != path):
            return []  # a suite may have recordings of several models; the options name one of them
        now, recorded = file_digests(place), baseline.provenance.files
        if recorded or self.name_of(place) == baseline.provenance.reference:
            # A recorded file that is not on this machine proves nothing; a file here that was not recorded is a difference.
            return mapping_differences("reference file ", {name: recorded[name] for name in now if name in recorded}, now)
        return []  # recorded from a model that a fixture returned, say

    def _replace(self, path: Path, new: Baseline) -> str:
        """Write ``new`` unless the file holds it already, and say what that changes."""
        from pytest_pot.baseline.atomic_write import has_content, size_of, write_pieces
        from pytest_pot.baseline.baseline import Baseline
        from pytest_pot.scoring.baseline_comparison import changes

        content, name = new.pieces(), to_copy(self.shown(path))
        size = f"{count(new.n_prompts, 'prompt')}, {size_of(content) / 1000:.0f} kB"
        if kind_of_file(path) != FILE:
            write_pieces(content, path)
            return f"pot: wrote {name} ({size}; new)"
        if has_content(path, content):
            return f"pot: {name} is unchanged ({size})"
        try:
            old = Baseline.load(path)
        except PotError:
            write_pieces(content, path)
            return f"pot: wrote {name} ({size}; the old one was damaged)"
        changed = changes(old, new)
        if path.stat().st_mtime >= session_start(self._config) and changed.differences:
            raise PotError(
                f"two gates of this run record different things into {self.shown(path)}; give each a file of its own: "
                + "; ".join(changed.differences)
            )
        write_pieces(content, path)
        names = old.provenance.reference, new.provenance.reference
        other = f"; reference: {names[0]} recorded, {names[1]} now" if names[0] != names[1] else ""
        return f"pot: wrote {name} ({size}; updated: {changed}{other})"

    def _command(self, item: pytest.Item, recorded_from: str | None = None) -> str:
        """The command that records the reference of ``item``; ``recorded_from``: the one that the file was recorded from."""
        file, colons, name = item.nodeid.partition("::")
        here = os.path.relpath(self._config.rootpath / file, self._config.invocation_params.dir)
        words = ["pytest", Path(here).as_posix() + colons + name, "--pot-update"]
        if self._config.getoption("pot_key") is not None:
            words.insert(0, "POT_KEY=KEY")  # the key is a secret, and no word of a command line is
        # Models, prompts and so on that the command line names are part of what is recorded.
        for name in OPTIONS:
            value = self._config.getoption(f"pot_{name}")
            if (
                value is not None
                and name not in ("key", "report", "latency")
                and not (name == "reference" and is_baseline(value))
            ):
                words.append(f"{option_flag(name)}={value}")
        words += self._reference_words(item, recorded_from)
        return shlex.join(words)

    def _reference_words(self, item: pytest.Item, recorded_from: str | None) -> list[str]:
        """How the command names the reference, where it is not the one that it would take anyhow."""
        if is_overridden(item, "pot_reference"):
            return []
        live = option_path(self._config, "reference")
        live = None if is_baseline(live) else live
        if live is not None and self._config.getoption("pot_reference") is None and self._is_candidate_too(item, live):
            return [f"--pot-reference={os.path.relpath(live, self._config.invocation_params.dir)}"]  # it has to be said there
        if live is not None and (self._config.getoption("pot_reference") is not None or recorded_from is None):
            return []
        if recorded_from is None:
            return ["--pot-reference=MODEL"]
        if live is not None and self.name_of(live) == recorded_from:
            return []
        spec = self.spec_of(recorded_from)
        if spec is not None and os.path.exists(spec):
            # By a path that the command line takes from the folder in which it was called.
            return [f"--pot-reference={os.path.relpath(spec, self._config.invocation_params.dir)}"]
        if spec is not None or _FACTORY.fullmatch(recorded_from) or is_server(recorded_from):
            return [f"--pot-reference={recorded_from}"]
        return ["--pot-reference=MODEL"] if live is None else []

    def _is_candidate_too(self, item: pytest.Item, reference: str) -> bool:
        """Whether the folder or file ``reference`` is also the candidate that the options name."""
        candidate = None if is_overridden(item, "pot_candidate") else option_path(self._config, "candidate")
        return (
            candidate is not None and os.path.exists(reference) and os.path.realpath(candidate) == os.path.realpath(reference)
        )


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Keep other processes of this user out of ``folder`` while a file there is compared and replaced.

    The lock is a file in the folder for temporary files, so that nothing is left beside what is recorded. Where there can be
    none, the last one to write wins."""
    from filelock import FileLock

    user = os.getuid() if hasattr(os, "getuid") else os.environ.get("USERNAME", "")
    name = hashlib.sha256(f"{user}:{folder.resolve()}".encode()).hexdigest()[:16]
    with ExitStack() as stack:
        with suppress(OSError):  # no folder for temporary files; also a timeout: whoever holds the lock has hung
            file = Path(tempfile.gettempdir()) / f"pytest-pot-{name}.lock"
            file.touch()  # where it cannot be made, FileLock may take it for a file that another process has just removed
            stack.enter_context(FileLock(file, timeout=_LOCK_S))
        yield


_STORE = pytest.StashKey[BaselineStore]()


def baseline_store(config: pytest.Config) -> BaselineStore:
    """The session's store."""
    if _STORE not in config.stash:
        config.stash[_STORE] = BaselineStore(config)
    return config.stash[_STORE]
