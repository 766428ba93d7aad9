"""What is timed: the work of an engine on a batch of tokens, with all preparation done beforehand."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from pytest_pot.core.errors import PotError
from pytest_pot.engines.base import Engine, Generating, PeakMemory, Remote, Streamed, Timeable, in_own_process
from pytest_pot.engines.tokens import Tokens
from pytest_pot.gates.latency.stopwatch import Work

__all__ = ["on_cpu", "refuse_memory", "same_path", "synchroniser", "work"]


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

    A server reads prompts that it has not read before in every run, and a timing is a single run, so that the number of
    requests stays small.

    Raises:
        PotError: the engine can only score, its model has no cache, or a token id is outside its vocabulary. The work itself
            raises :class:`~pytest_pot.engines.base.OutOfMemory` if it does not fit into memory, and another PotError where a
            server's answer is none that can be timed.
    """
    if what == "score":
        if isinstance(engine, Remote):
            return replace(_work(engine, lambda: engine.top_k(engine.unread(batch), top_k)), most_repeats=1)
        return _work(engine, lambda: engine.top_k(batch, top_k))
    if what == "prefill":
        if not isinstance(engine, Timeable):
            raise _cannot_be_timed(engine, role, what)
        return _work(engine, engine.prefill(batch))
    if not isinstance(engine, Generating):
        raise _cannot_be_timed(engine, role, what)
    generation = engine.generate(batch)
    timed = _work(engine, generation.other_tokens, generation.first_token, generation.forget)
    if isinstance(generation, Streamed):
        return replace(timed, requests=lambda: generation.requests, most_repeats=1)
    return timed


def _cannot_be_timed(engine: Engine, role: str, what: str) -> PotError:
    if isinstance(engine, Remote):
        return PotError(
            f"the {role} {_elsewhere(engine)}, and what='prefill' times the bare forward pass of a model in this "
            "process. Time the requests that a gate makes (what='score'), or generation (what='decode'), which shows the time "
            "to the first token"
        )
    possible = "what='score' or what='decode'" if isinstance(engine, Generating) else "what='score'"
    missing = "the bare forward pass" if what == "prefill" else "generation token by token"
    protocol = "Timeable" if what == "prefill" else "Generating"
    return PotError(
        f"what={what!r} times {missing}, which is not possible with what runs the {role} ({engine.label}): it can be timed "
        f"with {possible} only. An engine of one's own can offer more: see pytest_pot.engines.base.{protocol}"
    )


def _elsewhere(engine: Remote) -> str:
    return f"runs in a process of its own, {engine.label}" if in_own_process(engine) else f"is a server, {engine.label}"


def refuse_memory(engine: Engine, role: str, limit_name: str) -> None:
    """Raises :class:`PotError` if the memory of ``engine`` cannot be measured from here."""
    if isinstance(engine, Remote):
        raise PotError(
            f"{limit_name} limits the memory of a model in this process, but the {role} {_elsewhere(engine)}, whose memory "
            f"cannot be measured from here. Leave {limit_name} out"
        )
    if not isinstance(engine, Timeable):
        raise PotError(
            f"{limit_name} limits peak memory, which cannot be measured with what runs the {role} ({engine.label}). Leave "
            f"{limit_name} out. An engine of one's own can offer it: see pytest_pot.engines.base.Timeable"
        )


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
