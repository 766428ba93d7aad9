"""``path="decode"`` through the markers: right caches pass at ``numeric``, wrong ones fail, whatever the reference."""

from __future__ import annotations

import json

import pytest

from pytest_pot import Prompt, ScoringConfig, TeacherForcedScorer

from ..unit.conftest import make_tokenizer
from ..unit.models import DECODED, tiny
from .conftest import PROMPTS, Project

IDENTIFIERS = {name.replace("-", "_"): name for name in DECODED}

ZOO = f"""
from functools import partial
from tests.unit.conftest import make_tokenizer
from tests.unit.models import tiny, with_rolled_cache


def right(name):
    return tiny(name), make_tokenizer()


def rolled(name):
    return with_rolled_cache(tiny(name)), make_tokenizer()


for identifier, name in {IDENTIFIERS!r}.items():
    globals()["right_" + identifier] = partial(right, name)
    globals()["rolled_" + identifier] = partial(rolled, name)
"""

GATES = """
@pytest.mark.pot_identity(tolerance="numeric", reference={reference!r}, candidate="zoo:right_{name}", path="decode")
def test_right_{name}():
    pass


@pytest.mark.pot_identity(tolerance="numeric", reference={reference!r}, candidate="zoo:rolled_{name}", path="decode")
def test_rolled_{name}():
    pass


# This is the wrong pass: one forward pass never reads the cache.
@pytest.mark.pot_identity(tolerance="numeric", reference={reference!r}, candidate="zoo:rolled_{name}")
def test_unseen_{name}():
    pass
"""


@pytest.mark.parametrize("recorded", [False, True], ids=["live", "recorded"])
def test_ten_architectures_pass_with_their_own_cache_and_fail_with_a_rolled_one(project: Project, recorded: bool) -> None:
    assert len(DECODED) == 10
    tests = "import pytest\n"
    for identifier, name in IDENTIFIERS.items():
        reference = f"zoo:right_{identifier}"
        if recorded:
            reference = f"{identifier}.pot.safetensors"
            prompts = [Prompt(**prompt) for prompt in PROMPTS]
            TeacherForcedScorer(ScoringConfig()).record(tiny(name), prompts, make_tokenizer()).save(project.path / reference)
        tests += GATES.format(name=identifier, reference=reference)
    project.write(zoo=ZOO, test_it=tests)
    gates = {gate["test"].removeprefix("test_it.py::test_"): gate for gate in project.gates()}
    for name in IDENTIFIERS:
        assert gates[f"right_{name}"]["verdict"] == "SAME"
        assert gates[f"right_{name}"]["score"] <= 1e-4
        assert gates[f"unseen_{name}"]["verdict"] == "SAME"
        assert gates[f"rolled_{name}"]["verdict"] == "DIFFERENT"
        assert not gates[f"rolled_{name}"]["passed"]
    assert len(gates) == 30


MESSAGE = """\
pot_identity: DIFFERENT: tv * > 0.0001 (* times the limit)
  reference zoo:right_gpt2, candidate zoo:rolled_gpt2; preset auto, 3 prompts, 58 positions, top 100 + tail of 0.0%, \
float32 on cpu (candidate read token by token through its cache, prompts of different length apart, because padding changes \
its results), noise floor *
  worst prompts:
*
  likely cause: the cache: the first token after each prompt, which needs none, has a mean tv of *, and all later tokens, read \
through the candidate's cache, *. With path='prefill' the same weights may pass"""


def test_the_message_names_the_path_and_the_cache(project: Project) -> None:
    project.write(zoo=ZOO)
    result = project.run_tests("import pytest\n" + GATES.format(name="gpt2", reference="zoo:right_gpt2"))
    result.assert_outcomes(passed=2, failed=1)
    result.stdout.fnmatch_lines(MESSAGE.splitlines())


NOTE = "the candidate read the continuations token by token, as it generates: * of * positions depend on its cache"


