"""What a failing gate says of what changed: in its message, in ``pot_result``, and in reports."""

from __future__ import annotations

import fnmatch
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch
from safetensors.torch import load_file, save_file

from pytest_pot import Baseline

from .conftest import WITH_CACHE, Models, Project

CHANGED, STARTS, GUESS = "  what changed: ", "  where it starts: ", "  likely cause: "
C_FC = "transformer.h.1.mlp.c_fc"
"""The module whose weight the candidate ``one`` has changed."""

ONE = (
    f"{CHANGED}*{C_FC}.weight changed (relative change 0.01)",
    f"{CHANGED}27 of 28 tensors are equal*",
    f"{STARTS}{C_FC} (Conv1D): *0.0099*",
)
"""What is told of the candidate ``one``, as patterns: the words have tests of their own."""
MANY = (
    f"{CHANGED}*position embeddings changed (relative change 3.31)",
    f"{CHANGED}*transformer.h.0.mlp.c_proj.weight*0",
    f"{CHANGED}*transformer.h.0.attn.c_attn.weight*1.5",
    f"{CHANGED}*transformer.h.1.mlp.c_proj.weight*50 %*zeros*",
    f"{CHANGED}*{C_FC}.weight changed (relative change 0.01)",
    f"{CHANGED}*transformer.h.1.attn.c_proj.weight rounded to bfloat16*",
    f"{CHANGED}22 of 28 tensors are equal*",
    f"{STARTS}transformer.wpe (Embedding): *3.62*",
    f"{STARTS}6 of 31 modules *",
)

GATED = """
import pytest

@pytest.mark.pot_identity(max_score=0)
def test_it():
    pass
"""


@dataclass(frozen=True)
class Variants:
    """Copies of the tiny reference, each with a change."""

    epsilon: Path
    """``layer_norm_epsilon`` in the configuration."""
    one: Path
    """One tensor, by a hundredth."""
    many: Path
    """Six tensors in six ways, which do not form groups."""


