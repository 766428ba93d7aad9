"""Settings for all tests: no network, the number of torch threads and of hypothesis examples, what is skipped without a GPU,
what is run again, and how long a test may take."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import torch

from .zygote import commands

# Also for what the tests start, and before anything here imports huggingface_hub, which reads it once.
os.environ["HF_HUB_OFFLINE"] = "1"

with suppress(ImportError):  # a machine with a GPU may lack it, and the tests that need the GPU do without
    import hypothesis

    # No deadlines: the time of an example depends on the machine's other processes.
    hypothesis.settings.register_profile("quick", max_examples=30, deadline=None)
    hypothesis.settings.register_profile("thorough", max_examples=500, deadline=None)
    hypothesis.settings.load_profile("quick")  # pytest reads --hypothesis-profile=thorough later, so it wins


_TESTS = Path(__file__).parent
_RERUNS = 3
"""Of a test that is marked with ``wall_time``."""
_LIMIT_S = 600
"""Of a test that hangs, with its fixtures: many times what the longest takes on a busy machine."""
_LIMITS_S = {"browser": 1200, "docs": 1200}
"""Of the folders whose own limits, which say more, are as long as that."""
_SLOW_LIMIT_S = 3600
"""Of a test that is marked with ``slow``: one runs all examples."""


def pytest_configure() -> None:
    # A shell without job control starts what runs in the background with Ctrl-C ignored, and a test that interrupts would wait
    # for ever.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.pluginmanager.hasplugin("rerunfailures"):  # not every environment has pytest-rerunfailures
        for item in items:
            if item.get_closest_marker("wall_time") is not None:
                item.add_marker(pytest.mark.flaky(reruns=_RERUNS))
    if config.pluginmanager.hasplugin("timeout"):  # nor pytest-timeout
        for item in items:
            if item.get_closest_marker("timeout") is None:
                item.add_marker(pytest.mark.timeout(_limit_s(item)))


def _limit_s(item: pytest.Item) -> int:
    if item.get_closest_marker("slow") is not None:
        return _SLOW_LIMIT_S
    return _LIMITS_S.get(item.path.relative_to(_TESTS).parts[0], _LIMIT_S) if item.path.is_relative_to(_TESTS) else _LIMIT_S


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("cuda") is not None and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device, and torch sees none here")


@pytest.fixture(scope="session")
def forked_commands(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder with ``python`` and ``pytest``: on Linux they fork from a process with torch, elsewhere they are as usual."""
    if sys.platform != "linux":
        yield Path(sys.executable).parent
        return
    with commands(tmp_path_factory.mktemp("bin")) as folder:
        yield folder


@pytest.fixture(scope="session", autouse=True)
def no_proxies() -> Iterator[None]:
    """Names that no host has, and servers of a test, are not for the proxy of a company."""
    with pytest.MonkeyPatch.context() as environment:
        for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
            environment.delenv(name, raising=False)
            environment.delenv(name.upper(), raising=False)
        yield


@pytest.fixture(scope="session", autouse=True)
def few_threads() -> Iterator[None]:
    """Tiny models gain nothing from more threads, and each pytest-xdist worker has one core, also for what it starts."""
    with pytest.MonkeyPatch.context() as environment:
        if "PYTEST_XDIST_WORKER" in os.environ:
            environment.setenv("OMP_NUM_THREADS", "1")
            torch.set_num_threads(1)
        else:
            torch.set_num_threads(min(2, torch.get_num_threads()))
        yield
