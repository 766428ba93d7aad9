"""The scorer: prompts -> token ids -> both models' distributions at the same ids -> divergences -> a report."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from pytest_pot.comparison import Comparison, Progress
from pytest_pot.config import ScoringConfig
from pytest_pot.engines.base import Engine
from pytest_pot.prompts import Prompt, as_prompts
from pytest_pot.scores import ScoreReport
from pytest_pot.tokens import Tokens, check_same_encoding, fit, tokenise

__all__ = ["TeacherForcedScorer"]

_SEED = 0
"""Of the continuations that a reference draws; fixed, so that a bare prompt means the same tokens every time."""


class TeacherForcedScorer:
    """Compares two causal language models by teacher forcing: both read the same tokens, nothing is generated.

    Args:
        config: what is compared; the preset ``balanced`` by default.
        progress: called with (prompts done, prompts in all) after every batch.
    """

    def __init__(self, config: ScoringConfig | None = None, *, progress: Progress | None = None) -> None:
        self.config = ScoringConfig() if config is None else config
        self._progress = progress

    def score_batch(
        self,
        reference: Any,
        candidate: Any,
        prompts: Iterable[str | Prompt],
        tokenizer: Any,
        *,
        candidate_tokenizer: Any = None,
    ) -> ScoreReport:
        """Score ``candidate`` against ``reference`` on ``prompts``.

        Args:
            reference, candidate: a transformers causal LM, any ``torch.nn.Module`` whose forward returns logits
                [batch, length, vocab] or an object with ``.logits``, or an :class:`~pytest_pot.engines.base.Engine`.
                Both are left as they were: mode, device, dtype, weights.
            prompts: strings or :class:`Prompt`; one without a continuation is continued by the reference, sampled at
                temperature 1 with a fixed seed.
            tokenizer: makes the token ids that both models read.
            candidate_tokenizer: the candidate's own, where it has one: it must encode every prompt as ``tokenizer`` does.

        Raises:
            PotError: there is nothing to score; the tokenizers disagree; an id is outside a vocabulary; a log-probability
                is NaN or infinite; one prompt alone does not fit into memory.
        """
        started = time.perf_counter()
        prompts = as_prompts(prompts)
        if candidate_tokenizer is not None:
            check_same_encoding(prompts, tokenizer, candidate_tokenizer)
        with self._engine(reference, "reference") as ref, self._engine(candidate, "candidate") as cand:
            tokens = self._tokens(prompts, tokenizer, ref, cand)
            comparison = Comparison(self.config, ref, cand, prompts, tokens, self._progress)
            results = comparison.run()
            labels = ref.label, cand.label
        return ScoreReport(
            config=self.config,
            prompts=tuple(prompts),
            tokens=tuple(tokens),
            divergences={name: [result.divergences[name] for result in results] for name in results[0].divergences},
            distributions=([result.reference for result in results], [result.candidate for result in results]),
            tail_masses=[result.tail_mass for result in results],
            decode=tokenizer.decode,
            elapsed_s=time.perf_counter() - started,
            batch_size=comparison.batch_size,
            labels=labels,
        )

    def _engine(self, model: Any, role: str) -> AbstractContextManager[Engine]:
        if isinstance(model, Engine):
            return nullcontext(model)
        from pytest_pot.engines.causal_lm import CausalLM

        return CausalLM.ready(model, role, self.config)

    def _tokens(self, prompts: Sequence[Prompt], tokenizer: Any, reference: Engine, candidate: Engine) -> list[Tokens]:
        """The ids of every prompt: encoded, continued where needed, cut to ``max_length`` or a model's own limit."""
        limits = [self.config.max_length, reference.max_positions, candidate.max_positions]
        max_length = min(limit for limit in limits if limit is not None)
        most = self.config.positions_per_prompt
        tokens = []
        for index, (context, continuation) in enumerate(tokenise(tokenizer, prompts)):
            if continuation is None:
                kept = fit(index, context, [0] * most, max_length).ids[:-most]
                [continuation] = reference.sample([kept], most, _SEED)
            tokens.append(fit(index, context, continuation[:most], max_length))
        return tokens
