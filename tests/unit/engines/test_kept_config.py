"""What recordings keep of a configuration shows nothing of the machine that they were made on."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

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
    "eos_token": "</s>",
    "additional_special_tokens": ["<a>"],
    "cls_token": [False, True],
    "use_auth": True,
    "cache_path": None,
    "num_files": 3,
    "key_bias": False,
    "key_dim": [16, 16],
    "dim_per_key": 64,
    "key_length": 3,
    "share_att_key": True,
    "normalize_keys": True,
    "suppress_tokens": [220, 50256],
    "num_key_value_heads_per_layer": [1, 2],
    "tokens_per_second": 4,
    "num_experts_per_tok": 2,
    "num_experts_per_token": 2,
    "max_text_tokens": 4,
    "author_embedding": 3,
}


UNREAD = {"id2label", "label2id", "_name_or_path"}
SECRETS = [
    "api_key", "apikey", "apiKey", "OPENAI_API_KEY", "api-key", "api_token", "hub_token", "hfToken", "HF_TOKEN", "token",
    "auth", "credentials", "private_key", "aws_secret_access_key", "aws_access_key_id", "secret_key", "passwd", "password",
    "bearer", "client_secret", "oauth", "Authorization", "my_key", "github_token",
]  # fmt: skip
PLACES = [
    "data_paths", "files", "output_dir", "url", "commit", "username", "host", "base_model_name_or_path", "logDir",
    "_commit_hash", "pass",
]  # fmt: skip
HIDDEN = [
    "trained from /home/me/private", "python train.py --out=/home/me", "see (~/a)", r"on C:\\Users\\me", "me/model", "../model",
    "a: file:///home", "me@10.0.0.1", "me@example.com", "hf_QWERTYUIOPASDFGHJKL", "with sk-abcdefgh123", "AKIAIOSFODNN7EXAMPLE",
    "0123456789abcdef0123456789abcdef01234567", "-----BEGIN PRIVATE KEY-----", "x" * 1001, "half a character: \ud800",
]  # fmt: skip


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
        *({name: value} for name in SECRETS for value in ("abc", ["abc"], {"a": "b"}, 12345)),
        *({name: value} for name in PLACES for value in ("abc", ["abc"], {"a": "b"})),
        *({"anything": value} for value in HIDDEN),
        *({value: 1} for value in HIDDEN),
    ],
)
def test_paths_and_keys_are_left_out_at_any_depth(private: dict[str, Any]) -> None:
    assert kept_config({"a": 1, **private}) == {"a": 1}
    assert kept_config({"quantization_config": {"bits": 4, **private}}) == {"quantization_config": {"bits": 4}}
    assert kept_config({"list": [{"bits": 4, **private}, 5]}) == {"list": [{"bits": 4}, 5]}


@pytest.mark.parametrize("model_type", MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
def test_no_field_that_a_language_model_computes_with_is_left_out(model_type: str) -> None:
    try:
        config = json.loads(CONFIG_MAPPING[model_type]().to_json_string(use_diff=False))
    except Exception as error:  # of transformers: it needs another package, or arguments
        pytest.skip(f"cannot be made: {type(error).__name__}")
    assert fields_of(config) - fields_of(kept_config(config)) == set()


def fields_of(value: Any) -> set[str]:
    if isinstance(value, list):
        return set().union(*map(fields_of, value))
    if not isinstance(value, dict):
        return set()
    inside = [fields_of(each) for name, each in value.items() if name not in UNREAD]
    return (value.keys() - UNREAD).union(*inside)


@pytest.mark.parametrize("inside", [lambda value: {"a": value}, lambda value: [value], lambda value: {"a": [0, value]}])
def test_what_is_nested_too_deep_is_left_out(inside: Callable[[Any], Any]) -> None:
    value: Any = 1
    for _ in range(100):
        value = inside(value)
    kept = kept_config({"deep": value, "hidden_size": 8})
    assert kept["hidden_size"] == 8
    assert 10 < json.dumps(kept["deep"]).count("{") + json.dumps(kept["deep"]).count("[") < 20


def test_what_no_comparison_reads_and_what_is_too_long_is_left_out() -> None:
    labels = {str(i): f"the class {i}" for i in range(21843)}
    long = {"id2label": labels, "label2id": {name: i for i, name in labels.items()}, "ids": [1] * 5000, "other": labels}
    assert kept_config({"layers": [1] * 200, **long, "text_config": long}) == {"layers": [1] * 200, "text_config": {}}
