"""The models that the pages name, saved once per process."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs.models import save_smollm2, save_tiny_models
from tests.docs.zygote import commands


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("docs") / "models"
    save_tiny_models(folder)
    return folder


@pytest.fixture(scope="session")
def smollm2_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("docs") / "models"
    save_smollm2(folder)
    return folder


@pytest.fixture(scope="session")
def page_commands(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder with ``python`` and ``pytest`` for the blocks: those that fork, where a process with torch may."""
    if sys.platform != "linux":
        yield Path(sys.executable).parent
        return
    with commands(tmp_path_factory.mktemp("bin")) as folder:
        yield folder
