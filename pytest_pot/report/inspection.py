"""What ``python -m pytest_pot`` prints of recordings: facts as plain JSON types, and the same as lines for people."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np

from pytest_pot.baseline.baseline import Baseline
from pytest_pot.baseline.provenance import config_differences, tokenizer_differences
from pytest_pot.core.text import shorten
from pytest_pot.scoring.baseline_comparison import Overlap

__all__ = ["comparison_lines", "facts", "lines"]

_WORST = 3


def facts(baseline: Baseline, n_bytes: int) -> dict[str, Any]:
    """Provenance, shapes, size, entropy and tail mass of a recording whose file has ``n_bytes``."""
    recorded = baseline.recorded
    entropy, tail, surprise = _averages(baseline)
    return {
        "file": baseline.source,
        **baseline.provenance.to_dict(),
        "config": asdict(baseline.config),
        "n_prompts": baseline.n_prompts,
        "n_positions": baseline.n_positions,
        "n_truncated": sum(tokens.truncated for tokens in baseline.tokens),
        "n_ids": recorded.values.shape[1],
        "vocab_size": baseline.vocab_size,
        "types": {"ids": None if recorded.ids is None else str(recorded.ids.dtype), "values": str(recorded.values.dtype)},
        "n_bytes": n_bytes,
        "bytes_per_position": n_bytes / baseline.n_positions,
        "entropy": entropy,
        "cross_entropy": surprise,
        "tail_mass": tail,
    }


def _averages(baseline: Baseline) -> tuple[float, float, float]:
    """Entropy over the cells, tail mass and cross-entropy of the continuation, averaged like a score; nats."""
    per_prompt = []
    for start, stop in zip(baseline.starts, baseline.starts[1:], strict=False):
        top = baseline.over_all(start, stop)
        entropy = -(np.exp(top.log_probs) * top.log_probs).sum(axis=1)
        if top.log_tail is not None:
            entropy -= np.exp(top.log_tail) * top.log_tail
        per_prompt.append((entropy.mean(), top.tail_mass.mean(), -top.targets.mean()))
    means = np.mean(per_prompt, axis=0)
    return float(means[0]), float(means[1]), float(means[2])


def lines(found: dict[str, Any]) -> list[str]:
    """:func:`facts` for people."""
    config = found["config"]
    whole = config["top_k"] is None
    cells = "the whole vocabulary" if whole else f"{found['n_ids']} ids and the tail"
    told = {
        "reference": f"{found['reference']}, {found['label']}",
        "weights": found["weights"] or "not known",
        **{f"file {name}": sha256 for name, sha256 in found["files"].items()},
        **{f"tokenizer {name}": sha256 for name, sha256 in found["tokenizer"].items()},
        "prompts": found["prompts"],
        "made with": ", ".join(f"{name} {version}" for name, version in found["libraries"].items()) + f"; {found['machine']}",
        "config": ", ".join(f"{name}={value!r}" for name, value in config.items()),
        "holds": f"{found['n_prompts']} prompts ({found['n_truncated']} cut on the left), {found['n_positions']} positions, "
        f"{cells} at each, of {found['vocab_size']}",
        "size": f"{found['n_bytes']:,} bytes, {found['bytes_per_position']:.1f} a position",
        "entropy": f"{'' if whole else 'at least '}{found['entropy']:.4g} nats a position; of the continuations, "
        f"{found['cross_entropy']:.4g} nats a token",
        "tail mass": f"{found['tail_mass']:.2%} of the probability is not seen id by id",
    }
    width = max(len(name) for name in told)
    return [found["file"], *(f"  {name.ljust(width)}  {value}" for name, value in told.items())]


def comparison_lines(reference: Baseline, candidate: Baseline, overlap: Overlap) -> list[str]:
    """What :func:`pytest_pot.scoring.baseline_comparison.compare` found, for people."""
    sides = {"reference": reference, "candidate": candidate}
    found = [
        f"{role}  {side.source}: {side.provenance.reference}, {side.provenance.label}, top_k={side.config.top_k}"
        for role, side in sides.items()
    ]
    found.append(
        f"{overlap.n_prompts} of {reference.n_prompts} prompts and {overlap.n_positions} of {reference.n_positions} positions "
        "have the same tokens in both"
    )
    width = max(len(name) for name in overlap.metrics)
    found += [f"  {name.ljust(width)}  {value:.6g}" for name, value in overlap.metrics.items()]
    found.append(
        f"lower bounds: not seen id by id were {overlap.unseen[0]:.2%} of the reference's probability and "
        f"{overlap.unseen[1]:.2%} of the candidate's"
    )
    worst = sorted(overlap.scores, key=lambda index: -overlap.scores[index])[:_WORST]
    found.append("worst prompts, by tv:")
    for index in worst:
        found.append(f"  {overlap.scores[index]:.3g}  prompt {index}: '{shorten(reference.prompts[index].text, 60)}'")
    differ = config_differences(reference.config, candidate.config)
    differ += tokenizer_differences(reference.provenance.tokenizer, candidate.provenance.tokenizer)
    if differ:
        found += ["they were not recorded alike (A's first):", *(f"  {_sides(line)}" for line in differ)]
    return found


def _sides(line: str) -> str:
    return line.replace(" recorded, ", " | ").removesuffix(" now")
