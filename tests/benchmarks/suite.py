"""Measure what a whole run of pytest costs beyond its forward passes, with 1, 10 and 100 gates on one pair of models.

Each run is a process of its own. Of its gates, every tenth is timed in detail: its forward passes, what the engine computes
around them, and the noise floor. Where the reference comes from is one of three kinds: a recorded file; a folder, of which the
plugin keeps the outputs; and models that session fixtures return. Writes suite.json and suite.md to ``--out``.

    PYTHONPATH=. python tests/benchmarks/suite.py [--gates 1 10 100] [--kinds recorded folder fixtures] [--out FOLDER]

``--package FOLDER`` measures the pytest_pot in another checkout. ``--profile`` also writes a profile of each run, for pstats.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import transformers

from pytest_pot.prompts.builtin import builtin_prompts

sys.path += [str(Path(__file__).parents[2] / "examples"), str(Path(__file__).parent)]

import smollm2
from bench import cut_short

KINDS = ("recorded", "folder", "fixtures")
N_LISTS = 20
"""Lists of prompts; gates that follow each other share one, as tests with several limits or metrics do."""

WATCH = '''
"""Times the gates of this suite, and writes figures.json at the end."""

import functools
import json
import os
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

TIMED_AT_MOST = 10
figures, current, spent = [], {}, {}


class Timed:
    """Adds up the time of a method's outermost calls. It is no function: a model with changed functions is not cached."""

    def __init__(self, name, function):
        self._name, self._function, self._depth = name, function, 0

    def __get__(self, instance, owner=None):
        return self if instance is None else functools.partial(self, instance)

    def __call__(self, *arguments, **keywords):
        if self._depth or "timed" not in current or (self._name != "noise floor" and current.get("apart")):
            return self._function(*arguments, **keywords)
        self._depth += 1
        current["apart"] = self._name == "noise floor"
        started = clocks()
        try:
            return self._function(*arguments, **keywords)
        finally:
            seconds = since(started)
            add(self._name, seconds)
            if self._name == "noise floor":  # measured while a batch is compared
                add("engine", {clock: -value for clock, value in seconds.items()})
            self._depth -= 1
            current["apart"] = False


def watch():
    import torch

    from pytest_pot.scoring.comparison import Comparison

    for owner, method, name in (
        (torch.nn.Module, "__call__", "forwards"),
        (Comparison, "__call__", "engine"),
        (Comparison, "_alone", "noise floor"),
    ):
        setattr(owner, method, Timed(name, vars(owner)[method]))


def clocks():
    return {"wall": time.perf_counter(), "cpu": time.process_time()}


def since(started):
    return {name: value - started[name] for name, value in clocks().items()}


def add(name, seconds):
    entry = spent.setdefault(name, {"wall": 0.0, "cpu": 0.0})
    for clock, value in seconds.items():
        entry[clock] += value


def resident_mb():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def pytest_collection_finish(session):
    watch()
    every = max(1, len(session.items) // TIMED_AT_MOST)
    for index, item in enumerate(session.items):
        item.stash[TIMED] = index % every == every - 1


TIMED = pytest.StashKey()


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item):
    current.clear()
    spent.clear()
    if item.stash[TIMED]:
        current["timed"] = True
    started = clocks()
    result = yield
    row = {"gate": since(started), **(spent if item.stash[TIMED] else {})}
    if os.path.exists("/proc/self/statm"):
        row["resident MB"] = resident_mb()
    figures.append(row)
    return result


def pytest_unconfigure():
    document = {"gates": figures}
    if os.path.exists("/proc/self/status"):  # what the system counts for a process may include that of its parent
        line = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
        document["peak MB"] = int(line.split()[1]) * 1024 / 1e6
    Path("figures.json").write_text(json.dumps(document))
