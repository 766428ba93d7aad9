from __future__ import annotations

import dataclasses
from dataclasses import replace
from typing import Any

import pytest

from pytest_pot import PRESETS, PotError, ScoringConfig
from pytest_pot.core.names import DEFAULT_PRESET, PRESET_NAMES


def test_the_presets_have_the_documented_values() -> None:
    presets = {
        name: (config.top_k, config.tail, config.batch_size, config.positions_per_prompt, config.max_length)
        for name, config in PRESETS.items()
    }
    assert presets == {
        "auto": (100, "bucket", "auto", 32, 256),
        "balanced": (100, "bucket", 4, 32, 256),
        "accurate": (None, "bucket", 2, 64, 512),
        "fastest": (50, "renormalise", 8, 16, 256),
        "single": (50, "bucket", 1, 32, 256),
        "original": (None, "bucket", 1, 32, 1024),
    }
    assert [name for name, config in PRESETS.items() if config.every_position] == ["original"]


def test_the_default_is_auto_which_is_balanced_but_for_the_batch_size() -> None:
    assert ScoringConfig() == ScoringConfig.preset() == ScoringConfig.preset("auto") == PRESETS[DEFAULT_PRESET]
    assert replace(PRESETS["auto"], batch_size=4) == PRESETS["balanced"]


def test_the_names_that_help_texts_list_are_the_presets_with_the_default_first() -> None:
    assert tuple(PRESETS) == PRESET_NAMES
    assert PRESET_NAMES[0] == DEFAULT_PRESET == "auto"


def test_any_field_of_a_preset_can_be_overridden() -> None:
    config = ScoringConfig.preset("accurate", top_k=7, batch_size="auto", metric="kl")
    assert (config.top_k, config.batch_size, config.metric, config.max_length) == (7, "auto", "kl", 512)


@pytest.mark.parametrize(
    ("field", "value", "allowed"),
    [
        ("top_k", 0, "a whole number of at least 1 or None"),
        ("top_k", True, "a whole number"),
        ("tail", "drop", "'bucket', 'renormalise'"),
        ("batch_size", 2.5, "a whole number of at least 1 or 'auto'"),
        ("batch_size", "all", "'auto'"),
        ("positions_per_prompt", -1, "at least 1"),
        ("max_length", None, "at least 1"),
        ("temperature", 0, "a finite number above 0"),
        ("temperature", float("nan"), "a finite number above 0"),
        ("temperature", "hot", "a finite number above 0"),
        ("server_timeout", 0, "a number of seconds above 0 and at most 86400 (a day)"),
        ("server_timeout", 86401, "a number of seconds above 0 and at most 86400 (a day)"),
        ("server_timeout", 1e10, "a number of seconds above 0 and at most 86400 (a day)"),
        ("server_timeout", 10**400, "a number of seconds above 0 and at most 86400 (a day)"),
        ("server_timeout", float("inf"), "a number of seconds above 0 and at most 86400 (a day)"),
        ("metric", "ppl", "'tv', 'jsd', 'kl', 'kl_reverse', 'delta_ce', 'top1_flip'"),
        ("device", "gpu", "'cuda'"),
        ("dtype", "int8", "'auto', 'float32', 'float16', 'bfloat16', 'float64'"),
        ("use_amp", "yes", "True or False"),
    ],
)
def test_errors_name_the_field_and_the_allowed_values(field: str, value: Any, allowed: str) -> None:
    with pytest.raises(ValueError, match=field) as error:
        ScoringConfig(**{field: value})
    assert isinstance(error.value, PotError)
    assert f"{field}={value!r}" in str(error.value)
    assert allowed in str(error.value)


def test_errors_on_unknown_presets_and_fields_list_the_choices() -> None:
    with pytest.raises(ValueError, match="preset='quick' is not one of 'auto', 'balanced', 'accurate', 'fastest'"):
        ScoringConfig.preset("quick")
    with pytest.raises(ValueError, match="'topk' is not a field of ScoringConfig; the fields are top_k, tail"):
        ScoringConfig.preset("balanced", topk=3)


def test_a_config_is_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        ScoringConfig().top_k = 5  # type: ignore[misc]
    with pytest.raises(TypeError):
        PRESETS["mine"] = ScoringConfig()  # type: ignore[index]
