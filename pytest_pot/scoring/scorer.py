"""The scorer: prompts -> token ids -> both models' distributions at the same ids -> divergences -> a report."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from pytest_pot.baseline.baseline import Baseline
from pytest_pot.baseline.provenance import Provenance, digest_of_prompts, file_digests, libraries, machine, tokenizer_digests
from pytest_pot.baseline.replay import Recording, as_compared, check_fits, record, refuse_stale
from pytest_pot.core.config import METRICS, ScoringConfig
from pytest_pot.core.errors import InvalidArgument
from pytest_pot.engines.base import Engine, OutOfMemory
from pytest_pot.gates.verdict.limits import Verdict
from pytest_pot.gates.verdict.sequential import Decision, SequentialTest
from pytest_pot.prompts.prompt import Prompt, as_prompts
from pytest_pot.prompts.tokenization import Tokens, check_same_encoding, fit, tokenise
from pytest_pot.scoring.batching import Batches, Progress, does_not_fit
from pytest_pot.scoring.comparison import Comparison, PromptResult
from pytest_pot.scoring.noise_floor import noise_floor
from pytest_pot.scoring.score_report import ScoreReport

__all__ = ["TeacherForcedScorer"]

_PROBED = 8
"""Prompts of which two are looked for that can show the noise floor."""

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
        with self.engine(reference, "reference") as ref, self.engine(candidate, "candidate") as cand:
            tokens = self.tokens(prompts, tokenizer, ref, cand.max_positions)
            return self._whole(ref, cand, prompts, tokens, tokenizer, started)

    def decide(
        self,
        reference: Any,
        candidate: Any,
        prompts: Iterable[str | Prompt],
        tokenizer: Any,
        test: SequentialTest,
        *,
        candidate_tokenizer: Any = None,
        seed: int | None = 0,
    ) -> tuple[ScoreReport, Decision]:
        """Score prompts in random order until ``test`` has reached a verdict, or there are no more.

        Args:
            reference: as for :meth:`score_batch`, or a :class:`Baseline` of these prompts, this tokenizer and this
                configuration.
            test: takes the prompts' scores; its ``pool`` is the number of prompts, or None where these are a sample
                already, drawn at random from more.
            seed: of the order; None takes the prompts as they come, which is right for such a sample only.

        Returns:
            the report on the prompts that were scored, and what their scores are evidence of. A verdict inside a batch
            ends the run after that batch; with the batch size ``"auto"``, after the at most 16 prompts that are run together.

        Raises:
            PotError: as :meth:`score_batch` and :meth:`score_baseline`.
        """
        started = time.perf_counter()
        prompts = as_prompts(prompts)
        if candidate_tokenizer is not None:
            check_same_encoding(prompts, tokenizer, candidate_tokenizer)
        if isinstance(reference, Baseline):
            refuse_stale(reference, self.config, tokenizer, prompts)
            report = self.draw_fresh(reference, candidate, tokenizer, test, seed=seed, started=started)
            return report, test.decision()
        encoded = tokenise(tokenizer, prompts)
        with self.engine(reference, "reference") as ref, self.engine(candidate, "candidate") as cand:

            def encode(index: int) -> Tokens:
                return self._fitted(index, *encoded[index], ref, cand.max_positions)

            return self._drawn(ref, cand, prompts, encode, test, seed, tokenizer, started), test.decision()

    def draw_fresh(
        self,
        baseline: Baseline,
        candidate: Any,
        tokenizer: Any,
        test: SequentialTest,
        *,
        seed: int | None,
        started: float,
        note: str = "recorded",
    ) -> ScoreReport:
        """:meth:`decide` for a recording that is known to be fresh, as :meth:`score_fresh` is for the whole suite."""
        with self.engine(candidate, "candidate") as cand:
            check_fits(baseline, cand)
            recording, encode = Recording(baseline, note), baseline.tokens.__getitem__
            return self._drawn(recording, cand, baseline.prompts, encode, test, seed, tokenizer, started)

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
        with self.engine(reference, "reference") as ref:
            tokens = self.tokens(prompts, tokenizer, ref, max_length)
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
        if not isinstance(baseline, Baseline):
            raise InvalidArgument(
                f"baseline is {type(baseline).__name__}, not a pytest_pot.Baseline: Baseline.load(path) reads one"
            )
        refuse_stale(baseline, self.config, tokenizer, None if prompts is None else as_prompts(prompts))
        return self.score_fresh(baseline, candidate, tokenizer, started=started)

    def score_fresh(
        self, baseline: Baseline, candidate: Any, tokenizer: Any, *, started: float, note: str = "recorded"
    ) -> ScoreReport:
        """:meth:`score_baseline` for a recording that is known to be of the same tokenizer, prompts and configuration.

        ``started`` is the time, by ``time.perf_counter``, that the report's duration counts from, and ``note`` says in it
        how the reference's numbers came to be here.
        """
        with self.engine(candidate, "candidate") as cand:
            check_fits(baseline, cand)
            recording = Recording(baseline, note)
            return self._whole(recording, cand, baseline.prompts, baseline.tokens, tokenizer, started, baseline)

    def noise_floor(
        self, model: Any, prompts: Iterable[str | Prompt], tokenizer: Any, *, role: str = "reference"
    ) -> float | None:
        """How far ``model`` is from itself when it is run in another batch shape, in the gated metric.

        Measured on the beginning of two of the prompts, which takes about as long as one of them. None where that is not
        possible: fewer than two prompts, or of one token only.

        Raises:
            PotError: as :meth:`score_batch`.
        """
        parts = tokenise(tokenizer, as_prompts(prompts)[:_PROBED])
        with self.engine(model, role) as engine:
            return noise_floor(self.config, engine, [context + (continuation or []) for context, continuation in parts])

    def _whole(
        self,
        reference: Engine,
        candidate: Engine,
        prompts: Sequence[Prompt],
        tokens: Sequence[Tokens],
        tokenizer: Any,
        started: float,
        baseline: Baseline | None = None,
    ) -> ScoreReport:
        """The report on all ``prompts``."""
        batches: Batches[PromptResult] = Batches(self.config, tokens, self._progress, [reference, candidate])
        if baseline is not None and baseline.config.batch_size == self.config.batch_size:
            batches.most = min(batches.most or baseline.batch_size, baseline.batch_size)  # where memory ran out while recording
        found = batches.run(Comparison(self.config, reference, candidate, prompts, tokens))
        labels = reference.label, candidate.label
        return self._report(found, prompts, tokens, labels, tokenizer, batches.size, started)

    def _drawn(
        self,
        reference: Engine,
        candidate: Engine,
        prompts: Sequence[Prompt],
        encode: Callable[[int], Tokens],
        test: SequentialTest,
        seed: int | None,
        tokenizer: Any,
        started: float,
    ) -> ScoreReport:
        """The report on the first of ``prompts`` in the order of ``seed`` that decide ``test``; only these are encoded."""
        order = list(range(len(prompts)))
        if seed is not None:
            random.Random(seed).shuffle(order)
        tokens: dict[int, Tokens] = {}
        compare = Comparison(self.config, reference, candidate, prompts, tokens)
        batches: Batches[PromptResult] = Batches(self.config, tokens, self._progress, [reference, candidate], len(prompts))
        results: dict[int, PromptResult] = {}
        while len(results) < len(order):
            window = order[len(results) :][: batches.window(test.expected_further)]
            tokens.update({index: encode(index) for index in window})
            found = batches.run(compare, window)
            results.update(found)
            scores = [float(found[index].divergences[self.config.metric].mean()) for index in window]
            if test.update(scores) is not Verdict.UNDECIDED:
                break
        results = dict(sorted(results.items()))
        labels = reference.label, candidate.label
        return self._report(results, prompts, tokens, labels, tokenizer, batches.size, started)

    def _report(
        self,
        found: Mapping[int, PromptResult],
        prompts: Sequence[Prompt],
        tokens: Sequence[Tokens] | Mapping[int, Tokens],
        labels: tuple[str, str],
        tokenizer: Any,
        batch_size: int,
        started: float,
    ) -> ScoreReport:
        results = list(found.values())
        return ScoreReport(
            config=self.config,
            prompts=tuple(prompts[index] for index in found),
            indices=tuple(found),
            tokens=tuple(tokens[index] for index in found),
            divergences={name: [result.divergences[name] for result in results] for name in METRICS},
            distributions=([result.reference for result in results], [result.candidate for result in results]),
            tail_masses=[result.tail_mass for result in results],
            decode=tokenizer.decode,
            elapsed_s=time.perf_counter() - started,
            batch_size=batch_size,
            labels=labels,
        )

    def engine(self, model: Any, role: str) -> AbstractContextManager[Engine]:
        """``model`` ready to be run; when the context ends, it is as it was."""
        if isinstance(model, Engine):
            return nullcontext(model)
        from pytest_pot.engines.pytorch.engine import CausalLM

        return CausalLM.ready(model, role, self.config)

    def tokens(self, prompts: Sequence[Prompt], tokenizer: Any, reference: Engine, limit: int | None) -> list[Tokens]:
        """The ids of every prompt: encoded, continued where needed, cut to ``max_length`` or a model's own limit.

        ``limit`` is the candidate's own.
        """
        encoded = enumerate(tokenise(tokenizer, prompts))
        return [self._fitted(index, *parts, reference, limit) for index, parts in encoded]

    def _fitted(
        self, index: int, context: list[int], continuation: list[int] | None, reference: Engine, limit: int | None
    ) -> Tokens:
        limits = [self.config.max_length, reference.max_positions, limit]
        max_length = min(limit for limit in limits if limit is not None)
        most = self.config.positions_per_prompt
        if continuation is None:
            kept = fit(index, context, [0] * most, max_length).ids[:-most]
            try:
                [continuation] = reference.sample([kept], most, _SEED)
            except OutOfMemory as error:
                raise does_not_fit(self.config, index, len(kept) + most, most, error) from error
        return fit(index, context, continuation[:most], max_length)


def _weights_digest(reference: Any) -> str | None:
    if isinstance(reference, Engine):
        return None
    from pytest_pot.engines.pytorch.weights_digest import weights_digest

    return weights_digest(reference)
