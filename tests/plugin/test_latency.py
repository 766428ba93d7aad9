"""The latency gate in real runs. A slower model has more layers; only a simulated crowded machine sleeps."""

from __future__ import annotations

import json
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from .conftest import VOCAB, WITH_CACHE, Models, Project
from .latency_gates import LATENCY_OFF, latency_tests


@pytest.fixture(scope="module")
def layers(tmp_path_factory: pytest.TempPathFactory, tiny: Models) -> dict[int, Path]:
    """Models that differ only in the number of layers, and are large enough that it decides the run time."""
    home = tmp_path_factory.mktemp("layers")
    for n_layer in (2, 4, 12):
        config = GPT2Config(n_layer=n_layer, n_embd=64, n_head=2, n_positions=128, vocab_size=VOCAB, bos_token_id=0)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            GPT2LMHeadModel(config).save_pretrained(home / str(n_layer))
        tiny.tokenizer.save_pretrained(home / str(n_layer))
    return {n_layer: home / str(n_layer) for n_layer in (2, 4, 12)}


@pytest.mark.parametrize(
    ("arguments", "n"),
    [
        ("", 4),
        (", preset='auto'", 4),
        (", preset='balanced'", 4),
        (", preset='fastest'", 8),
        (", preset='fastest', batch_size='auto'", 4),
        (", batch_size=6", 6),
    ],
)
def test_a_batch_of_the_preset_s_size_is_timed_and_of_4_prompts_where_that_is_auto(
    project: Project, arguments: str, n: int
) -> None:
    project.prompts("ten.jsonl", *[{"text": "Who is there?", "continuation": " Nobody."}] * 10)
    project.ini(pot_candidate=project.tiny.copy, pot_prompts="ten.jsonl")
    result = project.run_tests(latency_tests(f"budget_ms=1e-6{arguments}"))
    result.assert_outcomes(failed=1)
    assert any(f"; scoring forward of {n} prompts, " in line for line in result.outlines)


@pytest.mark.wall_time
def test_a_slower_candidate_fails_and_a_copy_does_not(project: Project, layers: dict[int, Path]) -> None:
    slow, reference = str(layers[12]), str(layers[4])
    project.write(
        test_it=f"""
        import pytest

        @pytest.mark.pot_latency(max_slowdown=1.9, reference={reference!r}, candidate={reference!r})
        def test_copy(pot_result):
            assert pot_result.latency.verdict == "pass"
            assert pot_result.latency.n_pairs >= 10

        @pytest.mark.pot_latency(max_slowdown=1.25, reference={reference!r}, candidate={slow!r})
        def test_slow():
            assert False, "the body does not run"
        """
    )
    result = project.run("--pot-report=gates.json")
    result.assert_outcomes(passed=1, failed=1)
    headline = re.compile(
        r"pot_latency: slowdown \d\.\d\d+x > 1\.25x \(95% bound \d\.\d\d+x, (10|40) pairs; reference [\d.]+ ms, "
        r"candidate [\d.]+ ms, IQR \d+%\)"
    )
    [line] = [line for line in result.outlines if line.startswith("pot_latency: ")]
    assert headline.fullmatch(line)
    conditions = (
        rf"  reference {re.escape(reference)}, candidate {re.escape(slow)}; scoring forward of 3 prompts, \d+ tokens"
        r"(, \d+ runs per timing)?; preset auto, float32 on cpu, 1 thread, \d+ s"
    )
    assert any(re.fullmatch(conditions, line) for line in result.outlines)
    copy, slower = json.loads((project.path / "gates.json").read_text(encoding="utf-8"))["gates"]
    assert (copy["verdict"], slower["verdict"], slower["limit"]) == ("pass", "fail", 1.25)
    assert slower["metric"] == "slowdown"
    assert slower["score"] == slower["slowdown"] > slower["bound"] > 1.25
    assert slower["candidate_ms"] > slower["reference_ms"] > 0
    assert (slower["threads"], slower["prompts"], slower["passed"]) == (1, 3, False)


def test_verbose_output_shows_a_histogram(project: Project) -> None:
    project.write(test_it=latency_tests("budget_ms=1e-6"))
    assert not any("█" in line for line in project.run().outlines)
    lines = project.run("-v").outlines
    assert sum(int(line.rpartition("█ ")[2]) for line in lines if "█" in line) == 10
    assert not any("what to do" in line for line in project.run("-q").outlines)


def test_each_kind_of_budget_can_pass_and_fail(project: Project) -> None:
    per = [f"budget_ms=BUDGET, per={per!r}" for per in ("prompt", "batch", "token")]
    arguments = [*per, "budget_ms=BUDGET, stat='p95'", "budget_ms=BUDGET, what='prefill'", "budget_ms=BUDGET, what='decode'"]
    project.write(test_it=latency_tests(*arguments).replace("BUDGET", "1e9"))
    project.run().assert_outcomes(passed=len(arguments))
    project.write(test_it=latency_tests(*arguments).replace("BUDGET", "1e-6"))
    project.run().assert_outcomes(failed=len(arguments))


