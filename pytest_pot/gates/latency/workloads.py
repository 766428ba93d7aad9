"""What is timed: the work of an engine on a batch of tokens, with all preparation done beforehand."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from pytest_pot.core.errors import PotError
from pytest_pot.engines.base import Engine, PeakMemory, Timeable
from pytest_pot.engines.tokens import Tokens
from pytest_pot.gates.latency.stopwatch import Work

__all__ = ["on_cpu", "same_path", "synchroniser", "work"]


def same_path(engines: Iterable[Engine], batch: Sequence[Tokens], top_k: int | None) -> None:
    """Make ``engines`` read all of ``batch`` in every run, and all of them use the same code path.

    Otherwise, prefixes that prompts share would be read in the first run only. And a model whose output layer cannot be split
    off, because of a hook or an adapter, would be compared with a model that computes only the logits it needs.
    """
    timeable = [engine for engine in engines if isinstance(engine, Timeable)]
    for engine in timeable:
        engine.read_whole_prompts()
    for engine in timeable:
        engine.top_k(batch[:1], top_k)  # shows whether the output layer can be split off
    if not all(engine.splits_output for engine in timeable):
        for engine in timeable:
            engine.use_whole_output()


def work(engine: Engine, role: str, batch: Sequence[Tokens], what: str, top_k: int | None) -> Work:
    """The work that ``engine`` is timed at, without loading and encoding.

    Args:
        what: ``"score"``, the forward pass of a gate with its reduction to the ``top_k`` likeliest tokens, as in the preset;
            ``"prefill"``, the bare forward pass with all logits; ``"decode"``, greedy generation of one token per position of
            each prompt in ``batch``, with the model's key-value cache. The time to the first token is the lead.

    Raises:
        PotError: the engine can only score, its model has no cache, or a token id is outside its vocabulary. The work itself
            raises :class:`~pytest_pot.engines.base.OutOfMemory` if it does not fit into memory.
    """
    if what == "score":
        return _work(engine, lambda: engine.top_k(batch, top_k))
    if not isinstance(engine, Timeable):
        raise PotError(f"the {role} is a custom engine ({engine.label}), which can be timed with what='score' only")
    if what == "prefill":
        return _work(engine, engine.prefill(batch))
    generation = engine.generate(batch)
    return _work(engine, generation.other_tokens, generation.first_token, generation.forget)


def _work(
    engine: Engine,
    run: Callable[[], object],
    lead: Callable[[], object] | None = None,
    forget: Callable[[], None] = lambda: None,
) -> Work:
    """``forget`` frees what a run leaves in memory; otherwise the next run would seem to need less."""

    def whole() -> None:
        if lead is not None:
            lead()
        run()

    def peak() -> PeakMemory | None:
        forget()
        return engine.peak_memory(whole) if isinstance(engine, Timeable) else None

    return Work(run, lead, peak)


def synchroniser(engines: Iterable[Engine]) -> Callable[[], None]:
    """A function that waits until the devices of all ``engines`` have finished their work."""
    waits = [engine.synchroniser() for engine in engines if isinstance(engine, Timeable)]

    def synchronise() -> None:
        for wait in waits:
            wait()

    return synchronise


def on_cpu(engines: Iterable[Engine]) -> bool:
    """Whether all of them compute on the CPU in this process."""
    return all(isinstance(engine, Timeable) and engine.on_cpu for engine in engines)
