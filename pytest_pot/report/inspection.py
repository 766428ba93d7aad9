"""What ``python -m pytest_pot`` prints about recordings: facts in JSON types, and as lines for people."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from pytest_pot.baseline.baseline import Baseline
from pytest_pot.baseline.provenance import config_differences, tokenizer_changes
from pytest_pot.baseline.weights_arrays import weights_arrays
from pytest_pot.core.text import printable, quoted
from pytest_pot.engines.distributions import UNKNOWN_VOCAB

if TYPE_CHECKING:  # this imports torch
    from pytest_pot.scoring.baseline_comparison import Overlap

__all__ = ["comparison_lines", "facts", "lines"]

_WORST = 3


def facts(baseline: Baseline, n_bytes: int) -> dict[str, Any]:
    """Provenance, shapes, size, entropy and tail mass of a recording whose file has ``n_bytes``."""
    recorded, printed = baseline.recorded, baseline.weights_print
    entropy, tail_mass, cross_entropy = _averages(baseline)
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
        "weights_print": {
            "n_tensors": 0 if printed is None else len(printed.tensors),
            "n_bytes": sum(array.nbytes for array in weights_arrays(printed).values()),
        },
        "n_bytes": n_bytes,
        "bytes_per_position": n_bytes / baseline.n_positions,
        "entropy": entropy,
        "cross_entropy": cross_entropy,
        "tail_mass": tail_mass,
    }


def _averages(baseline: Baseline) -> tuple[float, float, float]:
    """Entropy over the cells (nats), tail mass, and cross-entropy of the continuation (nats), averaged like a score."""
    per_prompt = []
    for start, stop in zip(baseline.starts, baseline.starts[1:], strict=False):
        top = baseline.over_all(start, stop)
        entropy = -(np.exp(top.log_probs) * top.log_probs).sum(axis=1)
        if top.log_tail is not None:
            entropy -= np.exp(top.log_tail) * top.log_tail
        per_prompt.append((entropy.mean(), top.tail_mass.mean(), -top.targets.mean()))
    means = np.mean(per_prompt, axis=0)
    return float(means[0]), float(means[1]), float(means[2])


def lines(facts: dict[str, Any]) -> list[str]:
    """:func:`facts` as lines for people."""
    config = facts["config"]
    whole = config["top_k"] is None
    cells = "the whole vocabulary" if whole else f"{facts['n_ids']} ids and the tail"
    size = "a vocabulary whose size the server did not tell" if facts["vocab_size"] == UNKNOWN_VOCAB else facts["vocab_size"]
    entries = {
        "reference": f"{facts['reference']}, {facts['label']}",
        "weights": facts["weights"] or "unknown",
        **{f"file {name}": sha256 for name, sha256 in facts["files"].items()},
        **{f"tokenizer {name}": sha256 for name, sha256 in facts["tokenizer"].items()},
        "prompts": facts["prompts"],
        "made with": ", ".join(f"{name} {version}" for name, version in facts["libraries"].items()) + f"; {facts['machine']}",
        "config": ", ".join(f"{name}={value!r}" for name, value in config.items()),
        "holds": f"{facts['n_prompts']} prompts ({facts['n_truncated']} cut on the left), {facts['n_positions']} positions, "
        f"{cells} at each, of {size}",
        "weights print": _weights(**facts["weights_print"]),
        "size": f"{facts['n_bytes']:,} bytes, {facts['bytes_per_position']:.1f} per position",
        "entropy": f"{'' if whole else 'at least '}{facts['entropy']:.4g} nats per position; cross-entropy of the "
        f"continuations {facts['cross_entropy']:.4g} nats per token",
        "tail mass": f"{facts['tail_mass']:.2%} of the probability is outside the recorded ids",
    }
    entries = {printable(name): printable(value) for name, value in entries.items()}
    width = max(len(name) for name in entries)
    return [printable(facts["file"]), *(f"  {name.ljust(width)}  {value}" for name, value in entries.items())]


def _weights(n_tensors: int, n_bytes: int) -> str:
    return f"weights of {n_tensors} tensors ({n_bytes:,} bytes)" if n_tensors else "none"


def comparison_lines(reference: Baseline, candidate: Baseline, overlap: Overlap) -> list[str]:
    """The result of :func:`pytest_pot.scoring.baseline_comparison.compare` as lines for people."""
    sides = {"reference": reference, "candidate": candidate}
    lines = [
        printable(f"{role}  {side.source}: {side.provenance.reference}, {side.provenance.label}, top_k={side.config.top_k}")
        for role, side in sides.items()
    ]
    lines.append(
        f"{overlap.n_prompts} of {reference.n_prompts} prompts and {overlap.n_positions} of {reference.n_positions} positions "
        "have the same tokens in both"
    )
    width = max(len(name) for name in overlap.metrics)
    lines += [f"  {name.ljust(width)}  {value:.6g}" for name, value in overlap.metrics.items()]
    lines.append(
        f"lower bounds: {overlap.unseen[0]:.2%} of the reference's probability and {overlap.unseen[1]:.2%} of the candidate's "
        "is outside the ids that both hold"
    )
    worst = sorted(overlap.scores, key=lambda index: -overlap.scores[index])[:_WORST]
    lines.append("worst prompts, by tv:")
    for index in worst:
        lines.append(f"  {overlap.scores[index]:.3g}  prompt {index}: {quoted(reference.prompts[index].text, 60)}")
    differences = config_differences(reference.config, candidate.config)
    differences += tokenizer_changes(reference.provenance, candidate.provenance)
    if differences:
        lines += ["recorded with different settings (A | B):", *(f"  {_sides(line)}" for line in differences)]
    return lines


def _sides(line: str) -> str:
    return line.replace(" recorded, ", " | ").removesuffix(" now")
