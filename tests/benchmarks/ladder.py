"""Measure the ladder: how much known changes move the scores of two real trained models, in every metric.

Writes results/ladder_<model>.json after every measurement, and skips measurements that are already there: stop it at any time,
and run it again to continue. ladder_report.py makes the tables.

    PYTHONPATH=. python tests/benchmarks/ladder.py [--model smollm2 ...] [--views exact ...] [--rungs bf16 ...] [--limit-s N]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from pytest_pot import Baseline, Prompt, ScoreReport, ScoringConfig, TeacherForcedScorer
from pytest_pot.calibration.perturbations import PERTURBATIONS, perturb
from pytest_pot.core.names import METRICS
from pytest_pot.engines.registry import opened
from pytest_pot.prompts.builtin import builtin_prompts
from pytest_pot.prompts.tokenization import EncodedPrompts
from pytest_pot.scoring.run import ScoringRun

sys.path += [str(Path(__file__).parents[2] / "examples"), str(Path(__file__).parent)]

import smollm2
import stories15m

RESULTS = Path(__file__).parent / "results"
N_PROMPTS = 32
VIEWS = {
    "exact": ScoringConfig(top_k=None, batch_size=8),
    **{preset: ScoringConfig.preset(preset) for preset in ("balanced", "fastest", "original", "accurate")},
}
"""Configurations for every rung: the whole vocabulary at 32 positions, for the figures, and the presets, for their
verdicts."""
PASSES = (("exact",), ("balanced", "fastest"), ("original",), ("accurate",))
"""Views that are measured together. The exact figures of all models come first."""
THREADS = 1
"""For the reference, and for every rung without its own number of threads. A busy machine may not have two free cores."""

Model = torch.nn.Module

# --- the models ---


@dataclass(frozen=True)
class Subject:
    """A reference, its prompts and training texts, and another model with the same tokenizer."""

    name: str
    load: Callable[[], tuple[Model, Any]]
    prompts: Callable[[], list[Prompt]]
    training: Callable[[], list[str]]
    """Texts for fine-tuning, which are not used as prompts."""
    foreign: Callable[[], Model]


def suite(*kinds: str) -> list[Prompt]:
    return [prompt for prompt in builtin_prompts(None) if prompt.kind != "long" and (not kinds or prompt.kind in kinds)]


def texts(prompts: list[Prompt]) -> list[str]:
    return [f"{prompt.text}{prompt.continuation}" for prompt in prompts]


def foreign_story_teller() -> Model:
    """A model of two layers, trained for a minute on the suite's prompts in plain English."""

    def train(target: Path) -> None:
        _, tokenizer = stories15m.reference()
        with torch.random.fork_rng():
            torch.manual_seed(1)
            model = LlamaForCausalLM(
                LlamaConfig(
                    vocab_size=32000,
                    hidden_size=128,
                    intermediate_size=256,
                    num_hidden_layers=2,
                    num_attention_heads=4,
                    max_position_embeddings=256,
                )
            )
        fine_tune(model, tokenizer, texts(suite("narrative", "fact", "dialogue")), steps=60, rate=3e-3)
        model.save_pretrained(target)

    return LlamaForCausalLM.from_pretrained(smollm2.folder("stories15m-foreign", train))


SUBJECTS = {
    "smollm2": Subject(
        "SmolLM2-135M-Instruct",
        smollm2.reference,
        lambda: suite()[:N_PROMPTS],
        lambda: texts(suite()[2 * N_PROMPTS :]),
        lambda: smollm2.foreign()[0],
    ),
    "stories15m": Subject(
        "stories15M",
        stories15m.reference,
        stories15m.stories,
        lambda: texts(suite("narrative", "fact", "dialogue")),
        foreign_story_teller,
    ),
}


# --- the rungs ---


@dataclass(frozen=True)
class Rung:
    """One change: another model, or the same model computed in another way."""

    name: str
    candidate: Callable[[Subject, Model, Any], Model]
    batch_size: int | None = None
    threads: int = THREADS
    dtype: str = "auto"
    """Precision of the candidate's arithmetic; the reference runs in float32."""


def itself(_: Subject, model: Model, __: Any) -> Model:
    return model


def eager(subject: Subject, _: Model, __: Any) -> Model:
    model = subject.load()[0]
    assert isinstance(model, PreTrainedModel)
    model.set_attn_implementation("eager")
    return model


def tuned(subject: Subject, model: Model, tokenizer: Any, *, steps: int) -> Model:
    """A fine-tuned copy. It is stored, because more than one pass needs it."""

    def train(target: Path) -> None:
        trained: Any = subject.load()[0]
        fine_tune(trained, tokenizer, subject.training(), steps=steps, rate=2e-5)
        trained.save_pretrained(target)

    folder = smollm2.folder(f"{subject.name.lower()}-tuned-{steps}", train)
    return LlamaForCausalLM.from_pretrained(folder)


