"""What is published: a wheel with the package and its data, and an sdist with all that is in the repository."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
import zipfile
from dataclasses import dataclass
from email import message_from_bytes
from pathlib import Path

import pytest

from pytest_pot.core.version import __version__

ROOT = Path(__file__).parents[2]
GENERATED = [
    ".git",
    ".tox",
    ".venv",
    "build",
    "dist",
    "*.egg-info",
    "__pycache__",
    "*.pyc",
    ".*_cache",
    ".hypothesis",
    ".coverage*",
]


@dataclass(frozen=True)
class Built:
    """Paths relative to the repository's, the sdist's and the wheel's root; and the wheel's metadata."""

    repository: set[str]
    sdist: set[str]
    wheel: set[str]
    metadata: bytes
    entry_points: str


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """Both, built from a copy without git's data; the wheel from the sdist."""
    pytest.importorskip("build")
    source = tmp_path_factory.mktemp("package") / "clone"
    shutil.copytree(ROOT, source, ignore=shutil.ignore_patterns(*GENERATED))
    repository = files_in(source)
    # Without isolation, nothing is downloaded.
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(source.parent)]
    run = subprocess.run(command, cwd=source, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    name = f"pytest_pot-{__version__}"
    with tarfile.open(source.parent / f"{name}.tar.gz") as archive:
        sdist = {member.name.removeprefix(f"{name}/") for member in archive.getmembers() if member.isfile()}
    with zipfile.ZipFile(source.parent / f"{name}-py3-none-any.whl") as wheel:
        return Built(
            repository,
            sdist,
            set(wheel.namelist()),
            wheel.read(f"{name}.dist-info/METADATA"),
            wheel.read(f"{name}.dist-info/entry_points.txt").decode(),
        )


def files_in(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_the_wheel_has_the_package_with_all_its_data_and_nothing_else(built: Built) -> None:
    package = {path for path in built.repository if path.startswith("pytest_pot/")}
    assert {"pytest_pot/py.typed", "pytest_pot/prompts/data/builtin.jsonl"} <= package
    assert {path for path in built.wheel if f"{__version__}.dist-info/" not in path} == package


def test_the_sdist_has_all_that_is_in_the_repository(built: Built) -> None:
    assert built.repository - built.sdist == set()
    generated = {path for path in built.sdist - built.repository if not path.startswith("pytest_pot.egg-info/")}
    assert generated == {"PKG-INFO", "setup.cfg"}


def test_the_metadata_say_what_the_project_is(built: Built) -> None:
    metadata = message_from_bytes(built.metadata)
    assert metadata["Name"] == "pytest-pot"
    assert metadata["Version"] == __version__
    assert metadata["License-Expression"] == "MIT"
    assert metadata["Description-Content-Type"] == "text/markdown"
    assert "Framework :: Pytest" in metadata.get_all("Classifier", [])
    payload = metadata.get_payload(decode=True)
    assert isinstance(payload, bytes)
    assert payload.decode().strip() == (ROOT / "README.md").read_text(encoding="utf-8").strip()
    assert "pot = pytest_pot.plugin" in built.entry_points
