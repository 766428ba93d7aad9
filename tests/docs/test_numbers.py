"""Numbers in running text are those of the code, and measured figures those of ``tests/benchmarks/results``."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from itertools import count
from math import comb
from pathlib import Path

import pytest

from pytest_pot import builtin_prompts
from pytest_pot.baseline.file_format import _MAPPED_BYTES
from pytest_pot.calibration.explain import ENOUGH_PROMPTS
from pytest_pot.core.config import PRESETS, ScoringConfig
from pytest_pot.core.names import DEFAULT_PRESET
from pytest_pot.engines.distributions import EMPTY_CELL
from pytest_pot.engines.llamacpp.process import _SLOWEST, _START_S
from pytest_pot.engines.pytorch.module_trace.findings import _ABOVE_NOISE
from pytest_pot.engines.server.retries import BUSY
from pytest_pot.gates.latency.limits import CONFIDENCE, LatencyLimits
from pytest_pot.gates.latency.settings import _AUTO_BATCH, LatencySettings
from pytest_pot.gates.latency.statistics import lower_rank, upper_rank
from pytest_pot.gates.latency.stopwatch import _TIMING_S, _WARM_UPS
from pytest_pot.gates.latency.threads import _FASTER
from pytest_pot.gates.verdict.details import _MOST_CHANGES
from pytest_pot.gates.verdict.diagnosing import _LEAST_S
from pytest_pot.gates.verdict.diagnosis_lines import _MOST
from pytest_pot.gates.verdict.explain import WORST_SHOWN
from pytest_pot.gates.verdict.limits import DEFAULT_MAX_OUTLIERS, DEFAULT_MAX_TAIL, TOLERANCES, Verdict, identity_limits
from pytest_pot.gates.verdict.sequential import DEFAULT_CONFIDENCE, SequentialTest
from pytest_pot.plugin.inputs.prompt_source import _DRAWN, _DRAWN_AT_MOST
from pytest_pot.plugin.options import INI_KEYS
from pytest_pot.plugin.session.step_summary import _MOST as _MOST_OF_A_STEP
from pytest_pot.prompts.builtin import _FIRST
from pytest_pot.prompts.challenges import TEMPLATES
from pytest_pot.report.html.page import _MOST_DETAILS
from pytest_pot.report.html.tokens import SHADES
from pytest_pot.scoring.batch_plan import _DEFAULT_ROOM
from pytest_pot.scoring.batching import _WINDOW
from pytest_pot.scoring.noise_floor import _SHARE
from pytest_pot.scoring.own_top_k import _MORE
from pytest_pot.scoring.position_statistics import DELTA_P_PERCENTILES
from pytest_pot.testing.check import TOLERANCE
from pytest_pot.testing.diagnosis import BETTER, EXACT
from pytest_pot.testing.texts import _TEXTS
from tests.docs.blocks import ROOT, pages

RESULTS = ROOT / "tests" / "benchmarks" / "results"
DEFAULT, FASTEST = PRESETS[DEFAULT_PRESET], PRESETS["fastest"]
ALL = len(builtin_prompts(None))
MEDIAN = LatencyLimits(budget_ms=1).looks
P95 = LatencyLimits(budget_ms=1, stat="p95").looks
POSITIONS = [preset.positions_per_prompt for preset in PRESETS.values()]
WORDS = {"two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9, "ten": 10, "thirteen": 13}
PYTHON = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["requires-python"]


def _fewest_for_same(pool: int | None = None) -> int:
    """How many prompts of a pool or a source SAME takes at 95% confidence where all scores are 0."""
    limit = identity_limits()
    test = SequentialTest(limit.max_score, score_clip=limit.max_prompt_score, pool=pool)
    return next(n for n in count(1) if test.update([0.0]) is Verdict.SAME)


def _wrong_at(n: int) -> float:
    """The percentage of gates on a median that fail after ``n`` timings although it is exactly at the limit."""
    ways = sum(comb(n, below) for below in range(lower_rank(n, 0.5)))
    return round(100 * ways / float(2**n), 1)


NUMBERS: Mapping[str, float | Sequence[float]] = {
    # What is read.
    r"Python 3\.(\d+) or later": float(PYTHON.removeprefix(">=3.")),
    r"[Bb]oth models read (\d+) texts that come with pytest-pot": _FIRST,
    r"at (?:each of )?(\d+) positions(?: each\. The score| per text)": DEFAULT.positions_per_prompt,
    r"first (\d+) of \d+ built-in": _FIRST,
    r"(\d+) built-in": ALL,
    r"From the (\d+)rd on there are also long contexts": _FIRST + 1,
    r"(\d+) templates": len(TEMPLATES),
    r"A gate takes (\d+) of them": _DRAWN,
    r"(?:it draws|A gate draws) up to (\d+)": _DRAWN_AT_MOST,
    r"\((\d+)(?: tokens)? with the default preset\)": DEFAULT.max_length,
    r"A preset reads at most (\d+) tokens of a long prompt, `original` up to ([\d,]+)": (
        DEFAULT.max_length,
        PRESETS["original"].max_length,
    ),
    r"`positions` tokens of the continuation \((\d+)\)": DEFAULT.positions_per_prompt,
    r"tokens of each prompt's continuation, (\d+) at most by default": DEFAULT.positions_per_prompt,
    r"The presets here compare (\d+) to (\d+)": (min(POSITIONS), max(POSITIONS)),
    # What is compared.
    r"the reference's (\d+) likeliest (?:tokens one by one|tokens and all others|ids with their logits)": DEFAULT.top_k or 0,
    r"the default preset compares (\d+) ids": DEFAULT.top_k or 0,
    r"`--max-logprobs (\d+)`: the default preset": _MORE * (DEFAULT.top_k or 0),
    r"softmax over the reference's (\d+) likeliest tokens alone": FASTEST.top_k or 0,
    r"relative to those (\d+) tokens": FASTEST.top_k or 0,
    r"(\d+) rows (?:only|of the output layer\*\*, as `fastest`)": FASTEST.top_k or 0,
    r"about (\d+) nats times": -EMPTY_CELL,
    r"yes, the same (\w+) \|": len(DELTA_P_PERCENTILES),
    # Limits on a score.
    r"(?<=\()`max_tail(?:=|`, )([\d.]+)[`)]": DEFAULT_MAX_TAIL,
    r"`max_outliers` \(([\d.]+)\)": DEFAULT_MAX_OUTLIERS,
    r"`max_outliers` \((\d+) %\)": 100 * DEFAULT_MAX_OUTLIERS,
    r"at most ([\d.]+) for `half`, ([\d.]+) for `int8`": (TOLERANCES["half"], TOLERANCES["int8"]),
    r"where (\d) in 100 is the limit": 100 * TOLERANCES["half"],
    r"It passes: [\d.]+ is below ([\d.]+)": TOLERANCES["int8"],
    r"has all (\w+) names": len(TOLERANCES),
    r"Give it (\d+) prompts or more": ENOUGH_PROMPTS,
    r"(\d+) or more are a good start": ENOUGH_PROMPTS,
    r"a warning below (\d+) prompts": ENOUGH_PROMPTS,
    # A verdict with a confidence.
    r"the gate makes it with a probability of at most (\d+) %": round(100 * (1 - DEFAULT_CONFIDENCE), 9),
    r"grows with a probability of at most (\d+) % to (\d+)": (
        round(100 * (1 - DEFAULT_CONFIDENCE), 9),
        round(1 / (1 - DEFAULT_CONFIDENCE), 9),
    ),
    r"SAME takes (\d+) of": _fewest_for_same(ALL),
    r"after (\d+) of 257 prompts, or (\d+)": (_fewest_for_same(ALL), _fewest_for_same()),
    r"the gate looks after (\d+) to (\d+) prompts": _WINDOW,
    # The noise floor and the diagnosis.
    r"cost at most (\d+) % of the run": 100 * _SHARE,
    r"more than ([\d.]+) times its noise|further from the reference's than ([\d.]+) times its noise": _ABOVE_NOISE,
    r"at most (\w+) lines: up to (\w+) of what changed": (_MOST, _MOST - 1),
    r"or (\d+) seconds if that is more": _LEAST_S,
    r"up to ([\d,]+) changed tensors by name": _MOST_CHANGES,
    # Time.
    r"each model runs (\d+) to (\d+) times, until": _WARM_UPS,
    r"A timing takes at least (\d+) ms": 1000 * _TIMING_S,
    r"lower end of a (\d+) % bound": 100 * CONFIDENCE,
    r'`"median"` \| after (\d+) timings or pairs \| after (\d+)': MEDIAN,
    r'`"p95"` \| after (\d+) \| after (\d+)': P95,
    r"(\d+) are the fewest that bound a 95th": next(n for n in count(1) if upper_rank(n, 0.95) <= n),
    r"the first look fails wrongly with a probability of ([\d.]+) %, and the last one with ([\d.]+) %": (
        _wrong_at(MEDIAN[0]),
        _wrong_at(MEDIAN[1]),
    ),
    r"([\d.]+) % at most together": round(_wrong_at(MEDIAN[0]) + _wrong_at(MEDIAN[1]), 1),
    r"fewer than (\d+) pairs \((\d+) timings": (MEDIAN[0], P95[0]),
    r"where (\d+) pairs did not fit into `max_seconds` \((\d+)\)": (MEDIAN[0], LatencySettings.max_seconds),
    r"Faster means at most (\d+) % of the time": 100 * _FASTER,
    r"generation of `new_tokens` \((\d+)\)": LatencySettings.new_tokens,
    r"The batch is the first (\d+) prompts": _AUTO_BATCH,
    r"sends the batch \((\d+) prompts, [^)]*\) (\d+) to (\d+) times, up to (\d+)": (
        _AUTO_BATCH,
        MEDIAN[0] + _WARM_UPS[0],
        MEDIAN[1] + _WARM_UPS[1],
        P95[1] + _WARM_UPS[1],
    ),
    # Servers.
    r"How many at a time\*\*: (\d+) \(": ScoringConfig.server_concurrency,
    r"answered completely within (\d+) seconds": ScoringConfig.server_timeout,
    r"busy server \((\d+), (\d+)\)": BUSY,
    r"not loaded within (\d+) minutes, plus a second for each (\d+) MB": (_START_S / 60, _SLOWEST / 1e6),
    # Files and reports.
    r"in megabytes \((\d+) is the default\)": float(str(INI_KEYS["pot_cache_mb"][1])),
    r"Files of (\d+) MB or more are read in pieces": _MAPPED_BYTES >> 20,
    r"shows at most (\d+) MiB of a step": _MOST_OF_A_STEP / 2**20,
    r"the (\d+) worst prompts and the (\d+) worst positions": WORST_SHOWN[0],
    r"the (\d+) worst prompts and positions": WORST_SHOWN[1][0],
    r"also up to (\d+) prompts, and the (\d+) worst positions": WORST_SHOWN[2],
    r"and up to (\d+) lines of diagnosis": _MOST,
    r"below ([\d.]+), and from ([\d.]+), ([\d.]+), ([\d.]+), ([\d.]+) and ([\d.]+) on": (SHADES[0], *SHADES),
    r"The worst (\d+) at most have plots": _MOST_DETAILS,
    # Engines.
    r"a batch has up to ([\d,]+) tokens": _DEFAULT_ROOM.most,
    r"says of (\w+) short prompts": len(_TEXTS),
    r"tolerance=([\d.]+)\)` returns": TOLERANCE,
    r"at least (\w+) times better than the model": BETTER,
    r"is within (\S+) of a float32 model on single prompts": EXACT,
    r"batches may add only (\S+)\.": 10 * EXACT,
}
"""What the code says of each group of a pattern."""

MEASURED: Mapping[str, tuple[str, str]] = {
    r"prompts of some (\d+) tokens": ("gpu.md", r"prompts of ([\d.]+) tokens on average"),
    r"a model with ([\d.]+) times the layers": ("gpu.md", r"a model with ([\d.]+) times the layers"),
    r"one short prompt, `max_slowdown=([\d.]+)`": ("latency_gates.md", r"one short prompt, .*`max_slowdown=([\d.]+)`"),
    r"edge, ([\d,]+) simulated runs": ("sequential_errors.md", r"(\d+) runs per figure"),
    r"a share of 5 % may show as (\d+) %": ("sequential_errors.md", r"a share of 5 % may show as ([\d.]+)%"),
    r"with the prompts in (\d+) orders": ("orders.md", r"Verdicts in (\d+) orders"),
    r"against `original` on (\d+) of these prompts": ("speed.md", r"relative to `original` on (\d+) prompts"),
    r"was scored against the original on (\d+) prompts": ("ladder.md", r"(\d+) prompts, \d+ positions, whole vocabulary"),
}
"""Figures in running text, and where a file of results has the same, with more digits perhaps."""


def _number(text: str) -> float:
    """What ``text`` says, at the end of a sentence too; not a number, where it is a word that is none."""
    if re.fullmatch("[a-z]+", text):
        return float(WORDS.get(text, "nan"))
    return float(text.rstrip(".").replace(",", ""))


def _line(text: str) -> str:
    """``text`` without its line breaks, which may be anywhere in a sentence."""
    return " ".join(text.split())


def _problems(text: str) -> Iterator[str]:
    """Numbers that are not the code's, nor those of the results."""
    line = _line(text)
    for pattern, number in NUMBERS.items():
        expected = [float(each) for each in (number if isinstance(number, Sequence) else [number])]
        for found in re.finditer(pattern, line):
            if [_number(group) for group in found.groups() if group is not None] != expected:
                yield f"{found[0]}: the code has {', '.join(f'{each:g}' for each in expected)}"
    for pattern, (file, source) in MEASURED.items():
        for found in re.finditer(pattern, line):
            measured = re.search(source, _line((RESULTS / file).read_text(encoding="utf-8")))
            assert measured is not None, f"{file} has no {source}"
            if _number(found[1]) not in (float(measured[1]), round(float(measured[1]))):
                yield f"{found[0]}: {file} has {measured[1]}"


@pytest.mark.parametrize("path", pages(), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_the_numbers_of_a_page_are_those_of_the_code_and_the_results(path: Path) -> None:
    assert list(_problems(path.read_text(encoding="utf-8"))) == []


def test_each_number_is_looked_for_where_there_is_one() -> None:
    texts = [_line(path.read_text(encoding="utf-8")) for path in pages()]
    assert [pattern for pattern in (*NUMBERS, *MEASURED) if not any(re.search(pattern, text) for text in texts)] == []


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("at most a quarter (`max_tail=0.3`)", "`max_tail=0.3`: the code has 0.25"),
        ("the first 30 of 257 built-in prompts", "first 30 of 257 built-in: the code has 32"),
        ("SAME takes 61 of 257 at least", "SAME takes 61 of: the code has 54"),
        ("at most four lines:\nup to two of what changed", "at most four lines: up to two of what changed: the code has 4, 3"),
        ("prompts of some 80 tokens", "prompts of some 80 tokens: gpu.md has 86.9"),
    ],
)
def test_another_number_is_found(text: str, problem: str) -> None:
    assert problem in list(_problems(text))
