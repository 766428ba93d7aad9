"""What scoring measured: :class:`ScoreFigures`, with every metric at every position, and the worst positions as text."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pytest_pot.core.brief import Brief
from pytest_pot.core.config import ScoringConfig
from pytest_pot.core.validation import one_of
from pytest_pot.engines.base import ModelDescription, Room
from pytest_pot.engines.distributions import Floats, TopK
from pytest_pot.engines.tokens import Tokens
from pytest_pot.prompts.prompt import Prompt
from pytest_pot.scoring.position_statistics import DeltaP, SameTop, delta_p, percentiles, same_top

__all__ = ["ScoreFigures", "WorstPosition"]

_CONTEXT_TOKENS = 12


@dataclass(frozen=True)
class WorstPosition:
    """One position: the context, the continuation's token, and what each model predicts.

    Probabilities and choices are over each model's whole vocabulary. With ``tail="renormalise"``, choices are among the
    reference's top-k, and probabilities are relative to its mass. The probability of a token outside the top-k can then be
    above 1; it is shown as 1.
    """

    prompt_index: int
    """Index in the caller's list of prompts."""
    position: int
    """0 is the first token of the continuation."""
    score: float
    context: str
    """The end of the text before the token."""
    token: str
    token_id: int
    reference_probability: float
    """The reference's probability of the token."""
    candidate_probability: float
    reference_choice: str
    """The reference's likeliest token."""
    reference_choice_id: int
    reference_choice_probability: float
    candidate_choice: str
    candidate_choice_id: int
    candidate_choice_probability: float


