"""Guess the likely cause of a failure from the pattern of the divergence over prompts and positions.

We set the thresholds on a real model (SmolLM2-135M) with known damage, on 8 to 16 prompts of 32 positions. We measured the rank
correlation of the divergence with the position, and the divergence in the last third of the continuations over that in the
first third:

============================================  ==============  ============
damage                                        correlation     last / first
============================================  ==============  ============
rounding, quantisation, pruning, noise        -0.26 to 0.01   0.67 to 1.1
an extra BOS token or a missing first token   -0.28 to -0.54  0.35 to 0.63
another RoPE base, prompts of two words       0.32 to 0.37    1.5 to 2.2
another RoPE base, prompts of 30 tokens       0.08            1.2
============================================  ==============  ============

After 30 tokens, the effect of another RoPE base no longer grows.

A wrong position encoding hardly shows in the first tokens, which have few positions to tell apart. With prompts of two words,
the first twentieth of the positions had this share of the divergence of the later half: 0.12 to 0.15 with another RoPE base
(0.13 to 0.31 on tiny random models), and 0.46 or more with a low-rank adapter of the attention of tiny models applied twice. So
divergence that grows is put down to the position encoding only below a third.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np

from pytest_pot.core.text import number
from pytest_pot.engines.distributions import Floats, Ints

if TYPE_CHECKING:
    from pytest_pot.engines.module_differences import ModuleDifference
    from pytest_pot.scoring.score_report import ScoreReport

__all__ = ["likely_cause"]

_MIN_POSITIONS = 48
_MIN_PROMPTS = 8
_MIN_CORRELATION = 0.2
_MIN_LATE_OVER_EARLY = 1.4
_MIN_EARLY_OVER_LATE = 1.55
_FIRST_SHARE, _MIN_FIRST = 0.05, 8
_MAX_FIRST_OVER_LATER = 1 / 3
_MAX_VARIATION = 0.5
"""Coefficient of variation of the prompts' scores up to which the prompts count as alike."""
_UNRELATED_TV = 0.6
_ROUNDING_TV = 1e-4
"""Total variation up to which another device or kernel explains a difference: the tolerance ``numeric``."""

_HALF_ROUNDING_TV = 1e-3
"""The same in half precision."""

_CACHE_FACTOR = 10
"""How much further from the reference later positions must be than first ones, so that we name the cache as the cause."""

_START_OF_SEQUENCE = (
    "the divergence is large from the first position on and fades along the text: look at the start of the sequence (an extra "
    "or missing BOS token, an offset in the prompt)"
)

_OF_POSITIONS = re.compile(r"rotary|rope|pos_?emb|position|wpe|alibi|attention|attn|mask|window", re.IGNORECASE)
"""Parts of the names of modules, classes and arguments that tell positions apart."""


def likely_cause(report: ScoreReport, changed: bool | None = None, first: ModuleDifference | None = None) -> str | None:
    """The likely cause, from the pattern of the total variation over prompts and positions; None if there is no pattern.

    Args:
        changed: whether weights or configuration are known to have changed; None where that is not known. If they have, only
            what they cannot explain is guessed: the cache, and positions that are shifted by one. If they have not, no guess
            blames them.
        first: the module where the difference is known to start. No guess is made of another start then: of the position
            encoding only if it is a module of positions or of attention, of the start of the sequence not at all.
    """
    divergence = [np.asarray(values) for values in report.divergences["tv"]]
    by_rounding = None if changed else _run_differently(report, divergence)
    if by_rounding is not None:
        return by_rounding
    by_cache = _by_cache(report, divergence)
    if by_cache is not None:
        return by_cache
    if report.n_positions < _MIN_POSITIONS or not any(values.any() for values in report.divergences["tv"]):
        return None
    shifted = _shifted(report)
    if shifted is not None or changed:
        return shifted
    blames_weights = changed is None
    few = _few_prompts(report, divergence)
    if few is not None:
        return few
    may_be_positions = first is None or _is_of_positions(first)
    trend = _trend(report, divergence, blames_weights) if may_be_positions else None
    if trend == _START_OF_SEQUENCE and first is not None:
        trend = None
    return trend or (_everywhere(divergence, may_be_positions) if blames_weights else None)


def _is_of_positions(module: ModuleDifference) -> bool:
    names = (module.name.rpartition(".")[2], module.module_class, module.argument or "")
    return any(_OF_POSITIONS.search(name) for name in names)


def _run_differently(report: ScoreReport, divergence: list[Floats]) -> str | None:
    """The difference is as small as rounding, and the models ran on different devices or in different precisions."""
    reference, candidate = (label.partition(",")[0] for label in report.labels)
    mean = float(np.mean([values.mean() for values in divergence]))
    if reference == candidate or not 0 < mean <= _ROUNDING_TV:
        return None
    return (
        f"the reference ran in {reference} and the candidate in {candidate}, which round differently: a difference of this "
        "size says nothing about the weights. Run both alike (--pot-device, --pot-dtype), or use the tolerance 'numeric'"
    )


