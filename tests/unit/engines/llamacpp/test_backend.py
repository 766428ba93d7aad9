"""GGUF files through llama.cpp: a real server in a process of its own, with a tiny model."""

from __future__ import annotations

import gc
import importlib.util
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pytest_pot.core.config import ScoringConfig
from pytest_pot.core.errors import PotError
from pytest_pot.engines import registry
from pytest_pot.engines.base import Level, LoadedModel, description_of, level_of
from pytest_pot.engines.llamacpp import backend, process
from pytest_pot.engines.llamacpp.backend import LlamaCppEngine
from pytest_pot.engines.loading import NoSuchPath
from pytest_pot.engines.tokens import Tokens
from pytest_pot.prompts.prompt import Prompt
from pytest_pot.scoring.scorer import TeacherForcedScorer

from ... import oracle
from ...gguf_models import BYTES, GGUF_VOCAB, write_tiny

pytest.importorskip("xllamacpp")

CONFIG = ScoringConfig(top_k=10, max_length=64)
TEXT = tuple(BYTES + byte for byte in "héllo, 東京 and 🎉".encode())
"""Bytes, many of them parts of a character: llama-server answers without log-probabilities when it samples one."""
BATCH = [Tokens(TEXT, 3), Tokens((*TEXT[4:12], 1, 0, GGUF_VOCAB - 1), 2)]


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny(tmp_path_factory.mktemp("llamacpp") / "tiny.gguf")


@pytest.fixture(scope="module")
def loaded(file: Path) -> Iterator[LoadedModel]:
    model = registry.load_model(f"llamacpp://{file}", "candidate", CONFIG)
    yield model
    assert model.close is not None
    model.close()


@pytest.fixture(scope="module")
def dequantised(file: Path) -> Any:
    """The same file, run by transformers."""
    return registry.load_model(str(file), "reference", CONFIG).model


@contextmanager
def opened(loaded: LoadedModel, config: ScoringConfig = CONFIG) -> Iterator[LlamaCppEngine]:
    with registry.opened(loaded.model, "candidate", config) as engine:
        assert isinstance(engine, LlamaCppEngine)
        yield engine


def is_gone(pid: int) -> bool:
    """Whether a process ends, within minutes. One that another process than this has not waited for yet has ended too."""
    end = time.monotonic() + 120
    while time.monotonic() < end:
        try:
            state, parent = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[:2]
        except (FileNotFoundError, ProcessLookupError):
            return True
        if state == "Z" and int(parent) != os.getpid():
            return True
        time.sleep(0.02)
    return False


def pid_of(loaded: LoadedModel) -> int:
    """The process of its server."""
    return int(loaded.model.pid)


def test_it_says_what_it_runs(loaded: LoadedModel) -> None:
    with opened(loaded) as engine:
        description = description_of(engine)
        assert description is not None
        assert (description.format, description.dtype, description.device) == ("GGUF F32", "llama.cpp's own kernels", "cpu")
        assert not description.dequantised
        assert engine.label == "llama.cpp (tiny.gguf)"
        assert level_of(engine) is Level.LAST_POSITION
        assert engine.vocab_size == GGUF_VOCAB
        assert engine.max_positions == 256
    assert loaded.tokenizer("hé")["input_ids"] == [BYTES + byte for byte in "hé".encode()]


def test_a_whole_vocabulary_is_that_of_the_model(loaded: LoadedModel, dequantised: Any) -> None:
    with opened(loaded, ScoringConfig(top_k=None)) as engine:
        top = engine.top_k(BATCH, None)
    exact = np.array([row for tokens in BATCH for row in oracle.full_log_probs(dequantised, tokens)])
    assert top.ids is None
    assert top.log_tail is None
    np.testing.assert_allclose(np.exp(top.log_probs).sum(axis=1), 1.0, atol=1e-12)
    np.testing.assert_allclose(top.log_probs, exact, atol=0.02)  # keys and values are float16 in llama.cpp
    targets = [token for tokens in BATCH for token in tokens.targets]
    np.testing.assert_array_equal(top.targets, top.log_probs[np.arange(len(targets)), targets])