@dataclass(frozen=True, eq=False, repr=False)
class ScoreFigures(Brief):
    """The divergence of a candidate from its reference on a list of prompts, as numbers; what shows them is in
    :class:`~pytest_pot.ScoreReport`.

    Scores have the unit of their metric (nats for ``kl``, ``kl_reverse`` and ``delta_ce``); 0 means that the models agree.
    """

    config: ScoringConfig
    prompts: Sequence[Prompt]
    """The prompts that were scored: all of them, unless a verdict came earlier."""
    indices: Sequence[int]
    """The index of each of these prompts in the caller's list."""
    tokens: Sequence[Tokens]
    """The ids that both models read, prompt by prompt. They include the continuations that the reference sampled for prompts
    without one."""
    divergences: Mapping[str, Sequence[Floats]]
    """Each metric by name, as one array [n_positions] per prompt."""
    distributions: tuple[Sequence[TopK], Sequence[TopK]]
    """Reference and candidate: targets and likeliest tokens of each prompt, without the cells."""
    tail_masses: Sequence[Floats]
    decode: Callable[[list[int]], str]
    elapsed_s: float
    batch_size: int
    """Prompts per forward pass: the configured size, or less if memory ran out. With ``"auto"``, those of the largest batch
    since memory last ran out."""
    labels: tuple[str, str]
    """Precision and device of reference and candidate."""
    ran: tuple[ModelDescription | None, ModelDescription | None] = (None, None)
    """What ran as reference and candidate; None where it was recorded, or where an engine does not say."""
    batches: Sequence[Sequence[int]] = ()
    """The prompts of each batch that both models ran, as indices in the caller's list, in the order in which they ran. Prompts
    that ran once more alone, to measure the noise floor, are not among them."""
    room: Room | None = None
    """What the batches were planned with, as it was known at the end; None where the batch size was given, or where they were
    those of a recording."""

    n_ids: int | None = None
    """The reference's likeliest ids that were compared one by one: ``config.top_k``, or fewer where the reference tells no
    more; None if it was the whole vocabulary."""
    unseens: Sequence[tuple[Floats, Floats]] = ()
    """Of each prompt [n_positions]: the probability, of reference and candidate, outside the ids that both know. Empty where
    the candidate knows the probability of each of the reference's ids."""
    to_tell_more: str | None = None
    """How the candidate's user makes its engine tell more ids; None where that is not known."""

    @property
    def metric(self) -> str:
        return self.config.metric

    @property
    def positions(self) -> list[Floats]:
        """The gated metric at every position, one array per prompt."""
        return list(self.divergences[self.metric])

    @property
    def scores(self) -> Floats:
        """[n_prompts], in the order of ``prompts``: the gated metric, averaged over each prompt's positions."""
        return self.prompt_scores(self.metric)

    def prompt_scores(self, metric: str) -> Floats:
        """[n_prompts]: the metric with this name, averaged over each prompt's positions."""
        return np.array([values.mean() for values in self.divergences[metric]], dtype=np.float64)

    @property
    def mean(self) -> float:
        """The suite's score: the mean over prompts."""
        return _mean(self.scores)

    @property
    def max(self) -> float:
        """The worst prompt's score."""
        return float(self.scores.max())

    @property
    def metrics(self) -> dict[str, float]:
        """Each metric by name, averaged over the suite like a score."""
        return {name: _mean(self.prompt_scores(name)) for name in self.divergences}

    @property
    def kinds(self) -> dict[str, float]:
        """The gated metric, averaged over the prompts of each kind; prompts without a kind do not count.

        The kinds are in the order of their first prompts.
        """
        scores: dict[str, list[float]] = {}
        for prompt, score in zip(self.prompts, self.scores.tolist(), strict=True):
            if prompt.kind is not None:
                scores.setdefault(prompt.kind, []).append(score)
        return {kind: float(np.mean(values)) for kind, values in scores.items()}

    @property
    def tail_mass(self) -> float:
        """The reference's probability outside the top-k, which is merged into one cell; averaged like a score."""
        return float(np.mean([values.mean() for values in self.tail_masses]))

    @property
    def unseen(self) -> tuple[float, float] | None:
        """The probability, of reference and candidate, outside the ids that both know, which is merged into one cell; averaged
        like a score. None where the candidate knows the probability of each of the reference's ids."""
        if not self.unseens:
            return None
        reference, candidate = (float(np.mean([pair[side].mean() for pair in self.unseens])) for side in (0, 1))
        return reference, candidate

    def percentiles(self, metric: str) -> dict[float, float]:
        """The metric with this name, over all positions: its value by percentile (0, 1, 5, 10, 50, 90, 95, 99, 99.9, 100)."""
        one_of("metric", metric, tuple(self.divergences))
        return percentiles(np.concatenate(self.divergences[metric]))

    @property
    def renormalised(self) -> bool:
        """Whether all probabilities are relative to the mass of the compared ids (``tail="renormalise"``)."""
        return self.config.tail == "renormalise" and self.n_ids is not None

    @property
    def delta_p(self) -> DeltaP | None:
        """The change of the probability of the continuation's token, in percentage points.

        None where probabilities are :attr:`renormalised`: then the probability over the whole vocabulary is not known.
        """
        return None if self.renormalised else delta_p(*self.distributions)

    @property
    def same_top(self) -> SameTop:
        """The share of positions at which both models have the same likeliest token; where probabilities are
        :attr:`renormalised`, the same likeliest token of those compared."""
        return same_top(*self.distributions)

    @property
    def n_prompts(self) -> int:
        return len(self.prompts)

    @property
    def n_positions(self) -> int:
        return sum(tokens.n_positions for tokens in self.tokens)

    @property
    def n_truncated(self) -> int:
        """Number of prompts that were cut on the left to fit ``max_length`` or the models' own maximum length."""
        return sum(tokens.truncated for tokens in self.tokens)

    @property
    def ms_per_prompt(self) -> float:
        """Milliseconds per prompt, including everything: tokenising, both models, arithmetic."""
        return 1000.0 * self.elapsed_s / self.n_prompts

    @property
    def batch_shapes(self) -> list[tuple[int, int]]:
        """Prompts, and tokens with their padding, of each of :attr:`batches`."""
        lengths = {index: len(tokens.ids) for index, tokens in zip(self.indices, self.tokens, strict=True)}
        return [(len(batch), len(batch) * max(lengths[index] for index in batch)) for batch in self.batches]

    @property
    def planned_with(self) -> dict[str, int] | None:
        """The figures of :attr:`room` by name, in tokens; see :class:`~pytest_pot.engines.base.Room`."""
        return None if self.room is None else {name: getattr(self.room, name) for name in ("launch", "fixed", "most")}

    def worst(self, n: int = 5) -> list[WorstPosition]:
        """The ``n`` positions with the largest values of the gated metric, worst first."""
        ends = np.cumsum([len(values) for values in self.positions])
        flat = np.concatenate(self.positions)
        positions = []
        for index in np.argsort(-flat, kind="stable")[:n]:
            prompt = int(np.searchsorted(ends, index, side="right"))
            positions.append(self.at(prompt, int(index - ends[prompt] + len(self.positions[prompt]))))
        return positions

    def at(self, prompt: int, position: int) -> WorstPosition:
        """One position of ``prompts[prompt]``."""
        tokens = self.tokens[prompt]
        index = tokens.prompt_len + position
        reference, candidate = (models[prompt] for models in self.distributions)
        choices = int(reference.top_ids[position]), int(candidate.top_ids[position])
        return WorstPosition(
            prompt_index=self.indices[prompt],
            position=position,
            score=float(self.positions[prompt][position]),
            context=self.text_of(list(tokens.ids[max(0, index - _CONTEXT_TOKENS) : index])),
            token=self.text_of([tokens.ids[index]]),
            token_id=tokens.ids[index],
            reference_probability=_probability(reference.targets[position]),
            candidate_probability=_probability(candidate.targets[position]),
            reference_choice=self.text_of([choices[0]]),
            reference_choice_id=choices[0],
            reference_choice_probability=_probability(reference.top_log_probs[position]),
            candidate_choice=self.text_of([choices[1]]),
            candidate_choice_id=choices[1],
            candidate_choice_probability=_probability(candidate.top_log_probs[position]),
        )

    def text_of(self, ids: list[int]) -> str:
        """``ids`` as text, or as ``<id 7>`` if the tokenizer cannot decode them.

        A padded vocabulary has ids that its tokenizer never returns. Some tokenizers raise an error of any kind for such an id,
        but a report must not fail because of it.
        """
        try:
            return self.decode(ids)
        except Exception:
            return f"<id {ids[0]}>" if len(ids) == 1 else "".join(self.text_of([token]) for token in ids)


def _mean(values: Floats) -> float:
    """The mean from the exact sum, rounded once, so that it does not depend on the order of the values."""
    return float(statistics.mean(values.tolist()))


def _probability(log_prob: float) -> float:
    return float(np.exp(min(log_prob, 0.0)))
