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
from pytest_pot.engines.base import Engine, OutOfMemory, Restartable, Room, description_of
from pytest_pot.engines.registry import weights, weights_digest
from pytest_pot.engines.tokens import Tokens
from pytest_pot.engines.weights import WeightsPrint
from pytest_pot.prompts.prompt import Prompt
from pytest_pot.prompts.tokenization import EncodedPrompts
from pytest_pot.prompts.tokenizer_digests import tokenizer_digests
from pytest_pot.scoring.batching import Batches, Progress
from pytest_pot.scoring.comparison import Comparison
from pytest_pot.scoring.encoding import fit_all, fitter
from pytest_pot.scoring.noise_floor import (
    FloorKey,
    NoiseFloor,
    Probes,
    as_texts,
    choose_probes,
    floor_key,
    known_floor,
    remember,
    shortened,
)
from pytest_pot.scoring.position_numbers import PromptResult
from pytest_pot.scoring.positions import check_finite
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
        self.progress = progress
        """As given; may be replaced between a recording and what is compared with it."""
        self._started = time.perf_counter()
        self.probed: Sequence[str] = ()
        """The models, ``"reference"`` or ``"candidate"``, whose noise floor the next run measures on its way."""
        self.floor: NoiseFloor | None = None
        """The noise floor that was measured, or known already."""
        self._floor_keys: dict[str, FloorKey] = {}
        """By role, for what the probes of the run that goes on measure a floor."""

    def noise_floor(self, engine: Engine, role: str = "reference", *, brief: bool = False) -> NoiseFloor | None:
        """How far the model of ``engine`` is from itself in another batch shape, in the gated metric.

        Measured in one of the batches that this run would run. None where that is not possible: fewer than two prompts of at
        least two tokens, or each prompt runs alone anyway. The time is not counted as the run's.

        Args:
            engine: of the model.
            role: ``"reference"`` or ``"candidate"``, for the result.
            brief: let the batch read only so much of its texts as costs little beside reading them token by token.
        """
        encoded = self.encoded.ids  # that time is the run's
        started = time.perf_counter()
        config = replace(self.config, path="prefill")
        texts = [context + (continuation or [])[: config.positions_per_prompt] for context, continuation in encoded]
        tokens = as_texts(dict(enumerate(texts)), config, engine.max_positions)
        tokens = dict(enumerate(tokens.values()))
        floor = None
        if len(tokens) > 1 and not config.every_position:
            key = floor_key(engine, self.config if brief else config, tokens)
            floor = known_floor(engine, role, key)
            if floor is None and (floor := self._measured_floor(engine, role, config, tokens, brief)) is not None:
                remember(floor, engine, key)
        self._started += time.perf_counter() - started
        return floor

    def _measured_floor(
        self, engine: Engine, role: str, config: ScoringConfig, tokens: dict[int, Tokens], brief: bool
    ) -> NoiseFloor | None:
        batches: Batches[PromptResult] = Batches(config, tokens, engines=[engine])
        room, planned = batches.room, batches.planned_batches()
        probes = choose_probes(planned, tokens, room)
        batch = next((batch for batch in planned if not set(probes).isdisjoint(batch)), None)
        if batch is None:
            return None
        if brief:
            tokens = shortened({index: tokens[index] for index in batch}, config, room, _cost_of_steps(planned, tokens, room))
        comparison = Comparison(config, engine, engine, self.encoded.prompts, tokens)
        comparison.probes = Probes(["reference"], probes)
        try:
            comparison.probe(batch)
        except OutOfMemory:  # the run itself will halve its batches
            return None
        finally:
            if isinstance(engine, Restartable):
                engine.restart()  # the other model has no such batches behind it
        return next((replace(floor, role=role) for floor in comparison.probes.floors), None)

    def try_out(self, engine: Engine) -> None:
        """Let ``engine`` read the first prompt, to see that it runs.

        Raises:
            PotError: it does not, or what it says is NaN or infinite.
        """
        context, continuation = self.encoded.ids[0]
        tokens = as_texts({0: context + (continuation or [])[:1]}, self.config, engine.max_positions)
        if tokens:
            top = engine.top_k(list(tokens.values()), 1)
            check_finite(top, "candidate", self.encoded.prompts, tokens, [0])
        if isinstance(engine, Restartable):
            engine.restart()

    def record(
        self,
        reference: Engine,
        model: Any,
        *,
        name: str | None = None,
        max_length: int | None = None,
        keep_weights: bool = True,
    ) -> Baseline:
        """Run ``reference`` over all prompts and keep what it says.

        Args:
            reference: an engine of ``model``.
            name: what the reference is called in the recording; its class by default. Where it is a folder or a ``.gguf``
                file on this machine, the recording also carries the digests of the files.
            max_length: the longest sequence that the candidates to come take, where that is less than the configuration's.
            keep_weights: also read the weights of ``model``, and keep what tells later ones from them.
        """
        prompts, tokenizer = self.encoded.prompts, self.encoded.tokenizer
        tokens = fit_all(self.config, self.encoded.ids, reference, max_length)
        recorded = record(self.config, reference, prompts, tokens, self.progress)
        return Baseline(
            config=replace(self.config, path="prefill"),  # how a candidate reads is nothing of a reference's
            prompts=[as_compared(prompt, t, tokenizer) for prompt, t in zip(prompts, tokens, strict=True)],
            tokens=tuple(tokens),
            recorded=recorded.positions,
            vocab_size=recorded.vocab_size,
            batch_size=recorded.batch_size,
            batches=recorded.batches,
            weights_print=_print_of_weights(model) if keep_weights else None,
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
        batches = Batches[PromptResult](config, baseline.tokens, self.progress, comparison.engines)
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
        return Batches(self.config, tokens, self.progress, engines, total)

    def _whole(self, batches: Batches[PromptResult], comparison: Comparison) -> ScoreReport:
        self._choose_probes(comparison, batches)
        results = batches.run(comparison)
        self._keep_floor(comparison)
        return self._report(results, comparison, batches)

    def _choose_probes(
        self, comparison: Comparison, batches: Batches[PromptResult], indices: Sequence[int] | None = None
    ) -> None:
        """Let some prompts of ``comparison`` run alone too, for the models whose noise floor is not known.

        ``indices``: the prompts that run first; all by default.
        """
        engines = dict(zip(("reference", "candidate"), comparison.engines, strict=True))
        config = replace(self.config, path="prefill")  # no model is probed while it reads token by token
        unknown = []
        for role in self.probed:
            self._floor_keys[role] = key = floor_key(engines[role], config, comparison.tokens)
            floor = known_floor(engines[role], role, key)
            if floor is None:
                unknown.append(role)
            else:
                self._note(floor)
        if unknown and not self.config.every_position:
            chosen = choose_probes(batches.planned_batches(indices), comparison.tokens, batches.room)
            comparison.probes = Probes(unknown, chosen)

    def _keep_floor(self, comparison: Comparison) -> None:
        """Take the noise floor that the probes of ``comparison`` showed."""
        engines = dict(zip(("reference", "candidate"), comparison.engines, strict=True))
        for floor in comparison.probes.floors:
            remember(floor, engines[floor.role], self._floor_keys[floor.role])
            self._note(floor)

    def _note(self, floor: NoiseFloor) -> None:
        """Of several models, the one that rounds more decides."""
        if self.floor is None or floor.value > self.floor.value:
            self.floor = floor

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
                self._choose_probes(comparison, batches, window)
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
            n_ids=comparison.n_ids,
            unseens=[result.unseen for result in results.values() if result.unseen is not None],
            to_tell_more=getattr(candidate, "to_tell_more", None),
        )


def _print_of_weights(model: Any) -> WeightsPrint | None:
    named = weights(model)
    return None if named is None or named.unreadable is not None else named.print()


def _cost_of_steps(batches: Sequence[Sequence[int]], tokens: Mapping[int, Tokens], room: Room) -> int:
    """What it costs, in tokens, to read ``tokens`` as ``path="decode"`` does: each position in a step of its own."""
    cost = 0
    for batch in batches:
        prompts = [tokens[index] for index in batch]
        steps = max(prompt.n_positions for prompt in prompts) - 1
        cost += room.cost(len(batch) * max(prompt.prompt_len for prompt in prompts)) + steps * room.cost(len(batch))
    return cost


def _decoding_label(candidate: Engine) -> str:
    parts = candidate.label, "read token by token through its cache", getattr(candidate, "decoding_note", None)
    return ", ".join(filter(None, parts))
