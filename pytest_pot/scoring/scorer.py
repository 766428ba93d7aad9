"""The public face of scoring: models and prompts in, a report or a recording out. :mod:`~pytest_pot.scoring.run` does the
work."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from pytest_pot.baseline.baseline import Baseline
from pytest_pot.baseline.staleness import refuse_other_prompts, refuse_stale
from pytest_pot.core.config import ScoringConfig
from pytest_pot.core.errors import InvalidArgument
from pytest_pot.engines.base import LoadedModel
from pytest_pot.engines.registry import common_device, embedding_rows, opened
from pytest_pot.prompts.prompt import Prompt, as_prompts
from pytest_pot.prompts.tokenization import EncodedPrompts
from pytest_pot.scoring.batching import Progress
from pytest_pot.scoring.run import ScoringRun
from pytest_pot.scoring.score_report import ScoreReport
from pytest_pot.scoring.stopping import StoppingRule

__all__ = ["TeacherForcedScorer"]


class TeacherForcedScorer:
    """Compares two causal language models by teacher forcing: both read the same tokens, and the candidate generates none.

    The reference draws the continuations of prompts that come without one, and nothing else. It reads each prompt with its
    continuation in one forward pass, also while it is recorded. With ``path="decode"`` in the configuration, the candidate
    reads the continuation token by token, through its own key-value cache.

    Args:
        config: what is compared; the preset ``auto`` by default.
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
                Both are left as they were: mode, device, dtype, weights. With ``device="auto"`` and models on different
                devices, both are compared on that of the reference.
            prompts: strings or :class:`Prompt`; one without a continuation is continued by the reference, sampled at
                temperature 1 with a fixed seed.
            tokenizer: makes the token ids that both models read.
            candidate_tokenizer: the candidate's own, where it has one: it must encode every prompt as ``tokenizer`` does.

        Raises:
            PotError: there is nothing to score; the tokenizers disagree; an id is outside a vocabulary; a log-probability
                is NaN or infinite; one prompt alone does not fit into memory; with ``path="decode"``, the candidate has no
                cache to generate with, or no continuation has more than one token.
        """
        run = self._run(prompts, tokenizer, reference, candidate)
        if candidate_tokenizer is not None:
            run.encoded.check_same(candidate_tokenizer)
        config = self._pair_config(reference, candidate)
        with opened(reference, "reference", config) as ref, opened(candidate, "candidate", config) as cand:
            return run.score(ref, cand)

    def score_until(
        self,
        reference: Any,
        candidate: Any,
        prompts: Iterable[str | Prompt],
        tokenizer: Any,
        rule: StoppingRule,
        *,
        seed: int | None = 0,
    ) -> ScoreReport:
        """Score prompts in random order until ``rule`` is satisfied, or there are no more.

        Args:
            reference: as for :meth:`score_batch`, or a :class:`Baseline` of these prompts, this tokenizer and this
                configuration.
            rule: takes the prompts' scores and says when to stop, such as
                :class:`~pytest_pot.gates.verdict.sequential.SequentialTest`.
            seed: of the order; None takes the prompts as they come, which is right only for prompts that were drawn at random.

        Returns:
            the report on the prompts that were scored. Where ``rule`` is satisfied inside a batch, the run ends after that
            batch; with the batch size ``"auto"``, after the at most 16 prompts that are run together.

        Raises:
            PotError: as :meth:`score_batch` and :meth:`score_baseline`.
        """
        run = self._run(prompts, tokenizer, reference, candidate)
        if isinstance(reference, Baseline):
            refuse_stale(reference, self.config, run.encoded)
            with opened(candidate, "candidate", self.config) as cand:
                return run.replay_until(reference, cand, rule, seed=seed)
        config = self._pair_config(reference, candidate)
        with opened(reference, "reference", config) as ref, opened(candidate, "candidate", config) as cand:
            return run.score_until(ref, cand, rule, seed=seed)

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
        run = self._run(prompts, tokenizer, reference)
        with opened(reference, "reference", self.config) as engine:
            return run.record(engine, reference, name=name, max_length=max_length)

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
        if not isinstance(baseline, Baseline):
            raise InvalidArgument(
                f"baseline is {type(baseline).__name__}, not a pytest_pot.Baseline: Baseline.load(path) reads one"
            )
        run = self._run(baseline.prompts if prompts is None else prompts, tokenizer, candidate)
        if prompts is None:
            refuse_other_prompts(baseline, self.config, tokenizer)
        else:
            refuse_stale(baseline, self.config, run.encoded)
        with opened(candidate, "candidate", self.config) as engine:
            return run.replay(baseline, engine)

    def noise_floor(
        self, model: Any, prompts: Iterable[str | Prompt], tokenizer: Any, *, role: str = "reference"
    ) -> float | None:
        """How far ``model`` is from itself when it is run in another batch shape, in the gated metric.

        Measured in one of the batches that this configuration runs on these prompts: up to four of its prompts run alone as
        well, in one pass each, also with ``path="decode"``. In one process, a model is measured once for batches of about
        this size. The floor of other batches, other prompts or another machine may be higher.

        Args:
            model: as for :meth:`score_batch`.
            prompts, tokenizer: those that will be scored. A prompt without a continuation is not continued: its own last
                tokens are compared.
            role: ``"reference"`` or ``"candidate"``, for error messages.

        Returns:
            the mean over these prompts, in the metric's unit. None where that is not possible: fewer than two prompts of at
            least two tokens, batches of one prompt, a batch that does not fit into memory, or logits that are not finite.

        Raises:
            PotError: as :meth:`score_batch`.
        """
        run = self._run(prompts, tokenizer, model)
        with opened(model, role, self.config) as engine:
            floor = run.noise_floor(engine, role)
            return None if floor is None else floor.value

    def _run(self, prompts: Iterable[str | Prompt], tokenizer: Any, *models: Any) -> ScoringRun:
        rows = [n for n in map(embedding_rows, models) if n is not None]
        return ScoringRun(
            self.config, EncodedPrompts(as_prompts(prompts), tokenizer, n_rows=min(rows, default=None)), self._progress
        )

    def _pair_config(self, reference: Any, candidate: Any) -> ScoringConfig:
        """The configuration that both models are opened with: on one device."""
        device = common_device(self.config.device, [LoadedModel(reference), LoadedModel(candidate)])
        return self.config if device == self.config.device else replace(self.config, device=device)