def test_the_likeliest_ids_and_the_targets_are_those_of_the_model(loaded: LoadedModel, dequantised: Any) -> None:
    with opened(loaded) as engine:
        top = engine.top_k(BATCH, 10)
    exact = np.array([row for tokens in BATCH for row in oracle.full_log_probs(dequantised, tokens)])
    targets = np.array([token for tokens in BATCH for token in tokens.targets])
    assert top.ids is not None
    assert top.log_tail is not None
    np.testing.assert_allclose(top.log_probs, np.take_along_axis(exact, top.ids, axis=1), atol=0.02)
    np.testing.assert_allclose(top.targets, exact[np.arange(len(targets)), targets], atol=0.02)
    np.testing.assert_allclose(np.exp(top.log_probs).sum(axis=1) + np.exp(top.log_tail), 1.0, atol=1e-9)
    ranks = (exact > exact[np.arange(len(targets)), targets][:, None]).sum(axis=1)
    parts = [target >= BYTES + 0x80 and target < BYTES + 256 for target in targets]
    assert any(part and rank > 20 for part, rank in zip(parts, ranks, strict=True)), "no part of a character is unlikely"


def test_the_same_file_scores_exactly_0_and_another_does_not(loaded: LoadedModel, file: Path, dequantised: Any) -> None:
    scorer = TeacherForcedScorer(CONFIG)
    prompts = [Prompt("héllo", ", 東京 and 🎉"), Prompt("a", " he had a hat")]
    tokenizer = loaded.tokenizer
    again = scorer.score_batch(loaded.model, loaded.model, prompts, tokenizer)
    assert again.mean == 0.0
    recorded = scorer.record(loaded.model, prompts, tokenizer)
    assert scorer.score_baseline(recorded, loaded.model, tokenizer).mean == 0.0
    assert 0 < scorer.score_batch(dequantised, loaded.model, prompts, tokenizer).mean < 1e-3
    assert 0 < scorer.score_batch(loaded.model, dequantised, prompts, tokenizer).mean < 1e-3
    changed = registry.load_model(f"llamacpp://{write_tiny(file.parent / 'changed.gguf', change=0.1)}", "candidate", CONFIG)
    assert changed.close is not None
    different = scorer.score_batch(dequantised, changed.model, prompts, tokenizer).mean
    assert different > 0.01
    whole = TeacherForcedScorer(ScoringConfig(top_k=None, max_length=64))
    assert different <= whole.score_batch(dequantised, changed.model, prompts, tokenizer).mean
    changed.close()


def test_what_is_sampled_depends_on_the_seed_only(loaded: LoadedModel) -> None:
    with opened(loaded) as engine:
        one = engine.sample([TEXT[:5]], 8, seed=3)
        assert engine.sample([TEXT[:7], TEXT[:5]], 8, seed=3)[1:] == one
        assert engine.sample([TEXT[:5]], 8, seed=4) != one
        assert engine.sample([TEXT[:5]], 8, seed=2**32 - 1) == engine.sample([TEXT[:5]], 8, seed=2**32 - 1)
    assert [len(ids) for ids in one] == [8]


def test_the_events_of_a_stream_hold_all_tokens(loaded: LoadedModel) -> None:
    with opened(loaded) as engine:
        for _ in range(2):
            path, body = engine.generation(TEXT[:6], 24)
            events = list(engine.client.stream(path, body))
            assert sum(engine.tokens_in(event) for event in events) == 24
        with pytest.raises(PotError, match="stopped while it generated"):
            engine.tokens_in({"error": "out of memory"})


