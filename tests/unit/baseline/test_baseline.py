"""A recorded reference gives the live reference's scores bit for bit, from a small and reproducible file."""

from __future__ import annotations

import json
import stat
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from transformers import BatchEncoding, PreTrainedModel, PreTrainedTokenizerFast

from pytest_pot import PRESETS, Baseline, PotError, Prompt, ScoreReport, ScoringConfig, TeacherForcedScorer
from pytest_pot.baseline.recorded import Recorded
from pytest_pot.scoring.batching import Batches

from ..conftest import make_tokenizer
from ..engines.pytorch.test_engine import Uniform
from ..models import CONFIGS, changed, tiny


def assert_same_report(report: ScoreReport, expected: ScoreReport) -> None:
    for name, values in expected.divergences.items():
        for ours, theirs in zip(report.divergences[name], values, strict=True):
            np.testing.assert_array_equal(ours, theirs, err_msg=name)
    assert report.worst(5) == expected.worst(5)
    assert report.tail_mass == expected.tail_mass
    assert report.tokens == expected.tokens


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("name", ["gpt2", "gemma2-softcap", "mixtral"])
def test_scores_equal_those_of_the_live_reference_bit_for_bit(
    name: str, preset: str, temperature: float, prompts: list[Prompt], tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    reference, candidate = tiny(name), changed(tiny(name))
    mixed: list[str | Prompt] = [*prompts, "one that the reference continues"]
    scorer = TeacherForcedScorer(ScoringConfig.preset(preset, temperature=temperature, positions_per_prompt=12))
    live = scorer.score_batch(reference, candidate, mixed, tokenizer)
    path = scorer.record(reference, mixed, tokenizer).save(tmp_path / "x.pot.safetensors")
    assert live.mean > 0
    assert_same_report(scorer.score_baseline(Baseline.load(path), candidate, tokenizer), live)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_a_model_scores_zero_against_its_recording(
    dtype: str, prompts: list[Prompt], tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    scorer = TeacherForcedScorer(ScoringConfig(dtype=dtype, top_k=20, batch_size=3, temperature=0.9))
    path = scorer.record(tiny(), prompts, tokenizer).save(tmp_path / "x.pot.safetensors")
    report = scorer.score_baseline(Baseline.load(path), tiny(), tokenizer)
    assert report.metrics == dict.fromkeys(report.metrics, 0.0)
    assert report.max == 0.0


def test_scoring_against_a_recording_does_not_run_the_reference(
    prompts: list[Prompt], tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    reference = tiny()
    scorer = TeacherForcedScorer(ScoringConfig(top_k=20))
    path = scorer.record(reference, prompts, tokenizer).save(tmp_path / "x.pot.safetensors")
    expected = scorer.score_batch(reference, changed(tiny()), prompts, tokenizer)
    reference.forward = None  # type: ignore[assignment]
    assert_same_report(scorer.score_baseline(Baseline.load(path), changed(tiny()), tokenizer), expected)


def test_a_candidate_may_have_a_larger_vocabulary_than_the_recording(
    prompts: list[Prompt], tokenizer: PreTrainedTokenizerFast
) -> None:
    reference, padded = tiny("llama"), tiny("llama")
    padded.resize_token_embeddings(112, mean_resizing=False)
    for top_k in (None, 97, 20):
        scorer = TeacherForcedScorer(ScoringConfig(top_k=top_k))
        live = scorer.score_batch(reference, padded, prompts, tokenizer)
        recorded = scorer.score_baseline(scorer.record(reference, prompts, tokenizer), padded, tokenizer)
        np.testing.assert_allclose(recorded.scores, live.scores, rtol=1e-12, atol=1e-15)
        assert live.mean > 0


def test_an_engine_without_logits_can_be_recorded(
    prompts: list[Prompt], tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    scorer = TeacherForcedScorer(ScoringConfig(top_k=5))
    path = scorer.record(Uniform(), prompts, tokenizer).save(tmp_path / "x.pot.safetensors")
    baseline = Baseline.load(path)
    assert baseline.provenance.weights is None
    assert scorer.score_baseline(baseline, Uniform(), tokenizer).max == 0.0


def test_a_position_takes_at_most_8_2_k_plus_40_bytes(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    """Even if ids need four bytes each. Characters are tokens here, and real prompts have about 45 tokens."""
    texts = [Prompt("A prompt as many tokens long as others are: " + c, "x" * 70) for c in "abcdefgh"]
    for vocab_size, preset in ((97, "balanced"), (70_000, "balanced"), (70_000, "single"), (70_000, "fastest")):
        scorer = TeacherForcedScorer(ScoringConfig.preset(preset))
        baseline = scorer.record(tiny("llama", vocab_size=vocab_size), texts * 8, tokenizer)
        size = baseline.save(tmp_path / "x.pot.safetensors").stat().st_size
        assert scorer.config.top_k is not None
        assert size / baseline.n_positions <= 8.2 * min(scorer.config.top_k, vocab_size) + 40


def test_a_recording_with_a_renormalised_tail_still_covers_the_whole_vocabulary(
    prompts: list[Prompt], tokenizer: PreTrainedTokenizerFast
) -> None:
    fields: dict[str, Any] = {"top_k": 20, "batch_size": 8}
    whole, alone = (
        TeacherForcedScorer(ScoringConfig(tail=tail, **fields)).record(tiny(), prompts, tokenizer).over_all()
        for tail in ("bucket", "renormalise")
    )
    np.testing.assert_allclose(np.sort(alone.log_probs), np.sort(whole.log_probs), atol=1e-5)
    for name in ("targets", "top_log_probs", "log_tail"):
        np.testing.assert_allclose(getattr(alone, name), getattr(whole, name), atol=1e-5)


def test_recording_and_saving_again_write_the_same_bytes(
    prompts: list[Prompt], tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    scorer = TeacherForcedScorer(ScoringConfig(top_k=10))
    first, second = (scorer.record(tiny(), prompts, tokenizer).save(tmp_path / f"{i}.pot.safetensors") for i in range(2))
    assert first.read_bytes() == second.read_bytes()
    again = Baseline.load(first).save(tmp_path / "again.pot.safetensors")
    assert again.read_bytes() == first.read_bytes()


def test_the_safetensors_library_can_read_the_file(
    prompts: list[Prompt], tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    scorer = TeacherForcedScorer(ScoringConfig(top_k=10))
    baseline = scorer.record(tiny(), prompts, tokenizer, name="the model")
    path = baseline.save(tmp_path / "x.pot.safetensors")
    with safe_open(path, framework="pt") as file:
        values, normalisers = file.get_tensor("values").double(), file.get_tensor("log_normalisers")
        document = json.loads(file.metadata()["pytest_pot"])
    np.testing.assert_array_equal((values - normalisers[:, None]).numpy(), baseline.top_k().log_probs)
    assert document["format"] == 1
    assert document["provenance"]["reference"] == "the model"
    assert document["provenance"]["label"] == "float32 on cpu"
    assert document["config"]["top_k"] == 10
    assert [entry[0] for entry in document["prompts"]] == [prompt.text for prompt in prompts]


def test_only_the_compared_part_of_a_continuation_is_recorded(tokenizer: PreTrainedTokenizerFast) -> None:
    scorer = TeacherForcedScorer(ScoringConfig(positions_per_prompt=4))
    baseline = scorer.record(tiny(), [Prompt("Once", " upon a time"), "drawn"], tokenizer)
    assert [prompt.continuation for prompt in baseline.prompts] == [" upo", None]


def test_the_weights_digest_depends_on_every_weight_and_buffer(
    prompts: list[Prompt], tokenizer: PreTrainedTokenizerFast
) -> None:
    scorer = TeacherForcedScorer(ScoringConfig(top_k=5))

    def digest(model: PreTrainedModel) -> str | None:
        return scorer.record(model, prompts[:1], tokenizer).provenance.weights

    other = tiny("llama")
    with torch.no_grad():
        other.model.layers[1].mlp.up_proj.weight[0, 0] += 1e-7
    assert digest(tiny("llama")) == digest(tiny("llama")) != digest(other)
    moved = tiny("llama")
    moved.model.rotary_emb.inv_freq[1] *= 2  # a buffer that is not saved with the weights
    assert digest(moved) != digest(tiny("llama"))


def test_log_probabilities_without_an_exact_float32_form_are_kept_in_float64() -> None:
    """A server may send log-probabilities that are not a float32 minus a normaliser."""
    from ..scoring.test_metrics import log_normalised, top

    odd = top(log_normalised(np.random.default_rng(0).normal(size=(5, 7))), clear=np.array([1, 0, 1, 1, 0], dtype=bool))
    recorded = Recorded.of(odd, temperature=0.7)
    assert recorded.values.dtype == np.float64
    np.testing.assert_array_equal(recorded.top_k(0.7, 7).log_probs, odd.log_probs)
    np.testing.assert_array_equal(recorded.top_k(0.7, 7).clear, odd.clear)


def test_a_batch_size_that_ran_out_of_memory_while_recording_is_not_tried_again(
    prompts: list[Prompt], tokenizer: PreTrainedTokenizerFast
) -> None:
    scorer = TeacherForcedScorer(ScoringConfig(batch_size=8, top_k=10))
    model = tiny()
    largest = []

    def raise_out_of_memory(module: torch.nn.Module, arguments: tuple[torch.Tensor, ...]) -> None:
        largest.append(len(arguments[0]))
        if len(arguments[0]) > 2:
            raise torch.OutOfMemoryError("out of memory")

    # Not a hook on the model itself: we would not split such a model, and it would round differently.
    handle = model.get_input_embeddings().register_forward_pre_hook(raise_out_of_memory)
    baseline = scorer.record(model, prompts, tokenizer)
    handle.remove()
    assert baseline.batch_size == 2
    report = scorer.score_baseline(baseline, tiny(), tokenizer)
    assert report.batch_size == 2
    assert report.max == 0.0
    assert max(largest) == 8
    assert Batches(scorer.config, report.tokens).size == 8


def test_a_recording_keeps_its_batches_in_few_bytes(
    prompts: list[Prompt], tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    scorer = TeacherForcedScorer(ScoringConfig(batch_size=3, top_k=10))
    baseline = scorer.record(tiny(), prompts, tokenizer)
    assert [len(batch) for batch in baseline.batches] == [3, 3, 2]
    assert sorted(index for batch in baseline.batches for index in batch) == list(range(8))
    loaded = Baseline.load(baseline.save(tmp_path / "x.pot.safetensors"))
    assert loaded.batches == tuple(baseline.batches)
    assert loaded.to_bytes() == baseline.to_bytes() == scorer.record(tiny(), prompts, tokenizer).to_bytes()
    assert len(baseline.to_bytes()) - len(replace(baseline, batches=()).to_bytes()) <= 6 * len(prompts)


def test_a_file_without_batches_is_read_and_scored_as_before(
    prompts: list[Prompt], tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    scorer = TeacherForcedScorer(ScoringConfig(batch_size="auto", top_k=10))
    baseline = scorer.record(tiny(), prompts, tokenizer)
    path = replace(baseline, batches=()).save(tmp_path / "x.pot.safetensors")
    with safe_open(path, framework="numpy") as file:
        assert "batches" not in json.loads(file.metadata()["pytest_pot"])
    old = Baseline.load(path)
    assert old.batches == ()
    report = scorer.score_baseline(old, tiny(), tokenizer)
    assert report.max == 0.0
    assert list(report.batches) == list(baseline.batches)


def test_saving_keeps_permissions_and_leaves_no_temporary_file(
    prompts: list[Prompt], tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    baseline = TeacherForcedScorer(ScoringConfig(top_k=5)).record(tiny(), prompts[:1], tokenizer)
    path = baseline.save(tmp_path / "new folder" / "x.pot.safetensors")
    path.chmod(0o640)
    baseline.save(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert [file.name for file in path.parent.iterdir()] == ["x.pot.safetensors"]


def test_saving_under_another_file_extension_is_an_error(
    prompts: list[Prompt], tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    baseline = TeacherForcedScorer(ScoringConfig(top_k=5)).record(tiny(), prompts[:1], tokenizer)
    with pytest.raises(ValueError, match=r"must end in \.pot\.safetensors, and '.*x\.safetensors' does not"):
        baseline.save(tmp_path / "x.safetensors")


def test_saving_to_an_impossible_path_is_an_error(
    prompts: list[Prompt], tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    baseline = TeacherForcedScorer(ScoringConfig(top_k=5)).record(tiny(), prompts[:1], tokenizer)
    (tmp_path / "file").touch()
    with pytest.raises(PotError, match=r"cannot write the recording .*file/x\.pot\.safetensors"):
        baseline.save(tmp_path / "file" / "x.pot.safetensors")


def test_a_candidate_with_too_few_positions_is_an_error(tokenizer: PreTrainedTokenizerFast) -> None:
    scorer = TeacherForcedScorer()
    baseline = scorer.record(tiny(), [Prompt("x" * 60, "y" * 30)], tokenizer)
    with pytest.raises(
        PotError, match=r"sequences of up to 90 tokens, but the candidate takes 64: record it with max_length=64"
    ):
        scorer.score_baseline(baseline, tiny(n_positions=64), tokenizer)


@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_every_architecture_can_be_recorded(name: str, prompts: list[Prompt], tokenizer: PreTrainedTokenizerFast) -> None:
    scorer = TeacherForcedScorer(ScoringConfig(top_k=10, batch_size=3))
    assert scorer.score_baseline(scorer.record(tiny(name), prompts, tokenizer), tiny(name), tokenizer).max == 0.0


@pytest.mark.parametrize(("recorded_with", "scored_with"), [("balanced", "auto"), ("auto", "balanced")])
def test_a_recording_made_with_balanced_serves_auto_and_the_other_way_round(
    recorded_with: str, scored_with: str, prompts: list[Prompt], tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    wide = tiny("llama", hidden_size=384, intermediate_size=768)  # sums so long that their rounding depends on the batch shape
    mixed = [*prompts, *(Prompt("z" * 40, "end") for _ in range(9))]
    baseline = TeacherForcedScorer(ScoringConfig.preset(recorded_with)).record(wide, mixed, tokenizer)
    baseline = Baseline.load(baseline.save(tmp_path / "x.pot.safetensors"))
    scorer = TeacherForcedScorer(ScoringConfig.preset(scored_with))
    same = scorer.score_baseline(baseline, wide, tokenizer, prompts=mixed)
    if scored_with == "auto":  # the recorded batches cost about as much as others
        assert (baseline.batch_size, same.batch_size, same.max) == (4, 4, 0.0)
    else:
        assert (baseline.batch_size, same.batch_size) == (9, 4)
        assert 0 < same.max < 1e-6  # other batches round differently
    candidate = changed(tiny("llama", hidden_size=384, intermediate_size=768))
    report, live = scorer.score_baseline(baseline, candidate, tokenizer), scorer.score_batch(wide, candidate, mixed, tokenizer)
    assert live.mean > 1e-3
    np.testing.assert_allclose(report.scores, live.scores, rtol=0, atol=1e-6)


def test_duplicate_prompts_keep_their_own_batches(tokenizer: PreTrainedTokenizerFast) -> None:
    long = [Prompt("Nobody said " * k, "so long as this") for k in (9, 8, 7)]
    many = [*long, *[Prompt("The old mill", " stood empty")] * 6]
    wide = tiny("llama", hidden_size=384, intermediate_size=768)  # sums so long that their rounding depends on the batch shape
    for size in (2, 4, 8):
        scorer = TeacherForcedScorer(ScoringConfig(batch_size=size, top_k=20))
        assert scorer.score_baseline(scorer.record(wide, many, tokenizer), wide, tokenizer).max == 0.0


def test_recording_and_scoring_do_not_change_the_tokenizer(prompts: list[Prompt]) -> None:
    padded = make_tokenizer(pad=True)
    padded.backend_tokenizer.enable_truncation(7)
    padded.backend_tokenizer.enable_padding(length=9)
    before = padded.backend_tokenizer.to_str()
    scorer = TeacherForcedScorer(ScoringConfig(top_k=10))
    scorer.score_baseline(scorer.record(tiny(), prompts, padded), tiny(), padded, prompts=prompts)
    assert padded.backend_tokenizer.to_str() == before


class CustomTokenizer:
    """A custom tokenizer, with bytes in its vocabulary, that reads only ASCII."""

    def __init__(self, inner: PreTrainedTokenizerFast) -> None:
        self.inner = inner

    def __call__(self, text: str, **options: Any) -> BatchEncoding:
        if not text.isascii():
            raise RuntimeError("no such letter")
        encoding: BatchEncoding = self.inner(text, **options)
        return encoding

    def get_vocab(self) -> dict[bytes, int]:
        return {b"a": 1}

    def decode(self, ids: list[int]) -> str | list[str]:
        return self.inner.decode(ids)


def test_a_custom_tokenizer_is_identified_by_its_vocabulary(
    tokenizer: PreTrainedTokenizerFast, prompts: list[Prompt], tmp_path: Path
) -> None:
    odd = CustomTokenizer(tokenizer)
    scorer = TeacherForcedScorer(ScoringConfig(top_k=10))
    baseline = Baseline.load(scorer.record(tiny(), prompts, odd).save(tmp_path / "x.pot.safetensors"))
    assert set(baseline.provenance.tokenizer) == {"vocabulary"}
    assert scorer.score_baseline(baseline, tiny(), odd, prompts=prompts).max == 0.0


def test_an_argument_that_is_not_a_baseline_is_an_error(tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(ValueError, match=r"baseline is str, not a pytest_pot\.Baseline: Baseline\.load\(path\) reads one"):
        TeacherForcedScorer().score_baseline("x.pot.safetensors", tiny(), tokenizer)  # type: ignore[arg-type]


def test_saving_to_a_link_keeps_the_link(prompts: list[Prompt], tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    baseline = TeacherForcedScorer(ScoringConfig(top_k=5)).record(tiny(), prompts[:1], tokenizer)
    real, link = tmp_path / "shared" / "real.pot.safetensors", tmp_path / "x.pot.safetensors"
    real.parent.mkdir()
    link.symlink_to(real)
    baseline.save(link)
    assert link.is_symlink()
    assert real.read_bytes() == link.read_bytes()


def test_a_recording_with_a_bos_scores_like_the_live_reference(prompts: list[Prompt]) -> None:
    with_bos = make_tokenizer(bos=True)
    scorer = TeacherForcedScorer(ScoringConfig(top_k=10))
    baseline = scorer.record(tiny(), prompts, with_bos)
    assert_same_report(
        scorer.score_baseline(baseline, changed(tiny()), with_bos, prompts=prompts),
        scorer.score_batch(tiny(), changed(tiny()), prompts, with_bos),
    )


@pytest.mark.skipif(not Path("/dev/null").exists(), reason="needs a device")
def test_a_device_is_not_replaced_by_a_file(prompts: list[Prompt], tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    baseline = TeacherForcedScorer(ScoringConfig(top_k=5)).record(tiny(), prompts[:1], tokenizer)
    link = tmp_path / "x.pot.safetensors"
    link.symlink_to("/dev/null")
    with pytest.raises(PotError) as error:
        baseline.save(link)
    assert str(error.value) == (
        f"cannot write the recording {link}: it is a link to /dev/null, which is a device, and recordings are written to files "
        "only"
    )
    assert Path("/dev/null").is_char_device()
    with pytest.raises(PotError) as error:
        Baseline.load(link)
    assert str(error.value) == f"the recording {link} is a device, not a file"


def test_impossible_names_are_errors(prompts: list[Prompt], tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    baseline = TeacherForcedScorer(ScoringConfig(top_k=5)).record(tiny(), prompts[:1], tokenizer, name="x" * 300)
    for name in ("x" * 300, "a\0b"):
        path = tmp_path / f"{name}.pot.safetensors"
        with pytest.raises(PotError, match="cannot write the recording"):
            baseline.save(path)
        with pytest.raises(PotError, match="there is no recording"):
            Baseline.load(path)
