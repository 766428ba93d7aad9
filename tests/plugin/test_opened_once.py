"""A gate opens each model once and encodes each text once per tokenizer."""

from __future__ import annotations

from collections import Counter

import pytest

from .conftest import PROMPTS, WITH_CACHE, Project

COUNTING = """
import functools
import pytest
from collections import Counter
from transformers import PreTrainedTokenizerFast
from pytest_pot.engines.pytorch.backend import PyTorchBackend

opened, encoded = [], []
open_model, encode = PyTorchBackend.opened, PreTrainedTokenizerFast.__call__

def count_opened(self, model, role, config):
    opened.append(role)
    return open_model(self, model, role, config)

@functools.wraps(encode)
def count_encoded(self, text, *arguments, **keywords):
    encoded.extend((id(self), each) for each in ([text] if isinstance(text, str) else text))
    return encode(self, text, *arguments, **keywords)

@pytest.fixture(autouse=True)
def count(monkeypatch):
    monkeypatch.setattr(PyTorchBackend, "opened", count_opened)
    monkeypatch.setattr(PreTrainedTokenizerFast, "__call__", count_encoded)

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


def opened_and_encoded(project: Project, marker: str, *arguments: str) -> tuple[Counter[str], str]:
    """The number of times that each role's model was opened, and the line about encoded texts."""
    result = project.run_tests(f"import pytest\n\n@pytest.mark.{marker}\ndef test_it(): pass\n", "-s", *arguments)
    result.assert_outcomes(passed=1)
    roles = next(line for line in result.outlines if "opened:" in line).split("opened:")[1].split()
    return Counter(roles), next(line for line in result.outlines if line.startswith("encoded:"))


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
def test_two_live_models_are_opened_once(counting: Project, marker: str) -> None:
    marker = marker.replace("{perturbed}", repr(str(counting.tiny.perturbed)))
    assert opened_and_encoded(counting, marker) == (BOTH, EACH_ONCE)


def test_a_cached_reference_is_not_opened(counting: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTEST_ADDOPTS", WITH_CACHE)
    assert opened_and_encoded(counting, "pot_identity(max_score=0)") == (BOTH, EACH_ONCE)
    assert opened_and_encoded(counting, "pot_identity(max_score=0)") == (Counter(candidate=1), EACH_ONCE)


def test_a_recorded_reference_is_opened_only_to_record_it(counting: Project) -> None:
    marker = "pot_identity(reference='ref.pot.safetensors', max_score=0)"
    assert opened_and_encoded(counting, marker, "--pot-update") == (BOTH, EACH_ONCE)
    assert opened_and_encoded(counting, marker) == (Counter(candidate=1), EACH_ONCE)


def test_a_budget_opens_only_the_candidate(counting: Project) -> None:
    assert opened_and_encoded(counting, "pot_latency(budget_ms=60000)") == (Counter(candidate=1), EACH_ONCE)
