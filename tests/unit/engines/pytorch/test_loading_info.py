"""A checkpoint that does not hold the whole model is refused by the names of its tensors; a whole one is not."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
import torch
import transformers
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    Gemma3TextConfig,
    GPT2ForSequenceClassification,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    PreTrainedModel,
    SiglipVisionConfig,
)

from pytest_pot import PotError, ScoringConfig
from pytest_pot.engines.pytorch.loading_info import complete_model, refuse_incomplete
from pytest_pot.engines.registry import load_model

from ...checkpoints import CHANGES, Tensors, incomplete, refusal_of, rewritten, tensors_in, without_its_tensor
from ...models import CONFIGS, tiny

CPU = ScoringConfig(device="cpu")
IS_5 = not transformers.__version__.startswith("4.")
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": ("gpt2", {}),
    "gpt2, untied": ("gpt2", {"tie_word_embeddings": False}),
    "llama": ("llama", {}),
    "llama, tied": ("llama", {"tie_word_embeddings": True}),
}
CLASSES = {"gpt2": "GPT2LMHeadModel", "llama": "LlamaForCausalLM"}


@pytest.mark.parametrize("case", CASES)
def test_any_one_tensor_that_is_not_the_models_is_named(case: str, tmp_path: Path) -> None:
    name, options = CASES[case]
    folder = tmp_path / "whole"
    tiny(name, **options).save_pretrained(folder)
    assert refusal_of(folder) == ""
    tensors = tensors_in(folder)
    is_tied = "lm_head.weight" not in tensors
    assert is_tied is (case in ("gpt2", "llama, tied"))
    for tensor in tensors if not options else ("lm_head.weight", "model.embed_tokens.weight", "transformer.wte.weight"):
        if tensor not in tensors:
            continue
        size = list(tensors[tensor].shape)
        lost = f"1 tensor missing, filled as before training: {tensor}"
        if is_tied and tensor.endswith(("wte.weight", "embed_tokens.weight")):
            lost = f"2 tensors missing, filled as before training: lm_head.weight, {tensor}"
        # transformers 5 takes whatever has attn.bias in its name for an old causal mask.
        extra = [] if IS_5 and "attn.bias" in tensor else [f"1 tensor without a place in the model, left out: {tensor}_renamed"]
        shapes = f" ([{size[0] + 1}{str(size)[len(str(size[0])) + 1 :]}, in the model {size})" if IS_5 else ""
        reshaped = f"1 tensor of another shape, filled as before training: {tensor}{shapes}"
        for how, lines in {"dropped": [lost], "renamed": [lost, *extra], "reshaped": [reshaped]}.items():
            broken = without_its_tensor(folder, tmp_path / "broken", how, tensor)
            loaded_as = f"it was loaded as {CLASSES[name]}; the config says {CLASSES[name]}"
            example = "lm_head.weight" if lines[0].startswith("2 ") else tensor
            assert refusal_of(broken) == incomplete(broken, *lines, loaded_as, example=example)


@pytest.mark.parametrize("name", CLASSES)
def test_any_one_tensor_that_the_shards_lack_is_named(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "whole"
    tiny(name).save_pretrained(folder, max_shard_size="30KB")
    assert len(list(folder.glob("*.safetensors"))) > 2
    assert refusal_of(folder) == ""
    for tensor in tensors_in(folder):
        assert tensor in refusal_of(without_its_tensor(folder, tmp_path / "broken", "dropped", tensor)).splitlines()[1]


def test_the_whole_message(tmp_path: Path) -> None:
    """Another prefix: at most six tensors are named, and the first pair of names that belong together."""
    tiny("llama").save_pretrained(tmp_path / "whole")

    def change(tensors: Tensors) -> None:
        for name in list(tensors):
            tensors[f"policy.{name}"] = tensors.pop(name)

    folder = rewritten(tmp_path / "whole", tmp_path / "prefixed", change)
    layer = "model.layers.0"
    names = ["lm_head.weight", "model.embed_tokens.weight", f"{layer}.input_layernorm.weight"]
    names += [f"{layer}.mlp.{part}_proj.weight" for part in ("down", "gate", "up")]
    extra = refusal_of(folder).splitlines()[2]
    assert extra.startswith("  21 tensors without a place in the model, left out: ")
    assert extra.endswith(" and 15 more")
    assert "policy.lm_head.weight, " in extra
    renamed = refusal_of(folder).splitlines()[3]
    assert renamed.endswith("policy.lm_head.weight in the files seems to be lm_head.weight in the model")
    assert refusal_of(folder) == incomplete(
        folder,
        f"21 tensors missing, filled as before training: {', '.join(names)} and 15 more",
        extra.strip(),
        renamed.strip(),
        "it was loaded as LlamaForCausalLM; the config says LlamaForCausalLM",
        example="lm_head.weight",
    )


def classifier(name: str, kind: type[PreTrainedModel], **options: Any) -> PreTrainedModel:
    return kind(tiny(name, **options).config)


def test_a_checkpoint_of_another_class_is_refused_with_both_names(tmp_path: Path) -> None:
    tiny("llama").model.save_pretrained(tmp_path / "headless")
    assert refusal_of(tmp_path / "headless") == incomplete(
        tmp_path / "headless",
        "1 tensor missing, filled as before training: lm_head.weight",
        "it was loaded as LlamaForCausalLM; the config says LlamaModel",
        example="lm_head.weight",
    )
    classifier("llama", LlamaForSequenceClassification).save_pretrained(tmp_path / "classifier")
    assert refusal_of(tmp_path / "classifier") == incomplete(
        tmp_path / "classifier",
        "1 tensor missing, filled as before training: lm_head.weight",
        "1 tensor without a place in the model, left out: score.weight",
        "it was loaded as LlamaForCausalLM; the config says LlamaForSequenceClassification",
        example="lm_head.weight",
    )
    # With a tied head nothing is missing.
    classifier("gpt2", GPT2ForSequenceClassification).save_pretrained(tmp_path / "tied")
    assert refusal_of(tmp_path / "tied") == incomplete(
        tmp_path / "tied",
        "1 tensor without a place in the model, left out: score.weight",
        "it was loaded as GPT2LMHeadModel; the config says GPT2ForSequenceClassification",
        example="score.weight",
    )
    sizes: dict[str, Any] = dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads"), 4)
    sizes |= dict.fromkeys(("encoder_ffn_dim", "decoder_ffn_dim", "d_model"), 32)
    BartForConditionalGeneration(BartConfig(vocab_size=97, encoder_layers=1, decoder_layers=1, **sizes)).save_pretrained(
        tmp_path / "bart"
    )
    assert "model.encoder.layer" in refusal_of(tmp_path / "bart")


def test_a_config_that_says_less_than_the_files_hold_is_refused(tmp_path: Path) -> None:
    """Fewer layers, or no biases: nothing is missing, and the model that runs is another."""
    folder = tmp_path / "shallow"
    tiny("llama").save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 1}))
    assert "  9 tensors without a place in the model, left out: model.layers.1.input_layernorm.weight, " in refusal_of(folder)
    tiny("llama", attention_bias=True).save_pretrained(tmp_path / "biases")
    config = json.loads((tmp_path / "biases" / "config.json").read_text())
    (tmp_path / "biases" / "config.json").write_text(json.dumps({**config, "attention_bias": False}))
    assert "  8 tensors without a place in the model, left out: model.layers.0.self_attn.k_proj.bias, " in refusal_of(
        tmp_path / "biases"
    )


def older_gpt2(tensors: Tensors) -> None:
    """As the hub's GPT-2: no prefix, and the causal masks of an older version of transformers."""
    for name in list(tensors):
        tensors[name.removeprefix("transformer.")] = tensors.pop(name)
    for layer in range(2):
        tensors[f"h.{layer}.attn.bias"] = torch.ones(1, 1, 128, 128).tril()
        tensors[f"h.{layer}.attn.masked_bias"] = torch.tensor(-1e4)


