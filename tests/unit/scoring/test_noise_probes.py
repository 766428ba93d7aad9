"""The noise floor that a run measures on its way: of prompts that it runs alone as well."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterable, Sequence
from dataclasses import replace
from statistics import fmean
from typing import Any

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from pytest_pot import PRESETS, Prompt, ScoreReport, ScoringConfig, TeacherForcedScorer
from pytest_pot.engines.base import OutOfMemory, Room
from pytest_pot.engines.registry import opened
from pytest_pot.engines.tokens import Tokens
from pytest_pot.prompts.tokenization import EncodedPrompts
from pytest_pot.scoring.noise_floor import NoiseFloor, choose_probes
from pytest_pot.scoring.run import ScoringRun

from ..engines.pytorch.test_engine import Uniform
from ..models import changed, tiny
from ..oracle import metrics

ROOM = Room(most=1024, fixed=32)

CONFIGS = {
    "one batch": ScoringConfig(),
    "batches of 3": ScoringConfig(batch_size=3),
    "accurate": PRESETS["accurate"],
    "fastest": PRESETS["fastest"],
    "kl": ScoringConfig(metric="kl", top_k=20),
    "warm": ScoringConfig(temperature=2.0),
    "whole output layer": replace(PRESETS["accurate"], batch_size=5, metric="jsd"),
}


class Noisy(torch.nn.Module):
    """A model whose logits depend on how many sequences are in a batch, by ``amount``."""

    def __init__(self, model: PreTrainedModel, amount: float = 0.01, most: int = 1000) -> None:
        super().__init__()
        self.model, self.amount, self.most = model, amount, most
        self.shapes: list[tuple[int, int]] = []

    def forward(self, ids: torch.Tensor, attention_mask: torch.Tensor | None = None) -> torch.Tensor:
        self.shapes.append((ids.shape[0], ids.shape[1]))
        if len(ids) > self.most:
            raise MemoryError
        logits: torch.Tensor = self.model(ids, attention_mask=attention_mask).logits
        return logits * (1.0 + self.amount * len(ids))


class Stop:
    """Stops after ``n`` prompts."""

    expected_further = None

    def __init__(self, n: int) -> None:
        self.left = n

    def update(self, scores: Iterable[float]) -> None:
        self.left -= len(list(scores))

    @property
    def decided(self) -> bool:
        return self.left <= 0


def measure(
    config: ScoringConfig,
    reference: Any,
    candidate: Any,
    prompts: Sequence[Prompt],
    tokenizer: PreTrainedTokenizerFast,
    *,
    probed: Sequence[str] = ("reference",),
    recorded: bool = False,
    rule: Stop | None = None,
    candidate_config: ScoringConfig | None = None,
) -> tuple[ScoreReport, NoiseFloor | None]:
    """One run, as a gate makes it."""
    run = ScoringRun(config, EncodedPrompts(prompts, tokenizer))
    baseline = TeacherForcedScorer(config).record(reference, prompts, tokenizer) if recorded else None
    run.probed = probed
    with opened(reference, "reference", config) as ref, opened(candidate, "candidate", candidate_config or config) as cand:
        if baseline is not None:
            return run.replay(baseline, cand) if rule is None else run.replay_until(baseline, cand, rule), run.floor
        return run.score(ref, cand) if rule is None else run.score_until(ref, cand, rule), run.floor


def expected(model: Noisy, cells_of: Noisy, config: ScoringConfig, report: ScoreReport) -> float:
    """The gated metric of ``model`` between each probe in its batch and alone, by the oracle, in the cells of ``cells_of``."""
    batch_of = {index: len(batch) for batch in report.batches for index in batch}
    tokens = dict(zip(report.indices, report.tokens, strict=True))
    values = []
    for index in chosen(report):
        prompt = tokens[index]
        places = slice(prompt.prompt_len - 1, -1)
        with torch.no_grad():
            logits, first = ((m.model(torch.tensor([prompt.ids])).logits[0, places].double()) for m in (model, cells_of))
        k = config.top_k or logits.shape[1]
        for row, ids in zip(logits, first.argsort(descending=True)[:, :k], strict=True):
            scales = [(1.0 + model.amount * size) / config.temperature for size in (batch_of[index], 1)]
            if config.tail == "renormalise":
                p, q = ((row[ids] * scale).softmax(0).tolist() for scale in scales)
            else:
                p, q = (
                    [*(x := (row * scale).softmax(0))[ids].tolist(), max(1.0 - float(x[ids].sum()), 1e-300)] for scale in scales
                )
            values.append(metrics(p, q)[config.metric])
    return fmean(values)


def chosen(report: ScoreReport) -> list[int]:
    return choose_probes(report.batches, dict(zip(report.indices, report.tokens, strict=True)), ROOM)


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("recorded", [False, True])
def test_the_floor_is_what_two_plain_runs_show(
    name: str, recorded: bool, prompts: list[Prompt], tokenizer: PreTrainedTokenizerFast
) -> None:
    config = replace(CONFIGS[name], positions_per_prompt=8)
    reference, candidate = (Noisy(model) for model in (tiny(), changed(tiny())))
    probed = "candidate" if recorded else "reference"
    report, floor = measure(config, reference, candidate, prompts, tokenizer, probed=[probed], recorded=recorded)
    assert floor is not None
    probes = chosen(report)
    value = expected(candidate if recorded else reference, reference, config, report)
    assert floor.value == pytest.approx(value, rel=1e-3)
    assert value > 1e-6
    n_positions = sum(report.tokens[index].n_positions for index in probes)
    assert (floor.role, floor.n_prompts, floor.n_positions) == (probed, len(probes), n_positions)
    assert floor.largest_batch == max(len(batch) for batch in report.batches if set(batch) & set(probes))


@pytest.mark.parametrize("recorded", [False, True])
@pytest.mark.parametrize("preset", ["auto", "accurate", "fastest"])
def test_probes_change_no_score(preset: str, recorded: bool, prompts: list[Prompt], tokenizer: PreTrainedTokenizerFast) -> None:
    config = ScoringConfig.preset(preset)
    for candidate in (changed(tiny("llama")), tiny("llama")):
        probed = measure(config, tiny("llama"), candidate, prompts, tokenizer, probed=["candidate"], recorded=recorded)
        plain = measure(config, tiny("llama"), candidate, prompts, tokenizer, probed=[], recorded=recorded)
        assert probed[1] is not None
        assert plain[1] is None
        assert probed[0].batches == plain[0].batches
        for name, values in plain[0].divergences.items():
            for one, other in zip(probed[0].divergences[name], values, strict=True):
                np.testing.assert_array_equal(one, other)
    assert probed[0].max == 0.0


def test_probes_leave_both_models_alike(prompts: list[Prompt], tokenizer: PreTrainedTokenizerFast) -> None:
    """A model that has run batches knows whether its output layer can be split off, and reads other shapes then."""
    reference, candidate = tiny("llama"), tiny("llama")
    for model in (reference, candidate):
        model.config.logit_multiplier = 0.5  # says that something is done to the logits, and not what
    config = ScoringConfig(batch_size=2)
    report, floor = measure(config, reference, candidate, prompts, tokenizer)
    assert floor is not None
    assert report.max == 0.0


@pytest.mark.parametrize("recorded", [False, True])
def test_with_a_stopping_rule_the_first_window_shows_the_floor(
    recorded: bool, prompts: list[Prompt], tokenizer: PreTrainedTokenizerFast
) -> None:
    reference, candidate = Noisy(tiny()), Noisy(changed(tiny()))
    probed = "candidate" if recorded else "reference"
    models = reference, candidate, prompts, tokenizer
    report, floor = measure(ScoringConfig(), *models, probed=[probed], recorded=recorded, rule=Stop(8))
    assert floor is not None
    assert report.n_prompts == 8
    assert floor.largest_batch < 8
    # Later runs on more of the prompts know it too.
    model = candidate if recorded else reference
    model.shapes.clear()
    _, again = measure(ScoringConfig(), *models, probed=[probed], recorded=recorded, rule=Stop(8))
    assert again == floor
    assert not recorded or all(size > 1 for size, _ in model.shapes)


def test_of_two_models_the_one_that_rounds_more_decides(prompts: list[Prompt], tokenizer: PreTrainedTokenizerFast) -> None:
    for amounts, role in (((0.01, 0.02), "candidate"), ((0.02, 0.01), "reference")):
        reference, candidate = (Noisy(tiny(), amount) for amount in amounts)
        both = measure(ScoringConfig(), reference, candidate, prompts, tokenizer, probed=["reference", "candidate"])[1]
        assert both is not None
        assert both.role == role
        # Known or measured, it stays the same.
        assert both == measure(ScoringConfig(), reference, candidate, prompts, tokenizer, probed=["reference", "candidate"])[1]


def test_precisions_are_measured_apart(prompts: list[Prompt], tokenizer: PreTrainedTokenizerFast) -> None:
    config, model = ScoringConfig(), tiny("llama")
    model.lm_head.register_forward_hook(
        lambda module, inputs, output: output * (1.0 + 0.1 * len(output)) if output.dtype == torch.bfloat16 else output
    )
    half = replace(config, dtype="bfloat16")
    _, floor = measure(config, model, model, prompts, tokenizer, probed=["reference", "candidate"], candidate_config=half)
    assert floor is not None
    assert floor.value > 1e-4
    assert floor.role == "candidate"
    single = measure(config, model, model, prompts, tokenizer)[1]
    assert single is not None
    assert single.value < 1e-5


class Jumpy(Uniform):
    """An engine of one's own that prefers token 0 by the number of prompts in a batch."""

    def _at(self, batch: Sequence[Tokens], ids: Any, m: int) -> Any:
        top = super()._at(batch, ids, m)
        likeliest = 0.1 * len(batch)
        rest = np.log((1.0 - likeliest) / 96)
        log_probs = np.full_like(top.log_probs, rest)
        log_probs[:, 0] = np.log(likeliest)
        tail = None if top.log_tail is None else np.full_like(top.log_tail, rest + np.log(97 - m))
        return replace(top, log_probs=log_probs, log_tail=tail, targets=np.full_like(top.targets, rest))