def test_min_tokens_per_s_passes_and_fails(project: Project) -> None:
    project.write(test_it=latency_tests("min_tokens_per_s=1e-3", "min_tokens_per_s=1e12"))
    result = project.run()
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(
        ["pot_latency: * tokens per second < 1000000000000 (95% bound *, 10 timings; candidate * ms, *"]
    )


def test_decoding_reports_the_time_to_the_first_token(project: Project) -> None:
    result = project.run_tests(latency_tests("budget_ms=1e-6, what='decode', new_tokens=5"))
    result.stdout.fnmatch_lines(
        [
            "  candidate *; greedy decoding of 3 prompts, 12 tokens*",
            "  candidate * ms to the first token, then * ms per step of 3 *",
        ]
    )


def test_memory_limits_pass_and_fail(project: Project, layers: dict[int, Path]) -> None:
    model = str(layers[12])
    project.write(
        test_it=latency_tests(
            f"max_memory_mb=1000, max_memory_ratio=3, reference={model!r}, candidate={model!r}",
            f"max_memory_mb=1, candidate={model!r}",
        )
    )
    result = project.run()
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.re_match_lines(
        [r"pot_latency: [\d.]+ MB of memory > 1 \(peak memory, resident: candidate \d+ MB \(3 of weights\)\)"]
    )


def test_a_budget_needs_no_reference(project: Project) -> None:
    """The reference need not be configured, and is not loaded if it is."""
    project.ini(pot_candidate=project.tiny.copy, pot_prompts="prompts.jsonl")
    project.run_tests(latency_tests("budget_ms=1e9")).assert_outcomes(passed=1)
    project.ini(pot_reference="no/such/model", pot_candidate=project.tiny.copy, pot_prompts="prompts.jsonl")
    project.run_tests(latency_tests("budget_ms=1e9")).assert_outcomes(passed=1)
    project.run_tests(latency_tests("max_slowdown=2")).assert_outcomes(errors=1)


def test_a_slowdown_limit_without_a_reference_is_an_error(project: Project) -> None:
    project.ini(pot_candidate=project.tiny.copy, pot_prompts="prompts.jsonl")
    result = project.run_tests(latency_tests("max_slowdown=2"))
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*no reference model is configured*"])


