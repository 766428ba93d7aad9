"""What recordings keep of a configuration shows nothing of the machine that they were made on."""

from __future__ import annotations

from typing import Any

import pytest

from pytest_pot.engines.kept_config import kept_config

KEPT: dict[str, Any] = {
    "bos_token": "<s>",
    "bos_token_id": 1,
    "hidden_act": "silu",
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "auto_map": {"AutoModel": "modeling.Model"},
    "rope_parameters": {"rope_theta": 10000.0, "factor": None},
    "layer_types": ["full_attention", "sliding_attention"],
    "num_token": 3,
    "path_dropout": 0.1,
    "separator": "/",
    "drop_path": 0.1,
    "chat": "a: b",
}


def test_what_describes_the_model_is_kept() -> None:
    assert kept_config(KEPT) == KEPT


@pytest.mark.parametrize(
    "private",
    [
        {"_name_or_path": "somebody/private-model"},
        {"base_model_name_or_path": "models/mine"},
        {"cache_dir": "cache"},
        {"_commit_hash": "0123"},
        {"anything": "/home/me/model"},
        {"anything": "~/model"},
        {"anything": r"C:\Users\me\model"},
        {"anything": "C:/Users/me/model"},
        {"anything": r"\\server\share"},
        {"anything": "https://example.com/me"},
        {"anything": "s3://bucket/me"},
        {"token": "hf_abc"},
        {"use_auth_token": "hf_abc"},
        {"wandb_api_key": "abc"},
    ],
)
def test_paths_and_keys_are_left_out_at_any_depth(private: dict[str, str]) -> None:
    assert kept_config({"a": 1, **private}) == {"a": 1}
    assert kept_config({"quantization_config": {"bits": 4, **private}}) == {"quantization_config": {"bits": 4}}
    assert kept_config({"list": [{"bits": 4, **private}, 5]}) == {"list": [{"bits": 4}, 5]}


def test_paths_in_lists_are_left_out() -> None:
    assert kept_config({"files": ["a", "/home/me/a"]}) == {"files": ["a"]}
