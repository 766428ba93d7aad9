"""What the six metrics of 64 positions cost over 262,144 ids, from logits, next to plain NumPy.

Run it with ``OMP_NUM_THREADS=1`` for one core, or with as many as the machine has; ``--positions`` and ``--vocabulary`` change
the size. Both ways run in turns, and the smallest time of each counts.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from pytest_pot.core.names import METRICS
from pytest_pot.engines.pytorch.output_layer import Logits
from pytest_pot.engines.pytorch.reduction import Softmax, whole_vocabulary
from pytest_pot.engines.tensors import block_height
from pytest_pot.scoring.metrics import divergences

sys.path.append(str(Path(__file__).resolve().parents[2]))

from tests.unit.oracle import log_softmax_rows, metrics_of_rows

MODELS = {"close models": 0.1, "unlike models": 4.0}
"""The standard deviation of the noise on the candidate's logits."""


def ours(reference: Tensor, candidate: Tensor) -> Tensor:
    """[metrics, n], as a gate computes them."""
    n, vocab = reference.shape
    targets, height = torch.zeros(n, dtype=torch.int64), block_height(n, vocab, reference.device)
    softmax = Softmax(1.0, torch.finfo(torch.float32).eps)
    blocks = zip(
        *(whole_vocabulary(Logits(logits), targets, vocab, height, softmax) for logits in (reference, candidate)), strict=True
    )
    return torch.cat([divergences(p, q, "bucket") for p, q in blocks], dim=1)


def plain(reference: Tensor, candidate: Tensor) -> Tensor:
    """The same, one position at a time: for all at once, plain NumPy takes gigabytes."""
    rows = []
    for p, q in zip(reference.numpy(), candidate.numpy(), strict=True):
        log_p, log_q = log_softmax_rows(p[None]), log_softmax_rows(q[None])
        values = {name: row[0] for name, row in metrics_of_rows(log_p, log_q).items()}
        values["delta_ce"] = abs(log_p[0, 0] - log_q[0, 0])
        values["top1_flip"] = float(log_p.argmax() != log_q.argmax())
        rows.append([values[name] for name in METRICS])
    return torch.tensor(rows, dtype=torch.float64).T


def timed(run: Callable[[], object]) -> tuple[float, float]:
    """Seconds: elapsed, and of the processors."""
    elapsed, busy = time.perf_counter(), time.process_time()
    run()
    return time.perf_counter() - elapsed, time.process_time() - busy


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--positions", type=int, default=64)
    parser.add_argument("--vocabulary", type=int, default=262_144)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    random = torch.Generator().manual_seed(0)
    shape = arguments.positions, arguments.vocabulary
    print(f"{shape[0]} positions, {shape[1]} ids, {torch.get_num_threads()} thread(s)")
    for label, noise in MODELS.items():
        reference = 2 * torch.randn(*shape, generator=random)
        candidate = reference + noise * torch.randn(*shape, generator=random)
        torch.testing.assert_close(ours(reference, candidate), plain(reference, candidate), rtol=1e-9, atol=1e-12)
        times = [[timed(partial(way, reference, candidate)) for way in (ours, plain)] for _ in range(arguments.rounds)]
        (our_time, our_work), (plain_time, plain_work) = (
            (min(pair[way][0] for pair in times), min(pair[way][1] for pair in times)) for way in (0, 1)
        )
        print(
            f"{label}: {our_time:.2f} s, {our_work:.2f} s of processors; plain NumPy {plain_time:.2f} s, {plain_work:.2f} s; "
            f"ratio {our_time / plain_time:.3f}, {our_work / plain_work:.3f}"
        )


if __name__ == "__main__":
    main()