@pytest.mark.parametrize("top_k", [10, None])
def test_an_engine_of_ones_own(top_k: int | None, prompts: list[Prompt], tokenizer: PreTrainedTokenizerFast) -> None:
    config = ScoringConfig(top_k=top_k, batch_size=4)
    report, floor = measure(config, Jumpy(), Jumpy(), prompts, tokenizer)
    assert report.max == 0.0
    assert floor is not None
    assert floor.value == pytest.approx(0.3)


def test_a_prompt_alone_in_its_batch_is_no_probe(prompts: list[Prompt], tokenizer: PreTrainedTokenizerFast) -> None:
    """Of five prompts in batches of four, the shortest runs alone, and would show no noise."""
    _, floor = measure(ScoringConfig(batch_size=4), Noisy(tiny()), tiny(), prompts[:5], tokenizer)
    assert floor is not None
    assert floor.largest_batch == 4
    assert floor.value > 1e-4


def test_batches_of_one_prompt_have_no_floor(prompts: list[Prompt], tokenizer: PreTrainedTokenizerFast) -> None:
    for config in (ScoringConfig(batch_size=1), PRESETS["original"]):
        assert measure(config, Noisy(tiny()), tiny(), prompts, tokenizer)[1] is None
    assert measure(ScoringConfig(), Noisy(tiny()), tiny(), prompts[:1], tokenizer)[1] is None


