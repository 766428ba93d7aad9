"""Gates on GGUF files that llama.cpp runs: paths, caches, recordings, and the processes that are gone afterwards."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from ..unit.gguf_models import write_tiny
from .conftest import Project

pytest.importorskip("xllamacpp")

MARKED = "import pytest\n\n@pytest.mark.pot_identity({})\ndef test_it(): pass\n"
SAME = "reference='llamacpp://model.gguf', candidate='llamacpp://model.gguf', tolerance='identical'"


def servers() -> set[int]:
    """The processes of llama-servers that this process has started."""
    found = set()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if b"llamacpp/child.py" in (folder / "cmdline").read_bytes():
                parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
                if parent == os.getpid():
                    found.add(int(folder.name))
        except OSError:
            continue
    return found


@pytest.fixture
def gguf_project(project: Project) -> Project:
    project.ini(pot_prompts="prompts.jsonl", pot_positions=6)
    write_tiny(project.path / "model.gguf")
    return project


def test_a_file_is_found_beside_the_test_and_its_server_ends_with_the_session(gguf_project: Project) -> None:
    before = servers()
    (gguf_project.path / "sub").mkdir()
    (gguf_project.path / "model.gguf").rename(gguf_project.path / "sub" / "model.gguf")
    gguf_project.write(**{"sub/test_it": MARKED.format(SAME)})
    result = gguf_project.run("-v", "sub")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(
        ["*, llama.cpp (model.gguf), *", "*the candidate is GGUF F32, scored in llama.cpp's own kernels"]
    )
    assert servers() == before


def test_a_change_of_a_later_file_of_a_split_model_is_seen(gguf_project: Project) -> None:
    first = write_tiny(gguf_project.path / "split.gguf", per_file=12)
    others = [write_tiny(gguf_project.path / "other.gguf", per_file=12, seed=1)]
    assert first.name == "split-00001-of-00002.gguf"
    for role, other in (("reference", "candidate"), ("candidate", "reference")):
        marked = MARKED.format(f"{role}='llamacpp://{first.name}', {other}='llamacpp://model.gguf', tolerance='identical'")
        gguf_project.write(test_it=marked)
        gguf_project.run().assert_outcomes(passed=1)  # which keeps what the reference says
        second = gguf_project.path / "split-00002-of-00002.gguf"
        kept = second.read_bytes()
        second.write_bytes((others[0].parent / "other-00002-of-00002.gguf").read_bytes())
        result = gguf_project.run()
        result.assert_outcomes(failed=1)
        result.stdout.fnmatch_lines(["*DIFFERENT: *"])
        second.write_bytes(kept)


def test_options_and_ini_keys_name_files(gguf_project: Project) -> None:
    gguf_project.ini(pot_prompts="prompts.jsonl", pot_positions=6, pot_reference="llamacpp://model.gguf")
    elsewhere = gguf_project.path / "elsewhere"
    elsewhere.mkdir()
    write_tiny(elsewhere / "other.gguf", seed=1)
    gguf_project.write(test_it=MARKED.format(""))
    os.chdir(elsewhere)
    result = gguf_project.run(
        "--pot-candidate=llamacpp://other.gguf", "--rootdir", str(gguf_project.path), "-c", "../pytest.ini", ".."
    )
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*DIFFERENT: tv 0.*"])


def test_a_missing_file_is_told_with_the_places_looked_in(gguf_project: Project) -> None:
    (gguf_project.path / "sub").mkdir()
    gguf_project.write(**{"sub/test_it": MARKED.format("reference='model.gguf', candidate='llamacpp://no.gguf'")})
    result = gguf_project.run("sub")
    result.assert_outcomes(errors=1)
    paths = [str(gguf_project.path / folder / "no.gguf") for folder in ("sub", ".")]
    assert any(
        line.startswith("cannot load the candidate 'llamacpp://no.gguf': none of these exists: ")
        and all(os.path.normpath(path) in line for path in paths)
        for line in result.outlines
    )


def test_a_file_that_is_written_between_two_tests_is_read_again(gguf_project: Project) -> None:
    write_tiny(gguf_project.path / "other.gguf", seed=1)
    gguf_project.write(
        test_it="""
        import os, pytest

        @pytest.mark.pot_identity(reference="model.gguf", candidate="llamacpp://model.gguf", tolerance="half")
        def test_before():
            os.replace("other.gguf", "model.gguf")

        @pytest.mark.pot_identity(reference="model.gguf", candidate="llamacpp://model.gguf", tolerance="half")
        def test_after(): pass
    """
    )
    gguf_project.run("-p", "no:cacheprovider").assert_outcomes(passed=2)


def test_a_live_reference_is_kept_for_the_next_run_until_its_file_changes(
    gguf_project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTEST_ADDOPTS", "-p pot")
    gguf_project.write(test_it=MARKED.format("reference='llamacpp://model.gguf', candidate='model.gguf', tolerance='half'"))
    outputs = [gguf_project.run("-v").stdout.str() for _ in range(2)]
    assert ["from the cache" in output for output in outputs] == [False, True]
    assert all("1 passed" in output for output in outputs)
    time.sleep(0.01)
    write_tiny(gguf_project.path / "model.gguf", seed=1)
    output = gguf_project.run("-v").stdout.str()
    assert "from the cache" not in output


def test_a_recording_names_the_file_and_is_refused_once_it_changes(gguf_project: Project) -> None:
    gguf_project.ini(
        pot_prompts="prompts.jsonl", pot_positions=6, pot_reference="llamacpp://model.gguf", pot_baseline="a.pot.safetensors"
    )
    write_tiny(gguf_project.path / "copy.gguf")
    gguf_project.write(test_it=MARKED.format("candidate='llamacpp://copy.gguf', tolerance='identical'"))
    result = gguf_project.run("--pot-update")
    result.assert_outcomes(passed=1)
    gguf_project.run().assert_outcomes(passed=1)
    content = (gguf_project.path / "a.pot.safetensors").read_bytes()
    assert b"llamacpp://model.gguf" in content
    assert str(gguf_project.path).encode() not in content
    write_tiny(gguf_project.path / "model.gguf", seed=1)
    result = gguf_project.run()
    result.stdout.fnmatch_lines(["*a.pot.safetensors was recorded with something else:*", "*reference file *model.gguf*"])


@pytest.mark.parametrize("arguments", ["what='decode', new_tokens=64, per='token'", "what='score'"])
def test_latency_says_nothing_of_servers_elsewhere(gguf_project: Project, arguments: str) -> None:
    latency = MARKED.replace("identity", "latency").format(f"candidate='llamacpp://model.gguf', budget_ms=1e-6, {arguments}")
    gguf_project.write(test_it=latency)
    result = gguf_project.run("-v")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        ["pot_latency: * ms per *", "*what to do: an absolute limit suits one machine, and only while*"]
    )
    result.stdout.no_fnmatch_line("*network*")
    result.stdout.no_fnmatch_line("*others*")
