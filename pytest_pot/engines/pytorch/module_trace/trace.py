"""Compare two models module by module, each module given what the reference's module got.

The reference reads the prompt, and we record what its modules get and return. Then the candidate reads the prompt, and we put
the recorded values in place of its own, wherever a module is called and wherever it returns. So nothing propagates: a module
differs by what it does itself, or by what it gives to the modules inside it.

How much of that is rounding, the reference tells: it runs on its own record, with errors of one rounding step on every value.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from pytest_pot.engines.module_differences import ModuleTrace
from pytest_pot.engines.pytorch.device import rng_untouched
from pytest_pot.engines.pytorch.module_trace.findings import Findings, Limits, error_text, is_inside
from pytest_pot.engines.pytorch.module_trace.pairing import Pairing, paired
from pytest_pot.engines.pytorch.module_trace.recording import Recording, TooLarge, record
from pytest_pot.engines.pytorch.module_trace.replay import Failure, Replay, Rounding, buffers_of
from pytest_pot.engines.tokens import Tokens

__all__ = ["Runnable", "trace_modules"]

_MOST_TOKENS = 256
"""Of a longer prompt, the end is read first; all of it only if that shows no difference."""
_LEAST_TOKENS = 8
_TF32_EPS = torch.finfo(torch.float16).eps
"""TensorFloat-32 has as many bits as float16."""
_MOST_BYTES = 4 << 30
"""The most memory of the host for the record. A model of 7 billion parameters needs 2.5 GB in float32 for 256 tokens."""
_MOST_FAILURES = 3
_MOST_PASSES = 3


class Runnable(Protocol):
    """What is needed of an engine."""

    @property
    def model(self) -> nn.Module: ...

    @property
    def device(self) -> torch.device: ...

    @property
    def computing_dtypes(self) -> Sequence[torch.dtype]:
        """The floating-point dtypes that the model computes in."""

    @property
    def source_dtypes(self) -> Sequence[torch.dtype]:
        """Those of the weights of the caller's model, from which they may have been converted."""

    def call(self, ids: Tensor, **optional: Any) -> Any: ...

    def padded(self, rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]: ...

    def check_ids(self, ids: Sequence[int]) -> None: ...


def trace_modules(reference: Runnable, candidate: Runnable, tokens: Tokens) -> ModuleTrace:
    """Let both models read ``tokens``, and compare what their modules make of the same inputs.

    The candidate reads the prompt once or twice, the reference up to five times. Its last 256 tokens are read, unless no
    difference shows in these.
    """
    pairing = paired(reference.model, candidate.model)
    if 2 * len(pairing.reference) <= len(pairing.missing):
        return ModuleTrace.of_nothing(
            f"only {len(pairing.reference)} of the reference's {len(pairing.reference) + len(pairing.missing)} modules have "
            "their names in the candidate"
        )
    with _quietly(reference, candidate):
        ids = tokens.ids[-_MOST_TOKENS:]
        trace = _traced(reference, candidate, pairing, ids)
        if trace.first is None and trace.n_modules > 0 and len(ids) < len(tokens.ids):
            trace = _traced(reference, candidate, pairing, tokens.ids)
    return trace


