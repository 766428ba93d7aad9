"""Measure the ladder: by how much known changes move two real trained models, in every metric.

Writes results/ladder_<model>.json after every measurement, and measures only what is not there yet: stop it when you like,
run it again to go on. ladder_report.py makes the tables.

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
from pytest_pot.core.config import METRICS
from pytest_pot.prompts.prompt import builtin_prompts

sys.path += [str(Path(__file__).parents[2] / "examples"), str(Path(__file__).parent)]

import smollm2
import stories15m

RESULTS = Path(__file__).parent / "results"
N_PROMPTS = 32
VIEWS = {
    "exact": ScoringConfig(top_k=None, batch_size=8),
    **{preset: ScoringConfig.preset(preset) for preset in ("balanced", "fastest", "original", "accurate")},
}
"""How every rung is looked at: the whole vocabulary at 32 positions, which gives the figures, and the presets, for their
verdicts."""
PASSES = (("exact",), ("balanced", "fastest"), ("original",), ("accurate",))
"""The figures of all models come first."""
THREADS = 1
"""Of the reference and of every rung that does not say otherwise: a busy machine has no two cores free at once."""

Model = torch.nn.Module

# --- the models ---


@dataclass(frozen=True)
class Subject:
    """A reference, what it is measured on, and another model with its tokenizer."""

    name: str
    load: Callable[[], tuple[Model, Any]]
    prompts: Callable[[], list[Prompt]]
    training: Callable[[], list[str]]
    """Texts that are not measured on."""
    foreign: Callable[[], Model]


def suite(*kinds: str) -> list[Prompt]:
    return [prompt for prompt in builtin_prompts(None) if prompt.kind != "long" and (not kinds or prompt.kind in kinds)]


def texts(prompts: list[Prompt]) -> list[str]:
    return [f"{prompt.text}{prompt.continuation}" for prompt in prompts]


def foreign_story_teller() -> Model:
    """Two layers, trained on the suite's plain English for a minute."""

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
    """One way to be another model, or the same one computed in another way."""

    name: str
    candidate: Callable[[Subject, Model, Any], Model]
    batch_size: int | None = None
    threads: int = THREADS
    dtype: str = "auto"
    """Of the arithmetic; the reference's is float32."""


def itself(_: Subject, model: Model, __: Any) -> Model:
    return model


def eager(subject: Subject, _: Model, __: Any) -> Model:
    model = subject.load()[0]
    assert isinstance(model, PreTrainedModel)
    model.set_attn_implementation("eager")
    return model


def tuned(subject: Subject, model: Model, tokenizer: Any, *, steps: int) -> Model:
    """Kept, since two passes ask for it."""

    def train(target: Path) -> None:
        trained: Any = subject.load()[0]
        fine_tune(trained, tokenizer, subject.training(), steps=steps, rate=2e-5)
        trained.save_pretrained(target)

    folder = smollm2.folder(f"{subject.name.lower()}-tuned-{steps}", train)
    return LlamaForCausalLM.from_pretrained(folder)


def fine_tune(model: Model, tokenizer: Any, training: list[str], *, steps: int, rate: float) -> None:
    """AdamW on random stretches of 64 tokens, two at a time; the order is seeded."""
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
    """The figures of one model, in a JSON file that is whole at every moment. Several runs may add to it, each other views."""

    def __init__(self, subject: str, about: dict[str, Any]) -> None:
        self._path = RESULTS / f"ladder_{subject}.json"
        self._about = {"model": SUBJECTS[subject].name, "prompts": N_PROMPTS, **about}

    @property
    def _rungs(self) -> dict[str, Any]:
        return dict(json.loads(self._path.read_text())["rungs"]) if self._path.exists() else {}

    def has(self, rung: str, view: str) -> bool:
        return view in self._rungs.get(rung, {})

    def put(self, rung: str, view: str, found: dict[str, Any]) -> None:
        rungs = self._rungs
        rungs.setdefault(rung, {})[view] = found
        in_order = {rung.name: rungs[rung.name] for rung in RUNGS if rung.name in rungs}
        text = json.dumps(self._about | {"rungs": in_order}, indent=1)
        lists = re.sub(r"\[[^][{}]*\]", lambda match: re.sub(r"\s+", " ", match[0]), text)  # a prompt's score needs no line
        partly = self._path.with_suffix(f".partly-{os.getpid()}")
        partly.write_text(lists + "\n")
        partly.replace(self._path)


def figures(report: ScoreReport) -> dict[str, Any]:
    """Every prompt's score by metric, to four digits."""
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
                raise SystemExit("out of time; run it again to go on")
            started = time.perf_counter()
            config = VIEWS[view]
            if view not in recorded:
                recorded[view] = TeacherForcedScorer(config).record(reference, subject.prompts(), tokenizer)
            now = replace(config, batch_size=rung.batch_size or config.batch_size, dtype=rung.dtype)
            with threads(rung.threads):  # score_fresh: another dtype than the recording's is what some rungs are about
                report = TeacherForcedScorer(now).score_fresh(recorded[view], candidate, tokenizer, started=started)
            store.put(rung.name, view, figures(report))
            taken = time.perf_counter() - started
            print(f"{name}, {rung.name}, {view}: tv {report.mean:.3g}, worst {report.max:.3g} ({taken:.0f} s)", flush=True)


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
