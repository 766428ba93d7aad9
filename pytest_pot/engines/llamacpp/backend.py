"""The backend for ``llamacpp://path/to/model.gguf``: what the registry asks."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

from pytest_pot.core.config import ScoringConfig
from pytest_pot.core.errors import PotError
from pytest_pot.core.files import FileState, KeptFiles, state_of
from pytest_pot.core.text import some_of
from pytest_pot.engines.base import LoadedModel, ModelDescription
from pytest_pot.engines.llamacpp.process import LlamaProcess, Settings
from pytest_pot.engines.llamacpp.spec import PREFIX, path_in
from pytest_pot.engines.loading import NoSuchPath, load_tokenizer, require_packages
from pytest_pot.engines.model_files import gguf_files, missing_gguf_files, refuse_git_leftovers_of_model
from pytest_pot.engines.server.address import Address
from pytest_pot.engines.server.engine import ServerModel
from pytest_pot.engines.server.http import Client
from pytest_pot.engines.server.llama_server import LlamaServerEngine

__all__ = ["LlamaCppBackend", "LlamaCppEngine", "LlamaCppModel"]

_FORMS = f"The spec is {PREFIX}path/to/model.gguf."
_MODULE = 256
"""llama.cpp makes contexts in multiples of so many tokens."""


_States = tuple[tuple[str, FileState], ...]
"""The paths of a model's files, and what tells whether they were written since."""


class LlamaCppEngine(LlamaServerEngine):
    """llama.cpp in a process of our own."""

    own_process = True

    @property
    def label(self) -> str:
        return f"{self.title} ({Path(self.model.name).name})"

    @property
    def max_positions(self) -> int | None:
        return self._facts.n_ctx if self._facts.n_ctx_trained is None else min(self._facts.n_ctx, self._facts.n_ctx_trained)

    @property
    def description(self) -> ModelDescription:
        return ModelDescription(
            format=f"GGUF {self._facts.file_type}" if self._facts.file_type else "GGUF",
            dtype=self.kernels,
            device="cpu",
        )