'''
FIXTURES = """
@pytest.fixture(scope="session")
def pot_reference():
    return load("reference")


@pytest.fixture(scope="session")
def pot_candidate():
    return load("candidate")


def load(folder):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    return AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
"""
PROFILED = "import cProfile, sys, pytest; cProfile.run('code = pytest.main(sys.argv[1:])', 'profile.pstats'); sys.exit(code)"


def main() -> None:
    arguments = parse()
    transformers.utils.logging.disable_progress_bar()
    out = Path(arguments.out).absolute()
    out.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        prepare(home, arguments.prompts)
        for kind in arguments.kinds:
            write_suite(home, kind, min(max(arguments.gates), N_LISTS), arguments.positions)
            run(home, arguments.package, "--pot-update" if kind == "recorded" else "-q")  # records, or fills the cache
            for n_gates in arguments.gates:
                write_suite(home, kind, n_gates, arguments.positions)
                row = {"reference": kind, **measured(home, arguments.package, n_gates, profile=arguments.profile)}
                if arguments.profile:
                    (home / "profile.pstats").rename(out / f"suite-{kind}-{n_gates}.pstats")
                print(json.dumps(row), flush=True)
                rows.append(row)
    document = {"prompts": arguments.prompts, "positions": arguments.positions, "cores": os.cpu_count(), "runs": rows}
    (out / "suite.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    (out / "suite.md").write_text(page(document), encoding="utf-8")
    print(page(document), f"written to {out}: suite.json, suite.md", sep="\n")


def prepare(home: Path, fewest: int) -> None:
    """Save both models, and the lists of ``fewest`` to twice as many short prompts."""
    for name, (model, tokenizer) in (("reference", smollm2.reference()), ("candidate", smollm2.bf16())):
        model.save_pretrained(home / name)
        tokenizer.save_pretrained(home / name)
    short = cut_short([prompt for prompt in builtin_prompts(None) if prompt.kind != "long"], tokenizer)
    start = 0
    for index in range(N_LISTS):
        n_prompts = fewest + index % (fewest + 1)
        prompts = [short[i % len(short)] for i in range(start, start + n_prompts)]
        start += n_prompts
        lines = [json.dumps({"text": prompt.text, "continuation": prompt.continuation}) for prompt in prompts]
        (home / f"list_{index:02}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (home / "pytest.ini").write_text("[pytest]\n", encoding="utf-8")


def write_suite(home: Path, kind: str, n_gates: int, positions: int) -> None:
    (home / "conftest.py").write_text(WATCH + FIXTURES * (kind == "fixtures"), encoding="utf-8")
    tests = ["import pytest\n"]
    for index in range(n_gates):
        number = index * N_LISTS // n_gates if n_gates > N_LISTS else index
        names = {
            "recorded": f"reference='list_{number:02}.pot.safetensors', candidate='candidate', ",
            "folder": "reference='reference', candidate='candidate', ",
            "fixtures": "",
        }[kind]
        marker = f"{names}prompts='list_{number:02}.jsonl', positions={positions}, batch_size='auto', tolerance='half'"
        tests.append(f"\n@pytest.mark.pot_identity({marker})\ndef test_{index:03}():\n    pass\n")
    (home / "test_gates.py").write_text("\n".join(tests), encoding="utf-8")
    ini = "pot_reference = reference\n" if kind == "recorded" else ""
    (home / "pytest.ini").write_text(f"[pytest]\n{ini}", encoding="utf-8")


def run(home: Path, package: str, *options: str, profile: bool = False) -> tuple[float, float]:
    """Run the suite; returns the seconds and the CPU seconds of the whole process."""
    # Disable other installed plugins, which have start-up times of their own.
    settings = {
        "HF_HUB_OFFLINE": "1",
        "PYTHONPATH": os.path.abspath(package),
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    command = [sys.executable, *(["-c", PROFILED] if profile else ["-m", "pytest"]), "-q", "-p", "pytest_pot.plugin", *options]
    with tempfile.TemporaryFile() as output:
        started = time.perf_counter()
        process = subprocess.Popen(command, cwd=home, env={**os.environ, **settings}, stdout=output, stderr=output)
        _, status, used = os.wait4(process.pid, 0)
        wall = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            output.seek(0)
            raise SystemExit(f"{command} failed:\n{output.read().decode()[-4000:]}")
    return wall, used.ru_utime + used.ru_stime


def measured(home: Path, package: str, n_gates: int, *, profile: bool) -> dict[str, Any]:
    wall, cpu = run(home, package, profile=profile)
    document = json.loads((home / "figures.json").read_text())
    gates = document["gates"]
    assert len(gates) == n_gates
    warm = gates[1:] or gates  # the first one also loads the models
    timed = [row for row in warm if "forwards" in row]
    resident = [row["resident MB"] for row in gates if "resident MB" in row]
    return {
        "gates": n_gates,
        "wall s": wall,
        "cpu s": cpu,
        "first gate s": gates[0]["gate"]["wall"],
        **{
            f"{name} s": statistics.median(row.get(name, {"wall": 0.0})["wall"] for row in timed)
            for name in ("gate", "forwards", "engine", "noise floor")
        },
        "by wall": ratios(timed, "wall"),
        "by cpu": ratios(timed, "cpu"),
        "peak MB": document.get("peak MB"),
        "resident MB": [resident[0], resident[min(9, n_gates - 1)], resident[-1]] if resident else [],
    }


def ratios(rows: Sequence[Mapping[str, Any]], clock: str) -> dict[str, float]:
    """Of the sums over gates."""
    sums = {
        name: sum(row.get(name, {clock: 0.0})[clock] for row in rows) for name in ("gate", "forwards", "engine", "noise floor")
    }
    without = sums["gate"] - sums["noise floor"]
    return {
        "gate / forwards": sums["gate"] / sums["forwards"],
        "without noise floor / forwards": without / sums["forwards"],
        "without noise floor / engine": without / sums["engine"],
    }


def page(document: Mapping[str, Any]) -> str:
    return "\n".join(lines(document["runs"])) + "\n"


def lines(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """One Markdown table."""
    yield "A gate is one test: set-up, call and teardown, without the first one's, which loads the models. *Forwards* are the"
    yield "models' own calls, *engine* is what is computed with them; both without the noise floor. Ratios are of sums, by the"
    yield "clock and, in brackets, by CPU time. Resident memory is after the first, the tenth and the last gate.\n"
    columns = ["reference", "gates", "run s", "its CPU s", "first gate s", "gate s", "forwards s", "noise floor s"]
    columns += ["gate / forwards", "without noise floor", "the same / engine", "peak MB", "resident MB"]
    yield f"| {' | '.join(columns)} |"
    yield "|---" * len(columns) + "|"
    for row in rows:
        figures = [
            *(f"{row[name]:.1f}" for name in ("wall s", "cpu s", "first gate s")),
            *(f"{row[name]:.3f}" for name in ("gate s", "forwards s", "noise floor s")),
            *(f"{by_clock:.2f} ({row['by cpu'][name]:.2f})" for name, by_clock in row["by wall"].items()),
            "" if row["peak MB"] is None else f"{row['peak MB']:.0f}",
            ", ".join(f"{value:.0f}" for value in row["resident MB"]),
        ]
        yield f"| {row['reference']} | {row['gates']} | {' | '.join(figures)} |"


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gates", type=int, nargs="+", default=[1, 10, 100], help="gates per suite")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS, help="where the reference comes from")
    parser.add_argument("--prompts", type=int, default=8, help="prompts per gate: from this number to twice of it")
    parser.add_argument("--positions", type=int, default=16, help="positions per prompt")
    parser.add_argument("--package", default=str(Path(__file__).parents[2]), help="the checkout to measure")
    parser.add_argument("--profile", action="store_true", help="profile the runs; their times are then no figures")
    parser.add_argument("--out", default=tempfile.gettempdir(), help="the folder to write to")
    return parser.parse_args()


if __name__ == "__main__":
    main()
