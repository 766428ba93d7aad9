"""How the process of a llama-server is started, and how it ends while it loads."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import FrameType
from typing import BinaryIO

import pytest

from pytest_pot.core.errors import PotError
from pytest_pot.engines.llamacpp import process
from pytest_pot.engines.llamacpp.process import LlamaProcess, Settings

from ...gguf_models import write_tiny
from .test_backend import is_gone

pytest.importorskip("xllamacpp")

SECRET = "sesame-0123456789"


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny(tmp_path_factory.mktemp("process") / "tiny.gguf")


@pytest.fixture
def endless(tmp_path: Path) -> Path:
    """A file that whoever opens it waits for."""
    path = tmp_path / "endless.gguf"
    os.mkfifo(path)
    return path


@pytest.fixture
def interrupted_while_loading(endless: Path) -> Iterator[None]:
    """Interrupts the main thread once a process has begun to read ``endless``, as a time limit of pytest-timeout does."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise Interrupted

    def wait() -> None:
        with endless.open("wb"):  # waits for whoever reads it
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGALRM)
            over.wait()

    before = signal.signal(signal.SIGALRM, interrupt)
    over = threading.Event()
    threading.Thread(target=wait, daemon=True).start()
    yield
    over.set()
    signal.signal(signal.SIGALRM, before)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Which of ``kill`` and ``wait`` are called for processes, in order. No process is left."""
    before = children()
    calls: list[str] = []
    started = process._started

    def watched(log: BinaryIO) -> subprocess.Popen[bytes]:
        child = started(log)
        for name in ("kill", "wait"):
            monkeypatch.setattr(child, name, partial(called, name, getattr(child, name)))
        return child

    def called(name: str, method: Callable[..., object], *arguments: object) -> object:
        calls.append(name)
        return method(*arguments)

    monkeypatch.setattr(process, "_started", watched)
    yield calls
    assert children() == before


def children() -> set[str]:
    listed = Path(f"/proc/self/task/{os.getpid()}/children")
    return set(listed.read_text().split())


class Interrupted(BaseException):
    pass


def locals_of(error: BaseException) -> str:
    """What a traceback with variables shows, of the frames that are not a test's."""
    shown = []
    for each in (error, error.__cause__, None if error.__suppress_context__ else error.__context__):
        trace = None if each is None else each.__traceback__
        while trace is not None:
            if trace.tb_frame.f_code.co_filename != __file__:
                shown.append(repr(dict(trace.tb_frame.f_locals)))
            trace = trace.tb_next
    assert shown
    return "\n".join(shown)


def test_secrets_are_left_out(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("POT_API_KEY", "POT_KEY", "OTHER"):
        monkeypatch.setenv(name, SECRET)
    started = LlamaProcess(Settings(str(file), 256))
    environment = Path(f"/proc/{started.pid}/environ").read_bytes().split(b"\0")
    assert f"OTHER={SECRET}".encode() in environment
    assert [each for each in environment if SECRET.encode() in each] == [f"OTHER={SECRET}".encode()]
    started.close()


@pytest.mark.usefixtures("interrupted_while_loading")
def test_no_error_shows_the_environment(file: Path, endless: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTHER", SECRET)
    with pytest.raises(Interrupted) as interrupted:
        LlamaProcess(Settings(str(endless), 256))
    assert SECRET not in locals_of(interrupted.value)

    def stop(frame: FrameType, event: str, argument: object) -> None:
        if frame.f_code.co_name == "_execute_child" and event == "call":
            sys.setprofile(None)
            raise Interrupted

    sys.setprofile(stop)
    try:
        with pytest.raises(Interrupted) as interrupted:
            LlamaProcess(Settings(str(file), 256))
    finally:
        sys.setprofile(None)
    assert SECRET not in locals_of(interrupted.value)
    monkeypatch.setattr(sys, "executable", str(file))
    with pytest.raises(PotError, match=r"its process cannot be started: .*Permission denied") as refused:
        LlamaProcess(Settings(str(file), 256))
    assert SECRET not in locals_of(refused.value)


def test_modules_of_the_tests_do_not_take_the_place_of_python_s_own(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("threading", "json", "signal", "pathlib", "xllamacpp", "platform", "re"):
        (tmp_path / f"{name}.py").write_text("raise RuntimeError('a module of the tests')\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    started = LlamaProcess(Settings(str(file), 256))
    assert started.runs
    started.close()


def test_a_process_that_hangs_while_it_loads_is_ended(endless: Path, calls: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "_START_S", 1.0)
    with pytest.raises(PotError, match=r"it was not loaded within 1 s, the limit for a model of 0.0 GB. Is there enough"):
        LlamaProcess(Settings(str(endless), 256))
    assert calls[0] == "kill", "it does not get the time to end by itself"


def test_a_large_model_has_more_time(file: Path, tmp_path: Path, calls: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "_START_S", 0.0)
    monkeypatch.setattr(process, "_SLOWEST", file.stat().st_size / 600)
    LlamaProcess(Settings(str(file), 256)).close()
    monkeypatch.setattr(process, "_SLOWEST", file.stat().st_size / 1e-3)
    (tmp_path / "hangs.py").write_text("import time\n\ntime.sleep(60)\n")
    monkeypatch.setattr(process, "_CHILD", str(tmp_path / "hangs.py"))
    calls.clear()
    with pytest.raises(PotError, match="it was not loaded within 0 s"):
        LlamaProcess(Settings(str(file), 256))
    assert calls[0] == "kill"


def test_a_process_that_ends_before_it_reads_its_settings_is_told(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started = process._started

    def ended(log: BinaryIO) -> subprocess.Popen[bytes]:
        child = started(log)
        child.kill()
        child.wait()
        return child

    monkeypatch.setattr(process, "_started", ended)
    with pytest.raises(PotError, match="signal 9"):  # and no broken pipe
        LlamaProcess(Settings(str(file), 256))


@pytest.mark.usefixtures("interrupted_while_loading")
def test_an_interrupted_wait_leaves_no_process(endless: Path, calls: list[str]) -> None:
    with pytest.raises(Interrupted):
        LlamaProcess(Settings(str(endless), 256))
    assert calls[0] == "kill", "it does not get the time to end by itself"


def test_a_process_that_hangs_does_not_outlive_the_process_that_started_it_for_long(endless: Path) -> None:
    script = f"""
        import os, threading, time
        from pytest_pot.engines.llamacpp import process
        from pytest_pot.engines.llamacpp.process import LlamaProcess, Settings
        process._START_S, process._LATER_S = 600.0, -598.0
        started = process._started
        def announced(log):
            child = started(log)
            print(child.pid, flush=True)
            threading.Thread(target=end).start()
            return child
        def end():
            time.sleep(1)  # by then, it usually loads
            os.kill(os.getpid(), 9)
        process._started = announced
        LlamaProcess(Settings({str(endless)!r}, 256))
    """
    ran = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], stdout=subprocess.PIPE, text=True, timeout=600)
    assert is_gone(int(ran.stdout))
