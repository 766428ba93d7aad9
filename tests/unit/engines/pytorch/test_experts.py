"""Experts whose tensors are lost or renumbered are named; whole mixtures are loaded, whatever their config says."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM

from pytest_pot.engines.pytorch.experts import misnumbered_experts

from ...checkpoints import Tensors, incomplete, refusal_of, rewritten, without_its_tensor
from ...models import tiny

LAYER = "model.layers.0.block_sparse_moe.experts."


@pytest.fixture(scope="module")
def mixture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Mixtral of four experts."""
    folder = tmp_path_factory.mktemp("mixture") / "whole"
    tiny("mixtral").save_pretrained(folder)
    return folder


def renumber(tensors: Tensors, number: int, other: int) -> None:
    for name in list(tensors):
        if name.startswith(f"{LAYER}{number}."):
            tensors[name.replace(f"{LAYER}{number}.", f"{LAYER}{other}.")] = tensors.pop(name)


@pytest.mark.parametrize("shards", [False, True], ids=["one file", "shards"])
@pytest.mark.parametrize("says_number", [True, False], ids=["config says how many", "config does not"])
def test_a_renamed_expert_is_refused_by_name(mixture: Path, tmp_path: Path, shards: bool, says_number: bool) -> None:
    """transformers would stack it in another place, and miss nothing."""
    source = mixture
    if shards:
        source = tmp_path / "shards"
        tiny("mixtral").save_pretrained(source, max_shard_size="30KB")
        assert (source / "model.safetensors.index.json").exists()
    assert refusal_of(source) == ""
    folder = rewritten(source, tmp_path / "renamed", lambda tensors: renumber(tensors, 1, 4))
    if not says_number:
        config = json.loads((folder / "config.json").read_text())
        del config["num_local_experts"]
        (folder / "config.json").write_text(json.dumps(config))
    missing = [f"{LAYER}1.w{part}.weight" for part in (1, 2, 3)]
    lines = [f"3 tensors of experts missing: {', '.join(missing)}"]
    if says_number:
        extra = [name.replace("experts.1", "experts.4") for name in missing]
        lines.append(f"3 tensors of experts that the model has not: {', '.join(extra)}")
    assert refusal_of(folder) == incomplete(folder, *lines, example=missing[0])


def test_a_lost_tensor_of_an_expert_is_refused_by_name(mixture: Path, tmp_path: Path) -> None:
    for number in range(4):
        lost = f"{LAYER}{number}.w2.weight"
        folder = without_its_tensor(mixture, tmp_path / "broken", "dropped", lost)
        assert refusal_of(folder) == incomplete(folder, f"1 tensor of experts missing: {lost}", example=lost)
        assert not refusal_of(folder, allow_tensors=("*experts*",)).startswith("the files of the candidate")  # our check is off


def write(folder: Path, names: list[str], config: dict[str, object]) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    save_file({name: torch.zeros(1) for name in names}, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_only_what_is_certain_is_reported(tmp_path: Path) -> None:
    experts = [f"model.layers.{layer}.mlp.experts.{number}.up_proj.weight" for layer in (0, 1) for number in range(3)]
    further = "model.layers.2.mlp.experts.1.up_proj.weight"
    whole: list[tuple[list[str], dict[str, object]]] = [
        (experts, {}),
        (experts, {"text_config": {"num_experts": 3}}),
        (experts, {"num_experts": 8, "n_routed_experts": 3}),  # it says two numbers
        (experts, {"num_experts": [3, 3]}),
        (experts, {"num_experts": 4, "per_layer_config": {"0": {"num_experts": 3}, "1": {"num_experts": 3}}}),
        (experts[:5], {"n_routed_experts": 2, "zero_expert_num": 1}),
        ([*experts, further], {"num_experts": 3, "num_hidden_layers": 2}),  # a layer that predicts further tokens
        ([*experts[:5], f"{experts[5].removesuffix('weight')}qweight"], {"quantization_config": {}}),
        (["model.layers.0.mlp.experts.gate_up_proj", "model.layers.0.mlp.shared_experts.1.weight"], {"num_experts": 3}),
    ]
    for names, config in whole:
        assert misnumbered_experts(write(tmp_path / "x", names, config)) == ([], []), config
    assert misnumbered_experts(write(tmp_path / "x", experts[:5], {})) == ([], [])  # a shape will be wrong
    assert misnumbered_experts(write(tmp_path / "x", experts[:5], {"num_experts": 3})) == (experts[5:], [])
    assert misnumbered_experts(tmp_path / "nowhere") == ([], [])


@pytest.mark.parametrize("kind", ["qwen3_moe", "deepseek_v3", "jamba", "olmoe"])
def test_whole_mixtures_of_other_kinds_are_loaded(kind: str, tmp_path: Path) -> None:
    sizes: dict[str, int] = dict.fromkeys(("hidden_size", "intermediate_size", "moe_intermediate_size"), 32)
    sizes |= dict.fromkeys(("num_attention_heads", "num_key_value_heads", "num_experts", "n_routed_experts"), 4)
    sizes |= dict.fromkeys(("kv_lora_rank", "q_lora_rank", "qk_rope_head_dim", "qk_nope_head_dim", "v_head_dim", "head_dim"), 8)
    sizes |= {"vocab_size": 97, "num_hidden_layers": 2, "num_experts_per_tok": 2, "n_group": 1, "topk_group": 1}
    defaults = AutoConfig.for_model(kind)
    own = {name: size for name, size in sizes.items() if hasattr(defaults, name)}
    config = AutoConfig.for_model(kind, **own, pad_token_id=0, bos_token_id=1, eos_token_id=2)
    model: Any = AutoModelForCausalLM.from_config(config)
    model.save_pretrained(tmp_path)
    assert misnumbered_experts(tmp_path) == ([], [])
    assert refusal_of(tmp_path) == ""
