"""Sections of speed.py: from ``original`` to ``fastest``, one technique after another, and the time until a verdict."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import torch
from bench import AUTO, Bench, Model, Rows, Way, against

from pytest_pot import ScoreReport, TeacherForcedScorer
from pytest_pot.calibration.perturbations import perturb
from pytest_pot.engines.registry import opened
from pytest_pot.gates.verdict.limits import identity_limits
from pytest_pot.gates.verdict.sequential import SequentialTest
from pytest_pot.prompts.builtin import builtin_prompts
from pytest_pot.prompts.tokenization import EncodedPrompts
from pytest_pot.scoring.run import ScoringRun

__all__ = ["verdicts", "waterfall"]

_EVERY = 25
"""``original`` scores only one in this many prompts of the pool, in order of length: it takes minutes for a hundred."""


class Whole(torch.nn.Module):
    """A model that always returns all logits at all positions."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.model(ids, attention_mask=attention_mask, use_cache=False).logits
        return logits


def waterfall(bench: Bench) -> Rows:
    """(e) From ``original`` to ``fastest``, one technique after another; (f) each relative to its matrix products alone."""
    all_logits = Bench(Whole(bench.reference), Whole(bench.candidate), bench.tokenizer, bench.prompts, bench.rounds)
    renormalised = replace(AUTO, tail="renormalise", top_k=50)
    fewer = replace(renormalised, positions_per_prompt=16)
    ways: dict[str, Way] = {
        "original": bench.original(),
        "in batches, top-k and tail": partial(all_logits.live, AUTO),
        "logits at the needed positions only": partial(bench.live, AUTO),
        "reference recorded": bench.recorded(AUTO),
        "50 rows of the output layer (renormalised)": bench.recorded(renormalised),
        "16 positions, as the preset fastest": bench.recorded(fewer),
    }
    floors = dict(zip(list(ways)[3:], map(bench.floor, (AUTO, renormalised, fewer)), strict=True))
    seconds = bench.time({**ways, **{f"floor of {name}": floor for name, floor in floors.items()}})
    for name in ways:
        floor = against(seconds[f"floor of {name}"], seconds[name])["ratio"] if name in floors else None
        yield {"way": name, **against(seconds["original"], seconds[name]), "floors": floor}


def verdicts(bench: Bench) -> Rows:
    """(e) Time until a verdict at 95 %, on the whole suite in random order, relative to ``original`` on 100 of its prompts."""
    pool = builtin_prompts(None)
    sample = bench.spread(pool, _EVERY)
    scorer = TeacherForcedScorer(AUTO)
    baseline = scorer.record(bench.reference, pool, bench.tokenizer)
    outcomes: dict[str, str] = {}

    def decide(name: str, candidate: Model, tolerance: str) -> ScoreReport:
        limits = identity_limits("tv", tolerance=tolerance)
        test = SequentialTest(limits.max_score, score_clip=limits.max_prompt_score, pool=len(pool))
        run = ScoringRun(AUTO, EncodedPrompts(pool, bench.tokenizer))
        with opened(candidate, "candidate", AUTO) as engine:
            report = run.replay_until(baseline, engine, test)
        outcomes[name] = f"{test.verdict} after {report.n_prompts} prompts"
        return report

    cases = {
        "pruned 20 %, tolerance int8": (perturb(bench.reference, "pruned 20 %"), "int8"),
        "bf16, tolerance half": (bench.candidate, "half"),
    }
    ways: dict[str, Way] = {"original": bench.original(sample)}
    ways |= {name: partial(decide, name, *arguments) for name, arguments in cases.items()}
    seconds = bench.time(ways)
    for name in cases:
        row = against(seconds["original"], seconds[name], len(sample) / 100)
        yield {"candidate": name, **row, "times less": 1 / row["ratio"], "verdict": outcomes[name]}