def older_llama(tensors: Tensors) -> None:
    for layer in range(2):
        tensors[f"model.layers.{layer}.self_attn.rotary_emb.inv_freq"] = torch.ones(4)


def other_parts(tensors: Tensors) -> None:
    tensors["vision_tower.encoder.layers.0.mlp.fc1.weight"] = torch.ones(2, 2)
    tensors["multi_modal_projector.linear.weight"] = torch.ones(2, 2)
    tensors["model.mtp.0.head.weight"] = torch.ones(2, 2)
    tensors["v_head.summary.weight"] = torch.ones(1, 2)


def test_scales_that_the_model_may_need_are_refused(tmp_path: Path) -> None:
    """Those of quantised weights, and of a cache where the config says that the model is quantised."""
    tiny("llama").save_pretrained(tmp_path / "whole")
    name = "model.layers.0.self_attn.k_proj.weight_scale"
    folder = rewritten(tmp_path / "whole", tmp_path / "more", lambda tensors: tensors.update({name: torch.ones(1)}))
    assert f"1 tensor without a place in the model, left out: {name}\n" in refusal_of(folder)
    model: Any = tiny("llama")
    model.config.quantization_config = {"quant_method": "fp8"}
    info = {"missing_keys": set(), "unexpected_keys": {"model.layers.0.self_attn.k_scale"}, "mismatched_keys": set()}
    with pytest.raises(PotError, match=r"left out: model\.layers\.0\.self_attn\.k_scale\n"):
        refuse_incomplete(model, info, "the candidate")


