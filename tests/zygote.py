"""Runs ``python`` and ``pytest`` in processes of their own, without a new import of torch and transformers each time.

One process imports what takes seconds, and forks for each command. :func:`commands` puts two small scripts into a folder, which
is to come first on the PATH: they send their arguments, environment, working directory and standard streams over a socket, and
exit as the forked process did. Where one is killed, so is the forked process, with what it has started. A forked process
starts Python in the same way: ``sys.executable`` is the script, so that workers of pytest-xdist fork too. pytest_pot is not
imported before the fork: pytest rewrites its assertions, and coverage has to see its import.

What is fixed when Python starts is not that of the command: the seed of hashes, ``PYTHONIOENCODING``, ``PYTHONUTF8``, options
such as ``-W``, and what torch and huggingface_hub read of the environment when they are imported. A test of these needs a new
process.
"""

from __future__ import annotations

import gc
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from shlex import quote

__all__ = ["commands"]

_LOST = 70
"""The exit status of a script whose command says nothing more; pytest has none that is so high."""
_END_S = 30.0
_IMPORTED = ("pytest", "torch", "transformers.models.llama.modeling_llama", "transformers.models.auto.modeling_auto")
_SCRIPTS = str(Path(sys.executable).parent)
_COMMAND = """\
#!/bin/sh
exec {python} -IS {client} {name} "$@"
"""
"""The path of Python may hold spaces, which the first line of a script cannot."""
_CLIENT = """\
import contextlib, json, os, socket, sys

name, arguments = sys.argv[1], sys.argv[2:]
if arguments[:2] == ["-u", "-c"]:  # execnet starts its workers so, and flushes what it writes
    del arguments[0]
if name == "python" and (not arguments or arguments[0].startswith("-") and arguments[0] not in ("-m", "-c")):
    os.execv({python!r}, [{python!r}, *arguments])
message = json.dumps([name, arguments, os.getcwd(), dict(os.environ), {script!r}]).encode()
os.chdir({folder!r})  # the address of a socket has to be short
status = b""
with socket.socket(socket.AF_UNIX) as server, contextlib.suppress(OSError):
    server.connect("socket")
    socket.send_fds(server, [len(message).to_bytes(4)], [0, 1, 2])
    server.sendall(message)
    status = server.recv(1)
if not status:
    print("the process that runs commands has ended", file=sys.stderr)
sys.exit(status[0] if status else {lost})
"""


@contextmanager
def commands(folder: Path) -> Iterator[Path]:
    """A folder with ``python`` and ``pytest``; the process that they ask ends with the context."""
    client = folder / "client.py"
    places = {"python": sys.executable, "folder": str(folder), "script": str(folder / "python")}
    client.write_text(_CLIENT.format(lost=_LOST, **places), encoding="utf-8")
    for name in ("python", "pytest"):
        script = folder / name
        script.write_text(_COMMAND.format(python=quote(sys.executable), client=quote(str(client)), name=name), encoding="utf-8")
        script.chmod(0o755)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    # It ends when its standard input does, also if this process is killed. Ctrl-C is for the scripts, not for what forks.
    with subprocess.Popen(
        [sys.executable, str(Path(__file__).resolve())],
        env=environment,
        cwd=folder,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    ) as server:
        try:
            assert server.stdin is not None
            assert server.stdout is not None
            assert server.stdout.readline() == b"ready\n"
            yield folder
            server.stdin.close()
            server.wait(_END_S)
        finally:
            server.kill()


def _serve() -> None:
    """Fork for each command; returns in the forked process, where the command is to run."""
    for module in _IMPORTED:
        import_module(module)
    assert len(os.listdir("/proc/self/task")) == 1, "threads do not survive a fork"
    gc.freeze()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("socket")
        listener.listen()
        print("ready", flush=True)
        os.dup2(2, 1)  # whoever waits for the end of this output waits for no command
        while True:
            if sys.stdin in select.select([sys.stdin, listener], [], [])[0]:
                os._exit(0)
            connection, _ = listener.accept()
            if os.fork() == 0:
                break
            connection.close()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    size, streams, _, _ = socket.recv_fds(connection, 4, 3)
    if not size:  # the script was killed before it asked
        os._exit(0)
    with connection.makefile("rb") as stream:
        name, arguments, folder, environment, executable = json.loads(stream.read(int.from_bytes(size)))
    child = os.fork()
    # In both processes, so that it is done before either goes on.
    with suppress(PermissionError):  # the child has done it, and runs something else already
        os.setpgid(child, child)
    if child != 0:
        script = connection.fileno()
        if script in select.select([script, os.pidfd_open(child)], [], [])[0]:  # it was killed: it says no more
            os.killpg(child, signal.SIGKILL)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        with suppress(BrokenPipeError):
            connection.sendall(bytes([status if status >= 0 else 128 - status]))
        os._exit(0)
    connection.close()
    for number, stream_of_client in enumerate(streams):
        os.dup2(stream_of_client, number)
        os.close(stream_of_client)
    os.chdir(folder)
    sys.executable = executable
    sys.dont_write_bytecode = bool(environment.get("PYTHONDONTWRITEBYTECODE"))
    sys.stdout.reconfigure(line_buffering=os.isatty(1))  # type: ignore[union-attr]
    _run(name, arguments, environment)


def _run(name: str, arguments: Sequence[str], environment: Mapping[str, str]) -> None:
    """What ``python ARGUMENTS`` or ``pytest ARGUMENTS`` does."""
    os.environ.clear()
    os.environ.update(environment)
    sys.path[:0] = [path for path in environment.get("PYTHONPATH", "").split(os.pathsep) if path and path not in sys.path]
    if name == "pytest":
        sys.argv = [name, *arguments]
        sys.path.insert(0, _SCRIPTS)
        sys.exit(import_module("pytest").main())
    match arguments:
        case ["-m", module, *rest]:
            sys.argv = [module, *rest]
            sys.path.insert(0, os.getcwd())
            runpy.run_module(module, run_name="__main__", alter_sys=True)
        case ["-c", code, *rest]:
            sys.argv = ["-c", *rest]
            sys.path.insert(0, "")
            exec(code, {"__name__": "__main__"})
        case [script, *rest]:
            sys.argv = [script, *rest]
            sys.path.insert(0, str(Path(script).resolve().parent))
            runpy.run_path(script, run_name="__main__")


if __name__ == "__main__":
    del sys.path[0]  # the folder of this file
    _serve()
