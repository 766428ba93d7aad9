"""A GPU finds the kind of change that a CPU finds, where both models, or the candidate of a recording, are on it."""

from __future__ import annotations

import pytest
import torch

from pytest_pot.engines.pytorch.weights.changes import change_between
from pytest_pot.engines.pytorch.weights.prints import norms_differ
from pytest_pot.engines.pytorch.weights.recorded_changes import change_since
from pytest_pot.engines.weights import TensorChange

from .test_grids import normal
from .test_recorded_changes import CHANGES, recorded

pytestmark = pytest.mark.cuda

KINDS = {name: change for name, (change, *_) in CHANGES.items()} | {
    "rows reversed": lambda w: w.flip(0),
    "two rows swapped": lambda w: torch.cat([w[1:2], w[:1], w[2:]]),
    "columns reversed": lambda w: w.flip(1),
    "reset": lambda w: torch.full_like(w, 1.25),
    "equal": torch.clone,
}


@pytest.mark.parametrize("name", KINDS)
def test_a_change_on_a_gpu_is_told_as_on_a_cpu(name: str) -> None:
    reference = normal(256, 256)
    candidate = KINDS[name](reference)
    print_of_reference = recorded(reference)
    there = candidate.cuda()
    pairs = (
        (change_between(reference, candidate), change_between(reference.cuda(), there)),
        (change_since(print_of_reference, candidate), change_since(print_of_reference, there)),
    )
    for here, on_gpu in pairs:
        if here is None or on_gpu is None:
            assert here is on_gpu
            assert name == "equal"
            continue
        assert _words(on_gpu) == _words(here)
        for size, expected in ((on_gpu.amount, here.amount), (on_gpu.relative, here.relative)):
            assert size == (None if expected is None else pytest.approx(expected, rel=1e-4))
    assert norms_differ(there, print_of_reference) == norms_differ(candidate, print_of_reference)


def _words(change: TensorChange) -> tuple[str, ...]:
    return change.kind, change.what, change.detail