def duplicate_head(tensors: Tensors) -> None:
    tensors["lm_head.weight"] = tensors["transformer.wte.weight"].clone()


def sinusoids(tensors: Tensors) -> None:
    """As XGLM and other models that came from fairseq."""
    tensors["model.embed_positions.weights"] = torch.ones(8, 32)
    tensors["model.decoder.version"] = torch.tensor([3.0])


def cache_scales(tensors: Tensors) -> None:
    for name in ("k_scale", "v_scale", "kv_scale", "k_proj.k_scale", "v_proj.v_scale"):
        tensors[f"model.layers.0.self_attn.{name}"] = torch.ones(1)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("llama", sinusoids),
        ("llama", cache_scales),
        ("gpt2", older_gpt2),
        ("gpt2", duplicate_head),
        ("llama", older_llama),
        ("llama", other_parts),
        ("gpt2", other_parts),
    ],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_tensors_that_no_logit_depends_on_are_no_error(name: str, change: Callable[[Tensors], None], tmp_path: Path) -> None:
    tiny(name).save_pretrained(tmp_path / "whole")
    folder = rewritten(tmp_path / "whole", tmp_path / "more", change)
    loaded = load_model(str(folder), "candidate", CPU).model
    ids = torch.arange(5)[None]
    assert torch.equal(loaded(ids).logits, tiny(name)(ids).logits)


@pytest.mark.parametrize("name", CONFIGS)
def test_whole_checkpoints_are_loaded(name: str, tmp_path: Path) -> None:
    tiny(name).save_pretrained(tmp_path)
    assert refusal_of(tmp_path) == ""


def test_a_model_with_eyes_is_loaded_and_its_text_model_is_checked(tmp_path: Path) -> None:
    text = CONFIGS["gemma3"]()
    assert isinstance(text, Gemma3TextConfig)
    vision = SiglipVisionConfig(
        hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=4, image_size=28, patch_size=14
    )
    config = Gemma3Config(text_config=text, vision_config=vision, mm_tokens_per_image=4)
    Gemma3ForConditionalGeneration(config).save_pretrained(tmp_path / "whole")
    assert refusal_of(tmp_path / "whole") == ""
    name = next(name for name in tensors_in(tmp_path / "whole") if name.endswith("layers.0.self_attn.q_proj.weight"))
    assert "q_proj.weight" in refusal_of(without_its_tensor(tmp_path / "whole", tmp_path / "broken", "dropped", name))


def test_a_part_of_a_model_with_eyes_must_be_whole_too(tmp_path: Path) -> None:
    """``vision_tower`` is another part only for a model that has none."""
    model: Any = tiny("llama")
    info = {"missing_keys": set(), "unexpected_keys": {"vision_tower.weight"}, "mismatched_keys": set()}
    refuse_incomplete(model, info, "the candidate")
    model.vision_tower = torch.nn.Linear(2, 2)
    with pytest.raises(PotError, match=r"1 tensor without a place in the model, left out: vision_tower\.weight\n"):
        refuse_incomplete(model, info, "the candidate")


def test_tensors_can_be_allowed_by_name_and_by_pattern(tmp_path: Path) -> None:
    tiny("llama").save_pretrained(tmp_path / "whole")
    names = ["lm_head.weight", "model.layers.1.mlp.up_proj.weight", "model.layers.1.mlp.gate_proj.weight"]

    def change(tensors: Tensors) -> None:
        for name, how in zip(names, CHANGES.values(), strict=True):
            how(tensors, name)

    folder = rewritten(tmp_path / "whole", tmp_path / "broken", change)
    assert refusal_of(folder, allow_tensors=("lm_head.weight", "model.layers.1.mlp.*")) == ""
    assert refusal_of(folder, allow_tensors=("*.mlp.*",)) == incomplete(
        folder,
        "1 tensor missing, filled as before training: lm_head.weight",
        "it was loaded as LlamaForCausalLM; the config says LlamaForCausalLM",
        example="lm_head.weight",
    )


