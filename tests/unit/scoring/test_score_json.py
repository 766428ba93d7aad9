"""The JSON form of a report, and the schema that describes it."""

from __future__ import annotations

import json
from collections.abc import Callable
from copy import deepcopy
from dataclasses import fields
from importlib.resources import files
from typing import Any

import jsonschema
import pytest
from transformers import PreTrainedTokenizerFast

from pytest_pot import Prompt, ScoreReport, ScoringConfig, TeacherForcedScorer
from pytest_pot.core.names import DTYPES, METRICS, PATHS, TAILS
from pytest_pot.engines.base import ModelDescription
from pytest_pot.engines.registry import opened
from pytest_pot.scoring.position_statistics import DELTA_P_PERCENTILES, PERCENTILES
from pytest_pot.scoring.score_figures import WorstPosition

from ..models import Pair, changed, tiny
from .test_own_top_k import OwnTopK

SCHEMA: dict[str, Any] = json.loads(
    (files("pytest_pot.report") / "schema" / "score_report.schema.json").read_text(encoding="utf-8")
)
DEFINITIONS = SCHEMA["$defs"]
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)


@pytest.fixture(scope="module")
def pair() -> Pair:
    return tiny("llama"), changed(tiny("llama"))


def document_of(report: ScoreReport) -> Any:
    return json.loads(json.dumps(report.to_dict(), allow_nan=False))


def test_the_schema_is_one() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"metric": "kl", "batch_size": 2},
        {"path": "decode"},
        {"top_k": None},
        {"top_k": 5, "tail": "renormalise"},
        {"every_position": True, "allow_tensors": ("lm_head.weight",)},
    ],
    ids=str,
)
def test_reports_of_all_configurations_are_valid(
    pair: Pair, prompts: list[Prompt], tokenizer: PreTrainedTokenizerFast, fields: dict[str, Any]
) -> None:
    scorer = TeacherForcedScorer(ScoringConfig(**fields))
    kinds = [Prompt(prompt.text, prompt.continuation, kind) for prompt, kind in zip(prompts, "aabb....", strict=True)]
    report = scorer.score_batch(*pair, [*kinds, "drawn"], tokenizer)
    VALIDATOR.validate(document_of(report))
    recorded = scorer.score_baseline(scorer.record(pair[0], prompts, tokenizer), pair[1], tokenizer)
    VALIDATOR.validate(document_of(recorded))
    assert document_of(recorded)["ran"]["reference"] is None


def test_reports_of_models_that_tell_only_their_own_ids_are_valid(
    pair: Pair, prompts: list[Prompt], tokenizer: PreTrainedTokenizerFast
) -> None:
    with opened(pair[1], "candidate", ScoringConfig(top_k=None)) as engine:
        report = TeacherForcedScorer(ScoringConfig(top_k=5)).score_batch(pair[0], OwnTopK(engine, 8), prompts, tokenizer)
    document = document_of(report)
    assert document["unseen"] is not None
    VALIDATOR.validate(document)


def test_reports_of_identical_models_and_of_one_position_are_valid(pair: Pair, tokenizer: PreTrainedTokenizerFast) -> None:
    report = TeacherForcedScorer().score_batch(pair[0], pair[0], [Prompt("ab", "c")], tokenizer)
    VALIDATOR.validate(document_of(report))


def test_the_figures_are_in_it(pair: Pair, prompts: list[Prompt], tokenizer: PreTrainedTokenizerFast) -> None:
    report = TeacherForcedScorer().score_batch(*pair, prompts, tokenizer)
    document = document_of(report)
    assert document["schema"] == 1
    assert document["percentiles"]["kl"] == {f"{q:g}": value for q, value in report.percentiles("kl").items()}
    assert document["delta_p"] == report.to_dict()["delta_p"]
    assert report.delta_p is not None
    assert document["delta_p"]["percentiles"]["99.9"] == report.delta_p.percentiles[99.9]
    assert document["same_top"] == {"share": report.same_top.share, "standard_error": report.same_top.standard_error}


def _more(document: Any) -> None:
    document["more"] = 1


def _more_inside(document: Any) -> None:
    document["worst"][0]["more"] = 1


def _without_delta_p(document: Any) -> None:
    del document["delta_p"]


def _other_version(document: Any) -> None:
    document["schema"] = 2


def _share_above_1(document: Any) -> None:
    document["same_top"]["share"] = 1.5


def _metric_unknown(document: Any) -> None:
    document["metric"] = "kld"


def _percentile_missing(document: Any) -> None:
    del document["percentiles"]["tv"]["99.9"]


def _text_for_a_score(document: Any) -> None:
    document["scores"][0] = "0.1"


@pytest.mark.parametrize(
    "change",
    [
        _more,
        _more_inside,
        _without_delta_p,
        _other_version,
        _share_above_1,
        _metric_unknown,
        _percentile_missing,
        _text_for_a_score,
    ],
)
def test_a_wrong_document_is_not_valid(pair: Pair, tokenizer: PreTrainedTokenizerFast, change: Callable[[Any], None]) -> None:
    document = document_of(TeacherForcedScorer().score_batch(*pair, [Prompt("ab", "cd"), Prompt("x", "yz")], tokenizer))
    VALIDATOR.validate(document)
    wrong = deepcopy(document)
    change(wrong)
    assert not VALIDATOR.is_valid(wrong)


def test_the_names_are_those_of_the_code() -> None:
    assert DEFINITIONS["metric"]["enum"] == list(METRICS)
    assert list(DEFINITIONS["metricValues"]["properties"]) == list(METRICS)
    assert list(DEFINITIONS["percentiles"]["properties"]) == [f"{q:g}" for q in PERCENTILES]
    assert list(DEFINITIONS["deltaP"]["properties"]["percentiles"]["properties"]) == [f"{q:g}" for q in DELTA_P_PERCENTILES]
    for name, kind in (("config", ScoringConfig), ("modelDescription", ModelDescription), ("worstPosition", WorstPosition)):
        assert list(DEFINITIONS[name]["properties"]) == [field.name for field in fields(kind)]
    config = DEFINITIONS["config"]["properties"]
    assert [config[name]["enum"] for name in ("tail", "path", "dtype")] == [list(TAILS), list(PATHS), list(DTYPES)]


def test_no_object_takes_keys_that_it_does_not_name() -> None:
    def objects(schema: Any) -> list[Any]:
        if isinstance(schema, list):
            return [found for each in schema for found in objects(each)]
        if not isinstance(schema, dict):
            return []
        inner = [found for value in schema.values() for found in objects(value)]
        return [schema, *inner] if schema.get("type") == "object" and "properties" in schema else inner

    for found in objects(SCHEMA):
        assert found["additionalProperties"] is False
        assert found["required"] == list(found["properties"])
