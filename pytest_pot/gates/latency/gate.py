"""The gate on latency and memory: ``pot_latency``."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

from pytest_pot.core.errors import InvalidArgument, PotError
from pytest_pot.gates.base import (
    COMMON_ARGUMENTS,
    Gate,
    GateInputs,
    GateResult,
    GateSettings,
    Progress,
    ReferenceUse,
    RunOptions,
)
from pytest_pot.gates.latency.limits import REFERENCE_LIMITS, WHATS
from pytest_pot.gates.latency.result import LatencyOutcome
from pytest_pot.gates.latency.settings import ARGUMENTS, LatencySettings, latency_settings

if TYPE_CHECKING:  # these need numpy, and a gate is made while tests are collected
    from pytest_pot.engines.base import CpuThreads, Engine
    from pytest_pot.engines.tokens import Tokens
    from pytest_pot.gates.latency.latency_report import LatencyReport
    from pytest_pot.prompts.tokenization import Encoded

__all__ = ["LatencyGate", "LatencyResult"]

_PROBING = 0.1
"""The share of ``max_seconds`` that a gate may spend on choosing the number of threads."""


@dataclass(frozen=True, repr=False)
class LatencyResult(LatencyOutcome, GateResult):
    """The result of a gate on latency: a :class:`~pytest_pot.gates.latency.result.LatencyOutcome` that explains itself."""

    kind = "latency"

    @property
    def warnings(self) -> tuple[str, ...]:
        return (*self.inherited, self.headline) if self.doubtful else self.inherited

    @property
    def headline(self) -> str:
        from pytest_pot.gates.latency.explain import headline

        return headline(self)

    def explain(self, verbosity: int = 0) -> str:
        from pytest_pot.gates.latency.explain import explain

        return explain(self, verbosity)

    def properties(self) -> dict[str, Any]:
        from pytest_pot.gates.latency.explain import properties

        check = self.report.decisive
        return {"metric": check.name, "limit": check.limit, **properties(self)}

    def details(self) -> Mapping[str, Any]:
        return {"latency": self.report.to_dict()}


@dataclass(frozen=True)
class LatencyGate(Gate):
    """Times the first batch of the prompts, and checks time and memory against limits."""

    settings: LatencySettings

    arguments = (*ARGUMENTS, "preset", *COMMON_ARGUMENTS)

    @classmethod
    def from_arguments(cls, settings: GateSettings, arguments: Mapping[str, Any], options: RunOptions) -> Self:
        return cls(latency_settings(settings, arguments, options))

    @classmethod
    def reference_use(cls, arguments: Mapping[str, Any]) -> ReferenceUse:
        has_reference_limit = any(arguments.get(name) is not None for name in REFERENCE_LIMITS)
        return ReferenceUse.LIVE if has_reference_limit else ReferenceUse.NONE

    @property
    def uses_reference(self) -> ReferenceUse:
        return ReferenceUse.LIVE if self.settings.limits.need_reference else ReferenceUse.NONE

    @classmethod
    def switched_off(cls, options: RunOptions) -> str | None:
        if options.values.get("latency") == "off":
            return "latency is off (--pot-latency=off or the ini key pot_latency)"
        return None

    @classmethod
    def not_run(cls, options: RunOptions) -> str | None:
        if options.is_worker:
            return "latency is not gated under -n, because workers slow each other down; run these tests without -n"
        return None

    @property
    def limit(self) -> tuple[str, float]:
        return next(iter(self.settings.limits.given.items()))

    @property
    def counted(self) -> str:
        return "pairs" if self.settings.limits.need_reference else "timings"

    def refuse_recording(self, name: str) -> None:
        limits = self.settings.limits
        if not limits.need_reference:
            raise InvalidArgument(
                f"reference={name!r} is a recording, which cannot be timed, and no limit here needs a reference; leave it out"
            )
        limit = "max_slowdown" if limits.max_slowdown is not None else "max_memory_ratio"
        candidate_limit = "budget_ms" if limit == "max_slowdown" else "max_memory_mb"
        raise InvalidArgument(
            f"{limit}={limits.given[limit]!r} needs a live reference to run beside the candidate, but {name} is a recording, "
            f"which cannot be timed. Name a model, reference=..., or limit the candidate only, {candidate_limit}=..."
        )

    def run(self, inputs: GateInputs, progress: Progress) -> LatencyResult:
        from pytest_pot.engines.registry import opened
        from pytest_pot.gates.cut_prompts import cut_warnings

        settings = self.settings
        config = settings.config if inputs.device == "auto" else replace(settings.config, device=inputs.device)
        prompts = inputs.prompts.first(settings.batch_size)
        if inputs.candidate_tokenizer is not None:
            prompts.check_same(inputs.candidate_tokenizer)
        with _memory_advice(), ExitStack() as stack:
            engines = {
                "candidate": stack.enter_context(opened(inputs.candidate, "candidate", settings.candidate_config(config)))
            }
            if inputs.reference is not None:
                engines["reference"] = stack.enter_context(opened(inputs.reference, "reference", config))
            _refuse_memory(settings, engines)
            batch = _batch(settings, prompts.ids, engines)
            report = _timed(settings, engines, batch, progress)
        _check_memory(report, settings)
        room = settings.new_tokens if settings.what == "decode" else None
        cut = () if inputs.endless else cut_warnings(settings.gate, config, prompts, range(len(batch)), batch, room)
        return LatencyResult(settings, inputs.names, report, notes=inputs.notes, inherited=(*inputs.warnings, *cut))


def _timed(
    settings: LatencySettings, engines: Mapping[str, Engine], batch: Sequence[Tokens], progress: Progress
) -> LatencyReport:
    """Time ``engines``, by role, on ``batch``."""
    from pytest_pot.engines.base import Remote, in_own_process
    from pytest_pot.gates.latency.stopwatch import Deadline, Measured, Pair, Stopwatch, measure
    from pytest_pot.gates.latency.threads import uncrowded
    from pytest_pot.gates.latency.workloads import on_cpu, same_path, synchroniser, work

    top_k = settings.config.top_k
    if settings.what == WHATS[0]:
        same_path(engines.values(), batch, top_k)
    works = {role: work(engine, role, batch, settings.what, top_k) for role, engine in engines.items()}
    watch = Stopwatch(time.perf_counter, synchroniser(engines.values()))
    threads = _cpu_threads(engines)
    usual_threads, started = None if threads is None else threads.count, watch.now()
    with ExitStack() as stack:
        if threads is not None and settings.limits.relative and on_cpu(engines.values()):
            probe = work(engines["reference"], "reference", batch[:1], WHATS[0], top_k)
            stack.enter_context(uncrowded(probe.run, watch, threads, _PROBING * settings.max_seconds))
        report = measure(
            Pair(works["candidate"], works.get("reference")),
            settings.limits,
            watch,
            Measured(settings.what, len(batch), _tokens_per_run(settings, batch)),
            Deadline(settings.max_seconds, started),
            progress,
        )
        return replace(
            report,
            n_truncated=sum(tokens.truncated for tokens in batch),
            threads=None if threads is None else threads.count,
            usual_threads=usual_threads,
            label=_label(engines),
            remote=tuple(role for role, engine in engines.items() if isinstance(engine, Remote) and not in_own_process(engine)),
        )


@contextmanager
def _memory_advice() -> Iterator[None]:
    """Add advice to an out-of-memory error: a timed batch has a fixed size and is not halved."""
    from pytest_pot.engines.base import OutOfMemory

    try:
        yield
    except OutOfMemory as error:
        raise PotError(
            f"{error}. A timed batch is never split: time fewer or shorter prompts (preset='single', prompts=[...])"
        ) from error


def _batch(settings: LatencySettings, encoded: Sequence[Encoded], engines: Mapping[str, Engine]) -> list[Tokens]:
    """The token ids that both models read: prompts with their continuations, or with room for the tokens to generate."""
    from pytest_pot.prompts.tokenization import fit
    from pytest_pot.scoring.encoding import fit_all

    limits = [engine.max_positions for engine in engines.values()]
    # Engines may give NumPy scalars, which a report cannot hold.
    max_positions = min((int(limit) for limit in limits if limit is not None), default=None)
    if settings.what != "decode":
        return fit_all(settings.config, encoded, engines.get("reference", engines["candidate"]), max_positions)
    length = min(settings.config.max_length, max_positions or settings.config.max_length)
    if settings.new_tokens >= length:
        raise PotError(
            f"new_tokens={settings.new_tokens} leaves no room for a prompt: the models take at most {length} tokens. "
            "Generate fewer"
        )
    room = [0] * settings.new_tokens
    return [fit(index, context, room, length) for index, (context, _) in enumerate(encoded)]


def _cpu_threads(engines: Mapping[str, Engine]) -> CpuThreads | None:
    """The CPU threads of the first engine that reports them."""
    from pytest_pot.engines.base import Timeable

    return next((engine.cpu_threads for engine in engines.values() if isinstance(engine, Timeable)), None)


def _label(engines: Mapping[str, Engine]) -> str:
    labels = {role: engine.label for role, engine in engines.items()}
    if len(set(labels.values())) == 1:
        return labels["candidate"]
    return ", ".join(f"{role} {labels[role]}" for role in ("reference", "candidate"))


def _tokens_per_run(settings: LatencySettings, batch: Sequence[Tokens]) -> int:
    if settings.what == "decode":
        return len(batch) * (settings.new_tokens - 1)
    return sum(len(tokens.ids) for tokens in batch)


def _refuse_memory(settings: LatencySettings, engines: Mapping[str, Engine]) -> None:
    from pytest_pot.gates.latency.workloads import refuse_memory

    limits = settings.limits
    limited = {"candidate": [name for name in ("max_memory_mb", "max_memory_ratio") if name in limits.given]}
    limited["reference"] = [name for name in limited["candidate"] if name in REFERENCE_LIMITS]
    for role, engine in engines.items():
        for name in limited[role]:
            refuse_memory(engine, role, name)


def _check_memory(report: LatencyReport, settings: LatencySettings) -> None:
    limits = settings.limits
    peaks = [report.memory] if limits.max_memory_mb is not None else []
    if limits.max_memory_ratio is not None:
        peaks = [report.memory, report.reference_memory]
    if None in peaks:
        raise PotError(
            "peak memory cannot be measured here: pytest-pot measures it on CUDA, and on the CPU under Linux if "
            "/proc/self/clear_refs is writable. Leave max_memory_mb and max_memory_ratio out"
        )
