"""Sections of speed.py: from the plain way to a verdict, one technique after the other."""

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
"""Of the pool sorted by length, each so manieth prompt stands for all: ``original`` takes minutes for a hundred."""


class Whole(torch.nn.Module):
    """A model that gives all logits at all positions, whatever it is asked for."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.model(ids, attention_mask=attention_mask, use_cache=False).logits
        return logits


def waterfall(bench: Bench) -> Rows:
    """(e) From ``original`` to ``fastest``, one technique after the other; (f) and over the products that each cannot spare."""
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
    taken = bench.time({**ways, **{f"floor of {name}": floor for name, floor in floors.items()}})
    for name in ways:
        floor = against(taken[f"floor of {name}"], taken[name])["ratio"] if name in floors else None
        yield {"way": name, **against(taken["original"], taken[name]), "floors": floor}


def verdicts(bench: Bench) -> Rows:
    """(e) Until a verdict at 95 %, in random order out of the whole suite, against ``original`` on 100 prompts of that."""
    pool = builtin_prompts(None)
    sample = bench.spread(pool, _EVERY)
    scorer = TeacherForcedScorer(AUTO)
    baseline = scorer.record(bench.reference, pool, bench.tokenizer)
    reached: dict[str, str] = {}

    def decided(name: str, candidate: Model, tolerance: str) -> ScoreReport:
        limits = identity_limits("tv", tolerance=tolerance)
        test = SequentialTest(limits.max_score, score_clip=limits.max_prompt_score, pool=len(pool))
        run = ScoringRun(AUTO, EncodedPrompts(pool, bench.tokenizer))
        with opened(candidate, "candidate", AUTO) as engine:
            report = run.replay_until(baseline, engine, test)
        reached[name] = f"{test.verdict} after {report.n_prompts} prompts"
        return report

    changed = {
        "pruned 20 %, tolerance int8": (perturb(bench.reference, "pruned 20 %"), "int8"),
        "bf16, tolerance half": (bench.candidate, "half"),
    }
    ways: dict[str, Way] = {"original": bench.original(sample)}
    ways |= {name: partial(decided, name, *arguments) for name, arguments in changed.items()}
    taken = bench.time(ways)
    for name in changed:
        row = against(taken["original"], taken[name], len(sample) / 100)
        yield {"candidate": name, **row, "times less": 1 / row["ratio"], "verdict": reached[name]}