@pytest.mark.parametrize("most", [1, 2, 3])
def test_a_halved_batch_is_measured_as_it_ran(most: int, prompts: list[Prompt], tokenizer: PreTrainedTokenizerFast) -> None:
    model = Noisy(tiny(), most=most)
    report, floor = measure(ScoringConfig(batch_size=8), model, tiny(), prompts, tokenizer)
    assert report.n_prompts == len(prompts)
    if most == 1:
        assert floor is None
    else:
        assert floor is not None
        assert floor.largest_batch == most - most % 2
        assert floor.n_prompts == 1


def test_a_probe_that_does_not_fit_is_left_out(
    prompts: list[Prompt], tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pytest_pot.engines.pytorch.engine import TorchEngine

    def full(*_: object, **__: object) -> None:
        raise OutOfMemory("no memory is left")

    monkeypatch.setattr(TorchEngine, "reading_aside", full)
    report, floor = measure(ScoringConfig(batch_size=8), tiny(), tiny(), prompts, tokenizer)
    assert floor is None
    assert report.batch_size == 8


def test_a_floor_that_is_not_finite_is_none(prompts: list[Prompt], tokenizer: PreTrainedTokenizerFast) -> None:
    model = Noisy(tiny())
    model.model.lm_head.register_forward_hook(lambda module, inputs, output: output * torch.nan if len(output) == 1 else output)
    report, floor = measure(ScoringConfig(), model, tiny(), prompts, tokenizer)
    assert np.isfinite(report.mean)
    assert floor is None


def test_a_model_is_measured_once(prompts: list[Prompt], tokenizer: PreTrainedTokenizerFast) -> None:
    model = Noisy(tiny())

    def forwards(config: ScoringConfig, texts: Sequence[Prompt] = prompts, role: str = "reference") -> int:
        """How often ``model`` runs one prompt."""
        model.shapes.clear()
        reference, candidate = (model, tiny()) if role == "reference" else (tiny(), model)
        assert measure(config, reference, candidate, texts, tokenizer, probed=[role])[1] is not None
        return sum(size == 1 for size, _ in model.shapes)

    config = ScoringConfig(batch_size=4)
    assert forwards(config) == 1
    assert forwards(config) == 0
    assert forwards(config, role="candidate") == 0
    for other in (replace(config, metric="kl"), replace(config, top_k=7), replace(config, batch_size=8)):
        assert forwards(other) == 1
        assert forwards(other) == 0
    assert forwards(config, prompts * 8) >= 1


def test_decoding_measures_the_floor_in_one_pass(prompts: list[Prompt], tokenizer: PreTrainedTokenizerFast) -> None:
    """Live, it is the reference's, which reads each prompt and its continuation at once."""
    config = ScoringConfig(positions_per_prompt=8)
    model = tiny()
    model.lm_head.register_forward_hook(lambda module, inputs, output: output * (1.0 + 0.01 * len(output)))
    _, prefill = measure(config, model, tiny(), prompts, tokenizer)
    _, decode = measure(replace(config, path="decode"), model, tiny(), prompts, tokenizer)
    assert prefill is not None
    assert decode == prefill
    # Recorded, it is the candidate's, of texts so short that they cost little beside reading token by token.
    run = ScoringRun(replace(config, path="decode"), EncodedPrompts(prompts, tokenizer))
    shapes = []
    model.lm_head.register_forward_hook(lambda module, inputs, output: shapes.append(tuple(output.shape[:2])))
    with opened(model, "candidate", run.config) as engine:
        brief = run.noise_floor(engine, "candidate", brief=True)
    assert brief is not None
    assert brief.role == "candidate"
    assert brief.largest_batch > 1
    assert brief.value > 1e-4
    assert 1 <= len(shapes) <= 2


def test_known_floors_keep_no_model_alive(prompts: list[Prompt], tokenizer: PreTrainedTokenizerFast) -> None:
    model = Noisy(tiny())
    assert measure(ScoringConfig(), model, tiny(), prompts, tokenizer)[1] is not None
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None


def as_tokens(lengths: Sequence[int]) -> list[Tokens]:
    return [Tokens(tuple(range(1, length + 1)), 5) for length in lengths]


@pytest.mark.parametrize("n", [2, 8, 32, 257, 2000])
def test_probes_are_cheap_and_of_usual_length(n: int) -> None:
    lengths = [30 + (i * 37) % 90 for i in range(n)]
    batches = [range(i, min(i + 8, n)) for i in range(0, n, 8)]
    probes = choose_probes(batches, as_tokens(lengths), ROOM)
    spent = sum(ROOM.cost(lengths[index]) for index in probes)
    total = sum(ROOM.cost(len(batch) * max(lengths[i] for i in batch)) for batch in batches)
    if n < 32:  # one short prompt
        [index] = probes
        assert lengths[index] == sorted(lengths)[(n - 1) // 4]
    else:
        assert spent <= 0.05 * total
        together = [lengths[index] for batch in batches for index in batch if len(batch) > 1]
        usual = sorted(together)[len(together) // 2]
        nearest = [min(abs(lengths[i] - usual) for i in batch) for batch in batches if len(batch) > 1]
        assert sorted(abs(lengths[index] - usual) for index in probes) == sorted(nearest)[: len(probes)]
        assert len({index // 8 for index in probes}) == len(probes)
    assert len(probes) == (1 if n <= 32 else 4)


def test_a_probe_is_of_usual_length_where_all_cost_the_same() -> None:
    """On a GPU, the host may take as long to start the shortest forward pass as that of a long prompt."""
    tokens = as_tokens([30, 40, 70, 80, 90, 100])
    assert choose_probes([range(6)], tokens, Room(most=4096, launch=4096)) == [3]
    assert choose_probes([range(6)], tokens, ROOM) == [1]


def test_no_probes_where_no_prompt_shares_a_batch() -> None:
    assert choose_probes([[0], [1]], as_tokens([30, 40]), ROOM) == []
    assert choose_probes([[0, 2], [1]], as_tokens([50, 20, 60]), ROOM) == [0]
