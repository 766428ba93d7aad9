"""What is shipped is not the checkpoint, but what a server makes of it."""

from pathlib import Path

import pytest
import smollm2
from transformers import PreTrainedTokenizerBase

from pytest_pot import Baseline, PotResult, ScoringConfig, TeacherForcedScorer, builtin_prompts
from pytest_pot.engines.registry import load_model


# The reference is the checkpoint in transformers. llama.cpp rounds activations to 8 bits while it computes, which costs about
# as much as 8-bit weights do: hence the tolerance.
@pytest.mark.pot_identity(tolerance="int8", positions=16)
def test_the_server_is_the_checkpoint(pot_result: PotResult) -> None:
    assert pot_result.report.mean > 0.001  # other kernels, other rounding


# The same with a recorded reference: transformers' model is not loaded. confidence stops as soon as the verdict is safe.
@pytest.mark.pot_identity(reference="../smollm2.pot.safetensors", prompts="../prompts.jsonl", tolerance="int8", confidence=0.95)
def test_the_server_is_what_was_recorded() -> None:
    pass


# llamacpp://FILE needs no server: llama.cpp runs the file in a process of its own while the tests last.
@pytest.mark.pot_identity(reference=f"llamacpp://{smollm2.gguf_file()}", tolerance="numeric", positions=16)
def test_the_server_runs_the_file_that_we_think() -> None:
    pass


# In Python. Record what the server says today, and compare with it after the next upgrade.
def test_a_server_can_be_recorded(pot_candidate: str, pot_tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    scorer = TeacherForcedScorer(ScoringConfig(positions_per_prompt=16))
    server = load_model(pot_candidate, "reference", scorer.config)
    scorer.record(server.model, builtin_prompts(4), pot_tokenizer).save(tmp_path / "served.pot.safetensors")
    recorded = Baseline.load(tmp_path / "served.pot.safetensors")
    assert scorer.score_baseline(recorded, server.model, pot_tokenizer).mean < 1e-4


# A server streams: what is limited is the time from one token to the next. The time to the first token is in the message.
@pytest.mark.pot_latency(what="decode", budget_ms=1000, per="token", positions=16)
def test_tokens_come_in_time() -> None:
    pass
