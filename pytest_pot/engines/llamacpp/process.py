"""A llama-server in a process of its own: how it is started, and how it ends."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import weakref
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

from pytest_pot.core.errors import PotError
from pytest_pot.engines.model_files import gguf_files

__all__ = ["LlamaProcess", "Settings"]

_END_S = 5.0
"""Seconds that a process gets to end by itself."""
_GONE_S = 0.5
_START_S = 600.0
"""Seconds that a process gets to start and to load an empty model: a busy machine may take long for a small one."""
_SLOWEST = 20e6
"""Bytes per second of the slowest disk that a model is loaded from."""
_LATER_S = 30.0
"""Seconds after that in which a process ends that nobody waits for any more."""
_CHILD = str(Path(__file__).with_name("child.py"))
_NOT_INHERITED = ("POT_API_KEY", "POT_KEY", "PYTHONPATH")
"""Variables that the process gets no value of: secrets, which it does not need, and folders whose modules may have the names
of Python's own."""
_LOGGED = re.compile(r"[\d.]+ [A-Z] ")
_ERROR = re.compile(r"^[\d.]+ E (?:\S+: )?(?:error loading model: )?(.+)$", re.MULTILINE)
"""A line that llama.cpp logs for an error."""


@dataclass(frozen=True)
class Settings:
    """What a server is started with."""

    path: str
    n_ctx: int
    """The most tokens of a prompt and its continuation."""
    n_threads: int = 1


class LlamaProcess:
    """A running server. It ends with :meth:`close`, when this object is let go of, or with the Python process that started
    it, however that ends."""

    def __init__(self, settings: Settings) -> None:
        """Start it, and wait until it answers.

        Raises:
            PotError: llama.cpp cannot load the file, with the first error that it logged; or it takes too long.
        """
        self.settings = settings
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the process
        try:
            self._process = _started(self._log)
        except BaseException:
            self._log.close()
            raise
        self._finalizer = weakref.finalize(self, _end, self._process, self._log, os.getpid())
        try:
            answer = self._first_words()
        except BaseException:  # whoever interrupts the wait does not wait for the model to be loaded
            self._process.kill()
            self.close()
            raise
        url = answer.get("url")
        if url is None:
            error = self._why(str(answer.get("error", f"it ended with {_status(self._process)}")))
            self.close()
            raise PotError(error)
        self.url: str = url

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def end(self) -> str | None:
        """How the process ended, with the last that it printed; None while it runs, and after :meth:`close`."""
        if not self._finalizer.alive:
            return None
        try:
            self._process.wait(_GONE_S)  # its connections break a moment before it is gone
        except subprocess.TimeoutExpired:
            return None
        # Logged errors are those of requests. A failed assertion is printed.
        printed = [line for line in self._printed().splitlines() if line.strip() and not _LOGGED.match(line)]
        return ": ".join([f"it ended with {_status(self._process)}", *printed[-1:]])

    @property
    def runs(self) -> bool:
        return self._finalizer.alive and self._process.poll() is None

    def close(self) -> None:
        """End the process, and wait until it is gone."""
        self._finalizer()

    def _first_words(self) -> Mapping[str, Any]:
        """What the process answers; nothing where it ended before.

        Raises:
            PotError: it takes longer than a model of this size can take.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        n_bytes = sum(os.path.getsize(file) for file in gguf_files(self.settings.path))
        limit = _START_S + n_bytes / _SLOWEST
        settings = json.dumps({**asdict(self.settings), "module": _module(), "limit_s": limit + _LATER_S})
        late = threading.Event()

        def give_up() -> None:
            late.set()
            self._process.kill()  # which ends what is read below

        timer = threading.Timer(limit, give_up)
        timer.daemon = True
        timer.start()
        try:
            self._process.stdin.write(settings.encode() + b"\n")
            self._process.stdin.flush()
            answer = json.loads(self._process.stdout.readline())
        except (OSError, ValueError):  # it ended before it answered
            self._process.wait()
            answer = None
        finally:
            timer.cancel()
        if late.is_set():
            raise PotError(
                f"it was not loaded within {limit:.0f} s, the limit for a model of {n_bytes / 1e9:.1f} GB. Is there enough "
                "memory, and does the disk answer?"
            )
        return answer if isinstance(answer, dict) else {}

    def _why(self, otherwise: str) -> str:
        """The first error that llama.cpp logged, or ``otherwise`` and the last line that was printed."""
        text = self._printed()
        errors = _ERROR.findall(text)
        return str(errors[0]) if errors else ": ".join([otherwise, *text.strip().splitlines()[-1:]])

    def _printed(self) -> str:
        self._log.seek(0)
        return self._log.read().decode(errors="replace")


def _started(log: BinaryIO) -> subprocess.Popen[bytes]:
    """The process, which waits for its settings.

    It finds Python's own modules, whatever the tests have in their folders: its path is that of a Python without a script.

    Raises:
        PotError: the system starts none.
    """
    try:
        return subprocess.Popen(
            [sys.executable, "-P", _CHILD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, env=_environment()
        )
    except OSError as error:
        raise PotError(f"its process cannot be started: {error}") from None
    except BaseException as error:
        # A traceback with variables would show the environment, which holds secrets of the user.
        raise error.with_traceback(None) from None


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name not in _NOT_INHERITED}


def _module() -> str:
    """The file of the package xllamacpp as it is found here: the process has another path."""
    spec = importlib.util.find_spec("xllamacpp")
    if spec is None or spec.origin is None:
        raise PotError("the package xllamacpp is not installed: pip install 'pytest-pot[llamacpp]'")
    return spec.origin


def _status(process: subprocess.Popen[bytes]) -> str:
    code = process.wait()
    return f"signal {-code}" if code < 0 else f"exit status {code}"


def _end(process: subprocess.Popen[bytes], log: BinaryIO, owner: int) -> None:
    if os.getpid() != owner:
        return  # a fork of the process that started it
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with contextlib.suppress(BrokenPipeError):  # settings that a process which is gone did not read
                pipe.close()
    try:
        process.wait(_END_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    log.close()
