"""One comparison from beginning to end, with models that its caller has opened and prompts that are encoded once.

:class:`~pytest_pot.TeacherForcedScorer` and the gates are made of this. A run can measure the noise floor, record the
reference, and score a candidate, on whole suites or until a stopping rule is satisfied."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from pytest_pot.baseline.baseline import Baseline
from pytest_pot.baseline.provenance import Provenance, digest_of_prompts, file_digests, libraries, machine
from pytest_pot.baseline.replay import Replay, check_fits
from pytest_pot.core.config import ScoringConfig
from pytest_pot.core.errors import PotError
from pytest_pot.core.names import METRICS
from pytest_pot.engines.base import Engine, OutOfMemory, Restartable, description_of
from pytest_pot.engines.registry import weights_digest
from pytest_pot.engines.tokens import Tokens
from pytest_pot.prompts.prompt import Prompt
from pytest_pot.prompts.tokenization import EncodedPrompts
from pytest_pot.prompts.tokenizer_parts import tokenizer_digests
from pytest_pot.scoring.batching import Batches, Progress
from pytest_pot.scoring.comparison import Comparison, PromptResult
from pytest_pot.scoring.encoding import fit_all, fitter
from pytest_pot.scoring.noise_floor import NoiseFloor, Probes, as_texts, choose_probes, known_floor, remember
from pytest_pot.scoring.recorder import as_compared, record
from pytest_pot.scoring.score_report import ScoreReport
from pytest_pot.scoring.stopping import StoppingRule

__all__ = ["ScoringRun"]


class ScoringRun:
    """Compares engines on one suite of prompts under one configuration."""

    def __init__(self, config: ScoringConfig, encoded: EncodedPrompts, progress: Progress | None = None) -> None:
        """``progress``: called with (prompts done, prompts in all) after every batch."""
        self.config = config
        self.encoded = encoded
        self._progress = progress
        self._started = time.perf_counter()
        self.probed: Sequence[str] = ()
        """The models, ``"reference"`` or ``"candidate"``, whose noise floor the next run measures on its way."""
        self.floor: NoiseFloor | None = None
        """The noise floor that was measured, or known already."""

    def noise_floor(self, engine: Engine, role: str = "reference") -> NoiseFloor | None:
        """How far the model of ``engine`` is from itself in another batch shape, in the gated metric.

        Measured in one of the batches that this run would run. None where that is not possible: fewer than two prompts of at
        least two tokens, or each prompt runs alone anyway. The time is not counted as the run's.
        """
        encoded = self.encoded.ids  # that time is the run's
        started = time.perf_counter()
        config = replace(self.config, path="prefill")
        texts = [context + (continuation or [])[: config.positions_per_prompt] for context, continuation in encoded]
        tokens = as_texts(texts, config, engine.max_positions)
        floor = known_floor(engine, role, config, tokens) if tokens else None
        if floor is None and len(tokens) > 1:
            comparison = Comparison(config, engine, engine, self.encoded.prompts, tokens)
            batches: Batches[PromptResult] = Batches(config, tokens, engines=[engine])
            comparison.probes = Probes(["reference"], choose_probes(tokens, config, batches.room))
            batch = next((batch for batch in batches.planned_batches() if comparison.probes.of(batch)), None)
            if batch is not None:
                floor = self._probed(comparison, batch, role)
                if isinstance(engine, Restartable):
                    engine.restart()  # the other model has no such batches behind it
            if floor is not None:
                remember(floor, engine, config, tokens)
        self._started += time.perf_counter() - started
        return floor

    @staticmethod
    def _probed(comparison: Comparison, batch: Sequence[int], role: str) -> NoiseFloor | None:
        try:
            comparison.probe(batch)
        except OutOfMemory:  # the run itself will halve its batches
            return None
        return next((replace(floor, role=role) for floor in comparison.probes.floors), None)

    def record(self, reference: Engine, model: Any, *, name: str | None = None, max_length: int | None = None) -> Baseline:
        """Run ``reference`` over all prompts and keep what it says.

        Args:
            reference: an engine of ``model``.
            name: what the reference is called in the recording; its class by default. Where it is a folder or a ``.gguf``
                file on this machine, the recording also carries the digests of the files.
            max_length: the longest sequence that the candidates to come take, where that is less than the configuration's.
        """
        prompts, tokenizer = self.encoded.prompts, self.encoded.tokenizer
        tokens = fit_all(self.config, self.encoded.ids, reference, max_length)
        recorded = record(self.config, reference, prompts, tokens, self._progress)
        return Baseline(
            config=replace(self.config, path="prefill"),  # how a candidate reads is nothing of a reference's
            prompts=[as_compared(prompt, t, tokenizer) for prompt, t in zip(prompts, tokens, strict=True)],
            tokens=tuple(tokens),
            recorded=recorded.positions,
            vocab_size=recorded.vocab_size,
            batch_size=recorded.batch_size,
            batches=recorded.batches,
            provenance=Provenance(
                reference=type(model).__name__ if name is None else name,
                weights=weights_digest(model),
                files=file_digests(name) if name is not None else {},
                tokenizer=tokenizer_digests(tokenizer),
                prompts=digest_of_prompts(prompts),
                label=reference.label,
                libraries=libraries(),
                machine=machine(),
            ),
        )

    def score(self, reference: Engine, candidate: Engine) -> ScoreReport:
        """The report on all prompts."""
        tokens = fit_all(self.config, self.encoded.ids, reference, candidate.max_positions)
        comparison = Comparison(self.config, reference, candidate, self.encoded.prompts, tokens)
        return self._whole(self._batches(tokens, reference, candidate), comparison)

    def score_until(self, reference: Engine, candidate: Engine, rule: StoppingRule, *, seed: int | None = 0) -> ScoreReport:
        """The report on the first prompts in the order of ``seed`` that satisfy ``rule``; see :meth:`_drawn`."""
        encode = fitter(self.config, self.encoded.ids, reference, candidate.max_positions)
        tokens: dict[int, Tokens] = {}
        comparison = Comparison(self.config, reference, candidate, self.encoded.prompts, tokens)
        return self._drawn(comparison, tokens, encode, rule, seed)

    def replay(
        self, baseline: Baseline, candidate: Engine, *, note: str = "recorded", same_batches: bool = False
    ) -> ScoreReport:
        """:meth:`score` against a recording, which is known to be of the same tokenizer, prompts and configuration.

        Args:
            note: says in the report where the reference's numbers are from.
            same_batches: run the batches that were recorded, whatever the batch size is now: the same model is at a distance of
                exactly 0 in these only. They run without this too where they cost about as much as others.
        """
        comparison = self._recorded(baseline, candidate, note, baseline.tokens)
        size = baseline.config.batch_size if same_batches else self.config.batch_size
        config = replace(self.config, batch_size=size)
        batches = Batches[PromptResult](config, baseline.tokens, self._progress, comparison.engines)
        if baseline.batches and size in ("auto", baseline.config.batch_size):
            batches.repeat(baseline.batches, at_any_cost=same_batches or size != "auto")
        if baseline.config.batch_size == size and (size != "auto" or not baseline.batches):
            largest = max([baseline.batch_size, *map(len, baseline.batches)])
            batches.most = min(batches.most or largest, largest)  # where memory ran out while recording
        return self._whole(batches, comparison)

    def replay_until(
        self, baseline: Baseline, candidate: Engine, rule: StoppingRule, *, note: str = "recorded", seed: int | None = 0
    ) -> ScoreReport:
        """:meth:`score_until` against a recording; see :meth:`replay`."""
        tokens: dict[int, Tokens] = {}
        comparison = self._recorded(baseline, candidate, note, tokens)
        return self._drawn(comparison, tokens, baseline.tokens.__getitem__, rule, seed)

    def _recorded(
        self, baseline: Baseline, candidate: Engine, note: str, tokens: Sequence[Tokens] | Mapping[int, Tokens]
    ) -> Comparison:
        check_fits(baseline, candidate)
        return Comparison(self.config, Replay(baseline, note), candidate, baseline.prompts, tokens)

    def _batches(
        self, tokens: Sequence[Tokens] | Mapping[int, Tokens], *engines: Engine, total: int | None = None
    ) -> Batches[PromptResult]:
        return Batches(self.config, tokens, self._progress, engines, total)

    def _whole(self, batches: Batches[PromptResult], comparison: Comparison) -> ScoreReport:
        self._choose_probes(comparison, batches)
        results = batches.run(comparison)
        self._keep_floor(comparison)
        return self._report(results, comparison, batches)

    def _choose_probes(self, comparison: Comparison, batches: Batches[PromptResult]) -> None:
        """Let some prompts of ``comparison`` run alone too, for the models whose noise floor is not known."""
        tokens = dict(enumerate(comparison.tokens)) if isinstance(comparison.tokens, Sequence) else comparison.tokens
        engines = dict(zip(("reference", "candidate"), comparison.engines, strict=True))
        floors = {role: known_floor(engines[role], role, self.config, tokens) for role in self.probed}
        known = [floor for floor in floors.values() if floor is not None]
        self.floor = max(known, key=lambda floor: floor.value, default=None)
        unknown = [role for role, floor in floors.items() if floor is None]
        if unknown and not comparison.probes.roles:
            comparison.probes = Probes(unknown, choose_probes(tokens, self.config, batches.room))

    def _keep_floor(self, comparison: Comparison) -> None:
        """Take the noise floor that the probes of ``comparison`` showed."""
        tokens = dict(enumerate(comparison.tokens)) if isinstance(comparison.tokens, Sequence) else comparison.tokens
        engines = dict(zip(("reference", "candidate"), comparison.engines, strict=True))
        for floor in comparison.probes.floors:
            remember(floor, engines[floor.role], self.config, tokens)
            self.floor = floor if self.floor is None or floor.value > self.floor.value else self.floor

    def _drawn(
        self,
        comparison: Comparison,
        tokens: dict[int, Tokens],
        encode: Callable[[int], Tokens],
        rule: StoppingRule,
        seed: int | None,
    ) -> ScoreReport:
        """The report on the first prompts that satisfy ``rule``, in an order drawn by ``seed``; None takes them as they come.

        Args:
            tokens: of the prompts drawn so far; filled here, by ``encode``, which takes a prompt's index.
        """
        order = list(range(len(comparison.prompts)))
        if seed is not None:
            random.Random(seed).shuffle(order)
        batches = self._batches(tokens, *comparison.engines, total=len(order))
        results: dict[int, PromptResult] = {}
        while len(results) < len(order):
            window = order[len(results) :][: batches.window(rule.expected_further)]
            tokens.update({index: encode(index) for index in window})
            if not results:
                self._choose_probes(comparison, batches)
            batch_results = batches.run(comparison, window)
            results.update(batch_results)
            rule.update([float(batch_results[index].divergences[self.config.metric].mean()) for index in window])
            if rule.decided:
                break
        self._keep_floor(comparison)
        return self._report(dict(sorted(results.items())), comparison, batches)

    def _report(
        self, results: Mapping[int, PromptResult], comparison: Comparison, batches: Batches[PromptResult]
    ) -> ScoreReport:
        """``results``: by the index of the prompt."""
        prompts: Sequence[Prompt] = comparison.prompts
        reference, candidate = comparison.engines
        decodes = self.config.path == "decode"
        if decodes and all(comparison.tokens[index].n_positions < 2 for index in results):
            raise PotError(
                "path='decode' shows nothing here: a model reads its cache from the second token of a continuation on, and "
                "each continuation has one token only. Give longer continuations, and compare at least 2 positions"
            )
        return ScoreReport(
            config=self.config,
            prompts=tuple(prompts[index] for index in results),
            indices=tuple(results),
            tokens=tuple(comparison.tokens[index] for index in results),
            divergences={name: [result.divergences[name] for result in results.values()] for name in METRICS},
            distributions=(
                [result.reference for result in results.values()],
                [result.candidate for result in results.values()],
            ),
            tail_masses=[result.tail_mass for result in results.values()],
            decode=self.encoded.tokenizer.decode,
            elapsed_s=time.perf_counter() - self._started,
            batch_size=batches.size,
            batches=tuple(batches.ran),
            room=batches.room if batches.planned else None,
            labels=(reference.label, _decoding_label(candidate) if decodes else candidate.label),
            ran=(description_of(reference), description_of(candidate)),
        )


def _decoding_label(candidate: Engine) -> str:
    parts = candidate.label, "read token by token through its cache", getattr(candidate, "decoding_note", None)
    return ", ".join(filter(None, parts))
