"""What real answers of a llama-server say, and which are no evidence."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import pytest

from pytest_pot.engines.server.answers import Row
from pytest_pot.engines.server.llama_answers import (
    UnusableAnswer,
    facts_of,
    generated,
    log_prob_of,
    normalised,
    parse,
)

from .local_server import real

IDS = (504, 3575, 282, 4649, 314)
"""The prompt of the exchanges, "The capital of France is"."""
FORCED = "llama_completion_forced_by_logit_bias"
LOWEST = -3.4028234663852886e38
"""What llama.cpp writes for a probability that is 0 in float32."""


def test_a_forced_token_has_its_own_log_probability() -> None:
    row = parse(real(FORCED), IDS, 504, 3)
    assert row is not None
    assert (row.ids, row.target) == ([7042, 260, 4528], -11.540441513061523)
    assert row.log_probs[0] == -0.25889989733695984


def test_the_fields_that_are_asked_for_are_enough() -> None:
    row = parse(real("llama_completion_100_fields"), IDS, 7042, 100)
    assert row is not None
    assert len(row.ids) == 100


def test_an_end_of_text_has_a_log_probability() -> None:
    row = parse(real("llama_completion_logit_bias_eos"), IDS[:2], 2, 3)
    assert row is not None
    assert row.target == -23.935012817382812


def test_a_part_of_a_character_has_none() -> None:
    assert parse(real("llama_completion_lone_byte_no_probs"), IDS, 177, 3) is None


def test_log_probabilities_do_not_depend_on_the_temperature() -> None:
    row = parse(
        real("llama_completion_temperature2"),
        IDS,
        real("llama_completion_temperature2")["completion_probabilities"][0]["id"],
        3,
    )
    assert row is not None
    assert row.log_probs[0] == -0.25889989733695984


def refusal(body: Any, forced: int = 504, k: int = 3) -> str:
    with pytest.raises(UnusableAnswer) as error:
        parse(body, IDS, forced, k)
    return str(error.value)


def test_probabilities_after_sampling_are_refused() -> None:
    assert "probabilities after sampling" in refusal(real("llama_completion_post_sampling_probs"), 7042)


def test_a_bos_that_was_added_is_refused() -> None:
    assert parse(real("llama_addbos_ids"), IDS, 7042, 3) is not None  # only texts get one
    assert refusal(real("llama_addbos_text"), 7042).startswith("read 6 tokens where 5 ids were sent: it adds a token (BOS?)")


def test_an_answer_of_another_endpoint_is_refused() -> None:
    assert refusal(real("llama_v1_completions_echo_logprobs")).startswith("read None tokens")


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("tokens",), [7], "was to sample the token 504 and sampled [7]"),
        (("completion_probabilities", 0, "id"), 7, "was asked for the log-probability of the token 504 and told that of 7"),
        (("completion_probabilities", 0, "top_logprobs"), [], "was asked for 3 likeliest ids (n_probs) and told 0"),
        (("completion_probabilities", 0, "top_logprobs"), None, "unknown completion_probabilities"),
        (("completion_probabilities", 0), None, "unknown completion_probabilities"),
        (("completion_probabilities",), {"id": 504}, "unknown completion_probabilities"),
        (("tokens_evaluated",), 4, "read 4 tokens where 5 ids were sent"),
        (("tokens_evaluated",), None, "read None tokens"),
    ],
)
def test_answers_that_are_wrong_in_one_place_are_refused(path: tuple[str | int, ...], value: Any, message: str) -> None:
    body = copy.deepcopy(real(FORCED))
    place: Any = body
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    assert message in refusal(body)


@pytest.mark.parametrize("body", [None, [], "ok", 3])
def test_answers_that_are_no_object_are_refused(body: Any) -> None:
    assert "is no JSON object" in refusal(body)


def test_a_probability_that_is_0_in_float32_is_the_largest_that_it_can_be() -> None:
    body = real(FORCED)
    body["completion_probabilities"][0]["top_logprobs"][2]["logprob"] = LOWEST
    row = parse(body, IDS, 504, 3)
    assert row is not None
    assert math.exp(row.log_probs[2]) == pytest.approx(np.finfo(np.float32).smallest_subnormal)


def test_what_is_no_number_is_left_for_the_check_of_all_numbers() -> None:
    body = real(FORCED)
    body["completion_probabilities"][0]["top_logprobs"][2]["logprob"] = None
    row = parse(body, IDS, 504, 3)
    assert row is not None
    assert normalised(row, whole=False) is row
    with pytest.raises(UnusableAnswer, match="no number as the log-probability of the token 4528"):
        log_prob_of(4528, row, row)


def test_a_log_probability_from_a_longer_answer_is_on_the_scale_of_the_first() -> None:
    first = Row([7, 8], [-0.5, -2.0], 0.0)
    longer = Row([7, 8, 9], [-0.501, -2.001, -5.001], 0.0)
    assert log_prob_of(9, longer, first) == pytest.approx(-5.0, abs=1e-12)
    assert log_prob_of(8, longer, longer) == -2.001
    assert log_prob_of(6, longer, first) is None


def test_a_whole_vocabulary_sums_to_1() -> None:
    values = np.log([0.6, 0.3, 0.1]) + 2e-4
    row = normalised(Row([0, 1, 2], values.tolist(), float(values[2])), whole=True)
    assert sum(map(math.exp, row.log_probs)) == pytest.approx(1.0, abs=1e-15)
    assert math.exp(row.target) == pytest.approx(0.1)


def test_a_few_ids_leave_something_for_the_tail() -> None:
    values = np.log([0.7, 0.3]) + 2e-4
    row = normalised(Row([0, 1], values.tolist(), float(values[1])), whole=False)
    assert 0 < 1 - sum(map(math.exp, row.log_probs)) < 1e-6
    enough = Row([0, 1], [-1.0, -2.0], -1.0)
    assert normalised(enough, whole=False) is enough


def test_what_is_no_rounding_stays_for_the_check_of_sums() -> None:
    row = Row([0, 1], [-0.1, -0.2], -0.1)
    assert normalised(row, whole=True) is row


def test_facts_are_those_that_the_server_tells() -> None:
    name = real("llama_models")["data"][0]["id"]
    facts = facts_of(real("llama_models"), real("llama_props"), name, [])
    assert (facts.n_slots, facts.n_ctx, facts.n_ctx_trained, facts.vocab_size) == (4, 512, 8192, 49152)
    assert (facts.build, facts.file_type) == ("b0-unknown", "Q4_1")
    assert facts.identity["n_params"] == 134515008
    assert facts.identity["path"] == "models/SmolLM2-135M-Instruct.Q4_1.gguf"


def test_the_time_of_an_answer_is_no_part_of_the_identity() -> None:
    models, props = real("llama_models"), real("llama_props")
    name = models["data"][0]["id"]
    before = facts_of(models, props, name, []).identity
    models["data"][0]["created"] += 1
    props["is_sleeping"] = True
    assert facts_of(models, props, name, []).identity == before
    assert facts_of(models, props, name, [{"id": 0, "path": "a.gguf", "scale": 1.0}]).identity != before
    models["data"][0]["meta"]["size"] += 1
    assert facts_of(models, props, name, []).identity != before


def test_a_model_may_be_named_by_its_alias() -> None:
    models = real("llama_models")
    models["data"][0]["aliases"] = ["smol"]
    assert facts_of(models, real("llama_props"), "smol", []).vocab_size == 49152


@pytest.mark.parametrize("gap", ["slots", "context", "meta", "vocabulary", "model", "zero", "text"])
def test_a_server_that_does_not_tell_enough_is_refused(gap: str) -> None:
    models, props = real("llama_models"), real("llama_props")
    name = models["data"][0]["id"]
    match gap:
        case "slots":
            del props["total_slots"]
        case "context":
            props["default_generation_settings"] = None
        case "meta":
            models["data"][0]["meta"] = None
        case "vocabulary":
            models["data"][0]["meta"]["n_vocab"] = None
        case "model":
            name = "other"
        case "zero":
            props["total_slots"] = 0
        case "text":
            props = "ok"
    with pytest.raises(UnusableAnswer, match="does not tell its slots, its context and its vocabulary"):
        facts_of(models, props, name, [])


def test_generated_tokens_are_as_many_as_asked_for() -> None:
    assert generated({"tokens": [3, 4], "tokens_evaluated": 5}, IDS, 2) == [3, 4]
    for tokens in ([3], [], None, [3, "a"]):
        with pytest.raises(UnusableAnswer, match="was to generate 2 tokens and answered"):
            generated({"tokens": tokens, "tokens_evaluated": 5}, IDS, 2)
