"""The plugin prints a header line, a table and failure messages, and nothing in suites that do not use it."""

from __future__ import annotations

import re

from .conftest import Project

FAILING = """
import pytest

@pytest.mark.pot_identity(candidate={perturbed})
def test_it():
    pass
"""


def headings(lines: list[str]) -> list[str]:
    return [line.strip("= ") for line in lines if line.startswith("===")]


def test_one_header_line_shows_the_configuration(project: Project) -> None:
    result = project.run_tests("def test_it(): pass", "--pot-metric=kl", "--pot-report=gates.md")
    tiny = project.tiny
    assert [line for line in result.outlines if line.startswith("pot: reference")] == [
        f"pot: reference {tiny.reference}, candidate {tiny.copy}, prompts prompts.jsonl, metric kl, device cpu"
    ]


def test_a_suite_that_does_not_use_the_plugin_has_the_same_output(project: Project) -> None:
    project.ini()
    for arguments in ([], ["-v"], ["-q"], ["-rA"]):
        results = [project.run_tests("def test_it(): pass", *arguments, *more) for more in ([], ["-pno:pot"])]
        for result in results:
            result.assert_outcomes(passed=1)
            assert result.errlines == []
        ours, without = ([line for line in result.outlines if not line.startswith("plugins:")] for result in results)
        assert [re.sub(r"\d+\.\d+s", "", line) for line in ours] == [re.sub(r"\d+\.\d+s", "", line) for line in without]


def test_the_table_has_a_row_per_gate(project: Project) -> None:
    result = project.run_tests(
        """
        import pytest

        @pytest.mark.pot_identity(max_score=0)
        def test_same():
            pass

        @pytest.mark.pot_distinct(candidate={perturbed}, preset="accurate", metric="jsd", min_score=0.123456)
        def test_distinct():
            pass

        @pytest.mark.pot_identity(candidate={perturbed})
        def test_miss():
            pass
        """
    )
    start = result.outlines.index(next(line for line in result.outlines if line.strip("=") == " pot "))
    heading, *rows = (re.split(r" {2,}", line) for line in result.outlines[start + 1 : start + 5])
    assert heading == ["test", "candidate vs reference", "score / limit", "metric", "preset", "verdict"]
    assert [row[:2] + row[3:] for row in rows] == [
        ["test_it.py::test_same", "copy", "tv", "auto", "SAME"],
        ["test_it.py::test_distinct", "perturbed", "jsd", "accurate", "DIFFERENT"],
        ["test_it.py::test_miss", "perturbed", "tv", "auto", "DIFFERENT, failed"],
    ]
    scores = [row[2].split() for row in rows]
    assert [score[:1] for score in scores[::2]] == [["0"], ["0.649"]]
    assert [score[1:] for score in scores] == [["/", "0"], ["/", ">0.123"], ["/", "0.01"]]
    assert headings(result.outlines)[-3:-1] == ["pot", "short test summary info"]


def test_a_failure_names_the_worst_prompts_and_positions(project: Project) -> None:
    result = project.run_tests(FAILING)
    lines = result.outlines
    start = lines.index("pot_identity: DIFFERENT: tv 0.649 > 0.01 (64.9 times the limit)")
    text = lines[start : lines.index(next(line for line in lines if line.strip("=") == " pot "))]
    tiny = project.tiny
    assert re.fullmatch(
        rf"  reference {re.escape(str(tiny.reference))}, candidate {re.escape(str(tiny.perturbed))}; preset auto, "
        r"3 prompts, 41 positions, top 100 \+ tail of \d\.\d%, float32 on cpu, noise floor \S+",
        text[1],
    )
    assert re.fullmatch(r"  scale: noise floor \S+ · half 0\.01 \(limit\) · int4 0\.45 · \[score 0\.649\]", text.pop(2))
    assert text[2] == "  worst prompts:"
    matches = [re.fullmatch(r" +(0\.\d+)  prompt (\d)( \(\w+\))?: '(.*)'", line) for line in text[3:6]]
    prompts = [match.groups() for match in matches if match is not None]
    assert [entry[1:] for entry in prompts] == [
        ("1", " (code)", "x = 1"),
        ("2", None, "Who is there?"),
        ("0", " (prose)", "The old mill by the river"),
    ]
    assert [float(entry[0]) for entry in prompts] == sorted((float(entry[0]) for entry in prompts), reverse=True)
    assert text[6] == "  worst positions (context ▸ next token):"
    for place, probabilities in (text[7:9], text[9:11], text[11:13]):
        assert re.fullmatch(r" +0\.\d+  prompt [012], position \d+: .+ ▸ '.+'", place), place
        pattern = (
            r" {15}reference \d+(\.\d+)?%, candidate \d+(\.\d+)?%; "
            r"likeliest: reference '.+' \d+(\.\d+)?%, candidate '.+' \d+(\.\d+)?%"
        )
        assert re.fullmatch(pattern, probabilities), probabilities
    assert text[13].startswith("  what changed: all 28 tensors changed")
    assert text[14].startswith("  where it starts: transformer.wte (Embedding): ")
    assert len(text) == 15
    # The first of the listed positions has the highest divergence.
    assert text[7].split()[0] == max(line.split()[0] for line in (text[7], text[9], text[11]))