def fine_tune(model: Model, tokenizer: Any, training: list[str], *, steps: int, rate: float) -> None:
    """Train with AdamW on random windows of 64 tokens, two per step; the order is seeded."""
    ids = torch.tensor([token for text in training for token in tokenizer(text, verbose=False)["input_ids"]])
    generator = torch.Generator().manual_seed(0)
    optimiser = torch.optim.AdamW(model.parameters(), lr=rate)
    for _ in range(steps):
        starts = torch.randint(len(ids) - 64, (2,), generator=generator)
        batch = torch.stack([ids[start : start + 64] for start in starts])
        model(input_ids=batch, labels=batch).loss.backward()
        optimiser.step()
        optimiser.zero_grad()


def perturbed(_: Subject, model: Model, __: Any, *, name: str) -> Model:
    return perturb(model, name)


RUNGS = (
    Rung("itself", itself),
    Rung("batch of 1", itself, batch_size=1),
    Rung("batch of 3", itself, batch_size=3),
    Rung("batch of 16", itself, batch_size=16),
    Rung("2 threads", itself, threads=2),
    Rung("eager attention", eager),
    *(Rung(name, partial(perturbed, name=name)) for name in PERTURBATIONS),
    Rung("bf16 arithmetic", itself, dtype="bfloat16"),
    Rung("fp16 arithmetic", itself, dtype="float16"),
    Rung("foreign model", lambda subject, *_: subject.foreign()),
    *(Rung(f"fine-tuned {steps} step{'s' * (steps > 1)}", partial(tuned, steps=steps)) for steps in (1, 10, 100)),
)


# --- measuring ---


class Store:
    """The figures of one model, in a JSON file that is replaced as a whole, so it is valid at any moment. Several runs at once
    may add to it, if they measure different views."""

    def __init__(self, subject: str, about: dict[str, Any]) -> None:
        self._path = RESULTS / f"ladder_{subject}.json"
        self._about = {"model": SUBJECTS[subject].name, "prompts": N_PROMPTS, **about}

    @property
    def _rungs(self) -> dict[str, Any]:
        return dict(json.loads(self._path.read_text())["rungs"]) if self._path.exists() else {}

    def has(self, rung: str, view: str) -> bool:
        return view in self._rungs.get(rung, {})

    def put(self, rung: str, view: str, measured: dict[str, Any]) -> None:
        rungs = self._rungs
        rungs.setdefault(rung, {})[view] = measured
        in_order = {rung.name: rungs[rung.name] for rung in RUNGS if rung.name in rungs}
        text = json.dumps(self._about | {"rungs": in_order}, indent=1)
        lists = re.sub(r"\[[^][{}]*\]", lambda match: re.sub(r"\s+", " ", match[0]), text)  # not one line per prompt
        partial_file = self._path.with_suffix(f".partly-{os.getpid()}")
        partial_file.write_text(lists + "\n")
        partial_file.replace(self._path)


def figures(report: ScoreReport) -> dict[str, Any]:
    """The score of every prompt, by metric, to four digits."""
    scores = {name: [float(f"{x:.4g}") for x in report.prompt_scores(name).tolist()] for name in METRICS}
    return {"positions": report.n_positions, "tail_mass": float(f"{report.tail_mass:.4g}"), "scores": scores}


@contextmanager
def threads(n: int) -> Iterator[None]:
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(THREADS)


def measure(name: str, views: tuple[str, ...], rungs: list[str], deadline: float) -> None:
    subject = SUBJECTS[name]
    store = Store(name, machine())
    reference, tokenizer = subject.load()
    recorded: dict[str, Baseline] = {}
    for rung in RUNGS:
        missing = [view for view in views if rung.name in rungs and not store.has(rung.name, view)]
        if not missing:
            continue
        candidate = rung.candidate(subject, reference, tokenizer)
        for view in missing:
            if time.perf_counter() > deadline:
                raise SystemExit("out of time; run it again to continue")
            started = time.perf_counter()
            config = VIEWS[view]
            if view not in recorded:
                recorded[view] = TeacherForcedScorer(config).record(reference, subject.prompts(), tokenizer)
            own_config = replace(config, batch_size=rung.batch_size or config.batch_size, dtype=rung.dtype)
            # Not score_baseline, which refuses another dtype than the recording's.
            run = ScoringRun(own_config, EncodedPrompts(subject.prompts(), tokenizer))
            with threads(rung.threads), opened(candidate, "candidate", own_config) as engine:
                report = run.replay(recorded[view], engine)
            store.put(rung.name, view, figures(report))
            seconds = time.perf_counter() - started
            print(f"{name}, {rung.name}, {view}: tv {report.mean:.3g}, worst {report.max:.3g} ({seconds:.0f} s)", flush=True)


def machine() -> dict[str, Any]:
    return {
        "machine": f"{platform.machine()}, {torch.backends.cpu.get_cpu_capability()}, {THREADS} thread",
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", nargs="+", choices=SUBJECTS, default=list(SUBJECTS))
    parser.add_argument("--views", nargs="+", choices=VIEWS, default=list(VIEWS))
    names = [rung.name for rung in RUNGS]
    parser.add_argument("--rungs", nargs="+", choices=names, metavar="RUNG", default=names)
    parser.add_argument("--limit-s", type=float, default=3600)
    arguments = parser.parse_args()
    transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(THREADS)
    deadline = time.perf_counter() + arguments.limit_s
    for views in PASSES:
        for name in arguments.model:
            measure(name, tuple(view for view in views if view in arguments.views), arguments.rungs, deadline)


if __name__ == "__main__":
    main()
