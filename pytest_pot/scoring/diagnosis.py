"""A likely cause of a failure, read from where the divergence is: pure functions of a report.

The thresholds were set on a real model (SmolLM2-135M) damaged in known ways, with 8 to 16 prompts of 32 positions. Rank
correlation of the divergence with the position, and the last third of the continuations over the first: rounding,
quantisation, pruning and noise -0.26 to 0.01 and 0.67 to 1.1; a BOS too many or a first token too few -0.28 to -0.54 and
0.35 to 0.63; another RoPE base 0.32 to 0.37 and 1.5 to 2.2 after prompts of two words, but 0.08 and 1.2 after prompts of 30
tokens, where its effect no longer grows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pytest_pot.engines.distributions import Floats, Ints

if TYPE_CHECKING:
    from pytest_pot.scoring.score_report import ScoreReport

__all__ = ["likely_cause"]

_MIN_POSITIONS = 48
_MIN_PROMPTS = 8
_CORRELATION = 0.2
_GROWS = 1.4
_FADES = 1.55
_ALIKE_CV = 0.5
_UNRELATED_TV = 0.6


def likely_cause(report: ScoreReport) -> str | None:
    """What the pattern of the total variation over prompts and positions suggests; None where it shows no pattern."""
    divergence = [np.asarray(values) for values in report.divergences["tv"]]
    if report.n_positions < _MIN_POSITIONS or not any(values.any() for values in report.divergences["tv"]):
        return None
    return _shifted(report) or _few_prompts(report, divergence) or _trend(report, divergence) or _everywhere(divergence)


def _shifted(report: ScoreReport) -> str | None:
    """The candidate's first choices are the reference's of the position before or after."""
    reference, candidate = ([top.top_ids for top in tops] for tops in report.distributions)
    if _agreement(reference, candidate) > 0.5:
        return None
    if _agreement([ids[:-1] for ids in reference], [ids[1:] for ids in candidate]) > 0.7:
        return "the candidate predicts one position late: its logits, or the tokens it reads, are shifted by one"
    if _agreement([ids[1:] for ids in reference], [ids[:-1] for ids in candidate]) > 0.7:
        return "the candidate predicts one position early: its logits, or the tokens it reads, are shifted by one"
    return None


def _agreement(first: list[Ints], second: list[Ints]) -> float:
    return float(np.mean(np.concatenate(first) == np.concatenate(second)))


def _few_prompts(report: ScoreReport, divergence: list[Floats]) -> str | None:
    """Most of the divergence is in a tenth of the prompts."""
    scores = np.array([values.mean() for values in divergence])
    few = max(1, len(scores) // 10)
    worst = np.argsort(-scores, kind="stable")[:few]
    if len(scores) < _MIN_PROMPTS or scores[worst].sum() < 0.5 * scores.sum() or np.median(scores) > 0.25 * scores.mean():
        return None
    names = ", ".join(str(report.indices[index]) for index in sorted(worst.tolist()))
    share = scores[worst].sum() / scores.sum()
    which = f"prompt {names} alone holds" if few == 1 else f"prompts {names} alone hold"
    return f"{which} {share:.0%} of the divergence: look at what they have in common, and the rest have not"


def _trend(report: ScoreReport, divergence: list[Floats]) -> str | None:
    """The divergence grows or fades along the sequence."""
    places = [tokens.prompt_len + np.arange(tokens.n_positions) for tokens in report.tokens]
    correlation = _rank_correlation(np.concatenate(places), np.concatenate(divergence))
    thirds = [max(1, len(values) // 3) for values in divergence]
    early = np.concatenate([values[:third] for values, third in zip(divergence, thirds, strict=True)]).mean()
    late = np.concatenate([values[-third:] for values, third in zip(divergence, thirds, strict=True)]).mean()
    if correlation > _CORRELATION and late > _GROWS * early:
        return (
            "the divergence grows with the position: look at the position encoding (RoPE base or scaling, position ids) or "
            "the attention window"
        )
    if correlation < -_CORRELATION and early > _FADES * late:
        return (
            "the divergence is there from the first position on and fades as the text goes on: look at what starts the "
            "sequence (a BOS token too many or missing, an offset in the prompt)"
        )
    return None


def _rank_correlation(x: Ints, y: Floats) -> float:
    """Spearman's rank correlation; ties, of which divergences have few, in the order given."""
    ranks = [np.argsort(np.argsort(values, kind="stable"), kind="stable") for values in (x, y)]
    return float(np.corrcoef(ranks[0].astype(np.float64), ranks[1].astype(np.float64))[0, 1])


def _everywhere(divergence: list[Floats]) -> str | None:
    scores = np.array([values.mean() for values in divergence])
    if scores.mean() > _UNRELATED_TV:
        return "the two models have little in common at any position: another model, another vocabulary, or broken weights"
    if len(scores) >= _MIN_PROMPTS and scores.std() < _ALIKE_CV * scores.mean():
        return (
            "all prompts and positions alike: the weights changed (rounding, quantisation, pruning, merging, training); a "
            "wrong position encoding looks alike too, unless the prompts are short"
        )
    return None