@pytest.fixture(scope="module")
def variants(tiny: Models, tmp_path_factory: pytest.TempPathFactory) -> Variants:
    home = tmp_path_factory.mktemp("variants")

    def copy(name: str) -> Path:
        return Path(shutil.copytree(tiny.reference, home / name))

    def rewrite(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> Path:
        tensors = load_file(folder / "model.safetensors")
        change(tensors)
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        return folder

    def change_one(tensors: dict[str, torch.Tensor]) -> None:
        weight = tensors[f"{C_FC}.weight"]
        noise = torch.randn(weight.shape, generator=torch.Generator().manual_seed(0))
        tensors[f"{C_FC}.weight"] = weight + 0.01 * weight.norm() / noise.norm() * noise

    def change_many(tensors: dict[str, torch.Tensor]) -> None:
        noise = torch.Generator().manual_seed(0)
        tensors["transformer.h.0.attn.c_attn.weight"] *= 1.5
        tensors["transformer.h.0.mlp.c_proj.weight"].zero_()
        tensors["transformer.h.1.attn.c_proj.weight"] = tensors["transformer.h.1.attn.c_proj.weight"].bfloat16().float()
        weight = tensors["transformer.h.1.mlp.c_proj.weight"]
        weight[weight.abs() < weight.abs().median()] = 0.0
        weight = tensors["transformer.wpe.weight"]
        weight += torch.randn(weight.shape, generator=noise)
        change_one(tensors)

    epsilon = copy("epsilon")
    config = json.loads((epsilon / "config.json").read_text(encoding="utf-8"))
    (epsilon / "config.json").write_text(json.dumps({**config, "layer_norm_epsilon": 0.5}), encoding="utf-8")
    return Variants(epsilon, rewrite(copy("one"), change_one), rewrite(copy("many"), change_many))


def told(result: pytest.RunResult) -> list[str]:
    """The lines of a failure message that tell the cause."""
    return [line for line in result.outlines if line.startswith((CHANGED, STARTS, GUESS))]


def check(lines: list[str], *patterns: str) -> None:
    """Compare ``lines`` with the patterns of :mod:`fnmatch`, one each."""
    assert len(lines) == len(patterns), lines
    for line, pattern in zip(lines, patterns, strict=True):
        assert fnmatch.fnmatchcase(line, pattern), (line, pattern)


def failing(project: Project, candidate: Path, *arguments: str) -> list[str]:
    result = project.run_tests(GATED, f"--pot-candidate={candidate}", *arguments)
    result.assert_outcomes(failed=1)
    return told(result)


def test_a_change_of_the_configuration_is_named_with_both_values(project: Project, variants: Variants) -> None:
    check(
        failing(project, variants.epsilon),
        f"{CHANGED}layer_norm_epsilon 1e-05 -> 0.5; all 28 tensors are equal",
        f"{STARTS}transformer.h.0.ln_1 (LayerNorm): *0.4* (1 more line with -v)",
    )


def test_a_changed_tensor_is_named_and_where_it_starts(project: Project, variants: Variants) -> None:
    check(failing(project, variants.one), *ONE)


def test_pot_result_and_the_hook_have_the_diagnosis(project: Project, variants: Variants) -> None:
    project.write(
        conftest="""
        import pytest

        def pytest_pot_gate(item, result):
            print("by the hook:", item.name, result.diagnosis and [change.name for change in result.diagnosis.weights.changes])

        @pytest.fixture(autouse=True)
        def tell(pot_result):
            yield
            print("at the end:", pot_result.diagnosis and pot_result.diagnosis.weights.n_equal)
        """
    )
    result = project.run_tests(
        f"""
        import pytest

        @pytest.mark.pot_identity(max_score=0, candidate={str(variants.one)!r})
        def test_one():
            pass

        @pytest.mark.pot_identity(max_score=0)
        @pytest.mark.pot_latency(budget_ms=0.0001)
        def test_copy():
            pass
        """,
        "-s",
    )
    lines = [line[line.index("by the") :] for line in result.outlines if "by the hook:" in line]
    assert lines == [f"by the hook: test_one ['{C_FC}.weight']", *["by the hook: test_copy None"] * 2]
    ends = [line[line.index("at the end") :] for line in result.outlines if "at the end:" in line]
    assert ends == ["at the end: 27", "at the end: None"]


def test_a_recorded_reference_tells_what_changed(project: Project, variants: Variants) -> None:
    text = GATED.replace("max_score=0", "reference='base.pot.safetensors', max_score=0")
    project.run_tests(text, "--pot-update").assert_outcomes(passed=1)
    lines = told(project.run(f"--pot-candidate={variants.one}"))
    check(lines, f"{CHANGED}*{C_FC}.weight changed (relative change about 0.01*)", ONE[1])
    lines = told(project.run(f"--pot-candidate={variants.epsilon}"))
    check(lines, f"{CHANGED}layer_norm_epsilon 1e-05 -> 0.5; all 28 tensors are equal")
    path = project.path / "base.pot.safetensors"
    replace(Baseline.load(path), weights_print=None).save(path)
    check(told(project.run(f"--pot-candidate={variants.one}")), f"{CHANGED}the recording holds nothing of *: record it anew *")


def test_how_much_is_shown(project: Project, variants: Variants) -> None:
    short = (*MANY[:3], f"{MANY[7]} (5 more lines with -v)")
    check(failing(project, variants.many), *short)
    check(failing(project, variants.many, "-v"), *MANY)
    check(failing(project, variants.many, "--pot-diagnosis=full"), *MANY)
    check(failing(project, variants.many, "--pot-diagnosis=off", "-v"))
    check(failing(project, variants.many, "-q"), MANY[0], MANY[7])
    check(failing(project, variants.many, "-q", "--pot-diagnosis=full"), *MANY)
    check(failing(project, variants.many, "-q", "--pot-diagnosis=off"))


def test_the_message_does_not_depend_on_the_cache(
    project: Project, variants: Variants, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTEST_ADDOPTS", WITH_CACHE)
    cold = project.run_tests(GATED, f"--pot-candidate={variants.one}")
    warm = project.run(f"--pot-candidate={variants.one}")
    assert any("from the cache" in line for line in warm.outlines)
    assert not any("from the cache" in line for line in cold.outlines)
    assert told(warm) == told(cold)
    check(told(cold), *ONE)


def test_pot_distinct_says_that_nothing_changed(project: Project) -> None:
    result = project.run_tests("import pytest\n\n@pytest.mark.pot_distinct\ndef test_it(): pass")
    result.assert_outcomes(failed=1)
    check(
        told(result),
        f"{CHANGED}all 28 tensors are equal, and so is the configuration",
        f"{STARTS}in no module*",
    )


def test_an_undecided_gate_is_diagnosed(project: Project, variants: Variants) -> None:
    [gate] = project.run_gates(GATED, f"--pot-candidate={variants.one}")
    limits = f"max_score={gate['score'] * 1.01!r}, max_prompt_score={gate['score'] * 1.02!r}, confidence=0.95"
    result = project.run_tests(GATED.replace("max_score=0", limits), f"--pot-candidate={variants.one}")
    result.assert_outcomes(failed=1)
    assert any("pot_identity: UNDECIDED" in line for line in result.outlines)
    check(told(result), *ONE)


def test_reports_have_the_diagnosis_from_workers_too(project: Project, variants: Variants) -> None:
    project.write(test_it=GATED, test_copy=GATED.replace("max_score=0", "candidate={copy}, max_score=0"))
    arguments = [f"--pot-candidate={variants.many}", "--junitxml=out.xml"]
    project.run_workers(1, *arguments, "--pot-report=gates.json").assert_outcomes(passed=1, failed=1)
    gates = json.loads((project.path / "gates.json").read_text(encoding="utf-8"))["gates"]
    passed, failed = sorted(gates, key=lambda gate: not gate["passed"])
    assert "diagnosis" not in passed
    diagnosis = failed["diagnosis"]
    weights = diagnosis["weights"]
    assert {change["name"]: change["kind"] for change in weights["changes"]} == {
        "transformer.wpe.weight": "changed",
        "transformer.h.0.attn.c_attn.weight": "scaled",
        "transformer.h.0.mlp.c_proj.weight": "zero",
        "transformer.h.1.attn.c_proj.weight": "rounded",
        f"{C_FC}.weight": "changed",
        "transformer.h.1.mlp.c_proj.weight": "pruned",
    }
    assert (weights["n_equal"], weights["n_changes"]) == (22, 6)
    assert diagnosis["what_changed"] == failed["what_changed"]
    properties = {
        entry.attrib["name"]: entry.attrib["value"]
        for case in ElementTree.parse(project.path / "out.xml").getroot().iter("testcase")
        for entry in case.iter("property")
    }
    assert properties["pot_what_changed"] == str(diagnosis["what_changed"])
    assert "pot_diagnosis" not in properties


def test_the_markdown_report_has_a_section_on_each_failing_gate(project: Project, variants: Variants) -> None:
    project.write(test_it=GATED)
    project.run(f"--pot-candidate={variants.one}", "--pot-report=gates.md")
    lines = (project.path / "gates.md").read_text(encoding="utf-8").splitlines()
    start = lines.index("### `test_it.py::test_it`")
    assert lines[start + 2] == f"`identity: {variants.one} vs {project.tiny.reference}` failed"
    first = next(index for index, line in enumerate(lines) if line.startswith("what changed: "))
    check(lines[first : lines.index("```", first)], *(line.strip() for line in ONE))


def test_an_engine_without_weights_keeps_the_guess(project: Project) -> None:
    """An engine of one's own shows no weights: that is said in one line."""
    project.write(
        conftest="""
        import pytest
        from transformers import GPT2LMHeadModel
        from pytest_pot import ScoringConfig
        from pytest_pot.engines import registry

        class Opaque:
            def __init__(self, engine):
                self.max_positions, self.label = engine.max_positions, engine.label
                self.top_k, self.at, self.sample = engine.top_k, engine.at, engine.sample

        @pytest.fixture
        def pot_candidate():
            model = GPT2LMHeadModel.from_pretrained({perturbed})
            with registry.opened(model, "candidate", ScoringConfig(device="cpu")) as engine:
                yield Opaque(engine)
        """
    )
    project.prompts("prompts.jsonl", *({"text": "mill " * n, "continuation": " by the river"} for n in range(1, 13)))
    result = project.run_tests(GATED)
    result.assert_outcomes(failed=1)
    check(
        told(result),
        f"{CHANGED}the candidate * shows no weights*",
        f"{GUESS}*",
    )
    (project.path / "conftest.py").unlink()
    result = project.run(f"--pot-candidate={project.tiny.perturbed}")
    assert told(result)[0].startswith(CHANGED)
    assert not any(line.startswith(GUESS) for line in told(result))


@pytest.mark.parametrize(
    ("raised", "words"),
    [
        ("RuntimeError('no memory\\x1b left')", "RuntimeError: no memory\\x1b left"),
        ("pytest.skip.Exception('not here')", "Skipped: not here"),
        ("SystemExit(3)", "SystemExit: 3"),
    ],
)
def test_a_diagnosis_that_fails_does_not_hide_the_message(project: Project, raised: str, words: str) -> None:
    project.write(
        conftest=f"""
        import pytest
        from pytest_pot.gates.verdict import diagnosing

        def fail(*arguments):
            raise {raised}

        @pytest.fixture(autouse=True)
        def broken(monkeypatch):
            monkeypatch.setattr(diagnosing, "diagnose", fail)
        """
    )
    result = project.run_tests(GATED, f"--pot-candidate={project.tiny.perturbed}")
    result.assert_outcomes(failed=1)
    assert any(line.startswith("pot_identity: DIFFERENT: tv 0.649 > 0") for line in result.outlines)
    assert told(result)[:1] == [f"{CHANGED}not known: the diagnosis itself failed: {words}"]


def test_a_passing_gate_imports_nothing_of_it(project: Project, variants: Variants) -> None:
    project.write(
        conftest="""
        import sys

        def names():
            parts = (
                "pytest_pot.scoring.diagnosis",
                "pytest_pot.gates.verdict.diagnosing",
                "pytest_pot.gates.verdict.diagnosis_lines",
                "pytest_pot.engines.module_differences",
                "pytest_pot.engines.pytorch.module_trace",
                "pytest_pot.engines.pytorch.weights.",
            )
            return [name for name in sys.modules if name.startswith(parts)]

        def pytest_unconfigure():
            print("imported:", len(names()))
        """
    )
    project.write(test_it=GATED)
    assert "imported: 0" in project.run_subprocess("-s").outlines
    off = project.run_subprocess(f"--pot-candidate={variants.one}", "--pot-diagnosis=off", "-q", "-s")
    assert "imported: 0" in off.outlines
    assert "imported: 0" not in project.run(f"--pot-candidate={variants.one}", "-s").outlines
