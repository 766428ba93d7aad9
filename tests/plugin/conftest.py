"""Tiny models on disk, and a test project that pytester runs with them."""

from __future__ import annotations

import importlib
import json
import os
import pkgutil
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

import pytest_pot
from pytest_pot.plugin.markers import MARKERS

from ..environment import is_of_outer_run

VOCAB = 280
PROMPTS: list[dict[str, Any]] = [
    {"text": "The old mill by the river", "continuation": " stood empty all winter.", "kind": "prose"},
    {"text": "x = 1", "continuation": "; y = x + 1", "kind": "code"},
    {"text": "Who is there?", "continuation": " Nobody, said the wind."},
]
_PROCESS_LIMIT_S = 500.0
"""Less than a test may take, so that a process that hangs is killed, and named."""
WITH_CACHE = "-p pot"
WITHOUT_CACHE = f"{WITH_CACHE} -p no:cacheprovider"
"""Values of ``PYTEST_ADDOPTS`` for runs that do not load installed plugins."""

_CORPUS = ["The river ran past the old mill.", "Who is there in the winter wind?", "Nobody said that the mill stood empty."]
_OTHER_CORPUS = ["zebra quartz zebra quartz", "jumping quickly over lazy foxes", "vexing daft jumbled zebras"]


@dataclass(frozen=True)
class Models:
    """Model folders; all but ``other_tokenizer`` have the same tokenizer."""

    reference: Path
    copy: Path
    perturbed: Path
    """Scores far above 0.01 against the reference."""
    nan: Path
    other_tokenizer: Path
    """The reference's weights, with a tokenizer that merges other pairs."""
    small: Path
    """The vocabulary lacks the last ids."""
    padded: Path
    """The reference's weights, with eight more rows than the tokenizer has ids."""
    tokenizer: PreTrainedTokenizerFast


@pytest.fixture(scope="session", autouse=True)
def everything_imported() -> None:
    """In-process runs forget their imports, but torch cannot be imported twice: import everything before them."""
    torch.set_num_threads(1)  # tiny models gain nothing from more threads, and lose time if others use the cores
    for module in pkgutil.walk_packages(pytest_pot.__path__, "pytest_pot."):
        importlib.import_module(module.name)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory, everything_imported: None) -> Models:
    home = tmp_path_factory.mktemp("models")
    tokenizer, other = _tokenizer(_CORPUS), _tokenizer(_OTHER_CORPUS)

    def save(
        name: str,
        change: Callable[[GPT2LMHeadModel], object] | None = None,
        with_tokenizer: PreTrainedTokenizerFast = tokenizer,
        **sizes: int,
    ) -> Path:
        model = _model(**sizes)
        if change is not None:
            with torch.no_grad():
                change(model)
        model.save_pretrained(home / name)
        with_tokenizer.save_pretrained(home / name)
        return home / name

    def perturb(model: GPT2LMHeadModel) -> None:
        generator = torch.Generator().manual_seed(1)
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))

    return Models(
        reference=save("reference"),
        copy=save("copy"),
        perturbed=save("perturbed", perturb),
        nan=save("nan", lambda model: model.transformer.ln_f.bias.fill_(torch.nan)),
        other_tokenizer=save("other_tokenizer", with_tokenizer=other),
        small=save("small", vocab_size=200),
        padded=save("padded", vocab_size=VOCAB + 8),
        tokenizer=tokenizer,
    )


def _tokenizer(corpus: list[str]) -> PreTrainedTokenizerFast:
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=VOCAB, initial_alphabet=alphabet, show_progress=False)
    backend.train_from_iterator(corpus, trainer)
    assert backend.get_vocab_size() == VOCAB
    return PreTrainedTokenizerFast(tokenizer_object=backend)


def _model(vocab_size: int = VOCAB) -> GPT2LMHeadModel:
    """Two layers with distributions that are not flat; padding rows have almost no probability."""
    config = GPT2Config(n_layer=2, n_embd=32, n_head=2, n_positions=128, vocab_size=vocab_size, bos_token_id=0, eos_token_id=0)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        model: GPT2LMHeadModel = GPT2LMHeadModel(config).eval()
        generator = torch.Generator().manual_seed(0)
        for name, parameter in sorted(model.named_parameters()):
            if name.endswith("wte.weight"):
                rows = torch.randn(VOCAB, 32, generator=generator) * 0.4
                parameter[:VOCAB] = rows[:vocab_size]
                parameter[VOCAB:] = 0.0
                parameter[VOCAB:, 0] = -100.0
            elif parameter.ndim > 1:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
        # One coordinate of the output layer's input is always 1: it sets the logits of the padding rows to -100.
        model.transformer.ln_f.weight[0] = 0.0
        model.transformer.ln_f.bias[0] = 1.0
    return model


def table_rows(result: pytest.RunResult) -> list[list[str]]:
    """The cells of the table at the end of a run, without its heading."""
    [start] = [index for index, line in enumerate(result.outlines) if "score / limit" in line]
    rows = takewhile(lambda line: " / " in line, result.outlines[start + 1 :])
    return [re.split(r" {2,}", row) for row in rows]