def _by_cache(report: ScoreReport, divergence: list[Floats]) -> str | None:
    """Read token by token, the first position of each continuation is the only one that does not depend on the cache."""
    if report.config.path != "decode" or all(len(values) == 1 for values in divergence):
        return None
    first = float(np.mean([values[0] for values in divergence]))
    later = float(np.mean(np.concatenate([values[1:] for values in divergence])))
    rounding = _HALF_ROUNDING_TV if report.labels[1].startswith(("float16", "bfloat16")) else _ROUNDING_TV
    if later <= _CACHE_FACTOR * max(first, rounding):
        return None
    return (
        f"the cache: the first token after each prompt, which needs none, has a mean tv of {number(first)}, and all later "
        f"tokens, read through the candidate's cache, {number(later)}. With path='prefill' the same weights may pass"
    )


def _shifted(report: ScoreReport) -> str | None:
    """The candidate's first choices are those of the reference one position earlier or later."""
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
    """A tenth of the prompts has most of the divergence."""
    scores = np.array([values.mean() for values in divergence])
    few = max(1, len(scores) // 10)
    worst = np.argsort(-scores, kind="stable")[:few]
    if len(scores) < _MIN_PROMPTS or scores[worst].sum() < 0.5 * scores.sum() or np.median(scores) > 0.25 * scores.mean():
        return None
    indices = ", ".join(str(report.indices[index]) for index in sorted(worst.tolist()))
    share = scores[worst].sum() / scores.sum()
    if few == 1:
        return f"prompt {indices} alone has {share:.0%} of the divergence: look at what sets it apart from the other prompts"
    return (
        f"prompts {indices} alone have {share:.0%} of the divergence: look at what they have in common and the other prompts "
        "do not have"
    )


def _trend(report: ScoreReport, divergence: list[Floats], blames_weights: bool) -> str | None:
    """The divergence grows or fades along the sequence."""
    indices = [tokens.prompt_len + np.arange(tokens.n_positions) for tokens in report.tokens]
    correlation = _rank_correlation(np.concatenate(indices), np.concatenate(divergence))
    thirds = [max(1, len(values) // 3) for values in divergence]
    early = np.concatenate([values[:third] for values, third in zip(divergence, thirds, strict=True)]).mean()
    late = np.concatenate([values[-third:] for values, third in zip(divergence, thirds, strict=True)]).mean()
    if correlation > _MIN_CORRELATION and late > _MIN_LATE_OVER_EARLY * early:
        if not _starts_from_nothing(np.concatenate(indices), np.concatenate(divergence)):
            cause = (
                "the divergence grows along the text, but is there from the first tokens on: the weights changed (merging, "
                "training, an adapter applied twice or not at all)"
            )
            return cause if blames_weights else None
        return (
            "the divergence grows with the position: look at the position encoding (RoPE base or scaling, position ids) or "
            "the attention window"
        )
    if correlation < -_MIN_CORRELATION and early > _MIN_EARLY_OVER_LATE * late:
        return _START_OF_SEQUENCE
    return None


def _starts_from_nothing(indices: Ints, divergence: Floats) -> bool:
    """Whether the divergence is small at the first indices that are compared.

    The first tokens have almost no positions to tell apart, and an attention window holds all of them.
    """
    order = np.argsort(indices, kind="stable")
    first = max(_MIN_FIRST, int(_FIRST_SHARE * len(order)))
    later: Floats = divergence[order[len(order) // 2 :]]
    return bool(divergence[order[:first]].mean() < _MAX_FIRST_OVER_LATER * later.mean())


def _rank_correlation(x: Ints, y: Floats) -> float:
    """Spearman's rank correlation. Ties, which are rare in divergences, are ranked by index."""
    ranks = [np.argsort(np.argsort(values, kind="stable"), kind="stable") for values in (x, y)]
    return float(np.corrcoef(ranks[0].astype(np.float64), ranks[1].astype(np.float64))[0, 1])


def _everywhere(divergence: list[Floats], may_be_positions: bool) -> str | None:
    scores = np.array([values.mean() for values in divergence])
    if scores.mean() > _UNRELATED_TV:
        return (
            "the two models have little in common at any position: the candidate may be another model, or have another "
            "vocabulary or broken weights"
        )
    if len(scores) >= _MIN_PROMPTS and scores.std() < _MAX_VARIATION * scores.mean():
        weights = "all prompts and positions alike: the weights changed (rounding, quantisation, pruning, merging, training)"
        positions = "; a wrong position encoding looks the same, unless the prompts are short"
        return weights + positions * may_be_positions
    return None
