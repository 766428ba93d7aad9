"""One gate opens each model once, and has each text encoded once by each tokenizer."""

from __future__ import annotations

from collections import Counter

import pytest

from .conftest import PROMPTS, WITH_CACHE, Project

COUNTING = """
import pytest
from collections import Counter
from transformers import PreTrainedTokenizerFast
from pytest_pot.engines.pytorch.backend import PyTorchBackend

opened, encoded = [], []
open_model, encode = PyTorchBackend.opened, PreTrainedTokenizerFast.__call__

def counted(self, model, role, config):
    opened.append(role)
    return open_model(self, model, role, config)

def call(self, text, *arguments, **named):
    encoded.append((id(self), text))
    return encode(self, text, *arguments, **named)

@pytest.fixture(autouse=True)
def count(monkeypatch):
    monkeypatch.setattr(PyTorchBackend, "opened", counted)
    monkeypatch.setattr(PreTrainedTokenizerFast, "__call__", call)

def pytest_unconfigure():
    print("opened:", *sorted(opened))
    texts = {TEXTS}
    most = Counter(pair for pair in encoded if pair[1] in texts)
    print("encoded:", len({text for _, text in most}), "texts, each at most", max(most.values(), default=0), "times")
"""
TEXTS = {text for prompt in PROMPTS for text in (prompt["text"], prompt["continuation"])}


@pytest.fixture
def counting(project: Project, monkeypatch: pytest.MonkeyPatch) -> Project:
    project.write(conftest=COUNTING.replace("{TEXTS}", repr(TEXTS)))
    return project


def counted(project: Project, marker: str, *arguments: str) -> tuple[Counter[str], str]:
    """How often a model was opened in each role, and what was encoded."""
    result = project.run_tests(f"import pytest\n\n@pytest.mark.{marker}\ndef test_it(): pass\n", "-s", *arguments)
    result.assert_outcomes(passed=1)
    opened = next(line for line in result.outlines if "opened:" in line).split("opened:")[1].split()
    return Counter(opened), next(line for line in result.outlines if line.startswith("encoded:"))


BOTH = Counter(reference=1, candidate=1)
EACH_ONCE = f"encoded: {len(TEXTS)} texts, each at most 1 times"


@pytest.mark.parametrize(
    "marker",
    [
        "pot_identity(max_score=0)",
        "pot_distinct(candidate={perturbed}, min_score=0.01)",
        "pot_identity(max_score=0.1, confidence=0.9, max_outliers=0.9)",
        "pot_latency(max_slowdown=1000)",
    ],
)
def test_two_live_models(counting: Project, marker: str) -> None:
    marker = marker.replace("{perturbed}", repr(str(counting.tiny.perturbed)))
    assert counted(counting, marker) == (BOTH, EACH_ONCE)


def test_a_reference_that_is_kept_in_the_cache(counting: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTEST_ADDOPTS", WITH_CACHE)
    assert counted(counting, "pot_identity(max_score=0)") == (BOTH, EACH_ONCE)
    assert counted(counting, "pot_identity(max_score=0)") == (Counter(candidate=1), EACH_ONCE)


def test_a_recorded_reference(counting: Project) -> None:
    marker = "pot_identity(reference='ref.pot.safetensors', max_score=0)"
    assert counted(counting, marker, "--pot-update") == (BOTH, EACH_ONCE)
    assert counted(counting, marker) == (Counter(candidate=1), EACH_ONCE)


def test_a_budget_of_the_candidate_alone(counting: Project) -> None:
    assert counted(counting, "pot_latency(budget_ms=60000)") == (Counter(candidate=1), EACH_ONCE)