def test_a_model_reads_as_many_tokens_as_the_config_asks_for(loaded: LoadedModel) -> None:
    with opened(loaded, ScoringConfig(max_length=400)) as engine:
        assert engine.max_positions == 512
        ids = TEXT * (512 // len(TEXT) + 1)
        assert len(engine.top_k([Tokens(ids[:512], 511)], 5)) == 1
        with pytest.raises(PotError, match="exceeds the available context size"):
            engine.top_k([Tokens(ids[:513], 512)], 5)
    with opened(loaded, ScoringConfig(max_length=2000)) as engine:
        assert engine.max_positions == 512  # what the model was trained on


def test_ids_outside_the_vocabulary_are_refused(loaded: LoadedModel) -> None:
    with opened(loaded) as engine, pytest.raises(PotError, match="Prompt contains invalid tokens"):
        engine.top_k([Tokens((5, GGUF_VOCAB, 6), 2)], 5)
    with opened(loaded) as engine, pytest.raises(PotError, match=rf"was to sample the token {GGUF_VOCAB} .* at .*position 0"):
        engine.top_k([Tokens((5, 6, GGUF_VOCAB), 2)], 5)


def test_content_is_that_of_the_file(loaded: LoadedModel, file: Path, tmp_path: Path) -> None:
    other = registry.load_model(f"llamacpp://{write_tiny(tmp_path / 'other.gguf', seed=1)}", "candidate", CONFIG)
    copy = tmp_path / "copy.gguf"
    copy.write_bytes(file.read_bytes())
    same = registry.load_model(f"llamacpp://{copy}", "candidate", CONFIG)
    assert registry.content(loaded.model) == registry.content(same.model) != registry.content(other.model)
    for each in (other, same):
        assert each.close is not None
        each.close()


def test_one_server_serves_both_roles(loaded: LoadedModel, file: Path) -> None:
    assert registry.load_model(f"llamacpp://{file}", "reference", CONFIG).model is loaded.model


def test_a_file_that_was_written_again_is_read_again(tmp_path: Path) -> None:
    path = write_tiny(tmp_path / "model.gguf")
    loaded = registry.load_model(f"llamacpp://{path}", "candidate", CONFIG)
    with opened(loaded) as engine:
        before = engine.top_k(BATCH[:1], 5)
    content = registry.content(loaded.model)
    write_tiny(tmp_path / "new.gguf", seed=1).replace(path)
    with opened(loaded) as engine:
        after = engine.top_k(BATCH[:1], 5)
    assert before.ids is not None
    assert after.ids is not None
    assert before.ids.tolist() != after.ids.tolist()
    assert registry.content(loaded.model) != content
    assert loaded.close is not None
    loaded.close()


def test_a_model_that_is_split_is_all_of_its_files(file: Path, tmp_path: Path) -> None:
    first = write_tiny(tmp_path / "split.gguf", per_file=9)
    paths = sorted(tmp_path.iterdir())
    assert [path.name for path in paths] == [f"split-0000{i}-of-00003.gguf" for i in (1, 2, 3)]
    assert first == paths[0]
    loaded = registry.load_model(f"llamacpp://{first}", "candidate", CONFIG)
    whole = registry.load_model(f"llamacpp://{file}", "candidate", CONFIG)
    with opened(loaded) as engine, opened(whole) as other:
        before = engine.top_k(BATCH[:1], 5)
        np.testing.assert_array_equal(before.log_probs, other.top_k(BATCH[:1], 5).log_probs)
    content = registry.content(loaded.model)
    changed = tmp_path / "changed"
    changed.mkdir()
    write_tiny(changed / "split.gguf", per_file=9, seed=1)
    (changed / paths[2].name).replace(paths[2])
    assert registry.load_model(f"llamacpp://{first}", "candidate", CONFIG).model is not loaded.model
    with opened(loaded) as engine:
        assert (engine.top_k(BATCH[:1], 5).log_probs != before.log_probs).any()
    assert registry.content(loaded.model) != content
    assert loaded.close is not None
    loaded.close()
    for path in paths[1:]:
        path.unlink()
    with pytest.raises(PotError) as error:
        registry.load_model(f"llamacpp://{first}", "candidate", CONFIG)
    assert str(error.value) == (
        f"llama.cpp cannot run the candidate 'llamacpp://{first}': of the files that it is split into, {paths[1].name}, "
        f"{paths[2].name} are not in {tmp_path}"
    )


def test_transformers_reads_no_model_that_is_split(tmp_path: Path) -> None:
    first = write_tiny(tmp_path / "split.gguf", per_file=12)
    with pytest.raises(PotError, match=rf"it is split into 2 files, .* as llamacpp://{first}, or make it one file"):
        registry.load_model(str(first), "candidate", CONFIG)


def test_a_relative_path_means_the_same_after_the_folder_was_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_tiny(tmp_path / "model.gguf")
    monkeypatch.chdir(tmp_path)
    loaded = registry.load_model("llamacpp://model.gguf", "candidate", CONFIG)
    (tmp_path / "sub").mkdir()
    monkeypatch.chdir(tmp_path / "sub")
    for max_length in (64, 300):  # the longer one needs another server
        with opened(loaded, ScoringConfig(top_k=10, max_length=max_length)) as engine:
            engine.top_k(BATCH[:1], 5)
    assert registry.content(loaded.model) is not None
    assert loaded.close is not None
    loaded.close()


def test_a_server_ends_when_it_is_closed_and_starts_again_when_it_is_used(tmp_path: Path) -> None:
    loaded = registry.load_model(f"llamacpp://{write_tiny(tmp_path / 'model.gguf')}", "candidate", CONFIG)
    pid = pid_of(loaded)
    assert loaded.close is not None
    loaded.close()
    loaded.close()
    assert loaded.model.pid is None
    assert is_gone(pid)
    with opened(loaded) as engine:
        engine.top_k(BATCH[:1], 5)
    pid = pid_of(loaded)
    del loaded, engine
    gc.collect()
    assert is_gone(pid)


def test_a_crash_of_llama_cpp_is_an_error_and_the_next_gate_starts_it_again(
    loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "_GONE_S", 60.0)

    def crash() -> None:
        with opened(loaded) as engine:
            os.kill(loaded.model.pid, signal.SIGSEGV)
            engine.top_k(BATCH[:1], 5)

    with pytest.raises(PotError, match=r"llama.cpp, which ran the candidate .*tiny.gguf', is gone: it ended with signal 11$"):
        crash()
    with opened(loaded) as engine:
        assert len(engine.top_k(BATCH[:1], 5)) == BATCH[0].n_positions


@pytest.mark.parametrize("end", ["sys.exit()", "os._exit(1)", "os.kill(os.getpid(), 9)"])
def test_a_server_ends_with_the_process_that_started_it(file: Path, end: str) -> None:
    script = f"""
        import os, sys
        from pytest_pot.engines.llamacpp.process import LlamaProcess, Settings
        process = LlamaProcess(Settings({str(file)!r}, 256))
        child = os.fork()
        if child == 0:  # it inherited its pipe, and lives on
            os.close(1), os.close(2)
            os.execvp("sleep", ["sleep", "600"]) if {end!r} == "sys.exit()" else None
            import time
            time.sleep(600)
            os._exit(0)
        print(process.pid, child, flush=True)
        {end}
    """
    ran = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], stdout=subprocess.PIPE, text=True, timeout=600)
    server, child = map(int, ran.stdout.split())
    try:
        assert is_gone(server)
    finally:
        os.kill(child, signal.SIGKILL)


