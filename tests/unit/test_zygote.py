"""Commands that fork from a process with torch are like those that start anew."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ..zygote import commands
from .streaming import HANGS_S

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere none forks")


def run(folder: Path, *command: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(folder / "python"), *command],
        cwd=cwd,
        env={**os.environ, **environment},
        input="text",
        capture_output=True,
        encoding="utf-8",
        timeout=HANGS_S,
        check=False,
    )


def test_a_command_has_its_arguments_environment_folder_and_streams(tmp_path: Path, forked_commands: Path) -> None:
    code = "import os, sys; print(sys.argv[1:], os.environ['A'], os.getcwd(), sys.stdin.read()); sys.exit(3)"
    done = run(forked_commands, "-c", code, "x y", cwd=tmp_path, A="b")
    assert (done.returncode, done.stdout, done.stderr) == (3, f"['x y'] b {tmp_path} text\n", "")
    (tmp_path / "script.py").write_text("import sys\nprint(__name__, sys.path[0], file=sys.stderr)\n", encoding="utf-8")
    done = run(forked_commands, "script.py", cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", f"__main__ {tmp_path}\n")


def test_what_it_starts_forks_too(tmp_path: Path, forked_commands: Path) -> None:
    """As execnet starts the workers of pytest-xdist."""
    code = """if True:
        import subprocess, sys
        told = "import sys; print('torch' in sys.modules, 'pytest_pot' in sys.modules)"
        sys.exit(subprocess.run([sys.executable, "-u", "-c", told]).returncode)
    """
    done = run(forked_commands, "-c", code, cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "True False\n", "")


def test_other_options_start_python_anew(tmp_path: Path, forked_commands: Path) -> None:
    code = "import sys; print('torch' in sys.modules, sys.flags.isolated)"
    assert run(forked_commands, "-I", "-c", code, cwd=tmp_path).stdout == "False 1\n"


@pytest.mark.parametrize("without", ["", "1"])
def test_it_writes_bytecode_unless_it_is_told_not_to(tmp_path: Path, forked_commands: Path, without: str) -> None:
    (tmp_path / "imported.py").touch()
    done = run(forked_commands, "-c", "import imported", cwd=tmp_path, PYTHONDONTWRITEBYTECODE=without)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "__pycache__").exists() is not bool(without)


def test_it_dies_with_its_script_and_so_does_what_it_started(tmp_path: Path, forked_commands: Path) -> None:
    code = """if True:
        import os, subprocess
        child = subprocess.Popen(["sleep", "1000"])
        print(os.getpid(), child.pid, flush=True)
        child.wait()
    """
    with subprocess.Popen([str(forked_commands / "python"), "-c", code], cwd=tmp_path, stdout=subprocess.PIPE) as script:
        assert script.stdout is not None
        numbers = script.stdout.readline().split()
        script.kill()
    end = time.monotonic() + HANGS_S
    while left := [number for number in map(int, numbers) if is_running(number)]:
        assert time.monotonic() < end, f"{left} are left"
        time.sleep(0.01)


def is_running(number: int) -> bool:
    try:
        status = Path(f"/proc/{number}/stat").read_text(encoding="ascii")
    except FileNotFoundError:
        return False
    return status.rpartition(")")[2].split()[0] != "Z"  # nobody has asked for its exit status


@pytest.mark.slow
def test_the_server_ends_though_a_command_goes_on(tmp_path: Path) -> None:
    with commands(tmp_path) as folder:
        script = subprocess.Popen(
            [str(folder / "python"), "-c", "print(1, flush=True); input()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert script.stdout is not None
        assert script.stdout.readline() == "1\n"
    with script:
        assert script.poll() is None
        done, _ = script.communicate("\n", timeout=HANGS_S)
    assert (script.returncode, done) == (0, "")


@pytest.mark.slow
def test_a_command_without_a_server_is_no_failed_test(tmp_path: Path) -> None:
    with commands(tmp_path) as folder:
        pass
    done = run(folder, "-c", "", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (70, "the process that runs commands has ended\n")
