"""What all tests share: threads, and how many examples hypothesis tries."""

from __future__ import annotations

import os

import hypothesis
import pytest
import torch

# No deadlines: how long an example takes is up to what else the machine does.
hypothesis.settings.register_profile("quick", max_examples=30, deadline=None)
hypothesis.settings.register_profile("thorough", max_examples=500, deadline=None)
hypothesis.settings.load_profile("quick")  # pytest's option --hypothesis-profile=thorough comes later, and wins


@pytest.fixture(scope="session", autouse=True)
def few_threads() -> None:
    """Tiny models gain nothing from more; and each worker of pytest-xdist has one core."""
    torch.set_num_threads(1 if "PYTEST_XDIST_WORKER" in os.environ else min(2, torch.get_num_threads()))
