"""The models that the pages name, saved once per process."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.docs.models import save_smollm2, save_tiny_models


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