@pytest.mark.filterwarnings("ignore::FutureWarning")  # peft asks models for what transformers has renamed
def test_an_adapter_and_its_base_model_must_be_whole(tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    tiny("llama").save_pretrained(tmp_path / "base")
    base = LlamaForCausalLM.from_pretrained(tmp_path / "base")
    adapted = peft.get_peft_model(base, peft.LoraConfig(target_modules=["q_proj"], init_lora_weights=False))
    adapted.save_pretrained(tmp_path / "adapter")
    ids = torch.arange(5)[None]
    assert torch.equal(load_model(str(tmp_path / "adapter"), "candidate", CPU).model(ids).logits, adapted(ids).logits)
    name = next(iter(tensors_in(tmp_path / "adapter")))
    broken = without_its_tensor(tmp_path / "adapter", tmp_path / "broken", "renamed", name)
    assert "it lacks model.layers.0.self_attn.q_proj.lora_A.weight: not all of it would run" in refusal_of(broken)
    broken = without_its_tensor(tmp_path / "base", tmp_path / "broken", "dropped", "model.norm.weight")
    (broken / "model.safetensors").replace(tmp_path / "base" / "model.safetensors")
    lines = refusal_of(tmp_path / "adapter").splitlines()
    assert lines[0].startswith(f"the files of the base model {str(tmp_path / 'base')!r} of the candidate '")
    assert lines[1] == "  1 tensor missing, filled as before training: model.norm.weight"


def test_a_gguf_file_must_hold_every_tensor(tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf")
    pytest.importorskip("accelerate")
    model = tiny("llama", tie_word_embeddings=True)
    write_gguf(gguf, tmp_path / "whole.gguf", model)
    loaded = complete_model(str(tmp_path), {"gguf_file": "whole.gguf"}, "the candidate")
    assert torch.equal(loaded.lm_head.weight, model.lm_head.weight)
    write_gguf(gguf, tmp_path / "broken.gguf", model, without="blk.0.attn_q.weight")
    with pytest.raises(PotError) as error:
        complete_model(str(tmp_path), {"gguf_file": "broken.gguf"}, "the candidate")
    assert str(error.value).splitlines()[1:-1] == [
        "  1 tensor missing, filled as before training: model.layers.0.self_attn.q_proj.weight",
        "  it was loaded as LlamaForCausalLM; the config names no class",
    ]


def test_a_gguf_file_must_hold_nothing_that_the_model_has_no_place_for(tmp_path: Path) -> None:
    """transformers leaves it out without a word."""
    gguf = pytest.importorskip("gguf")
    pytest.importorskip("accelerate")
    model = tiny("llama", tie_word_embeddings=True)
    extra = {name: torch.ones(32) for name in ("blk.0.attn_q.bias", "blk.2.attn_norm.weight", "rope_freqs.weight")}
    write_gguf(gguf, tmp_path / "more.gguf", model, extra=extra)
    with pytest.raises(PotError) as error:
        complete_model(str(tmp_path), {"gguf_file": "more.gguf"}, "the candidate")
    assert str(error.value).splitlines()[1:-2] == [
        "  2 tensors without a place in the model, left out: blk.0.attn_q.bias, blk.2.attn_norm.weight"
    ]
    extra = {
        "rope_freqs.weight": torch.ones(4),
        "blk.2.attn_norm.weight": torch.ones(32),
        "blk.2.nextn.eh_proj.weight": torch.ones(4),
    }
    write_gguf(gguf, tmp_path / "harmless.gguf", model, extra=extra)
    complete_model(str(tmp_path), {"gguf_file": "harmless.gguf"}, "the candidate")


def write_gguf(
    gguf: Any,
    path: Path,
    model: PreTrainedModel,
    *,
    without: str = "",
    extra: Mapping[str, torch.Tensor] = MappingProxyType({}),
) -> None:
    """A Llama in a GGUF file, with the names that llama.cpp gives its tensors."""
    config: Any = model.config
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(config.hidden_size // config.num_attention_heads)
    writer.add_vocab_size(config.vocab_size)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    for name, tensor in model.state_dict().items():
        theirs = names.get_name(name, try_suffixes=(".weight",))
        if name != "lm_head.weight" and theirs != without:
            writer.add_tensor(theirs, tensor.numpy())
    for name, tensor in extra.items():
        writer.add_tensor(name, tensor.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
