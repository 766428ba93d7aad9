"""A graph that was loaded: its files, its facts, and the sessions that run it."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_pot.core.errors import PotError
from pytest_pot.core.files import KeptFiles, state_of
from pytest_pot.core.git_files import refuse_git_leftovers
from pytest_pot.core.hashing import digest
from pytest_pot.core.text import count, some_of
from pytest_pot.engines.onnxruntime.files import chosen_graph, home_of, names_graph
from pytest_pot.engines.onnxruntime.graph import GraphFacts, read_graph

if TYPE_CHECKING:  # it imports torch
    from pytest_pot.engines.onnxruntime.session import Session

__all__ = ["OnnxModel", "graph_files"]

_LARGEST_POINTER = 4096
"""Bytes: what Git leaves in the place of a file of weights is smaller."""
_LENGTHS = ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len")
"""What configs call the longest sequence."""

_DIGESTS: KeptFiles[str] = KeptFiles(most=1024)
_FACTS: KeptFiles[GraphFacts] = KeptFiles(most=16)
"""What was read of files, until they are written again: many gates compare the same models."""


class OnnxModel:
    """An ONNX graph, with the config beside it. Sessions are made for a device when they are needed, and kept."""

    def __init__(self, path: Path, what: str) -> None:
        """``path``: the graph; ``what``: the model, for messages.

        Raises:
            PotError: a file is missing, damaged, or a pointer of Git LFS.
        """
        self.path = path = Path(os.path.abspath(path))  # the folder may be another one when it is opened
        self.home = home_of(path)
        _refuse_git_leftovers([path, self.home / "config.json"], what)
        self.facts = _FACTS.get(path, lambda: read_graph(path, what))
        self.files = _files_of(path, self.facts)
        """The graph, and its external data."""
        missing = [file.name for file in self.files if not os.path.isfile(file)]
        if missing:
            raise PotError(
                f"cannot load {what}: {path} keeps weights in {count(len(self.facts.files), 'file')} beside it, of which "
                f"{len(missing)} {'is' if len(missing) == 1 else 'are'} missing: {some_of(missing)}. Copy the whole folder"
            )
        _refuse_git_leftovers(self.files, what)
        self._states = self._current_states()
        self.config = _read_config(self.home / "config.json", what)
        self._sessions: dict[str, Session] = {}
        self.device = "auto"
        self.reads_alone = False
        """Whether padding was seen to change what the graph says."""

    @property
    def name_or_path(self) -> str:
        """The folder in which the tokenizer is looked for."""
        return str(self.home)

    @property
    def max_positions(self) -> int | None:
        return next((n for name in _LENGTHS if isinstance(n := self.config.get(name), int) and n > 0), None)

    @property
    def embedding_rows(self) -> int | None:
        """How many ids the model has a row for: by the graph, or else by the config."""
        if self.facts.embedding_rows is not None:
            return self.facts.embedding_rows
        size = self.config.get("vocab_size")
        return size if isinstance(size, int) and size > 0 else None

    def session(self, device: str, what: str) -> Session:
        """The session on ``device``; ``"auto"``: where the model was loaded.

        Raises:
            PotError: the graph cannot run there.
        """
        device = self.device if device == "auto" else device
        session = self._sessions.get(device)
        if session is None:
            from pytest_pot.engines.onnxruntime.session import Session

            session = self._sessions[device] = Session(self.path, device, self.config, what)
            self._sessions[session.device] = session
            if self.device == "auto":
                self.device = session.device
        return session

    @property
    def is_as_loaded(self) -> bool:
        """Whether the files are those that were loaded."""
        try:
            return self._current_states() == self._states
        except OSError:
            return False

    def digests(self) -> dict[str, str]:
        """SHA-256 of the graph and of each file of external data, by name relative to the graph's folder."""
        names = [Path(os.path.relpath(file, self.path.parent)).as_posix() for file in self.files]
        return {name: _DIGESTS.get(file, partial(_digest, file)) for name, file in zip(names, self.files, strict=True)}

    def weights_digest(self) -> str | None:
        """SHA-256 over the files, whatever the graph's is called; None where they were written since they were loaded."""
        if not self.is_as_loaded:
            return None
        [graph, *others] = self.digests().items()
        return digest([graph[1].encode(), *(f"{name} {sha256}".encode() for name, sha256 in others)])

    def _current_states(self) -> list[object]:
        return [state_of(file) for file in self.files]


def graph_files(spec: str) -> list[Path]:
    """The graph that ``spec`` names and the files with its weights; empty where it names none, or cannot be read."""
    try:
        if not names_graph(spec):
            return []
        path = chosen_graph(spec, repr(spec))
        return _files_of(path, _FACTS.get(path, lambda: read_graph(path, repr(spec))))
    except (PotError, OSError, ValueError):  # whoever loads it will say why
        return []


def _files_of(path: Path, facts: GraphFacts) -> list[Path]:
    return [path, *(path.parent / name for name in sorted(facts.files))]


def _refuse_git_leftovers(files: Sequence[Path], what: str) -> None:
    """Only of small files: looking for the markers of a conflict reads all of a file."""
    small = [file for file in files if os.path.isfile(file) and os.path.getsize(file) <= _LARGEST_POINTER]
    refuse_git_leftovers(f"cannot load {what}", small)


def _read_config(path: Path, what: str) -> Mapping[str, Any]:
    """The config beside a graph, that of the text model where it has several parts; empty where there is none."""
    if not os.path.isfile(path):
        return {}
    refuse_git_leftovers(f"cannot load {what}", [path])
    try:
        config = json.loads(path.read_bytes())
        if not isinstance(config, dict):
            raise ValueError("it holds no JSON object")
    except (OSError, ValueError, RecursionError) as error:
        raise PotError(f"cannot load {what}: its config {path} cannot be read: {error}") from error
    text = config.get("text_config")
    return {**config, **text} if isinstance(text, dict) else config


def _digest(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
