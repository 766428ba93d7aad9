"""What a terminal of 80 columns shows: no line is longer, and colours are pytest's own."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from pytest_pot.core.config import ScoringConfig
from pytest_pot.core.text import columns
from pytest_pot.plugin.inputs.ladders import _key, where_it_runs

from .conftest import Project

TESTS = """
import pytest

@pytest.mark.pot_identity(max_score=0)
def test_an_untouched_copy_is_the_same_model_as_it_was_before():
    pass

@pytest.mark.pot_distinct(candidate={perturbed}, min_score=0.1)
def test_a_change_is_detected():
    pass

@pytest.mark.xfail(strict=True, reason="shown as such")
@pytest.mark.pot_identity(candidate={perturbed})
def test_expected():
    pass

@pytest.mark.pot_identity(candidate={perturbed})
def test_failing():
    pass

@pytest.mark.pot_identity(candidate={nan})
@pytest.mark.parametrize("name", ["x" * 90, "東京" * 30], ids=str)
def test_no_verdict(name):
    pass

@pytest.mark.pot_identity(reference="missing.pot.safetensors")
def test_missing():
    pass

@pytest.mark.pot_latency(max_slowdown=1000)
def test_time():
    pass
"""
OUTCOMES = {"passed": 3, "failed": 4, "xfailed": 1}


@pytest.fixture
def narrow(project: Project, monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.setenv("COLUMNS", "80")
    project.write(test_it=TESTS)
    return project


def table(lines: list[str]) -> list[str]:
    start = next(index for index, line in enumerate(lines) if line.strip("=") == " pot ")
    return lines[start + 1 :][: next(index for index, line in enumerate(lines[start + 1 :]) if line.startswith("==="))]


def too_long(lines: list[str]) -> list[str]:
    """The lines of ours that are wider than 80 columns, but for commands to copy and names in one piece.

    pytest itself puts no limit on the ids of tests, or on the words FAILED and xfail and what follows them.
    """
    return [
        line
        for line in lines
        if columns(line) > 80
        and len(line.split()) > 1
        and not re.match(
            r"  pytest |FAILED |XFAIL |test_it\.py::\S+ (PASSED|FAILED|XFAIL)|platform |rootdir: |_+ |plugins: ", line
        )
    ]


def test_the_table_of_80_columns(narrow: Project) -> None:
    result = narrow.run()
    result.assert_outcomes(**OUTCOMES)
    *rows, last = table(result.outlines)
    assert rows == [
        "test_it.py::        models              score / limit        verdict",
        "test_…t_was_before  copy vs reference       0 / 0            SAME",
        "test_…_is_detected  pe…rbed vs re…ence  0.649 / >0.1         DIFFERENT",
        "test_expected       pe…rbed vs re…ence  0.649 / 0.01         DIFFERENT, expected",
        "test_failing        pe…rbed vs re…ence  0.649 / 0.01         DIFFERENT, failed",
        "test_…xxxxxxxxxxx]  nan vs reference        - / 0.01         ERROR, failed",
        r"test_…u6771\u4eac]  nan vs reference        - / 0.01         ERROR, failed",
        "test_missing        copy vs mis…ng.pot      - / 0.01         ERROR, failed",
    ]
    assert re.fullmatch(r"test_time           copy vs reference   +\d[\d.]* / 1000 x time  pass", last)
    assert too_long(result.outlines) == []


@pytest.mark.parametrize("arguments", [["-q"], ["-v"], ["-vv"], ["--pot-update", "--pot-diagnosis=full"]])
def test_no_line_is_longer(narrow: Project, arguments: list[str]) -> None:
    assert too_long(narrow.run(*arguments).outlines) == []


def test_workers_know_the_width_of_the_terminal(narrow: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    for width in ("80", "120"):
        monkeypatch.setenv("COLUMNS", width)
        lines = narrow.run_workers(1, "-k", "failing").outlines
        [start] = [index for index, line in enumerate(lines) if line.startswith("  reference /")]
        assert columns(lines[start]) <= int(width)
    assert any(columns(line) > 80 for line in lines[start : start + 10])


def test_a_command_to_copy_stays_in_one_piece(narrow: Project) -> None:
    lines = narrow.run("-k", "missing").outlines
    [command] = [line for line in lines if "--pot-update" in line]
    assert command.startswith("  pytest test_it.py::test_missing --pot-update")


def test_verdicts_are_coloured_as_pytest_colours_outcomes(narrow: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = narrow.run("--color=no").stdout.str()
    assert "\x1b" not in plain
    assert "\x1b" not in narrow.run().stdout.str()  # no terminal
    output = narrow.run("--color=yes").outlines
    verdicts = [match for line in output for match in re.findall(r"\x1b\[(\d+)m((?:SAME|DIFF|ERROR)[^\x1b]*)\x1b\[0m", line)]
    assert verdicts == [
        ("32", "SAME"),
        ("32", "DIFFERENT"),
        ("33", "DIFFERENT, expected"),
        ("31", "DIFFERENT, failed"),
        *[("31", "ERROR, failed")] * 3,
    ]


def test_the_outcome_of_the_test_is_in_the_report(narrow: Project) -> None:
    narrow.write(
        test_more="""
        import pytest

        @pytest.fixture
        def broken():
            raise ValueError("no")

        @pytest.fixture
        def breaks():
            yield
            raise ValueError("no")

        @pytest.mark.pot_identity
        def test_set_up(broken): pass

        @pytest.mark.pot_identity
        def test_teardown(breaks): pass

        @pytest.mark.pot_identity
        def test_body(): assert False

        @pytest.mark.xfail(strict=False)
        @pytest.mark.pot_identity
        def test_unexpected(): pass

        @pytest.mark.pot_identity
        def test_skip(): pytest.skip("in the body")
        """
    )
    gates = narrow.gates("test_more.py", "test_it.py", "-k", "more or untouched or expected or failing")
    assert {gate["test"].rpartition("::")[2]: gate["outcome"] for gate in gates} == {
        "test_set_up": "error",
        "test_teardown": "error",
        "test_body": "failed",
        "test_unexpected": "xpassed",
        "test_skip": "skipped",
        "test_an_untouched_copy_is_the_same_model_as_it_was_before": "passed",
        "test_expected": "xfailed",
        "test_failing": "failed",
    }


def test_a_calibration_adds_its_rungs_to_the_message(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only for the same reference, prompts and metric."""
    monkeypatch.setenv("PYTEST_ADDOPTS", "-p pot")  # with pytest's cache
    test = "import pytest\n\n@pytest.mark.pot_identity(candidate={perturbed}{more})\ndef test_it(): pass\n"
    words = "  known changes of this reference: "

    def rungs(more: str = "", *arguments: str) -> list[str]:
        project.write(test_it=test.replace("{more}", more))
        result = project.run(*arguments)
        result.assert_outcomes(failed=1)
        return [line for line in result.outlines if line.startswith(words)]

    assert rungs() == []
    assert project.run("--pot-calibrate").ret == 0
    [line] = rungs()
    assert re.fullmatch(rf"{words}(between|above) .+ 0\.\d+( and .+ 0\.\d+|, the largest)", line)
    assert rungs(', metric="kl", max_score=0.01') == []
    assert rungs(', prompts=["Other prompts"]') == []
    assert rungs("", f"--pot-reference={project.tiny.padded}") == []
    assert rungs("", "--pot-device=auto") == [line]  # where it runs counts, and not how that was said
    key = where_it_runs(ScoringConfig(), None)
    assert _key(replace(key, device="cuda:1"), [], {}) == _key(replace(key, device="cuda"), [], {})
    assert _key(replace(key, device="cuda"), [], {}) != _key(replace(key, device="cpu"), [], {})


