"""What is timed: work made of an engine and a batch of tokens, with everything done beforehand that need not be timed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from pytest_pot.core.errors import PotError
from pytest_pot.engines.base import Engine, PeakMemory, Timeable
from pytest_pot.engines.tokens import Tokens
from pytest_pot.gates.latency.stopwatch import Work

__all__ = ["on_cpu", "same_path", "synchroniser", "work"]


def same_path(engines: Iterable[Engine], batch: Sequence[Tokens], top_k: int | None) -> None:
    """Make ``engines`` read all of ``batch`` in every run, and all of them by the same path.

    Otherwise the beginnings that prompts share would be read in the first run only; and a model whose output layer cannot be
    split off, because of a hook or an adapter, would be compared with one that makes only the needed logits.
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
    """What ``engine`` is timed at, without anything that belongs to loading or encoding.

    Args:
        what: ``"score"``, the forward pass of a gate with its reduction to the ``top_k`` likeliest tokens, as the preset makes
        it;
            ``"prefill"``, the bare forward pass, all logits; ``"decode"``, greedy generation of as many tokens as each of
            ``batch`` has positions, with the model's own key-value cache. The time to the first of them is the lead.

    Raises:
        PotError: the engine can only score, its model has no cache, or a token id is outside its vocabulary. What is timed
            raises :class:`~pytest_pot.engines.base.OutOfMemory` where it does not fit.
    """
    if what == "score":
        return _work(engine, lambda: engine.top_k(batch, top_k))
    if not isinstance(engine, Timeable):
        raise PotError(f"the {role} is an engine of its own ({engine.label}), of which only what='score' can be timed")
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
    """``forget`` frees what a run leaves behind, which would hide that the next run needs it too."""

    def whole() -> None:
        if lead is not None:
            lead()
        run()

    def peak() -> PeakMemory | None:
        forget()
        return engine.peak_memory(whole) if isinstance(engine, Timeable) else None

    return Work(run, lead, peak)


def synchroniser(engines: Iterable[Engine]) -> Callable[[], None]:
    """A function that waits until the devices of all ``engines`` have done their work."""
    timeable = [engine for engine in engines if isinstance(engine, Timeable)]

    def synchronise() -> None:
        for engine in timeable:
            engine.synchronise()

    return synchronise


def on_cpu(engines: Iterable[Engine]) -> bool:
    """Whether all of them compute on the CPU in this process."""
    return all(isinstance(engine, Timeable) and engine.on_cpu for engine in engines)
