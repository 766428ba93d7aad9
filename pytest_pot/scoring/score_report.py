"""What scoring returns: :class:`ScoreReport`, every metric at every position, and the worst of them with their words."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from pytest_pot.core.config import ScoringConfig
from pytest_pot.engines.distributions import Floats, TopK
from pytest_pot.engines.tokens import Tokens
from pytest_pot.prompts.prompt import Prompt

__all__ = ["ScoreReport", "WorstPosition"]

_CONTEXT_TOKENS = 12


@dataclass(frozen=True)
class WorstPosition:
    """One position: what was read, what came, and what each model made of it.

    Probabilities and choices are the models' own, over their whole vocabularies. Where the tail is renormalised, they are
    those among the reference's likeliest tokens: a probability is relative to the mass of these, and 1 where it would be more,
    as that of a token outside them can be.
    """

    prompt_index: int
    """In the list of prompts that was given."""
    position: int
    """Counted from the continuation's first token, 0."""
    score: float
    context: str
    """The end of the text before the token."""
    token: str
    token_id: int
    reference_probability: float
    """The reference's probability of the token."""
    candidate_probability: float
    reference_choice: str
    """The token that the reference finds likeliest."""
    reference_choice_probability: float
    candidate_choice: str
    candidate_choice_probability: float


@dataclass(frozen=True, eq=False)
class ScoreReport:
    """The divergence of a candidate from its reference on a list of prompts.

    Scores and metrics are in the metric's own unit (nats for ``kl``, ``kl_reverse`` and ``delta_ce``); 0 is "the same".
    """

    config: ScoringConfig
    prompts: Sequence[Prompt]
    """Those that were scored: all, unless a verdict was reached before."""
    indices: Sequence[int]
    """Where each of them stands in the list that was given."""
    tokens: Sequence[Tokens]
    """The ids that both models read, prompt by prompt; also those that the reference drew for a prompt without a
    continuation."""
    divergences: Mapping[str, Sequence[Floats]]
    """Every metric by name: one array [n_positions] per prompt."""
    distributions: tuple[Sequence[TopK], Sequence[TopK]] = field(repr=False)
    """Per prompt, the targets and first choices of reference and candidate; their cells are not kept."""
    tail_masses: Sequence[Floats] = field(repr=False)
    decode: Callable[[list[int]], str] = field(repr=False)
    elapsed_s: float
    batch_size: int
    """The most prompts that ran in one forward; less than asked for where there were no more, or memory ran out."""
    labels: tuple[str, str]
    """Precision and device of reference and candidate."""

    @property
    def metric(self) -> str:
        return self.config.metric

    @property
    def positions(self) -> list[Floats]:
        """The gated metric at every position, one array per prompt."""
        return list(self.divergences[self.metric])

    @property
    def scores(self) -> Floats:
        """[n_prompts], in the order given: the gated metric averaged over each prompt's positions."""
        return self.prompt_scores(self.metric)

    def prompt_scores(self, metric: str) -> Floats:
        """[n_prompts]: any metric averaged over each prompt's positions."""
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
        """The suite mean of every metric by name."""
        return {name: _mean(self.prompt_scores(name)) for name in self.divergences}

    @property
    def kinds(self) -> dict[str, float]:
        """The gated metric by kind of prompt: the mean over the prompts of each kind; prompts without one are left out.

        The kinds are in the order of their first prompts.
        """
        scores: dict[str, list[float]] = {}
        for prompt, score in zip(self.prompts, self.scores.tolist(), strict=True):
            if prompt.kind is not None:
                scores.setdefault(prompt.kind, []).append(score)
        return {kind: float(np.mean(values)) for kind, values in scores.items()}

    @property
    def tail_mass(self) -> float:
        """The reference's probability outside the top-k, averaged like a score; what the cells do not see one by one."""
        return float(np.mean([values.mean() for values in self.tail_masses]))

    @property
    def n_prompts(self) -> int:
        return len(self.prompts)

    @property
    def n_positions(self) -> int:
        return sum(tokens.n_positions for tokens in self.tokens)

    @property
    def n_truncated(self) -> int:
        """How many prompts were cut on the left to fit ``max_length``, or the models' own limit."""
        return sum(tokens.truncated for tokens in self.tokens)

    @property
    def ms_per_prompt(self) -> float:
        """Milliseconds per prompt, everything included: tokenising, both models, the arithmetic."""
        return 1000.0 * self.elapsed_s / self.n_prompts

    def worst(self, n: int = 5) -> list[WorstPosition]:
        """The ``n`` positions where the gated metric is largest, the worst first."""
        ends = np.cumsum([len(values) for values in self.positions])
        flat = np.concatenate(self.positions)
        found = []
        for index in np.argsort(-flat, kind="stable")[:n]:
            prompt = int(np.searchsorted(ends, index, side="right"))
            found.append(self._position(prompt, int(index - ends[prompt] + len(self.positions[prompt]))))
        return found

    def _position(self, prompt: int, position: int) -> WorstPosition:
        tokens = self.tokens[prompt]
        at = tokens.prompt_len + position
        reference, candidate = (models[prompt] for models in self.distributions)
        return WorstPosition(
            prompt_index=self.indices[prompt],
            position=position,
            score=float(self.positions[prompt][position]),
            context=self._text(list(tokens.ids[max(0, at - _CONTEXT_TOKENS) : at])),
            token=self._text([tokens.ids[at]]),
            token_id=tokens.ids[at],
            reference_probability=_probability(reference.targets[position]),
            candidate_probability=_probability(candidate.targets[position]),
            reference_choice=self._text([int(reference.top_ids[position])]),
            reference_choice_probability=_probability(reference.top_log_probs[position]),
            candidate_choice=self._text([int(candidate.top_ids[position])]),
            candidate_choice_probability=_probability(candidate.top_log_probs[position]),
        )

    def _text(self, ids: list[int]) -> str:
        """``ids`` as text. A padded vocabulary has ids that its tokenizer never gives and some tokenizers cannot decode, with
        an error of their own choosing; no report is to fail for that."""
        try:
            return self.decode(ids)
        except Exception:
            return f"<id {ids[0]}>" if len(ids) == 1 else "".join(self._text([token]) for token in ids)

    def to_dict(self) -> dict[str, Any]:
        """The report in plain JSON types."""
        return {
            "metric": self.metric,
            "mean": self.mean,
            "max": self.max,
            "metrics": self.metrics,
            "kinds": self.kinds,
            "tail_mass": self.tail_mass,
            "n_prompts": self.n_prompts,
            "n_positions": self.n_positions,
            "n_truncated": self.n_truncated,
            "elapsed_s": self.elapsed_s,
            "ms_per_prompt": self.ms_per_prompt,
            "batch_size": self.batch_size,
            "reference": self.labels[0],
            "candidate": self.labels[1],
            "config": asdict(self.config),
            "scores": self.scores.tolist(),
            "positions": [values.tolist() for values in self.positions],
            "prompts": [
                {
                    "index": index,
                    "text": prompt.text,
                    "kind": prompt.kind,
                    "prompt_tokens": tokens.prompt_len,
                    "continuation": list(tokens.targets),
                    "truncated": tokens.truncated,
                }
                for index, prompt, tokens in zip(self.indices, self.prompts, self.tokens, strict=True)
            ],
            "worst": [asdict(position) for position in self.worst(5)],
        }


def _mean(values: Floats) -> float:
    """Of the exact sum, rounded once: no order of the values gives another mean."""
    return float(statistics.mean(values.tolist()))


def _probability(log_prob: float) -> float:
    return float(np.exp(min(log_prob, 0.0)))