def _traced(reference: Runnable, candidate: Runnable, pairing: Pairing, ids: Sequence[int]) -> ModuleTrace:
    while True:
        try:
            reference.check_ids(ids)
            recording = record(_reading(reference, ids), pairing.reference, _MOST_BYTES)
        except TooLarge:
            ids = ids[len(ids) - len(ids) // 2 :]
            if len(ids) < _LEAST_TOKENS:
                return ModuleTrace.of_nothing(
                    f"what the modules return for {_LEAST_TOKENS} tokens takes too much memory to compare"
                )
        except Exception as error:  # whatever a model's code may raise; the comparison is an extra, and must not fail a gate
            return ModuleTrace.of_nothing(f"the reference raised {error_text(error)}")
        else:
            break
    try:
        candidate.check_ids(ids)
    except Exception as error:
        return ModuleTrace.of_nothing(error_text(error))
    return _Comparison(reference, candidate, pairing, recording, ids).result()


@dataclass
class _Comparison:
    """Both models on one record of the reference."""

    reference: Runnable
    candidate: Runnable
    pairing: Pairing
    recording: Recording
    ids: Sequence[int]

    def result(self) -> ModuleTrace:
        replay, failures = self._candidate_on_record(frozenset(self.pairing.reference))
        limits = Limits.of(self._eps)
        findings = Findings(self.pairing, self.recording, limits, replay, failures)
        findings.judge(self._rounded(replay, findings))
        for _ in range(_MOST_PASSES):
            suspects = findings.innermost_suspects()
            if not suspects:
                break
            held = frozenset(name for name in findings.differing if any(is_inside(name, suspect) for suspect in suspects))
            freely, _ = self._replayed(self.candidate, held=held, judged=suspects, unfed=self._unfed & held)
            findings.judge_freely(suspects, freely, self._rounded(freely, findings))
        return replace(findings.trace(), precision=self._precision)

    def _rounded(self, replay: Replay, findings: Findings) -> Replay:
        """The replays of the reference that are like the candidate's ``replay``, with rounding errors; the larger of two."""
        measured = frozenset(name for name, seen in replay.seen.items() if findings.is_large(max(seen.output, seen.passed_on)))
        rounded = Replay(self.recording, frozenset())
        options = {"held": replay.held, "judged": replay.judged}
        pairing = self.pairing
        with buffers_of(pairing.candidate, pairing.reference, self._coarsest) if self._precisions_differ else nullcontext():
            for opposite in (False, True):
                # What it returns itself does not reach a module without others inside, which is the same both times.
                names = measured & self._with_parts if opposite else measured
                if names:
                    rounding = Rounding(self._eps, opposite=opposite)
                    rounded.add(self._replayed(self.reference, rounding=rounding, measured=names, **options)[0])
        return rounded

    def _candidate_on_record(self, names: frozenset[str]) -> tuple[Replay, list[Failure]]:
        """The candidate's replay. A module that fails on the recorded inputs gets its own; if it fails on these too, what was
        compared before is the result."""
        failures: list[Failure] = []
        unfed = set(self._unfed)
        failed: set[str] = set()
        while True:
            inside = {name for name in names if any(name != other and is_inside(name, other) for other in failed)}
            replay, failure = self._replayed(self.candidate, held=names - inside, unfed=frozenset(unfed))
            if failure is None:
                return replay, failures
            failures.append(failure)
            if failure.on_own_inputs or not failure.module or len(failures) == _MOST_FAILURES:
                return replay, failures
            unfed.add(failure.module)
            failed.add(failure.module)

    def _replayed(self, engine: Runnable, **options: Any) -> tuple[Replay, Failure | None]:
        modules = self.pairing.reference if engine is self.reference else self.pairing.candidate
        replay = Replay(self.recording, masks_alike=engine is self.reference or self._masks_alike, **options)
        return replay, replay.run(_reading(engine, self.ids), modules)

    @cached_property
    def _with_parts(self) -> frozenset[str]:
        """The reference's modules that have others inside."""
        return frozenset(name for name, module in self.pairing.reference.items() if any(True for _ in module.children()))

    @property
    def _unfed(self) -> frozenset[str]:
        return self.pairing.resized & self.recording.given_indices

    @cached_property
    def _coarsest(self) -> torch.dtype:
        """The precision to which rounding may have taken values of one of the models."""
        engines = self.reference, self.candidate
        dtypes = {dtype for engine in engines for dtype in engine.computing_dtypes}
        if self._precisions_differ:  # the same weights, rounded once
            dtypes |= {dtype for engine in engines for dtype in engine.source_dtypes}
        # With less than 16 bits, weights are quantised, and that is a difference to be told.
        return max((d for d in dtypes if d.itemsize >= 2), key=lambda d: torch.finfo(d).eps, default=torch.float32)

    @cached_property
    def _eps(self) -> float:
        """The relative rounding error of a value."""
        eps = torch.finfo(self._coarsest).eps
        return max(eps, _TF32_EPS) if self._may_use_tf32 else eps

    @property
    def _precision(self) -> str:
        coarser = self._may_use_tf32 and torch.finfo(self._coarsest).eps < _TF32_EPS
        return "TensorFloat-32" if coarser else str(self._coarsest).removeprefix("torch.")

    @property
    def _may_use_tf32(self) -> bool:
        devices = {engine.device.type for engine in (self.reference, self.candidate)}
        return len(devices) > 1 and torch.get_float32_matmul_precision() != "highest"

    @property
    def _precisions_differ(self) -> bool:
        first, second = self.reference, self.candidate
        return set(first.source_dtypes) != set(second.source_dtypes) or set(first.computing_dtypes) != set(
            second.computing_dtypes
        )

    @property
    def _masks_alike(self) -> bool:
        """Whether both models attend by the same function. Some take no mask for a causal one, others for none."""
        kinds = (
            getattr(getattr(engine.model, "config", None), "_attn_implementation", None)
            for engine in (self.reference, self.candidate)
        )
        return len(set(kinds)) == 1


def _reading(engine: Runnable, ids: Sequence[int]) -> Callable[[], object]:
    rows, mask = engine.padded([ids])
    return lambda: engine.call(rows, attention_mask=mask, use_cache=False)


@contextmanager
def _quietly(reference: Runnable, candidate: Runnable) -> Iterator[None]:
    """No gradients, no compiled code, in which hooks would be traced, and no change of the random state."""
    with ExitStack() as stack:
        stack.enter_context(rng_untouched(reference.device, candidate.device))
        stack.enter_context(torch.no_grad())
        set_stance: Any = getattr(torch.compiler, "set_stance", None)
        if set_stance is not None and any(_is_compiled(engine.model) for engine in (reference, candidate)):
            stack.enter_context(set_stance("force_eager"))
        yield


def _is_compiled(model: nn.Module) -> bool:
    return any("_orig_mod" in module._modules or module._compiled_call_impl is not None for module in model.modules())
