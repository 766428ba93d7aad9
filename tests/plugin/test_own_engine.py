"""A custom engine in plain NumPy, registered in a conftest.py and gated by markers."""

from __future__ import annotations

import ast
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pytest_pot.engines.distributions import Floats

from .conftest import Project

ENGINE = '''
from contextlib import nullcontext
from itertools import chain

import numpy as np
import pytest

from pytest_pot.engines import registry
from pytest_pot.engines.base import LoadedModel
from pytest_pot.engines.distributions import TopK

VOCAB = 12
opened, encoded = [], []


class Tokenizer:
    """Letters a to l."""

    def __call__(self, text, add_special_tokens=True, verbose=True):
        encoded.append(text)
        return {"input_ids": [ord(letter) - ord("a") for letter in text]}

    def decode(self, ids):
        return "".join(chr(ord("a") + index) for index in ids)


def log_softmax(logits):
    return logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))


class Bigram:
    """The next token depends only on the last one: a table [vocab, vocab] of log-probabilities."""

    max_positions = None

    def __init__(self, table, place):
        self.table, self.place = table, place

    @property
    def label(self):
        return f"numpy on {self.place}"

    def rows(self, batch):
        last = list(chain.from_iterable(t.ids[t.prompt_len - 1 : -1] for t in batch))
        targets = list(chain.from_iterable(t.targets for t in batch))
        return self.table[last], np.array(targets)

    def top_k(self, batch, k):
        rows, targets = self.rows(batch)
        if k is None or k >= VOCAB:
            return self.reduced(rows, targets, None)
        return self.reduced(rows, targets, np.argsort(-rows, axis=1, kind="stable")[:, :k])

    def at(self, batch, ids):
        rows, targets = self.rows(batch)
        return self.reduced(rows, targets, None if isinstance(ids, int) else ids)

    def reduced(self, rows, targets, ids):
        n = np.arange(len(rows))
        first = rows.argmax(axis=1)
        known = rows if ids is None else np.take_along_axis(rows, ids, axis=1)
        rest = None
        if ids is not None:
            probabilities = np.exp(rows)
            np.put_along_axis(probabilities, ids, 0.0, axis=1)
            rest = np.log(probabilities.sum(axis=1))
        everywhere = np.ones(len(rows), dtype=bool)
        return TopK(ids, known, rest, rows[n, targets], first, rows[n, first], everywhere, np.zeros(len(rows)), VOCAB)

    def sample(self, contexts, n_tokens, seed):
        return [[0] * n_tokens for _ in contexts]


class Model:
    """The model of a spec ``bigram:SEED``; its last digits depend on the device, as with real kernels."""

    def __init__(self, seed, place):
        self.logits = np.random.default_rng(seed).normal(size=(VOCAB, VOCAB)) * 2
        self.place = place


class Backend:
    def loads(self, spec):
        return spec.startswith("bigram:")

    def load(self, spec, role, config):
        return LoadedModel(Model(int(spec.split(":")[1]), "cuda"), Tokenizer(), movable=True)

    def runs(self, model):
        return isinstance(model, Model)

    def opened(self, model, role, config):
        opened.append(role)
        place = model.place if config.device == "auto" else config.device
        noise = 1e-7 * np.arange(VOCAB) if place == "cuda" else 0.0
        return nullcontext(Bigram(log_softmax(model.logits + noise), place))

    def max_positions(self, model):
        return None

    def device(self, model):
        return model.place

    def pinned(self, model):
        return False

    def weights_digest(self, model):
        return None

    def content(self, model):
        return None

    def files_tell_all(self, spec):
        return False


BACKEND = Backend()


def pytest_configure(config):
    registry.register(BACKEND)


def pytest_unconfigure(config):
    registry.unregister(BACKEND)
    print("opened:", sorted(opened), "encoded:", sorted(encoded))
'''
PROMPTS = [("abc", "abcdefghijklabc"), ("fade", "bcdefghijklabc"), ("bike", "cdefghijklabc")]


def bigram(seed: int) -> Floats:
    """The probabilities [vocab, vocab] of ``bigram:seed`` on the CPU."""
    logits = np.random.default_rng(seed).normal(size=(12, 12)) * 2
    exps = np.exp(logits)
    return np.asarray(exps / exps.sum(axis=1, keepdims=True))


def exact_tv(first: Floats, second: Floats) -> float:
    """The mean over prompts of the mean total variation at the continuation's positions."""
    scores = []
    for text, continuation in PROMPTS:
        ids = [ord(letter) - ord("a") for letter in text[-1] + continuation[:-1]]
        scores.append(np.mean([0.5 * np.abs(first[index] - second[index]).sum() for index in ids]))
    return float(np.mean(scores))


@pytest.fixture
def engine_project(project: Project) -> Project:
    project.ini()
    prompts = [{"text": text, "continuation": continuation} for text, continuation in PROMPTS]
    project.prompts("letters.jsonl", *prompts)
    project.write(conftest=ENGINE)
    return project


