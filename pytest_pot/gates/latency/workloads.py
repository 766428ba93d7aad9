"""Work to be timed, made out of an engine and a batch of tokens that is on its device already."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from pytest_pot.core.errors import PotError
from pytest_pot.engines.base import Engine
from pytest_pot.engines.pytorch.engine import CausalLM
from pytest_pot.gates.latency.memory import peak_of
from pytest_pot.gates.latency.statistics import Peak
from pytest_pot.gates.latency.stopwatch import Work
from pytest_pot.prompts.tokenization import Tokens

__all__ = ["alike", "on_cpu", "synchroniser", "work"]

_CACHES = ("cache", "past_key_values", "cache_params")
"""What transformers calls the cache, in forward's arguments and in what it returns: now, before, and for recurrent models."""


def alike(engines: Iterable[Engine], batch: Sequence[Tokens], top_k: int | None) -> None:
    """Have ``engines`` read all of ``batch`` in every run, and all by the same road.

    What prompts begin with alike would be read in the first run only; and a model that has to be left whole, because of a hook
    or an adapter, would be held against one of which only the needed logits are made.
    """
    models = [engine for engine in engines if isinstance(engine, CausalLM)]
    readers = [model.reader for model in models if model.reader is not None]
    for reader in readers:
        reader.prefixes = None
    for model in models:
        model.top_k(batch[:1], top_k)  # shows whether it can be split
    if any(reader.output_layer is None for reader in readers):
        for reader in readers:
            reader.output_layer = None


def work(engine: Engine, role: str, batch: Sequence[Tokens], what: str, top_k: int | None) -> Work:
    """What ``engine`` is timed at, without anything that belongs to loading or encoding.

    Args:
        what: ``"score"``, the forward of a gate with its reduction to the ``top_k`` likeliest tokens, as the preset makes it;
            ``"prefill"``, the bare forward, all logits; ``"decode"``, as many tokens as each of ``batch`` has positions,
            generated greedily after its prompt with the model's own key-value cache. The first of them is the lead.

    Raises:
        PotError: the engine can only score, its model has no cache, or a token id is outside its vocabulary. What is timed
            raises :class:`~pytest_pot.engines.base.OutOfMemory` where it does not fit.
    """
    if what == "score":
        return _measured(engine, lambda: engine.top_k(batch, top_k))
    if not isinstance(engine, CausalLM):
        raise PotError(f"the {role} is an engine of its own ({engine.label}), of which only what='score' can be timed")
    for tokens in batch:
        engine.check_ids(tokens.ids)
    if what == "prefill":
        ids, mask = engine.padded([tokens.ids for tokens in batch])
        return _measured(engine, lambda: engine.call(ids, attention_mask=mask, use_cache=False))
    decoding = _Decoding(engine, role, batch)
    return _measured(engine, decoding.go_on, decoding.begin, decoding.forget)


def _measured(
    engine: Engine,
    run: Callable[[], object],
    lead: Callable[[], object] | None = None,
    forget: Callable[[], None] = lambda: None,
) -> Work:
    """``forget`` drops what a run leaves behind, which would hide that the next one needs it too."""

    def guarded(part: Callable[[], object]) -> Callable[[], object]:
        if not isinstance(engine, CausalLM):
            return part

        def run() -> None:
            with engine.memory_errors():
                part()

        return run

    run, lead = guarded(run), None if lead is None else guarded(lead)

    def whole() -> None:
        if lead is not None:
            lead()
        run()

    def peak() -> Peak | None:
        forget()
        return peak_of(whole, engine.model, engine.device) if isinstance(engine, CausalLM) else None

    return Work(run, lead, peak)


class _Decoding:
    """Greedy decoding of a batch. Prompts are padded on the left, so that all of them go on at the same index."""

    def __init__(self, engine: CausalLM, role: str, batch: Sequence[Tokens]) -> None:
        name = next((name for name in _CACHES if name in engine.accepts), None)
        if name is None:
            raise _no_cache(role)
        self._engine, self._role, self._name = engine, role, name
        self._ids, mask = engine.padded([tokens.ids[: tokens.prompt_len] for tokens in batch], left=True)
        self._steps = batch[0].n_positions - 1
        self._mask = torch.cat([mask, mask.new_ones(len(batch), self._steps)], dim=1)
        self._positions = (self._mask.cumsum(1) - 1).clamp_min(0)

    @property
    def last(self) -> Tensor:
        """The tokens chosen last, [batch, 1]."""
        return self._token

    def forget(self) -> None:
        """Let go of the keys and values of the last run."""
        self._cache = None

    def begin(self) -> None:
        """Read the prompts and choose the first token."""
        length = self._ids.shape[1]
        output = self._engine.call(self._ids, **self._seen(0, length), logits_to_keep=1)
        self._keep(output)

    def go_on(self) -> None:
        """Choose all other tokens, one after the other."""
        length = self._ids.shape[1]
        for end in range(length, length + self._steps):
            self._keep(self._engine.call(self._token, **self._seen(end, end + 1), **{self._name: self._cache}))

    def _seen(self, start: int, end: int) -> dict[str, Any]:
        positions = self._positions[:, start:end]
        return {"attention_mask": self._mask[:, :end], "position_ids": positions, "use_cache": True}

    def _keep(self, output: Any) -> None:
        self._cache = getattr(output, self._name, None)
        if self._cache is None:
            raise _no_cache(self._role)
        self._token: Tensor = output.logits[:, -1:].argmax(-1)


def _no_cache(role: str) -> PotError:
    return PotError(
        f"the {role} takes and returns no key-value cache ({' or '.join(_CACHES)}), which what='decode' goes on with; time it "
        "with what='score' or what='prefill'"
    )


def synchroniser(engines: Iterable[Engine]) -> Callable[[], None]:
    """Waits until all devices of ``engines`` have done what they were told; a CPU has, when a call returns."""
    models = [engine.model for engine in engines if isinstance(engine, CausalLM)]
    devices = {parameter.device for model in models for parameter in model.parameters()}
    waits = [_waiting(device) for device in devices if device.type not in ("cpu", "meta")]

    def synchronise() -> None:
        for wait in waits:
            wait()

    return synchronise


def _waiting(device: torch.device) -> Callable[[], object]:
    if device.type == "mps":
        return torch.mps.synchronize  # there is one only, and it takes none
    return partial(torch.get_device_module(device).synchronize, device)


def on_cpu(engines: Iterable[Engine]) -> bool:
    """Whether all of them are models that torch runs on the CPU."""
    return all(isinstance(engine, CausalLM) and engine.device.type == "cpu" for engine in engines)