class Project:
    """A folder with ``pytest.ini``, ``prompts.jsonl`` and tests, run by pytest in this process.

    Runs load no installed plugin but ours: others add lines to the output, and reorder or repeat tests. A test that needs
    another plugin names it (``"-prerunfailures"``) or starts workers.
    """

    def __init__(self, pytester: pytest.Pytester, tiny: Models, request: pytest.FixtureRequest) -> None:
        self.pytester = pytester
        self._request = request
        self._n_processes = 0
        self.tiny = tiny
        self.path = pytester.path
        self.ini(pot_reference=tiny.reference, pot_candidate=tiny.copy, pot_prompts="prompts.jsonl")
        self.prompts("prompts.jsonl", *PROMPTS)

    def ini(self, **values: object) -> None:
        """Replace ``pytest.ini`` by one with these keys; models run on the CPU even if the machine has a GPU."""
        values = {"pot_device": "cpu", **values} if values else {}
        lines = ["[pytest]", *(f"{name} = {value}" for name, value in values.items())]
        (self.path / "pytest.ini").write_text("\n".join(lines) + "\n", encoding="utf-8")

    def prompts(self, name: str, *prompts: object) -> Path:
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(prompt) + "\n" for prompt in prompts), encoding="utf-8")
        return path

    def write(self, **files: str) -> None:
        """Write Python files; ``{reference}``, ``{copy}`` and so on become the models' folders, quoted."""
        for name, text in files.items():
            for model in ("reference", "copy", "perturbed", "nan", "other_tokenizer", "small", "padded"):
                text = text.replace("{" + model + "}", repr(str(getattr(self.tiny, model))))
            self.pytester.makepyfile(**{name: text})

    def run(self, *arguments: str | os.PathLike[str]) -> pytest.RunResult:
        return self.pytester.runpytest_inprocess(*arguments)

    def run_tests(self, text: str, *arguments: str | os.PathLike[str]) -> pytest.RunResult:
        self.write(test_it=text)
        return self.run(*arguments)

    @property
    def commands(self) -> Path:
        """The folder with ``python`` and ``pytest`` that start with torch imported; they take a while to be there at first."""
        folder: Path = self._request.getfixturevalue("forked_commands")
        return folder

    def run_module(self, *arguments: str | os.PathLike[str]) -> pytest.RunResult:
        """``python -m`` with these arguments."""
        python = shutil.which("python", path=self.commands) or sys.executable
        return self.pytester.run(python, "-m", *arguments, timeout=_PROCESS_LIMIT_S)

    def run_subprocess(self, *arguments: str | os.PathLike[str]) -> pytest.RunResult:
        """Run in another process, where torch has one thread and is imported already."""
        self._n_processes += 1
        temporary = self.path / f"temporary-{self._n_processes}"
        return self.run_module("pytest", f"--basetemp={temporary}", *arguments)

    def run_new_process(self, *arguments: str | os.PathLike[str]) -> pytest.RunResult:
        """Run in another process that has imported nothing yet."""
        return self.pytester.runpytest_subprocess(*arguments)

    def run_workers(self, n_workers: int, *arguments: str | os.PathLike[str]) -> pytest.RunResult:
        """Run in ``n_workers`` workers of pytest-xdist; skip the test if it is not installed."""
        pytest.importorskip("xdist")
        # Workers import plugins as modules; they do not look for entry points.
        plugins = os.environ["PYTEST_ADDOPTS"].replace("-p pot", "-p pytest_pot.plugin -p xdist.plugin")
        with pytest.MonkeyPatch.context() as environment:
            environment.setenv("PYTEST_ADDOPTS", plugins)
            return self.run_subprocess(f"-n{n_workers}", *arguments)

    def gates(self, *arguments: str | os.PathLike[str]) -> list[dict[str, Any]]:
        """Run the project's tests and return the gates that ``--pot-report`` writes."""
        (Path.cwd() / "gates.json").unlink(missing_ok=True)
        self.run(*arguments, "--pot-report=gates.json")
        gates: list[dict[str, Any]] = json.loads((Path.cwd() / "gates.json").read_text(encoding="utf-8"))["gates"]
        return gates

    def run_gates(self, text: str, *arguments: str | os.PathLike[str]) -> list[dict[str, Any]]:
        """:meth:`gates` of these tests."""
        self.write(test_it=text)
        return self.gates(*arguments)


FULL_DISK = """
import resource
import pytest

@pytest.hookimpl(wrapper=True, trylast=True)
def pytest_sessionfinish():
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50, before[1]))
    try:
        return (yield)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
"""
"""A conftest under which the disk is full when reports are written: no file may have more than 50 bytes."""


@pytest.fixture
def project(
    pytester: pytest.Pytester, tiny: Models, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Project]:
    # A test that rewrites a file within a second, at the same length, would run what Python kept of the old one.
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    for name in filter(is_of_outer_run, list(os.environ)):
        monkeypatch.delenv(name)
    monkeypatch.setenv("TERM", "xterm")  # a terminal with colours, where a test has one
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("COLUMNS", "1000")  # no message is wrapped; see test_terminal.py for terminals as they are
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.setenv("PYTEST_ADDOPTS", WITHOUT_CACHE)
    markers = dict(MARKERS)
    yield Project(pytester, tiny, request)
    MARKERS.clear()  # a project's conftest may have registered one of its own in this process
    MARKERS.update(markers)
