"""A folder that is written anew while a suite runs is loaded anew: exporting each candidate into one folder is usual."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from .conftest import WITH_CACHE, Project

EXPORTED = """
import shutil
import pytest

@pytest.fixture(params=[{reference}, {perturbed}], ids=["good", "bad"])
def pot_ROLE(request):
    shutil.rmtree("build", ignore_errors=True)
    return shutil.copytree(request.param, "build")

@pytest.mark.pot_identity
def test_it():
    pass
"""


@pytest.mark.parametrize("cache", [False, True], ids=["no cache", "cache"])
@pytest.mark.parametrize("role", ["candidate", "reference"])
def test_each_export_into_one_folder_is_scored(
    project: Project, monkeypatch: pytest.MonkeyPatch, role: str, cache: bool
) -> None:
    if cache:
        monkeypatch.setenv("PYTEST_ADDOPTS", WITH_CACHE)
    other = "reference" if role == "candidate" else "candidate"
    project.ini(**{f"pot_{other}": project.tiny.reference, "pot_prompts": "prompts.jsonl"})
    for _ in range(2):  # the second run would use what the first one kept under a wrong name
        project.run_tests(EXPORTED.replace("ROLE", role)).assert_outcomes(passed=1, failed=1)
    project.run("-k", "bad").assert_outcomes(failed=1)


def test_a_folder_that_the_ini_file_names_is_loaded_anew_too(project: Project) -> None:
    build = project.path / "build"
    shutil.copytree(project.tiny.reference, build)
    project.ini(pot_reference=project.tiny.reference, pot_candidate="build", pot_prompts="prompts.jsonl")
    result = project.run_tests(
        """
        import shutil
        import pytest

        @pytest.mark.pot_identity
        def test_before():
            pass

        def test_export():
            shutil.rmtree("build")
            shutil.copytree({perturbed}, "build")

        @pytest.mark.pot_identity
        def test_after():
            pass
        """
    )
    result.assert_outcomes(passed=2, failed=1)


@pytest.mark.parametrize("way", ["marker", "option"])
def test_a_candidates_own_precision_is_that_of_loading_too(project: Project, way: str) -> None:
    """Weights that were rounded to the precision of the options while loading would stay rounded."""
    argument = "(candidate_dtype='float32')" if way == "marker" else ""
    project.write(test_it=f"import pytest\n\n@pytest.mark.pot_identity{argument}\ndef test_it():\n    pass\n")
    options = ["--pot-dtype=bfloat16", *(["--pot-candidate-dtype=float32"] if way == "option" else [])]
    scores = []
    for conftest in (
        "",
        "import pytest\nfrom transformers import AutoModelForCausalLM\n\n"
        "@pytest.fixture\ndef pot_candidate():\n    return AutoModelForCausalLM.from_pretrained({copy})\n",
    ):
        project.write(conftest=conftest)
        project.run(*options, "--pot-report=gates.json")
        [gate] = json.loads((Path.cwd() / "gates.json").read_text(encoding="utf-8"))["gates"]
        scores.append(gate["score"])
    assert scores[0] == scores[1] > 0
