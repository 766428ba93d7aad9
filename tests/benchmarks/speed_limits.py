"""Sections of speed.py: precision, a large vocabulary, and what a whole run of pytest costs compared with a bare script."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import torch
from bench import AUTO, Bench, Rows, Way, against
from transformers import LlamaConfig, LlamaForCausalLM

from pytest_pot import Prompt, ScoringConfig, TeacherForcedScorer
from pytest_pot.engines.pytorch.memory import peak_of
from pytest_pot.prompts.builtin import builtin_prompts

__all__ = ["dtype", "startup", "vocabulary"]

BARE = """
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from pytest_pot.prompts.builtin import builtin_prompts

tokenizer = AutoTokenizer.from_pretrained("candidate")
model = AutoModelForCausalLM.from_pretrained("candidate").eval()
texts = []
for prompt in builtin_prompts():
    context = tokenizer(prompt.text)["input_ids"]
    continuation = tokenizer(prompt.continuation, add_special_tokens=False)["input_ids"][:32]
    texts.append((len(context), context + continuation))
texts.sort(key=lambda text: -len(text[1]))
with torch.inference_mode():
    for start in range(0, len(texts), 4):
        batch = texts[start : start + 4]
        longest = len(batch[0][1])
        ids = torch.tensor([text + [0] * (longest - len(text)) for _, text in batch])
        mask = torch.tensor([[1] * len(text) + [0] * (longest - len(text)) for _, text in batch])
        columns = torch.arange(min(n for n, _ in batch) - 1, longest - 1)
        logits = model(ids, attention_mask=mask, use_cache=False, logits_to_keep=columns).logits
        torch.logsumexp(logits, -1)
"""
"""The same work without pytest-pot: imports, loading, and the forward passes of the preset balanced."""
GATE = """
import pytest

@pytest.mark.pot_identity(reference="reference.pot.safetensors", candidate="candidate", preset="balanced", tolerance="half")
def test_same():
    pass
"""


def dtype(bench: Bench) -> Rows:
    """A bf16 checkpoint, which is upcast on this CPU, and the same weights stored in float32."""
    scorer = TeacherForcedScorer(AUTO)
    baseline = scorer.record(bench.reference, builtin_prompts(24), bench.tokenizer)
    models = {"float32": bench.candidate, "bfloat16": copy.deepcopy(bench.candidate).to(torch.bfloat16)}
    ways: dict[str, Way] = {
        name: partial(scorer.score_baseline, baseline, model, bench.tokenizer) for name, model in models.items()
    }
    seconds = bench.time(ways)
    for name in ways:
        yield {"checkpoint": name, **against(seconds["float32"], seconds[name])}


def vocabulary(bench: Bench) -> Rows:
    """A tiny model with a vocabulary of 262,144, on 64 prompts of 256 tokens: peak memory above that of the model."""
    size = 1 << 18
    sizes: dict[str, Any] = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = LlamaForCausalLM(LlamaConfig(vocab_size=size, max_position_embeddings=512, **sizes)).eval()
    prompts = [Prompt(f"{i} " + 300 * "word ", 40 * "and ") for i in range(64)]
    for config in (AUTO, ScoringConfig.preset("balanced"), ScoringConfig.preset("fastest")):
        scorer = TeacherForcedScorer(config)
        baseline = scorer.record(model, prompts, bench.tokenizer)
        peak = peak_of(partial(scorer.score_baseline, baseline, model, bench.tokenizer), model, torch.device("cpu"))
        above = None if peak is None else (peak.bytes - peak.weights) / 1e6
        kind = f"top_k={config.top_k}, {config.tail}, batch {config.batch_size}"
        yield {"configuration": kind, "peak MB above the model": above}


def startup(bench: Bench) -> Rows:
    """A whole run of pytest with one recorded gate, and a bare script that imports, loads and runs the same forward passes."""
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        model: Any = bench.candidate
        model.save_pretrained(home / "candidate")
        bench.tokenizer.save_pretrained(home / "candidate")
        scorer = TeacherForcedScorer(ScoringConfig.preset("balanced"))  # its batches are those of the bare script
        scorer.record(bench.reference, builtin_prompts(), bench.tokenizer).save(home / "reference.pot.safetensors")
        (home / "bare.py").write_text(BARE, encoding="utf-8")
        (home / "test_gate.py").write_text(GATE, encoding="utf-8")

        def run(*command: str) -> None:
            paths = os.pathsep.join(map(os.path.abspath, sys.path[1:]))
            # Disable other installed plugins, which have start-up times of their own.
            settings = {"HF_HUB_OFFLINE": "1", "PYTHONPATH": paths, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
            process = subprocess.run(
                [sys.executable, *command], cwd=home, env={**os.environ, **settings}, capture_output=True, text=True
            )
            if process.returncode:
                raise SystemExit(f"{command} failed:\n{process.stdout}\n{process.stderr}")

        ways: dict[str, Way] = {
            "a bare script": lambda: run("bare.py"),
            "pytest with one recorded gate": lambda: run("-m", "pytest", "-q", "-p", "pytest_pot.plugin", "test_gate.py"),
        }
        seconds = bench.time(ways)
    for name in ways:
        yield {"run": name, **against(seconds["a bare script"], seconds[name])}
