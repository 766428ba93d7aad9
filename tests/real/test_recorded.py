"""A recording of a real model is as exact as the model, as small as documented, and saves the reference's memory."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from transformers import PreTrainedModel

from pytest_pot import PRESETS, Baseline, ScoringConfig, TeacherForcedScorer
from pytest_pot.core.names import DEFAULT_PRESET
from pytest_pot.prompts.builtin import builtin_prompts

from ..processor_time import in_yardsticks
from .conftest import ModelAndTokenizer

pytestmark = pytest.mark.real

PRESETS_RECORDED = [
    pytest.param(name, marks=() if name == DEFAULT_PRESET else pytest.mark.slow)
    for name in PRESETS
    if PRESETS[name].top_k is not None
]


@pytest.fixture(scope="module")
def candidate(zoo: ModuleType) -> PreTrainedModel:
    model: PreTrainedModel = zoo.int8()[0]
    return model


@pytest.mark.parametrize("preset", PRESETS_RECORDED)
def test_scores_equal_the_live_ones_and_are_zero_for_the_same_model(
    reference: ModelAndTokenizer, candidate: PreTrainedModel, preset: str, tmp_path: Path
) -> None:
    model, tokenizer = reference
    prompts = builtin_prompts()[:8]
    scorer = TeacherForcedScorer(ScoringConfig.preset(preset))
    live = scorer.score_batch(model, candidate, prompts, tokenizer)
    baseline = Baseline.load(scorer.record(model, prompts, tokenizer).save(tmp_path / "x.pot.safetensors"))
    recorded = scorer.score_baseline(baseline, candidate, tokenizer)
    np.testing.assert_allclose(recorded.scores, live.scores, rtol=0, atol=1e-6)
    for name, value in live.metrics.items():
        assert recorded.metrics[name] == pytest.approx(value, abs=1e-6), name
    same = scorer.score_baseline(baseline, model, tokenizer)
    assert same.metrics == dict.fromkeys(same.metrics, 0.0)
    assert same.max == 0.0


def test_the_recorded_default_suite_is_small_and_loads_quickly(reference: ModelAndTokenizer, tmp_path: Path) -> None:
    model, tokenizer = reference
    path = TeacherForcedScorer().record(model, builtin_prompts(), tokenizer).save(tmp_path / "x.pot.safetensors")
    size, baseline = path.stat().st_size, Baseline.load(path)
    assert baseline.n_prompts == 32
    assert size / baseline.n_positions <= 8.2 * 100 + 40
    assert size <= 900_000
    assert in_yardsticks(lambda: Baseline.load(path)) < 5, "about 0.05 s"


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak of a process's memory from /proc")
def test_a_gate_without_the_references_folder_needs_less_memory(zoo: ModuleType, tmp_path: Path) -> None:
    """After recording, we delete the model's folder: a new process gets the same figures with less memory."""
    original = zoo.folder("smollm2-135m-instruct", zoo.convert)
    shutil.copytree(original, tmp_path / "model")
    (tmp_path / "candidates.py").write_text(
        textwrap.dedent(
            f"""
            import torch
            from transformers import AutoModelForCausalLM, AutoTokenizer

            def bf16():
                model = AutoModelForCausalLM.from_pretrained({str(original)!r}, dtype=torch.bfloat16).float()
                return model, AutoTokenizer.from_pretrained({str(original)!r})
            """
        ),
        encoding="utf-8",
    )
    prompts = [json.dumps({"text": p.text, "continuation": p.continuation}) for p in builtin_prompts()[:6]]
    (tmp_path / "prompts.jsonl").write_text("\n".join(prompts), encoding="utf-8")
    (tmp_path / "pytest.ini").write_text(
        "[pytest]\npythonpath = .\npot_prompts = prompts.jsonl\npot_candidate = candidates:bf16\npot_cache = false\n"
        "pot_device = cpu\n",
        encoding="utf-8",
    )
    for name, argument in (("live", "model"), ("recorded", "x.pot.safetensors")):
        (tmp_path / f"test_{name}.py").write_text(
            f"import pytest\n\n@pytest.mark.pot_identity(reference={argument!r})\ndef test_it(): pass\n", encoding="utf-8"
        )
    live, with_both = gate(tmp_path, "test_live.py")
    gate(tmp_path, "test_recorded.py", "--pot-update", "--pot-reference=model")
    weights = sum(path.stat().st_size for path in (tmp_path / "model").glob("*.safetensors"))
    shutil.rmtree(tmp_path / "model")
    recorded, with_one = gate(tmp_path, "test_recorded.py")
    for name in ("score", "max_prompt_score", "kl", "jsd", "tv", "delta_ce", "tail_mass"):
        assert recorded[name] == pytest.approx(live[name], abs=1e-6), name
    assert recorded["score"] > 1e-3
    assert with_both - with_one >= 0.8 * weights


def gate(folder: Path, *arguments: str) -> tuple[dict[str, Any], int]:
    """The gate's figures, and the peak memory of its process in bytes.

    We do not use getrusage, because a process inherits its figure from its parent.
    """
    code = (
        "import sys, pytest; status = pytest.main(sys.argv[1:]);"
        "print('peak', *[line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')]); sys.exit(status)"
    )
    command = [sys.executable, "-c", code, "-p", "no:xdist", "--pot-report=out.json", *arguments]
    process = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stdout + process.stderr
    peak = 1024 * int(process.stdout.rsplit("peak", 1)[1])
    [figures] = json.loads((folder / "out.json").read_text(encoding="utf-8"))["gates"]
    return figures, peak
