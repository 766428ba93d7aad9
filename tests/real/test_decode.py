"""SmolLM2 read token by token: its own cache passes at ``numeric``, a wrong one fails, and it costs what generating costs."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable

import pytest

from pytest_pot import ScoringConfig, TeacherForcedScorer
from pytest_pot.engines.pytorch.engine import TorchEngine
from pytest_pot.engines.tokens import Tokens
from pytest_pot.prompts.builtin import builtin_prompts
from pytest_pot.prompts.prompt import Prompt
from pytest_pot.prompts.tokenization import tokenise

from ..unit.models import with_rolled_cache
from .conftest import ModelAndTokenizer

pytestmark = pytest.mark.real

CONFIG = ScoringConfig(path="decode", batch_size=8, positions_per_prompt=32)
N_PROMPTS, N_ROUNDS = 8, 3


def prompts() -> list[Prompt]:
    return [prompt for prompt in builtin_prompts(None) if prompt.kind != "long"][: 4 * N_PROMPTS : 4]


@pytest.mark.slow
def test_the_same_weights_pass_at_numeric_and_a_rolled_cache_does_not(reference: ModelAndTokenizer) -> None:
    model, tokenizer = reference
    scorer = TeacherForcedScorer(CONFIG)
    baseline = scorer.record(model, prompts(), tokenizer)
    same = scorer.score_baseline(baseline, model, tokenizer)
    assert same.max <= 1e-4
    assert "apart" not in same.labels[1]  # the prompts shared a batch, and their padding did nothing
    broken = with_rolled_cache(copy.deepcopy(model))
    assert scorer.score_baseline(baseline, broken, tokenizer).mean > 0.01
    assert TeacherForcedScorer(ScoringConfig(batch_size=8)).score_baseline(baseline, broken, tokenizer).max <= 1e-4


@pytest.mark.parametrize("dtype", ["bfloat16", pytest.param("float16", marks=pytest.mark.slow)])
def test_in_half_precision_padding_is_not_blamed_for_what_rounding_does(reference: ModelAndTokenizer, dtype: str) -> None:
    """Over 30 layers, rounding moves a distribution further than any bound that was set for one."""
    model, tokenizer = reference
    config = ScoringConfig(path="decode", batch_size=4, positions_per_prompt=12, dtype=dtype)
    report = TeacherForcedScorer(config).score_batch(model, model, prompts()[:3], tokenizer)
    assert report.labels[1].startswith(f"{dtype} on cpu")
    assert "apart" not in report.labels[1]
    assert report.mean < 0.05


@pytest.mark.slow
def test_it_takes_at_most_one_and_a_half_times_plain_generation(reference: ModelAndTokenizer) -> None:
    model, tokenizer = reference
    encoded = tokenise(tokenizer, prompts())
    n_tokens = CONFIG.positions_per_prompt
    batch = [Tokens((*context, *(rest or [])[:n_tokens]), len(context)) for context, rest in encoded]
    with TorchEngine.opened(model, "candidate", CONFIG) as engine:
        ids = engine.top_k(batch, CONFIG.top_k).ids
        assert ids is not None
        left, mask = engine.padded([tokens.ids[: tokens.prompt_len] for tokens in batch], left=True)

        def decode() -> None:
            engine.restart()  # so that the check of the padding counts too
            engine.decode(batch, ids)

        def generate() -> None:
            model.generate(  # type: ignore[operator]
                left, attention_mask=mask, do_sample=False, max_new_tokens=n_tokens, min_new_tokens=n_tokens, pad_token_id=0
            )

        times = [(seconds(decode), seconds(generate)) for _ in range(N_ROUNDS)]
    decoding, generating = map(min, zip(*times, strict=True))
    print(f"decode {decoding:.2f} s, generate {generating:.2f} s, ratio {decoding / generating:.2f}")
    assert decoding <= 1.5 * generating


def seconds(run: Callable[[], None]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started