class LlamaCppModel:
    """A GGUF file, or several that a model is split into, and the server that runs it.

    The server is started when it is needed: again, where a gate has longer prompts than the one before, or where it was ended.
    """

    def __init__(self, path: str) -> None:
        """It computes with ``OMP_NUM_THREADS`` threads, or one: more are slower beside other work.

        Args:
            path: of the first file, absolute: a server may be started again after the current folder was changed.
        """
        self.path = path
        self._settings = Settings(path, _MODULE, n_threads=_threads())
        self._process: LlamaProcess | None = None
        self._digests: KeptFiles[str] = KeptFiles(most=1024)
        self._states: _States | None = None

    @property
    def pid(self) -> int | None:
        """The process that runs the model; None where there is none."""
        return None if self._process is None or not self._process.runs else self._process.pid

    def close(self) -> None:
        """End the server."""
        if self._process is not None:
            self._process.close()

    def running(self, role: str, config: ScoringConfig) -> LlamaProcess:
        """The server, with room for the prompts of ``config``.

        Raises:
            PotError: llama.cpp cannot run the file; the message says why.
        """
        n_ctx = max(self._settings.n_ctx, -(-config.max_length // _MODULE) * _MODULE)
        process, states = self._process, self._file_states(role)
        if process is None or not process.runs or process.settings.n_ctx < n_ctx or self._states != states:
            self.close()
            self._settings, self._states = replace(self._settings, n_ctx=n_ctx), states
            try:
                process = self._process = LlamaProcess(self._settings)
            except PotError as error:
                raise PotError(f"llama.cpp cannot run the {role} {PREFIX + self.path!r}: {self._why(error)}") from None
        return process

    def _why(self, error: PotError) -> str:
        """Why it cannot be run: files that are missing rather than what llama.cpp says about them."""
        missing = [file.name for file in missing_gguf_files(self.path)]
        if not missing or not os.path.isfile(self.path):
            return str(error)
        folder = os.path.dirname(self.path)
        return f"of the files that it is split into, {some_of(missing)} {'is' if len(missing) == 1 else 'are'} not in {folder}"

    def _file_states(self, role: str) -> _States:
        try:
            return _states_of(self.path)
        except (OSError, ValueError) as error:
            raise PotError(f"the file of the {role} {PREFIX + self.path!r} is gone: {error}") from None

    @property
    def content(self) -> dict[str, Any]:
        """What determines the results: the files, llama.cpp, and how it was started. The length of the context does not."""
        digests = [self._digests.get(file, partial(_digest, file)) for file in _files_of(self.path)]
        return {"gguf": digests, "xllamacpp": version("xllamacpp"), "threads": self._settings.n_threads}


_MODELS: WeakValueDictionary[_States, LlamaCppModel] = WeakValueDictionary()


class LlamaCppBackend:
    """A :class:`~pytest_pot.engines.base.Backend`."""

    def loads(self, spec: str) -> bool:
        return path_in(spec) is not None

    def load(self, spec: str, role: str, config: ScoringConfig) -> LoadedModel:
        path = path_in(spec)
        assert path is not None
        require_packages(f"running {spec!r}", ("xllamacpp", "httpx2", "orjson", "gguf"), "llamacpp")
        if not os.path.exists(path):
            raise NoSuchPath(f"the {role} {spec!r}", path, _FORMS)
        if not os.path.isfile(path):
            raise PotError(f"cannot load the {role} {spec!r}: {path} is no file. {_FORMS}")
        refuse_git_leftovers_of_model(path, role)
        model = _model_of(path)
        model.running(role, config)  # what it cannot run, it should say now
        try:
            return LoadedModel(model, load_tokenizer(path), close=model.close)
        except BaseException:
            model.close()
            raise

    def runs(self, model: object) -> bool:
        return isinstance(model, LlamaCppModel)

    @contextmanager
    def opened(self, model: Any, role: str, config: ScoringConfig) -> Iterator[LlamaCppEngine]:
        """Raises :class:`PotError` where the server's process ended meanwhile."""
        process = model.running(role, config)
        client = Client(process.url, timeout=config.server_timeout, concurrency=1, name=f"llama.cpp, which runs the {role},")
        try:
            yield LlamaCppEngine(ServerModel(Address(process.url), "llamacpp", model.path, client), role, config)
        except PotError as error:
            if process.end is not None:
                raise PotError(f"llama.cpp, which ran the {role} {PREFIX + model.path!r}, is gone: {process.end}") from error
            raise
        finally:
            client.close()

    def max_positions(self, model: Any) -> int | None:  # noqa: ARG002 - the context is made as long as the prompts
        return None

    def device(self, model: Any) -> str | None:  # noqa: ARG002
        return None

    def pinned(self, model: Any) -> bool:  # noqa: ARG002
        return False

    def weights_digest(self, model: Any) -> str | None:  # noqa: ARG002
        return None

    def content(self, model: Any) -> Mapping[str, Any] | None:
        content: Mapping[str, Any] = model.content
        return content

    def files_tell_all(self, spec: str) -> bool:  # noqa: ARG002 - llama.cpp's version counts as well
        return False


def _model_of(path: str) -> LlamaCppModel:
    """The model of the file ``path``, the same object as long as its files stay as they are: one server serves both roles."""
    path = os.path.abspath(path)
    return _MODELS.setdefault(_states_of(path), LlamaCppModel(path))


def _states_of(path: str) -> _States:
    """Raises OSError or ValueError: there is no file ``path``."""
    return tuple((str(file), state_of(file)) for file in _files_of(path))


def _files_of(path: str) -> list[Path]:
    """The model's files, ``path`` among them even if it is not there: whoever reads it then raises an error."""
    return gguf_files(path) or [Path(path)]


def _digest(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _threads() -> int:
    value = os.environ.get("OMP_NUM_THREADS", "")
    return int(value) if value.isdecimal() and int(value) > 0 else 1
