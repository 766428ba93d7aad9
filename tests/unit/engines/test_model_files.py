"""The files of a model that is named by one of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_pot.baseline.provenance import file_digests
from pytest_pot.core.errors import PotError
from pytest_pot.engines.model_files import gguf_files, missing_gguf_files, refuse_git_leftovers_of_model
from pytest_pot.plugin.paths import files_state

SPLIT = ["m-00001-of-00003.gguf", "m-00002-of-00003.gguf", "m-00003-of-00003.gguf"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in (*SPLIT, "m-00001-of-00001.gguf", "m.gguf", "m-00002-of-00004.gguf", "m-1-of-3.gguf"):
        (tmp_path / name).write_bytes(name.encode())
    return tmp_path


@pytest.mark.parametrize("name", SPLIT)
def test_each_file_of_a_split_model_names_all(folder: Path, name: str) -> None:
    assert [file.name for file in gguf_files(folder / name)] == SPLIT
    assert missing_gguf_files(folder / name) == []
    (folder / SPLIT[1]).unlink()
    assert [file.name for file in gguf_files(folder / name)] == [SPLIT[0], SPLIT[2]]
    assert [file.name for file in missing_gguf_files(folder / name)] == [SPLIT[1]]


@pytest.mark.parametrize("name", ["m.gguf", "m-00001-of-00001.gguf", "m-1-of-3.gguf"])
def test_other_files_stand_for_themselves(folder: Path, name: str) -> None:
    assert gguf_files(folder / name) == [folder / name]
    assert gguf_files(str(folder / "none.gguf")) == []


@pytest.mark.parametrize("prefix", ["", "llamacpp://"])
def test_a_change_of_any_file_is_seen(folder: Path, prefix: str) -> None:
    spec = f"{prefix}{folder / SPLIT[0]}"
    state, digests = files_state(spec), file_digests(spec)
    assert list(digests) == SPLIT
    (folder / SPLIT[2]).write_bytes(b"another")
    assert files_state(spec) != state
    changed = file_digests(spec)
    assert [name for name in SPLIT if changed[name] != digests[name]] == [SPLIT[2]]
    (folder / SPLIT[1]).unlink()
    assert list(file_digests(spec)) == [SPLIT[0], SPLIT[2]]


def test_a_pointer_of_git_in_the_place_of_any_file_is_told(folder: Path) -> None:
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 5\n"
    (folder / SPLIT[1]).write_bytes(pointer)
    with pytest.raises(PotError, match=f"{SPLIT[1]} is a Git LFS pointer"):
        refuse_git_leftovers_of_model(str(folder / SPLIT[0]), "candidate")
