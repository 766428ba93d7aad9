"""A llama-server in a process of its own: how it is started, and how it ends."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import weakref
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, BinaryIO

from pytest_pot.core.errors import PotError

__all__ = ["LlamaProcess", "Settings"]

_END_S = 5.0
"""Seconds that a process gets to end by itself."""
_GONE_S = 0.5
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
            PotError: llama.cpp cannot load the file; with the first error that it logged.
        """
        self.settings = settings
        log = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the process
        # The module is found as it was found here, even where a test changed sys.path.
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "pytest_pot.engines.llamacpp.child"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            env=environment,
        )
        self._log = log
        self._finalizer = weakref.finalize(self, _end, self._process, log, os.getpid())
        answer = self._first_words(json.dumps(asdict(settings)))
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

    def _first_words(self, settings: str) -> Mapping[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(settings.encode() + b"\n")
            self._process.stdin.flush()
            answer = json.loads(self._process.stdout.readline())
        except (OSError, ValueError):  # it ended before it answered
            self._process.wait()
            return {}
        return answer if isinstance(answer, dict) else {}

    def _why(self, otherwise: str) -> str:
        """The first error that llama.cpp logged, or ``otherwise`` and the last line that was printed."""
        text = self._printed()
        errors = _ERROR.findall(text)
        return str(errors[0]) if errors else ": ".join([otherwise, *text.strip().splitlines()[-1:]])

    def _printed(self) -> str:
        self._log.seek(0)
        return self._log.read().decode(errors="replace")


def _status(process: subprocess.Popen[bytes]) -> str:
    code = process.wait()
    return f"signal {-code}" if code < 0 else f"exit status {code}"


def _end(process: subprocess.Popen[bytes], log: BinaryIO, owner: int) -> None:
    if os.getpid() != owner:
        return  # a fork of the process that started it
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()
    try:
        process.wait(_END_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    log.close()
