"""A cache of references that cannot be written is no error: the run goes on without it, and says so once, with ``-v``."""

from __future__ import annotations

import resource

import pytest

from .conftest import WITH_CACHE, Project

GATED = """
import pytest

@pytest.mark.pot_identity(max_score=0)
def test_it():
    pass

@pytest.mark.pot_identity(max_score=0)
def test_too():
    pass
"""


@pytest.fixture
def cached(project: Project, monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.setenv("PYTEST_ADDOPTS", f"{WITH_CACHE} -Wdefault")  # pytest itself warns that it cannot write its cache
    project.write(test_it=GATED)
    return project


def message(place: str, reason: str) -> str:
    return (
        f"pot: live references are not cached: cannot write into {place}: {reason}. To keep them for the next run, name a "
        "folder with the ini key cache_dir of pytest; pot_cache = false turns the cache off"
    )


def notes(result: pytest.RunResult) -> list[str]:
    return [line for line in result.outlines if line.startswith("pot: live references")]


@pytest.mark.parametrize(
    ("folder", "reason"),
    [("/dev/null", "Not a directory"), ("/proc/none", "No such file or directory"), ("taken", "Not a directory")],
)
def test_a_run_goes_on_without_its_cache(cached: Project, folder: str, reason: str) -> None:
    (cached.path / "taken").write_text("a file", encoding="utf-8")
    result = cached.run("-v", "-o", f"cache_dir={folder}")
    result.assert_outcomes(passed=2, warnings=result.parseoutcomes().get("warnings", 0))
    assert notes(result) == [message(folder, reason)]
    assert "Traceback" not in result.stdout.str()
    assert notes(cached.run("-o", f"cache_dir={folder}")) == []


def test_a_file_in_the_place_of_the_folder(cached: Project) -> None:
    (cached.path / ".pytest_cache" / "d").mkdir(parents=True)
    (cached.path / ".pytest_cache" / "d" / "pot").write_text("a file", encoding="utf-8")
    result = cached.run("-v")
    result.assert_outcomes(passed=2)
    assert notes(result) == [message(".pytest_cache", "File exists")]


def limited(kilobytes: int) -> str:
    """A conftest under which no file may become larger; it stands for a disk that is full."""
    return f"""
import resource

resource.setrlimit(resource.RLIMIT_FSIZE, ({kilobytes} * 1000, resource.RLIM_INFINITY))
"""


def test_a_record_that_cannot_be_written_to_its_end(cached: Project) -> None:
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[1] == resource.RLIM_INFINITY
    cached.write(conftest=limited(10))
    result = cached.run_subprocess("-v", "--capture=sys")
    result.assert_outcomes(passed=2)
    assert notes(result) == [message(".pytest_cache", "File too large")]
    folder = cached.path / ".pytest_cache" / "d" / "pot"
    assert list(folder.iterdir()) == []


def test_a_folder_whose_records_can_be_read_only(cached: Project) -> None:
    """Records that are there are used; here one can read them, and write no other."""
    cached.run().assert_outcomes(passed=2)
    cached.write(conftest=limited(10), test_it=GATED.replace("max_score=0", "max_score=0, preset='single'", 1))
    result = cached.run_subprocess("-v", "--capture=sys")
    result.assert_outcomes(passed=2)
    assert notes(result) == [message(".pytest_cache", "File too large")]
    assert len(list((cached.path / ".pytest_cache" / "d" / "pot").iterdir())) == 1


def test_a_record_that_is_a_folder(cached: Project) -> None:
    cached.run().assert_outcomes(passed=2)
    [record] = (cached.path / ".pytest_cache" / "d" / "pot").iterdir()
    record.unlink()
    record.mkdir()
    result = cached.run("-v")
    result.assert_outcomes(passed=2)
    assert notes(result) == [message(".pytest_cache", "Is a directory")]


def test_workers_say_it_once(cached: Project) -> None:
    result = cached.run_workers(2, "-v", "-o", "cache_dir=/dev/null")
    assert result.parseoutcomes()["passed"] == 2
    assert notes(result) == [message("/dev/null", "Not a directory")]


def test_a_failing_gate_fails_all_the_same(cached: Project) -> None:
    cached.ini(pot_reference=cached.tiny.reference, pot_candidate=cached.tiny.perturbed, pot_prompts="prompts.jsonl")
    result = cached.run("-q", "-o", "cache_dir=/dev/null")
    assert result.parseoutcomes()["failed"] == 2
    assert result.outlines.count("pot_identity: DIFFERENT: tv 0.649 > 0") == 2
