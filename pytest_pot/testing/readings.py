"""Whether the distributions on a device, where an engine offers them, are those that it returns as arrays."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from pytest_pot.core.text import number
from pytest_pot.engines.distributions import TopK
from pytest_pot.engines.tensors import Distributions, ReferenceReading, device_for_cells, reads, reads_steps
from pytest_pot.testing.case import Case
from pytest_pot.testing.given_ids import check_given_ids
from pytest_pot.testing.structure import Call, structure_problems
from pytest_pot.testing.values import check_values

__all__ = ["check_readings"]


def check_readings(case: Case) -> None:
    """Note what is wrong with ``decode`` and ``reading``, if the engine has them."""
    engine: object = case.engine
    device = device_for_cells([case.engine])
    if reads(engine) and case.gives_ids:
        reading = engine.reading
        _check_reading(case, lambda: reading(case.batch, device))
    before = len(case.problems)
    if hasattr(engine, "decode"):
        check_given_ids(case, "decode")
    if reads_steps(engine) and len(case.problems) == before:
        decoding = engine.decoding
        m = min(20, case.vocab_size)
        likeliest = np.argsort(-case.oracle.log_probs(), axis=1, kind="stable")[:, :m].copy()
        ids = torch.from_numpy(likeliest).to(device)
        call = Call("decoding(…).at(the likeliest ids)", case.batch, m, m, case.vocab_size)
        _check_part(case, call, lambda: decoding(case.batch, device).at(ids, case.vocab_size))


def _check_reading(case: Case, read: Callable[[], ReferenceReading]) -> None:
    n, size = len(case.oracle.places), case.vocab_size
    k = min(20, size - 1) or 1
    try:
        reading = read()
        told = len(reading), reading.vocab_size, reading.n_shared(size), reading.n_shared(k), reading.n_shared(size + 5)
    except Exception as error:  # an engine may raise anything
        case.note_raised("reading(…)", error)
        return
    expected = n, size, size, k, size
    names = ("len", "vocab_size", f"n_shared({size})", f"n_shared({k})", f"n_shared({size + 5})")
    wrong = [f"{name} {a} instead of {b}" for name, a, b in zip(names, told, expected, strict=True) if a != b]
    if wrong:
        case.problems.append(f"reading(…) says {', '.join(wrong)}")
        return
    likeliest = np.argsort(-case.oracle.log_probs(), axis=1, kind="stable")[:, :k].copy()
    ids = torch.from_numpy(likeliest).to(device_for_cells([case.engine]))
    call = Call(f"reading(…).top_k({k})", case.batch, k, k, size)
    top = _check_part(case, call, lambda: reading.top_k(k))
    _check_part(case, Call("reading(…).at(the likeliest ids)", case.batch, k, k, size), lambda: read().at(ids, size))
    for first in (size, k):
        blocks = Call(f"reading(…).blocks({first}, 5)", case.batch, first, first, size)
        _check_part(case, blocks, lambda first=first: Distributions.concatenate(list(read().blocks(first, 5))))  # type: ignore[misc]
    host = case.top_k(case.batch, k)
    if (
        top is not None
        and host is not None
        and np.abs(np.exp(top.log_probs) - np.exp(host[0].log_probs)).max() > case.tolerance
    ):
        apart = float(np.abs(np.exp(top.log_probs) - np.exp(host[0].log_probs)).max())
        case.problems.append(f"{call.name} and {host[1].name} differ by {number(apart)} in probability: they have to agree")


def _check_part(case: Case, call: Call, read: Callable[[], Distributions]) -> TopK | None:
    """Check one part of a reading as arrays; None if it has problems of form."""
    try:
        top = read().to_host()
        problems = structure_problems(top, call)
    except Exception as error:  # an engine may raise anything
        case.note_raised(call.name, error)
        return None
    case.problems += problems
    if problems:
        return None
    check_values(case, top, call)
    return top
