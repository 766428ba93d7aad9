"""The process that runs a llama-server: ``python -P child.py``.

It reads one line of JSON from standard input: :class:`~pytest_pot.engines.llamacpp.process.Settings`, the file of the package
xllamacpp as ``module``, and as ``limit_s`` the seconds after which it ends if the model is not loaded. It writes one to
standard output, ``{"url": …}`` or ``{"error": …}``, and ends when standard input ends: when its parent says so, or is gone. It
imports nothing but Python's own modules and that package.
"""

from __future__ import annotations

import faulthandler
import importlib.util
import json
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

__all__ = ["main"]

_LOG_ERRORS = 1
_WATCH_S = 1.0


def main() -> None:
    """Run the server until standard input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl+C reaches the whole group; the parent decides when this process ends
    parent = os.getppid()
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what C++ code prints is no part of the answer
    try:
        server = _server(json.loads(sys.stdin.readline()))
        answer = {"url": server.listening_address}
    except Exception as error:
        answer = {"error": f"{type(error).__name__}: {error}"}
    out.write(json.dumps(answer) + "\n")
    out.close()
    if "url" in answer:
        _wait_for_end(parent)
    os._exit(0)  # without waiting for what the server still computes


def _wait_for_end(parent: int) -> None:
    """Return when standard input ends. Another process may have inherited its other end, so the parent is watched as well."""
    ended = threading.Event()

    def read() -> None:
        while os.read(0, 1024):
            pass
        ended.set()

    threading.Thread(target=read, daemon=True).start()
    while not ended.wait(_WATCH_S) and os.getppid() == parent:
        time.sleep(0)


def _server(settings: dict[str, Any]) -> Any:
    xllamacpp = _package(Path(settings["module"]))
    parameters = xllamacpp.CommonParams()
    parameters.model.path = settings["path"]
    parameters.hostnames = ["127.0.0.1"]
    parameters.port = 0  # any that is free
    # Prompts that are read side by side share batches, and so round in another way each time. One by one they took 1.4 times as
    # long on one thread, and the same file gives exactly the same numbers.
    parameters.n_parallel = 1
    parameters.n_ctx = settings["n_ctx"]
    parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = settings["n_threads"]
    parameters.fit_params = False  # it would choose a shorter context
    parameters.cache_ram_mib = 0  # prompts come once
    parameters.ui = False
    parameters.verbosity = _LOG_ERRORS
    # llama.cpp loads a model without letting other threads of Python run, so that nothing else here could end the process.
    faulthandler.dump_traceback_later(settings["limit_s"], exit=True)
    try:
        return xllamacpp.Server(parameters)
    finally:
        faulthandler.cancel_dump_traceback_later()


def _package(file: Path) -> Any:
    """The package xllamacpp whose ``__init__.py`` is ``file``. All else that can be imported comes before what lies beside."""
    sys.path.append(str(file.parents[1]))
    spec = importlib.util.spec_from_file_location("xllamacpp", file, submodule_search_locations=[str(file.parent)])
    assert spec is not None
    assert spec.loader is not None
    package = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(package)
    return package


if __name__ == "__main__":
    main()