def run_gate(engine_project: Project, marker: str, *arguments: str) -> tuple[pytest.RunResult, dict[str, Any]]:
    engine_project.write(test_it=f"import pytest\n\n@pytest.mark.{marker}\ndef test_it(): pass\n")
    result = engine_project.run(*arguments, "--pot-prompts=letters.jsonl", "--pot-report=gates.json", "-s")
    return result, json.loads((Path.cwd() / "gates.json").read_text(encoding="utf-8"))["gates"][0]


def test_the_same_model_scores_zero(engine_project: Project) -> None:
    result, row = run_gate(engine_project, "pot_identity(reference='bigram:1', candidate='bigram:1', max_score=0)")
    result.assert_outcomes(passed=1)
    assert row["score"] == 0
    assert row["reference"] == "bigram:1"


@pytest.mark.parametrize("preset", ["auto", "accurate", "single"])
def test_another_model_scores_the_exact_total_variation(engine_project: Project, preset: str) -> None:
    result, row = run_gate(
        engine_project, f"pot_distinct(reference='bigram:1', candidate='bigram:2', min_score=0.1, preset='{preset}')"
    )
    result.assert_outcomes(passed=1)
    assert row["score"] == pytest.approx(exact_tv(bigram(1), bigram(2)), abs=1e-6)


def test_each_model_is_opened_once_and_each_text_is_encoded_once(engine_project: Project) -> None:
    result, _ = run_gate(engine_project, "pot_distinct(reference='bigram:1', candidate='bigram:2', min_score=0.1)")
    texts = [text for pair in PROMPTS for text in pair]
    # Twice, because each model has its own tokenizer, and the two must agree.
    start = f"opened: {['candidate', 'reference']} encoded: "
    [encoded] = [line.removeprefix(start) for line in result.outlines if line.startswith(start)]
    counts = Counter(ast.literal_eval(encoded))  # also has the text by which tokenizers are told apart
    assert {text: counts[text] for text in texts} == dict.fromkeys(texts, 2)


def test_only_scoring_can_be_timed(engine_project: Project) -> None:
    result, row = run_gate(engine_project, "pot_latency(reference='bigram:1', candidate='bigram:1', max_slowdown=1000)")
    result.assert_outcomes(passed=1)
    assert row["verdict"] == "pass"
    result, row = run_gate(engine_project, "pot_latency(candidate='bigram:1', budget_ms=50, what='prefill')")
    result.assert_outcomes(failed=1)
    assert "what runs the candidate (numpy on cuda): it can be timed with what='score' only" in row["error"]
    result, row = run_gate(engine_project, "pot_latency(candidate='bigram:1', max_memory_mb=50)")
    result.assert_outcomes(failed=1)
    assert "max_memory_mb limits peak memory, which cannot be measured with what runs the candidate (numpy" in row["error"]


FIXTURE = """
import pytest
from conftest import Model, Tokenizer

@pytest.fixture
def pot_reference():
    return Model(1, "cpu"), Tokenizer()

@pytest.mark.pot_identity(candidate="bigram:1", max_score=0)
def test_it():
    pass
"""


def test_a_loaded_model_runs_on_the_device_of_a_fixtures_model(engine_project: Project) -> None:
    """On two devices, rounding differs, and the same weights would not score 0."""
    engine_project.write(test_it=FIXTURE)
    result = engine_project.run("--pot-prompts=letters.jsonl", "-v")
    result.assert_outcomes(passed=1)


def test_a_failure_names_two_devices_as_its_likely_cause(engine_project: Project) -> None:
    """Fixtures return both engines; an engine object stays on its device."""
    engine_project.write(
        test_it="""
        import pytest
        from conftest import Bigram, Model, Tokenizer, log_softmax
        import numpy as np

        LOGITS = Model(1, "cpu").logits

        @pytest.fixture
        def pot_reference():
            return Bigram(log_softmax(LOGITS), "cpu"), Tokenizer()

        @pytest.fixture
        def pot_candidate():
            return Bigram(log_softmax(LOGITS + 1e-7 * np.arange(12)), "cuda")

        @pytest.mark.pot_identity(max_score=0)
        def test_it():
            pass
        """
    )
    result = engine_project.run("--pot-prompts=letters.jsonl")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "*numpy on cpu and numpy on cuda*",
            "*likely cause: the reference ran in numpy on cpu and the candidate in numpy on cuda, which round differently*",
        ]
    )


def test_a_registered_engine_does_not_wait_for_torch(engine_project: Project) -> None:
    """The backends that come after the one that runs a model are not imported."""
    engine_project.write(
        test_it="""
        import sys
        import pytest

        @pytest.mark.pot_identity(reference="bigram:1", candidate="bigram:1", max_score=0)
        def test_it():
            assert "pytest_pot.engines.pytorch.backend" not in sys.modules
        """
    )
    engine_project.run_subprocess("--pot-prompts=letters.jsonl", "-pno:cacheprovider").assert_outcomes(passed=1)