def test_verbose_shows_more_and_quiet_shows_three_lines(project: Project) -> None:
    project.write(test_it=FAILING)
    headline = "pot_identity: DIFFERENT: tv 0.649 > 0.01 (64.9 times the limit)"
    verbose = project.run("-v").outlines
    assert headline in verbose
    [metrics] = [line for line in verbose if line.startswith("  all metrics: ")]
    assert re.findall(r"(\w+) [\d.]+", metrics) == ["tv", "jsd", "kl", "kl_reverse", "delta_ce", "top1_flip"]
    assert sum("▸ '" in line for line in verbose) == 10
    assert sum("▸ '" in line for line in project.run().outlines) == 3
    very_verbose = project.run("-vv", "-rN").outlines  # the short summary would repeat it
    assert sum("▸ '" in line for line in very_verbose) == 30
    quiet = project.run("-q").outlines
    start = quiet.index(headline)  # what changed is the answer that the gate took its time for, so it is not left out
    assert quiet[start + 1].startswith("  what changed: ")
    assert quiet[start + 2].startswith("  where it starts: ")
    assert quiet[start + 3].startswith("=====")
    assert not any(word in line for line in quiet for word in ("worst", "reference", "▸", "ms/prompt"))


def test_a_cut_summary_still_starts_with_the_verdict(project: Project) -> None:
    """CI logs show only the first line of the message."""
    result = project.run_tests(FAILING, "-q")
    result.stdout.fnmatch_lines(["FAILED test_it.py::test_it - *pot_identity: DIFFERENT: tv 0.649 > 0.*"])


def test_a_message_is_printed_once(project: Project) -> None:
    result = project.run_tests(
        """
        import pytest

        @pytest.mark.pot_identity(candidate={nan})
        def test_call():
            pass

        @pytest.mark.pot_identity(candidate="no_such_module:model")
        def test_setup():
            pass
        """,
        "-rN",  # the short summary would repeat it
    )
    text = result.stdout.str()
    assert "During handling of the above exception" not in text
    assert text.count("Such a model has no score") == 1
    assert text.count("It is imported as Python would from the tests") == 1


def test_a_tests_own_properties_are_not_read_as_a_gate(project: Project) -> None:
    project.write(
        test_it="""
        import pytest

        @pytest.fixture
        def tagged(record_property):
            record_property("pot_gate", "mine")

        @pytest.mark.pot_identity
        def test_it(tagged, record_property):
            record_property("pot_verdict", "lovely")
            record_property("pot_gate", "mine")
        """
    )
    [gate] = project.gates()
    assert (gate["gate"], gate["verdict"], gate["score"]) == ("pot_identity", "SAME", 0.0)


def test_very_verbose_has_64_prompts_at_most(project: Project) -> None:
    project.prompts("prompts.jsonl", *({"text": f"Prompt number {index} of many"} for index in range(70)))
    lines = project.run_tests(FAILING, "-vv", "-rN").outlines
    start, end = lines.index("  worst prompts:"), lines.index("  worst positions (context ▸ next token):")
    assert len(lines[start + 1 : end]) == 65
    assert lines[end - 1].strip() == "… and 6 more"