def test_a_pass_says_how_the_candidate_read(project: Project) -> None:
    project.write(test_it="import pytest\n@pytest.mark.pot_identity(tolerance='numeric')\ndef test_it(): pass")
    result = project.run("-v", "--pot-path=decode", "--pot-report=out.json")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["*, float32 on cpu (candidate read token by token through its cache), *", f"*{NOTE}"])
    [gate] = json.loads((project.path / "out.json").read_text(encoding="utf-8"))["gates"]
    assert gate["path"] == "decode"
    assert "token by token" in gate["conditions"]
    [note] = gate["notes"]
    assert note.startswith("the candidate read the continuations token by token, as it generates: ")
    [gate] = project.gates("--pot-path=prefill")
    assert (gate["path"], gate["notes"]) == ("prefill", [])


def test_the_ini_key_sets_the_path_and_the_marker_overrides_it(project: Project) -> None:
    project.ini(
        pot_reference=project.tiny.reference, pot_candidate=project.tiny.copy, pot_prompts="prompts.jsonl", pot_path="decode"
    )
    project.write(
        test_it="""
        import pytest

        @pytest.mark.pot_identity
        def test_decode(): pass

        @pytest.mark.pot_identity(path="prefill", tolerance="identical")
        def test_prefill(): pass
        """
    )
    decode, prefill = project.gates()
    assert (decode["path"], prefill["path"]) == ("decode", "prefill")
    assert decode["score"] > 0 == prefill["score"]


@pytest.mark.parametrize(
    "marker",
    [
        "pot_identity(path='decode', tolerance='identical')",
        "pot_identity(path='decode', max_score=0)",
        "pot_distinct(path='decode', min_score=0)",
    ],
)
def test_a_limit_of_0_is_a_usage_error(project: Project, marker: str) -> None:
    result = project.run_tests(f"import pytest\n@pytest.mark.{marker}\ndef test_it(): pass")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    kind = marker.partition("(")[0]
    assert [line for line in result.errlines if line] == [
        f"ERROR: test_it.py::test_it: {kind}: path='decode' cannot be held to a limit of 0: read token by token, the same "
        "weights round otherwise than in the one forward pass of the reference. "
        "tolerance='numeric' is meant for the same weights"
    ]


def test_the_other_verdicts_decode_too(project: Project) -> None:
    project.write(zoo=ZOO)
    arguments = "reference='zoo:right_llama', path='decode'"
    project.write(
        test_it=f"""
        import pytest

        @pytest.mark.pot_distinct(candidate="zoo:rolled_llama", tolerance="numeric", {arguments})
        def test_distinct(): pass

        @pytest.mark.pot_distinct(candidate="zoo:right_llama", tolerance="numeric", {arguments})
        def test_not_distinct(): pass

        @pytest.mark.pot_identity(candidate="zoo:right_llama", tolerance="numeric", confidence=0.95, key="k", {arguments})
        def test_confident(): pass

        @pytest.mark.pot_identity(candidate="zoo:rolled_llama", tolerance="numeric", confidence=0.95, key="k", {arguments})
        def test_confidently_different(): pass
        """
    )
    verdicts = {gate["test"].partition("::test_")[2]: (gate["verdict"], gate["passed"]) for gate in project.gates()}
    assert verdicts == {
        "distinct": ("DIFFERENT", True),
        "not_distinct": ("SAME", False),
        "confident": ("SAME", True),
        "confidently_different": ("DIFFERENT", False),
    }


def test_a_model_without_generate_fails_its_gate(project: Project) -> None:
    project.write(
        conftest="""
        import pytest
        import torch

        class Plain(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.table = torch.nn.Embedding(300, 300)

            def forward(self, ids):
                return self.table(ids)

        @pytest.fixture(scope="session")
        def pot_candidate():
            return Plain()
        """
    )
    result = project.run_tests("import pytest\n@pytest.mark.pot_identity(path='decode')\ndef test_it(): pass")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "*pot_identity: path='decode' cannot read the candidate token by token: Plain has no generate() of transformers, "
            "which prepares a key-value cache. Use path='prefill', which reads each continuation in one forward pass"
        ]
    )