def test_a_calibration_fits_the_terminal_but_for_its_markers(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    lines = project.run("--pot-calibrate").outlines
    assert any(line.startswith("@pytest.mark.pot_identity(max_score=") for line in lines)
    assert [line for line in lines if columns(line) > 60 and not line.startswith("@") and len(line.split()) > 1] == []


def test_a_quiet_run_has_no_table(narrow: Project) -> None:
    """Whatever else it has to tell."""
    options = ("-q", "--pot-report=gates.md", "-k", "failing")
    lines = narrow.run(*options).outlines
    assert f"pot: written to {narrow.path / 'gates.md'}" in lines
    assert not any("score / limit" in line for line in lines)
    assert any("score / limit" in line for line in narrow.run(*options[1:]).outlines)


def test_verbose_tells_once_what_ran(narrow: Project) -> None:
    """In the failure message, or below the table."""
    below = [line for line in table(narrow.run("-v").outlines) if line.endswith(":")]
    shown = [line.rpartition("::")[2] for line in below]
    assert shown == [
        "test_an_untouc…d_copy_is_the_same_model_as_it_was_before (identity):",
        "test_a_change_is_detected (distinct):",
        "test_expected (identity):",
        "test_time (latency):",
    ]
    hidden = table(narrow.run("-v", "--tb=no", "-k", "failing").outlines)
    assert "test_it.py::test_failing (identity):" in hidden


def test_names_of_files_stay_in_one_piece(narrow: Project) -> None:
    folder = f"a folder/{'long' * 20}"
    narrow.write(
        test_it=f"import pytest\n\n@pytest.mark.pot_identity(reference='{folder}/a.pot.safetensors')\ndef test_it(): pass\n"
    )
    lines = narrow.run("--pot-update", f"--pot-report={folder}/gates.json").outlines
    assert any(
        line.startswith(f"pot: wrote '{folder}/a.pot.safetensors' (3 prompts, ") and line.endswith("; new)") for line in lines
    )
    assert f"pot: written to '{narrow.path / folder}/gates.json'" in lines
