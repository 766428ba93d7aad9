"""The noise floor of a real model in half precision, whose forward passes of few tokens round far more coarsely than others."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pytest_pot import PRESETS, Prompt, TeacherForcedScorer

from .conftest import ModelAndTokenizer

pytestmark = pytest.mark.real

TEXT = "The water had risen in the night and nobody on the lower road had slept, so they carried what they could up the hill."


def test_the_floor_is_what_other_batch_sizes_show(reference: ModelAndTokenizer) -> None:
    """Prompts of 8 to 20 tokens: in bfloat16 the same model scores about 0.01 between batch sizes."""
    model, tokenizer = reference
    words = TEXT.split()
    prompts = [Prompt(" ".join(words[i : i + 4 + i % 5]), " " + " ".join(words[i + 9 : i + 15])) for i in range(8)]
    sizes = {size: replace(PRESETS["balanced"], batch_size=size, dtype="bfloat16") for size in (1, 8)}
    alone = TeacherForcedScorer(sizes[1]).record(model, prompts, tokenizer)
    noise = TeacherForcedScorer(sizes[8]).score_baseline(alone, model, tokenizer).mean
    floor = TeacherForcedScorer(sizes[8]).noise_floor(model, prompts, tokenizer)
    assert floor is not None
    assert noise > 1e-3
    assert noise / 3 < floor < noise * 3
