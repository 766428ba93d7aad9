"""The scorer: prompts -> token ids -> both models' distributions at the same ids -> divergences -> a report."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from pytest_pot.baseline import Baseline
from pytest_pot.batches import Batches, Progress, does_not_fit
from pytest_pot.comparison import Comparison, PromptResult
from pytest_pot.config import ScoringConfig
from pytest_pot.engines.base import Engine, OutOfMemory
from pytest_pot.prompts import Prompt, as_prompts
from pytest_pot.provenance import Provenance, digest_of_prompts, file_digests, libraries, machine, tokenizer_digests
from pytest_pot.recording import Recording, as_compared, check_fits, record, refuse_stale
from pytest_pot.scores import ScoreReport
from pytest_pot.tokens import Tokens, check_same_encoding, fit, tokenise

__all__ = ["TeacherForcedScorer"]

_SEED = 0
"""Of the continuations that a reference draws; fixed, so that a bare prompt means the same tokens every time."""


class TeacherForcedScorer:
    """Compares two causal language models by teacher forcing: both read the same tokens, and the candidate generates none.

    The reference draws the continuations of prompts that come without one, and nothing else.

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
            tokens = self._tokens(prompts, tokenizer, ref, cand.max_positions)
            return self._compare(ref, cand, prompts, tokens, tokenizer, started)

    def record(
        self,
        reference: Any,
        prompts: Iterable[str | Prompt],
        tokenizer: Any,
        *,
        name: str | None = None,
        max_length: int | None = None,
    ) -> Baseline:
        """Run ``reference`` once and keep what it says, so that candidates can be scored without it.

        Args:
            reference, prompts, tokenizer: as for :meth:`score_batch`.
            name: what the reference is called in the recording; its class by default. Where it is a folder or a ``.gguf``
                file on this machine, the recording also carries the digests of the files.
            max_length: the longest sequence that the candidates to come take, where that is less than the configuration's.

        Raises:
            PotError: as :meth:`score_batch`.
        """
        prompts = as_prompts(prompts)
        with self._engine(reference, "reference") as ref:
            tokens = self._tokens(prompts, tokenizer, ref, max_length)
            recorded = record(self.config, ref, prompts, tokens, self._progress)
            label = ref.label
        return Baseline(
            config=self.config,
            prompts=[as_compared(prompt, t, tokenizer) for prompt, t in zip(prompts, tokens, strict=True)],
            tokens=tuple(tokens),
            recorded=recorded.positions,
            vocab_size=recorded.vocab_size,
            batch_size=recorded.batch_size,
            provenance=Provenance(
                reference=type(reference).__name__ if name is None else name,
                weights=_weights_digest(reference),
                files=file_digests(name) if name is not None else {},
                tokenizer=tokenizer_digests(tokenizer),
                prompts=digest_of_prompts(prompts),
                label=label,
                libraries=libraries(),
                machine=machine(),
            ),
        )

    def score_baseline(
        self,
        baseline: Baseline,
        candidate: Any,
        tokenizer: Any,
        *,
        prompts: Iterable[str | Prompt] | None = None,
    ) -> ScoreReport:
        """Score ``candidate`` against a recorded reference; the same figures as against the reference itself.

        Args:
            baseline: from :meth:`record` or :meth:`Baseline.load`.
            candidate: as for :meth:`score_batch`.
            tokenizer: the candidate's, which must be the one that the recording was made with.
            prompts: those that the recording is expected to hold; by default whatever it holds.

        Raises:
            PotError: the recording was made with another tokenizer, other prompts or a configuration that gives other
                numbers, with a line for each thing that differs; or as :meth:`score_batch`.
        """
        started = time.perf_counter()
        refuse_stale(baseline, self.config, tokenizer, None if prompts is None else as_prompts(prompts))
        return self.score_fresh(baseline, candidate, tokenizer, started=started)

    def score_fresh(
        self, baseline: Baseline, candidate: Any, tokenizer: Any, *, started: float, note: str = "recorded"
    ) -> ScoreReport:
        """:meth:`score_baseline` for a recording that is known to be of the same tokenizer, prompts and configuration.

        ``started`` is the time, by ``time.perf_counter``, that the report's duration counts from, and ``note`` says in it
        how the reference's numbers came to be here.
        """
        with self._engine(candidate, "candidate") as cand:
            check_fits(baseline, cand)
            recording = Recording(baseline, note)
            return self._compare(recording, cand, baseline.prompts, baseline.tokens, tokenizer, started, baseline)

    def _compare(
        self,
        reference: Engine,
        candidate: Engine,
        prompts: Sequence[Prompt],
        tokens: Sequence[Tokens],
        tokenizer: Any,
        started: float,
        baseline: Baseline | None = None,
    ) -> ScoreReport:
        batches: Batches[PromptResult] = Batches(self.config, tokens, self._progress)
        if baseline is not None and baseline.config.batch_size == self.config.batch_size:
            batches.size = min(batches.size, baseline.batch_size)  # where memory ran out while recording
        results = batches.run(Comparison(self.config, reference, candidate, prompts, tokens))
        return ScoreReport(
            config=self.config,
            prompts=tuple(prompts),
            tokens=tuple(tokens),
            divergences={name: [result.divergences[name] for result in results] for name in results[0].divergences},
            distributions=([result.reference for result in results], [result.candidate for result in results]),
            tail_masses=[result.tail_mass for result in results],
            decode=tokenizer.decode,
            elapsed_s=time.perf_counter() - started,
            batch_size=batches.size,
            labels=(reference.label, candidate.label),
        )

    def _engine(self, model: Any, role: str) -> AbstractContextManager[Engine]:
        if isinstance(model, Engine):
            return nullcontext(model)
        from pytest_pot.engines.causal_lm import CausalLM

        return CausalLM.ready(model, role, self.config)

    def _tokens(self, prompts: Sequence[Prompt], tokenizer: Any, reference: Engine, limit: int | None) -> list[Tokens]:
        """The ids of every prompt: encoded, continued where needed, cut to ``max_length`` or a model's own limit.

        ``limit`` is the candidate's.
        """
        limits = [self.config.max_length, reference.max_positions, limit]
        max_length = min(limit for limit in limits if limit is not None)
        most = self.config.positions_per_prompt
        tokens = []
        for index, (context, continuation) in enumerate(tokenise(tokenizer, prompts)):
            if continuation is None:
                kept = fit(index, context, [0] * most, max_length).ids[:-most]
                try:
                    [continuation] = reference.sample([kept], most, _SEED)
                except OutOfMemory as error:
                    raise does_not_fit(self.config, index, len(kept) + most, most, error) from error
            tokens.append(fit(index, context, continuation[:most], max_length))
        return tokens


def _weights_digest(reference: Any) -> str | None:
    if isinstance(reference, Engine):
        return None
    from pytest_pot.engines.weights import weights_digest

    return weights_digest(reference)