def test_the_reference_is_timed_even_if_its_scores_are_cached(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTEST_ADDOPTS", WITH_CACHE)
    project.write(
        test_it="""
        import pytest

        @pytest.mark.pot_identity(max_score=0)
        @pytest.mark.pot_latency(max_slowdown=1e9)
        def test_it(pot_result):
            assert pot_result.verdict == "SAME"
            assert pot_result.report.mean == 0
            assert len(pot_result.latency.reference) >= 10
            assert [gate.settings.gate for gate in pot_result.gates] == ["pot_identity", "pot_latency"]
        """
    )
    for _ in range(2):
        project.run("--basetemp=tmp").assert_outcomes(passed=1)


def test_a_failing_identity_gate_ends_the_test_before_the_latency_gate(project: Project) -> None:
    result = project.run_tests(
        """
        import pytest

        @pytest.mark.pot_latency(budget_ms=1e-6)
        @pytest.mark.pot_identity(candidate={perturbed})
        def test_it():
            pass
        """
    )
    result.assert_outcomes(failed=1)
    assert "pot_latency" not in result.stdout.str()
    result.stdout.fnmatch_lines(["pot_identity: DIFFERENT: *"])


def test_reading_the_verdict_without_a_score_gate_is_an_error(project: Project) -> None:
    project.write(test_it=latency_tests("budget_ms=1e9", body="pot_result.verdict", fixtures="pot_result"))
    result = project.run()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*PotError: there is no score here: only pot_identity and pot_distinct have one; *"])


UNDECIDED = "max_slowdown=1.0001, max_seconds=1e-9"


def test_an_inconclusive_gate_passes_with_a_warning(project: Project) -> None:
    """Even if warnings are errors: only pot_latency_inconclusive makes it fail."""
    project.write(test_it=latency_tests(UNDECIDED))
    result = project.run("-Werror")
    result.assert_outcomes(passed=1, warnings=1)
    result.stdout.fnmatch_lines(["*pot_latency: inconclusive: only 0 pairs in 0 s, too few to measure slowdown"])


def test_an_inconclusive_gate_fails_if_the_ini_file_says_so(project: Project) -> None:
    tiny = project.tiny
    project.ini(pot_reference=tiny.reference, pot_candidate=tiny.copy, pot_latency_inconclusive="fail")
    result = project.run_tests(latency_tests(UNDECIDED))
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*inconclusive*", "*what to do: raise max_seconds (now 1e-09), or time less: *"])
    project.run("--pot-latency=report").assert_outcomes(passed=1)


def test_memory_is_gated_without_timings_if_none_fits_in_max_seconds(project: Project) -> None:
    [gate] = project.run_gates(latency_tests("max_memory_mb=1e6, max_seconds=1e-9"))
    assert gate["passed"]
    assert gate["ms_per_prompt"] is None


def test_cut_prompts_are_reported(project: Project) -> None:
    project.write(test_it=latency_tests("budget_ms=1e-6, prompts=['word ' * 400, 'short']"))
    assert "tokens, 1 cut on the left" in project.run().stdout.str()


def test_junit_has_the_properties_of_latency_gates(project: Project) -> None:
    project.write(test_it=latency_tests("budget_ms=1e9", "budget_ms=1e-6"))
    project.run("--junitxml=out.xml").assert_outcomes(passed=1, failed=1)
    cases = ElementTree.parse(project.path / "out.xml").getroot().iter("testcase")
    passing, failing = ({p.attrib["name"]: p.attrib["value"] for p in case.iter("property")} for case in cases)
    assert (passing["pot_gate"], passing["pot_metric"], passing["pot_verdict"]) == ("pot_latency", "ms per prompt", "pass")
    assert (failing["pot_verdict"], failing["pot_limit"]) == ("fail", "1e-06")
    assert float(failing["pot_score"]) > float(failing["pot_bound"]) * 0.99 > 1e-6


def test_the_markdown_report_has_a_row_for_a_latency_gate(project: Project) -> None:
    project.write(test_it=latency_tests("min_tokens_per_s=1e-3"))
    project.run("--pot-report=gates.md")
    lines = (project.path / "gates.md").read_text(encoding="utf-8").splitlines()
    [row] = [line for line in lines if line.startswith("| ✅ passed | `test_it.py::test_0` | `latency` | ")]
    assert row.endswith(" tokens per second` | `>= 0.001` | `pass` |")
    [check] = [line for line in lines if line.startswith("| `min_tokens_per_s` | ")]
    assert check.endswith(" | `pass` |")


def test_a_failing_latency_gate_is_an_xfail(project: Project) -> None:
    project.run_tests(
        """
        import pytest

        @pytest.mark.xfail(strict=True)
        @pytest.mark.pot_latency(budget_ms=1e-6)
        def test_it():
            pass
        """
    ).assert_outcomes(xfailed=1)


def test_the_gate_hook_gets_the_latency_result(project: Project) -> None:
    project.write(
        conftest="""
        def pytest_pot_gate(item, result):
            print("gate", result.settings.gate, result.verdict, result.passed, result.report.to_dict()["n_prompts"])
        """,
        test_it=latency_tests("budget_ms=1e9"),
    )
    assert any("gate pot_latency pass True 3" in line for line in project.run("-s").outlines)


def test_garbage_collection_is_enabled_after_a_gate(project: Project) -> None:
    project.write(
        conftest="""
        import gc

        def pytest_pot_gate(item, result):
            print("collector", gc.isenabled())
        """,
        test_it=latency_tests("budget_ms=1e9", "budget_ms=1e-6"),
    )
    assert [line.rpartition(" ")[2] for line in project.run("-s").outlines if "collector" in line] == ["True", "True"]


CROWDED = """
    import time

    import pytest
    import torch

    torch.set_num_threads(2)

    def wait(*_):
        time.sleep(SECONDS * (torch.get_num_threads() - 1))  # as if another process used one of two cores

    @pytest.fixture(scope="session")
    def pot_candidate(pot_reference):
        pot_reference.register_forward_pre_hook(wait)
        return pot_reference

    def pytest_pot_gate(item, result):
        print("threads", result.report.threads, "of", result.report.usual_threads, "then", torch.get_num_threads())
"""


@pytest.mark.parametrize(
    ("limits", "threads", "seconds"),
    # Where threads are chosen, a sleep is far longer than what a busy machine adds to a run of a tiny model.
    [("max_slowdown=1e-6", 1, "0.2"), ("max_slowdown=1e-6, budget_ms=1e9", 2, "0.02")],
)
def test_a_slowdown_uses_fewer_threads_on_a_crowded_machine_unless_there_is_a_budget(
    project: Project, limits: str, threads: int, seconds: str
) -> None:
    project.write(conftest=CROWDED.replace("SECONDS", seconds), test_it=latency_tests(limits))
    before = torch.get_num_threads()
    try:
        result = project.run("-s")
    finally:
        torch.set_num_threads(before)
    assert f"threads {threads} of 2 then 2" in result.stdout.str()
    has_note = "1 thread (2 threads were slower; other processes are using the cores)" in result.stdout.str()
    assert has_note == (threads == 1)


def test_a_parametrised_candidate_has_the_same_test_ids_with_latency_off(project: Project) -> None:
    """Gating does not change the test ids, so --last-failed finds the same tests."""
    project.write(
        conftest="""
        import pytest

        @pytest.fixture(scope="session", params=[{copy}, {padded}], ids=["copy", "padded"])
        def pot_candidate(request):
            return request.param
        """,
        test_it=latency_tests("budget_ms=1e9"),
    )
    for options in ((), (LATENCY_OFF,)):
        result = project.run("-v", *options)
        result.assert_outcomes(passed=2)
        result.stdout.fnmatch_lines_random(["*::test_0?copy? PASSED*", "*::test_0?padded? PASSED*"])
