"""The gate on latency: settings and models in, a report with its verdict out."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from pytest_pot.core.errors import PotError
from pytest_pot.gates.latency.settings import LatencySettings
from pytest_pot.gates.latency.statistics import WHATS, LatencyReport, Outcome
from pytest_pot.gates.latency.stopwatch import Stopwatch, measure
from pytest_pot.prompts.prompt import Prompt, as_prompts
from pytest_pot.prompts.tokenization import Tokens, check_same_encoding, fit, tokenise

if TYPE_CHECKING:
    from pytest_pot.engines.base import Engine
    from pytest_pot.gates.verdict.gate import GateInputs
    from pytest_pot.scoring.scorer import TeacherForcedScorer

__all__ = ["LatencyResult", "run_latency_gate"]


_PROBING = 0.1
"""The share of a gate's time in which it may look for a number of threads."""


@dataclass(frozen=True)
class LatencyResult:
    """What a gate on latency found."""

    settings: LatencySettings
    names: tuple[str | None, str]
    """Reference, None where none was run, and candidate."""
    report: LatencyReport

    @property
    def verdict(self) -> Outcome:
        return self.report.verdict

    @property
    def passed(self) -> bool:
        if not self.settings.gates:
            return True
        failing = (Outcome.FAIL, Outcome.INCONCLUSIVE) if self.settings.inconclusive_fails else (Outcome.FAIL,)
        return self.verdict not in failing

    @property
    def doubtful(self) -> bool:
        """Whether the gate passes although it could not be decided."""
        return self.passed and self.settings.gates and self.verdict is Outcome.INCONCLUSIVE


def run_latency_gate(
    settings: LatencySettings, inputs: GateInputs, progress: Callable[[int, int], None] | None = None
) -> LatencyResult:
    """Time the first batch of the prompts as ``settings`` ask.

    Raises:
        PotError: the models cannot be run on these prompts, or run out of memory; there is a limit on memory, which cannot be
            measured here.
    """
    from pytest_pot.gates.latency.threads import cpu_threads, uncrowded
    from pytest_pot.gates.latency.workloads import alike, on_cpu, synchroniser, work
    from pytest_pot.scoring.scorer import TeacherForcedScorer

    scorer = TeacherForcedScorer(settings.config)
    prompts = as_prompts(inputs.prompts, or_builtin=True)[: settings.batch_size]
    if inputs.candidate_tokenizer is not None:
        check_same_encoding(prompts, inputs.tokenizer, inputs.candidate_tokenizer)
    with _memory_advice(), ExitStack() as stack:
        engines = {"candidate": stack.enter_context(scorer.engine(inputs.candidate, "candidate"))}
        if inputs.reference is not None:
            engines["reference"] = stack.enter_context(scorer.engine(inputs.reference, "reference"))
        batch = _batch(settings, scorer, prompts, inputs.tokenizer, engines)
        if settings.what == WHATS[0]:
            alike(engines.values(), batch, settings.config.top_k)
        works = {role: work(engine, role, batch, settings.what, settings.config.top_k) for role, engine in engines.items()}
        watch = Stopwatch(time.perf_counter, synchroniser(engines.values()))
        threads, started = cpu_threads(), watch.now()
        if settings.limits.relative and on_cpu(engines.values()):
            probe = work(engines["reference"], "reference", batch[:1], WHATS[0], settings.config.top_k)
            stack.enter_context(uncrowded(probe.run, watch, _PROBING * settings.max_seconds))
        report = measure(
            works["candidate"],
            works.get("reference"),
            settings.limits,
            watch,
            what=settings.what,
            n_prompts=len(batch),
            n_tokens=_tokens_per_run(settings, batch),
            max_seconds=settings.max_seconds,
            started=started,
            progress=progress,
        )
        report = replace(
            report,
            n_truncated=sum(tokens.truncated for tokens in batch),
            threads=cpu_threads(),
            usual_threads=threads,
            label=_label(engines),
        )
    _check_memory(report, settings)
    return LatencyResult(settings, inputs.names, report)


@contextmanager
def _memory_advice() -> Iterator[None]:
    """A batch that is timed has one size: it is not halved."""
    from pytest_pot.engines.base import OutOfMemory

    try:
        yield
    except OutOfMemory as error:
        raise PotError(
            f"{error}. What is timed is one batch as it is: time fewer or shorter prompts (preset='single', prompts=[...])"
        ) from error


def _batch(
    settings: LatencySettings,
    scorer: TeacherForcedScorer,
    prompts: Sequence[Prompt],
    tokenizer: Any,
    engines: dict[str, Engine],
) -> list[Tokens]:
    """The token ids that both models read: with their continuation, or room for what is to be generated."""
    limits = [engine.max_positions for engine in engines.values()]
    most = min((limit for limit in limits if limit is not None), default=None)
    if settings.what != "decode":
        return scorer.tokens(prompts, tokenizer, engines.get("reference", engines["candidate"]), most)
    length = min(settings.config.max_length, most or settings.config.max_length)
    if settings.new_tokens >= length:
        raise PotError(
            f"new_tokens={settings.new_tokens} leaves no room for a prompt: the models take sequences of {length} tokens. "
            "Generate fewer"
        )
    room = [0] * settings.new_tokens
    return [fit(index, context, room, length) for index, (context, _) in enumerate(tokenise(tokenizer, prompts))]


def _label(engines: dict[str, Engine]) -> str:
    labels = {role: engine.label for role, engine in engines.items()}
    if len(set(labels.values())) == 1:
        return labels["candidate"]
    return ", ".join(f"{role} {labels[role]}" for role in ("reference", "candidate"))


def _tokens_per_run(settings: LatencySettings, batch: Sequence[Tokens]) -> int:
    if settings.what == "decode":
        return len(batch) * (settings.new_tokens - 1)
    return sum(len(tokens.ids) for tokens in batch)


def _check_memory(report: LatencyReport, settings: LatencySettings) -> None:
    limits = settings.limits
    needed = [report.memory] if limits.max_memory_mb is not None else []
    if limits.max_memory_ratio is not None:
        needed = [report.memory, report.reference_memory]
    if None in needed:
        raise PotError(
            "peak memory cannot be measured here: pytest-pot counts it on CUDA, and on the CPU under Linux where "
            "/proc/self/clear_refs may be written. Leave max_memory_mb and max_memory_ratio out"
        )
