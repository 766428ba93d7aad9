"""A pointer of Git LFS or the markers of a conflict in the place of a file, in real checkouts of Git where there is one."""

from __future__ import annotations

import hashlib
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from pytest_pot import PotError
from pytest_pot.baseline.provenance import file_digests
from pytest_pot.core.git_files import Pointer, pointer_at, refuse_git_leftovers
from pytest_pot.engines.model_files import refuse_git_leftovers_of_model, refuse_git_leftovers_of_tokenizer
from pytest_pot.prompts.jsonl import load_prompts

from ...environment import without_git

OID = "4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393"


def pointer(oid: str = OID, size: int = 1_234_567) -> str:
    return f"version https://git-lfs.github.com/spec/v1\noid sha256:{oid}\nsize {size}\n"


def conflict(ours: str, theirs: str) -> str:
    return f"<<<<<<< HEAD\n{ours}=======\n{theirs}>>>>>>> other branch\n"


def message(what: str, *files: Path) -> str:
    with pytest.raises(PotError) as error:
        refuse_git_leftovers(what, files)
    return str(error.value)


def test_a_pointer_is_recognised(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    file.write_text(pointer())
    assert pointer_at(file) == Pointer(OID, 1_234_567)
    file.write_text("version https://git-lfs.github.com/spec/v1\n")
    assert pointer_at(file) == Pointer(None, None)
    for content in ("", "version 1", "x" + pointer(), pointer() + "x" * 5000):
        file.write_text(content)
        assert pointer_at(file) is None
    assert pointer_at(tmp_path) is pointer_at(tmp_path / "missing") is pointer_at(tmp_path / ("x" * 300)) is None


def test_a_pointer_outside_of_a_checkout(tmp_path: Path) -> None:
    file = tmp_path / "x.gguf"
    file.write_text(pointer())
    assert message("cannot load the model", file) == (
        f"cannot load the model: {file} is a Git LFS pointer to 1,234,567 bytes, not the file itself. It is in no checkout of "
        "Git: run git lfs pull where this copy was made, and copy it again"
    )


def test_several_pointers_are_fetched_by_one_command(tmp_path: Path) -> None:
    (tmp_path / ".git").mkdir()
    folder = tmp_path / "the models" / "a"
    folder.mkdir(parents=True)
    files = [folder / f"{n}.safetensors" for n in range(3)]
    for file in files:
        file.write_text(pointer())
    assert message("cannot load it", *files) == (
        f"cannot load it: {files[0]} is a Git LFS pointer to 1,234,567 bytes, not the file itself, and so are 2 more files "
        f"of it. This fetches what is missing:\n  git -C {tmp_path} lfs pull '--include=the models/a'"
    )
    (folder / ".git").write_text("gitdir: elsewhere\n")  # a submodule
    assert message("cannot load it", *files).endswith(f"\n  git -C '{folder}' lfs pull")


def test_texts_that_only_look_like_conflicts_are_read(tmp_path: Path) -> None:
    file = tmp_path / "merges.txt"
    file.write_text("#version: 0.2\n<<<<<<< <\n= =\n> >\n")
    refuse_git_leftovers("it", [file, tmp_path / "missing", tmp_path])


def test_a_conflict_between_pointers(tmp_path: Path) -> None:
    file = tmp_path / "ref.pot.safetensors"
    first, *rest = pointer().splitlines(keepends=True)
    file.write_text(first + conflict("".join(rest), "".join(rest).replace("4d", "5e")))
    text = message("cannot read it", file)
    assert text.startswith(f"cannot read it: {file} has the markers of a conflict that a merge in Git left (line 2: ")


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_the_printed_command_ends_a_real_conflict(tmp_path: Path) -> None:
    root = tmp_path / "a checkout"
    file = root / "tests" / "my prompts.jsonl"
    file.parent.mkdir(parents=True)

    def git(*arguments: str) -> int:
        identity = ["-c", "user.name=x", "-c", "user.email=x@example.com", "-c", "commit.gpgsign=false"]
        command = ["git", *identity, *arguments]
        return subprocess.run(command, cwd=root, env=without_git(), capture_output=True, check=False).returncode

    def commit(text: str) -> None:
        file.write_text(f'"first"\n"{text}"\n')
        assert git("add", ".") == 0
        assert git("commit", "-m", text) == 0

    git("init")
    commit("base")
    git("checkout", "-b", "theirs")
    commit("theirs")
    git("checkout", "-b", "ours", "HEAD~1")
    commit("ours")
    assert git("merge", "theirs") == 1
    with pytest.raises(PotError) as error:
        load_prompts(file)
    head, command = str(error.value).splitlines()
    assert head == (
        f"cannot read the prompts: {file} has the markers of a conflict that a merge in Git left (line 2: '<<<<<<< HEAD'). "
        "Keep one side and remove the markers. While the merge is under way, this keeps ours, and --theirs the other side:"
    )
    assert command == f"  git -C '{root}' checkout --ours -- 'tests/my prompts.jsonl'"
    subprocess.run(shlex.split(command), env=without_git(), check=True, capture_output=True)
    assert [prompt.text for prompt in load_prompts(file)] == ["first", "ours"]


@pytest.mark.parametrize(
    "name", ["config.json", "model.safetensors", "model.safetensors.index.json", "adapter_config.json", "part-1.safetensors"]
)
def test_each_file_of_a_model_is_looked_at(tmp_path: Path, name: str) -> None:
    (tmp_path / "model.safetensors.index.json").write_text('{"weight_map": {"a": "part-1.safetensors", "b": 3}}')
    (tmp_path / "consolidated.safetensors").write_text(pointer())  # nobody reads it
    refuse_git_leftovers_of_model(str(tmp_path), "candidate")
    (tmp_path / name).write_text(pointer())
    with pytest.raises(PotError) as error:
        refuse_git_leftovers_of_model(str(tmp_path), "candidate")
    assert str(error.value).startswith(f"cannot load the candidate {str(tmp_path)!r}: {tmp_path / name} is a Git LFS pointer")


@pytest.mark.parametrize("name", ["tokenizer.json", "merges.txt", "vocab.json", "tokenizer.model", "chat_template.jinja"])
def test_each_file_of_a_tokenizer_is_looked_at(tmp_path: Path, name: str) -> None:
    refuse_git_leftovers_of_tokenizer(str(tmp_path))
    (tmp_path / name).write_text(pointer())
    with pytest.raises(PotError, match="is a Git LFS pointer to 1,234,567 bytes"):
        refuse_git_leftovers_of_tokenizer(str(tmp_path))


def test_the_digest_of_a_pointer_is_that_of_its_file(tmp_path: Path) -> None:
    """A recording can be held against weights that are not fetched."""
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"weights")
    whole = file_digests(str(tmp_path))
    file.write_text(pointer(hashlib.sha256(b"weights").hexdigest(), 7))
    assert file_digests(str(tmp_path)) == whole