def test_a_server_says_nothing_on_the_streams_of_its_parent(loaded: LoadedModel, capfd: pytest.CaptureFixture[str]) -> None:
    with opened(loaded, ScoringConfig(max_length=300)) as engine:
        engine.top_k(BATCH[:1], 5)
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("", "")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"no model", r"llama.cpp cannot run the candidate 'llamacpp://.*bad.gguf': .*GGUF"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 5\n", "git lfs pull"),
    ],
)
def test_files_that_are_no_model(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "bad.gguf"
    path.write_bytes(content)
    with pytest.raises(PotError, match=message):
        registry.load_model(f"llamacpp://{path}", "candidate", CONFIG)


def test_a_file_that_was_cut_off(file: Path, tmp_path: Path) -> None:
    path = tmp_path / "cut.gguf"
    path.write_bytes(file.read_bytes()[:-1000])
    with pytest.raises(PotError, match="data is not within the file bounds, model is corrupted or incomplete"):
        registry.load_model(f"llamacpp://{path}", "candidate", CONFIG)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(NoSuchPath, match=r"cannot load the reference 'llamacpp://.*': .*none.gguf does not exist"):
        registry.load_model(f"llamacpp://{tmp_path / 'none.gguf'}", "reference", CONFIG)
    with pytest.raises(PotError, match="is no file"):
        registry.load_model(f"llamacpp://{tmp_path}", "reference", CONFIG)


@pytest.mark.parametrize("package", ["xllamacpp", "httpx2", "orjson", "gguf"])
def test_the_package_that_is_missing_is_named(file: Path, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == package else found(name))
    with pytest.raises(PotError, match=rf"needs the package {package}: pip install 'pytest-pot\[llamacpp\]'"):
        registry.load_model(f"llamacpp://{file}", "candidate", CONFIG)


def test_threads_are_those_that_the_environment_sets(monkeypatch: pytest.MonkeyPatch) -> None:
    for value, n_threads in (("2", 2), ("", 1), ("0", 1), ("4,2", 1), ("many", 1)):
        monkeypatch.setenv("OMP_NUM_THREADS", value)
        assert backend._threads() == n_threads
