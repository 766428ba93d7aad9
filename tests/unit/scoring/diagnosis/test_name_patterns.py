"""Models whose tensors have other names than those of the reference."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from transformers import PreTrainedModel

from pytest_pot.engines.weights import ChangeKind, TensorInfo
from pytest_pot.scoring.diagnosis.diagnosis import Diagnosis
from pytest_pot.scoring.diagnosis.name_patterns import Places, Side, places

from .test_diagnose import (
    LAYERS,
    change_a_tensor,
    from_recording,
    live,
    llama,
    lose_the_output_layer,
    shift_layers,
    swap_layers,
)


def renamed(model: PreTrainedModel) -> nn.Module:
    """The tensors of ``model`` by names that share no word with its own."""

    class Renamed(nn.Module):
        config: Any

    root = Renamed()
    root.config = model.config
    words = {
        "model.layers.": "blocks.stack.",
        "self_attn.q_proj": "a.m1",
        "self_attn.k_proj": "a.m2",
        "self_attn.v_proj": "a.m3",
        "self_attn.o_proj": "a.m4",
        "mlp.gate_proj": "f.w1",
        "mlp.up_proj": "f.w3",
        "mlp.down_proj": "f.w2",
        "input_layernorm": "n1",
        "post_attention_layernorm": "n2",
        "model.embed_tokens": "lookup",
        "model.norm": "last",
        "lm_head": "logits",
    }
    for name, parameter in model.named_parameters(remove_duplicate=False):
        for one, other in words.items():
            name = name.replace(one, other)
        *path, last = name.split(".")
        module: nn.Module = root
        for part in path:
            if not hasattr(module, part):
                module.add_module(part, nn.Module())
            module = getattr(module, part)
        module.register_parameter(last, parameter)
    return root


def swap_projections(model: PreTrainedModel, layers: range = range(1, 2)) -> None:
    for layer in layers:
        mlp = model.model.layers[layer].mlp
        mlp.gate_proj.weight, mlp.up_proj.weight = mlp.up_proj.weight, mlp.gate_proj.weight


@pytest.mark.parametrize("compare", [live, from_recording])
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (swap_layers, "layers 1 and 3 are swapped (18 tensors)"),
        (shift_layers, "layers 1 to 3 hold the weights of the layer before (27 tensors)"),
        (swap_projections, "model.layers.1.mlp.gate_proj.weight and model.layers.1.mlp.up_proj.weight are swapped"),
        (change_a_tensor, "one tensor: model.layers.2.mlp.down_proj.weight changed (relative change "),
        (lose_the_output_layer, "lm_head.weight was lost: the candidate uses model.embed_tokens.weight in its place (tied)"),
    ],
)
def test_a_change_of_weights_is_named_where_all_names_are_others(
    compare: Callable[[Any, Any], Diagnosis], change: Callable[[PreTrainedModel], None], words: str
) -> None:
    candidate = llama()
    assert compare(llama(), renamed(candidate)).same_weights
    change(candidate)
    diagnosis = compare(llama(), renamed(candidate))
    assert diagnosis.what_changed[0].startswith(words), diagnosis.what_changed
    assert not diagnosis.same_weights
    assert diagnosis.notes == ()


@pytest.mark.parametrize("compare", [live, from_recording])
def test_where_names_cannot_tell_a_swap_from_another_naming_nothing_is_the_same(
    compare: Callable[[Any, Any], Diagnosis],
) -> None:
    candidate = llama()
    swap_projections(candidate, range(LAYERS))
    diagnosis = compare(llama(), renamed(candidate))
    assert not diagnosis.same_weights
    assert diagnosis.what_changed == (
        "class LlamaForCausalLM -> Renamed",
        "all 39 tensors are equal, if each is in its place, and so is the configuration",
        "8 tensors could be matched by equal values alone, so that the names do not tell whether some are swapped: "
        "model.layers.0.mlp.gate_proj.weight, model.layers.0.mlp.up_proj.weight and 6 more",
    )


@pytest.mark.parametrize("compare", [live, from_recording])
def test_what_rounding_and_other_names_leave_unmatched_is_not_called_missing(
    compare: Callable[[Any, Any], Diagnosis],
) -> None:
    candidate = renamed(llama(tie_word_embeddings=True).bfloat16())
    with torch.no_grad():  # what is on the grid already is equal, and tells where the others are
        reference = llama(tie_word_embeddings=True)
        for name, parameter in reference.named_parameters():
            if "layers" in name and "gate_proj" not in name and "up_proj" not in name:
                parameter.copy_(parameter.bfloat16())
    diagnosis = compare(reference, candidate)
    assert diagnosis.weights is not None
    assert {change.kind for change in diagnosis.weights.changes} == {ChangeKind.ROUNDED}
    assert diagnosis.notes == (
        "8 tensors could not be matched, because the candidate has other names for tensors of these shapes: "
        "model.layers.0.mlp.gate_proj.weight, model.layers.0.mlp.up_proj.weight and 6 more; there blocks.stack.0.f.w1.weight, "
        "blocks.stack.0.f.w3.weight and 6 more",
    )


def of(**content: str) -> Side:
    """Vectors of four values, by name; ``__`` stands for a dot. Those of equal ``content`` have equal values."""
    tensors = {name.replace("__", "."): values for name, values in content.items()}
    return Side({name: TensorInfo((4,), "float32") for name in tensors}, lambda name: tensors[name].encode())


def test_the_majority_places_all_tensors_of_a_pattern() -> None:
    reference = of(a__0__x="x0", a__0__y="y0", a__1__x="x1", a__1__y="y1", a__2__x="x2", a__2__y="y2")
    swapped = of(b__0__s="x0", b__0__t="y0", b__1__s="y1", b__1__t="x1", b__2__s="x2", b__2__t="new")
    pattern = {f"a.{i}.{one}": f"b.{i}.{two}" for i in range(3) for one, two in (("x", "s"), ("y", "t"))}
    assert places(reference, swapped) == Places(pattern, frozenset())


def test_without_a_majority_equal_values_match_but_confirm_nothing() -> None:
    reference = of(a__0__x="x0", a__0__y="y0", a__1__x="x1", a__1__y="y1")
    swapped = of(b__0__s="x0", b__0__t="y0", b__1__s="y1", b__1__t="x1")
    found = places(reference, swapped)
    assert found.pairs == {"a.0.x": "b.0.s", "a.0.y": "b.0.t", "a.1.x": "b.1.t", "a.1.y": "b.1.s"}
    assert found.unconfirmed == set(found.pairs)


def test_a_pattern_that_nothing_but_another_order_contradicts_is_not_confirmed() -> None:
    reference = of(a__0__x="x0", a__0__y="y0", a__1__x="x1", a__1__y="y1")
    other = of(b__0__s="y0", b__0__t="x0", b__1__s="y1", b__1__t="x1")
    found = places(reference, other)
    assert found.pairs["a.1.x"] == "b.1.t"
    assert found.unconfirmed == set(found.pairs)


def test_words_in_names_come_before_equal_values() -> None:
    reference = of(a__0__mlp__gate_proj="g0", a__0__mlp__up_proj="u0", a__1__mlp__gate_proj="g1", a__1__mlp__up_proj="u1")
    swapped = of(b__0__ffn_gate="u0", b__0__ffn_up="g0", b__1__ffn_gate="u1", b__1__ffn_up="g1")
    assert places(reference, swapped) == Places(
        {f"a.{i}.mlp.{kind}_proj": f"b.{i}.ffn_{kind}" for i in range(2) for kind in ("gate", "up")}, frozenset()
    )


def test_layers_may_be_counted_from_one() -> None:
    reference = of(a__0__x="x0", a__1__x="x1", a__2__x="x2", a__3__x="x3")
    swapped = of(b__1__s="x0", b__2__s="x2", b__3__s="x1", b__4__s="x3")
    assert places(reference, swapped) == Places({f"a.{i}.x": f"b.{i + 1}.s" for i in range(4)}, frozenset())


def test_layers_that_all_moved_on_keep_their_numbers() -> None:
    reference = of(a__0__x="x0", a__1__x="x1", a__2__x="x2")
    moved = of(b__0__s="x1", b__1__s="x2", b__2__s="new")
    assert places(reference, moved).pairs == {f"a.{i}.x": f"b.{i}.s" for i in range(3)}


def test_tensors_that_all_have_the_same_values_are_matched_in_their_order() -> None:
    reference, other = (of(**{f"{stack}__{i}__{kind}": "ones" for i in range(2) for kind in "xyz"}) for stack in "ab")
    assert places(reference, other) == Places(
        {f"a.{i}.{kind}": f"b.{i}.{kind}" for i in range(2) for kind in "xyz"}, frozenset()
    )


def test_numbers_of_experts_are_part_of_a_name() -> None:
    reference = of(**{f"a__{i}__experts__{j}__gate_proj": f"{i} {j}" for i in range(3) for j in range(2)})
    swapped = of(**{f"b__{i}__ffn__{j}__gate": f"{i} {1 - j if i == 1 else j}" for i in range(3) for j in range(2)})
    assert places(reference, swapped) == Places(
        {f"a.{i}.experts.{j}.gate_proj": f"b.{i}.ffn.{j}.gate" for i in range(3) for j in range(2)}, frozenset()
    )
