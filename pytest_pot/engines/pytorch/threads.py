"""The number of CPU threads that torch computes with."""

from __future__ import annotations

import torch

__all__ = ["TorchThreads"]


class TorchThreads:
    """torch's thread count, which is a setting of the whole process; a :class:`~pytest_pot.engines.base.CpuThreads`."""

    @property
    def count(self) -> int:
        return torch.get_num_threads()

    @count.setter
    def count(self, n: int) -> None:
        torch.set_num_threads(n)
