from __future__ import annotations

import pytest

from pytest_pot.scoring.diagnosis.matching import Matching, Tie, UnmatchedWeights, match

from .tensors import Shape, known, llama_shapes

LLAMA = llama_shapes()


def renamed(name: str) -> str:
    """The name of a tensor of Llama in another library, as llama.cpp calls them."""
    for one, other in {
        "model.layers": "blk",
        "self_attn.": "attn_",
        "mlp.": "ffn_",
        "model.embed_tokens": "token_embd",
        "model.norm": "output_norm",
        "lm_head": "output",
    }.items():
        name = name.replace(one, other)
    return name


def test_equal_names_are_matched_whatever_the_values() -> None:
    content = dict.fromkeys(LLAMA, "zeros")
    matching = match(known(LLAMA), known(LLAMA, content=content))
    assert matching == Matching({name: name for name in LLAMA}, (), ())


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "base_model.model.", "module._orig_mod.", "model."])
def test_a_prefix_of_a_wrapper_is_no_part_of_the_name(prefix: str) -> None:
    wrapped = {prefix + name: shape for name, shape in LLAMA.items()}
    content = {prefix + name: f"other {name}" for name in LLAMA}
    assert match(known(LLAMA), known(wrapped, content=content)).pairs == {name: prefix + name for name in LLAMA}
    assert match(known(wrapped), known(LLAMA, content=content)).pairs == {prefix + name: name for name in LLAMA}


def test_wrappers_inside_a_name_are_no_part_of_it() -> None:
    adapted = {name.replace("_proj.", "_proj.base_layer."): shape for name, shape in LLAMA.items()}
    adapted["model.layers.0.self_attn.q_proj.lora_A.default.weight"] = (2, 8)
    matching = match(known(LLAMA), known(adapted))
    assert list(matching.pairs) == list(LLAMA)
    assert matching.pairs["model.layers.1.mlp.up_proj.weight"] == "model.layers.1.mlp.up_proj.base_layer.weight"
    assert matching.extra == ("model.layers.0.self_attn.q_proj.lora_A.default.weight",)


def test_a_body_without_output_layer_is_matched_and_the_layer_missing() -> None:
    body = {name.removeprefix("model."): shape for name, shape in LLAMA.items() if name != "lm_head.weight"}
    matching = match(known(LLAMA), known(body, model_class="LlamaModel"))
    assert matching.missing == ("lm_head.weight",)
    assert len(matching.pairs) == len(LLAMA) - 1


def test_other_names_are_learned_from_equal_values() -> None:
    others = {renamed(name): shape for name, shape in LLAMA.items()}
    # One layer is as in the reference; of all others, the values tell nothing, and neither does any order.
    content = {renamed(name): name if ".layers.1." in name else f"new {name}" for name in LLAMA}
    backwards = dict(reversed(others.items()))
    matching = match(known(LLAMA), known(backwards, content=content))
    inner = [name for name in LLAMA if ".layers." in name]
    assert {name: matching.pairs.get(name) for name in inner} == {name: renamed(name) for name in inner}
    assert matching.pairs["model.norm.weight"] == "output_norm.weight", "the only vector that is in no layer"
    assert matching.pairs["model.embed_tokens.weight"] == "token_embd.weight", "as its words say"
    assert matching.pairs["lm_head.weight"] == "output.weight"
    assert (matching.missing, matching.extra, matching.unconfirmed) == ((), (), ())


def test_values_that_several_tensors_have_match_nothing() -> None:
    shapes: dict[str, Shape] = {f"a.{i}.x{j}": (4,) for i in range(2) for j in range(3)}
    others = {name.replace("x", "y"): shape for name, shape in shapes.items()}
    content = {name: "ones" for name in (*shapes, *others) if name != "a.1.y2"}
    with pytest.raises(UnmatchedWeights, match="cannot be matched"):
        match(known(shapes, content=content), known(others, content=content))


def test_unique_shapes_match_what_has_neither_its_name_nor_its_values() -> None:
    one: dict[str, Shape] = {"first.weight": (3, 4), "second.weight": (5, 3), "third.weight": (5, 3), "fourth.weight": (2, 5)}
    other: dict[str, Shape] = {"d.w": (2, 5), "b.w": (5, 3), "c.w": (5, 3), "a.w": (3, 4)}
    matching = match(known(one), known(other))
    assert matching.pairs == {"first.weight": "a.w", "fourth.weight": "d.w"}
    assert (matching.missing, matching.extra) == ((), ())
    assert matching.unmatched == ("second.weight", "third.weight")
    assert matching.unmatched_of_candidate == ("b.w", "c.w")


def test_another_class_is_said_in_one_line() -> None:
    gpt2 = {f"transformer.h.{i}.attn.c_attn.weight": (8, 24) for i in range(4)}
    with pytest.raises(UnmatchedWeights) as caught:
        match(known(LLAMA), known(gpt2, model_class="GPT2LMHeadModel"))
    assert str(caught.value) == (
        "the candidate is a GPT2LMHeadModel with 4 tensors, the reference a LlamaForCausalLM with 30: their weights cannot be "
        "matched"
    )


def test_where_few_match_it_is_said_how_many() -> None:
    other = {f"body.{i}.weight": (2, 2) for i in range(20)} | {"model.norm.weight": (8,)}
    with pytest.raises(UnmatchedWeights, match=r"cannot be matched \(only 1 of them can be\)$"):
        match(known(LLAMA), known(other))


def test_other_sizes_of_the_same_class_are_said_in_one_line() -> None:
    with pytest.raises(UnmatchedWeights) as caught:
        match(known(LLAMA), known(llama_shapes(hidden=16)))
    assert str(caught.value) == (
        "30 of 30 tensors have other shapes, model.embed_tokens.weight [11, 16] instead of [11, 8]: the two models have other "
        "sizes, and their weights cannot be compared"
    )


def test_transposed_matrices_can_be_compared() -> None:
    transposed = {name: shape[::-1] for name, shape in LLAMA.items()}
    assert len(match(known(LLAMA), known(transposed)).pairs) == len(LLAMA)


def test_layers_that_are_missing_are_no_other_class() -> None:
    matching = match(known(llama_shapes(12)), known(llama_shapes(4)))
    assert len(matching.missing) == 8 * 9
    assert match(known(llama_shapes(4)), known(llama_shapes(12))).extra == matching.missing


def test_an_output_layer_of_its_own_where_the_reference_shares_it() -> None:
    tied = known(llama_shapes(tied=True), ties={"lm_head.weight": "model.embed_tokens.weight"})
    matching = match(tied, known(LLAMA))
    assert matching.untied == (Tie("lm_head.weight", "model.embed_tokens.weight", "lm_head.weight"),)
    assert (matching.missing, matching.extra, matching.tied) == ((), (), ())


def test_an_output_layer_that_is_shared_where_the_reference_has_its_own() -> None:
    tied = known(llama_shapes(tied=True), ties={"lm_head.weight": "model.embed_tokens.weight"})
    matching = match(known(LLAMA), tied)
    assert matching.tied == (Tie("lm_head.weight", "model.embed_tokens.weight", "model.embed_tokens.weight"),)
    assert (matching.missing, matching.extra, matching.untied) == ((), (), ())
    assert "lm_head.weight" not in matching.pairs


def test_a_shared_output_layer_that_the_candidate_lacks() -> None:
    shapes = llama_shapes(tied=True)
    matching = match(known(shapes, ties={"lm_head.weight": "model.embed_tokens.weight"}), known(shapes))
    assert matching.untied == (Tie("lm_head.weight", "model.embed_tokens.weight", None),)


def test_a_shared_tensor_may_have_its_names_in_another_order() -> None:
    shapes = llama_shapes(tied=True)
    swapped = {("lm_head.weight" if name == "model.embed_tokens.weight" else name): shape for name, shape in shapes.items()}
    one = known(shapes, ties={"lm_head.weight": "model.embed_tokens.weight"})
    other = known(swapped, ties={"model.embed_tokens.weight": "lm_head.weight"})
    matching = match(one, other)
    assert matching.pairs["model.embed_tokens.weight"] == "lm_head.weight"
    assert (matching.missing, matching.extra, matching.tied, matching.untied) == ((), (), (), ())


def test_buffers_that_are_computed_are_not_matched() -> None:
    shapes: dict[str, Shape] = {**LLAMA, "model.rotary_emb.inv_freq": (4,)}
    matching = match(known(shapes, computed=["model.rotary_emb.inv_freq"]), known(LLAMA))
    assert len(matching.pairs) == len(LLAMA)
    assert matching.missing == ()


TIED = llama_shapes(tied=True)
TIES = {"lm_head.weight": "model.embed_tokens.weight"}


@pytest.mark.parametrize("prefix", ["m.", "wrapper.inner.", "0.", "m.base_model.model.", "m._orig_mod."])
def test_what_any_wrapper_puts_before_all_names_is_no_part_of_them(prefix: str) -> None:
    ones = dict.fromkeys((name for name in TIED if "norm" in name), "ones")  # so that nothing can be told by content
    plain = known(TIED, content=ones, ties=TIES)
    wrapped = known(
        {prefix + name: shape for name, shape in TIED.items()},
        content={prefix + name: ones.get(name, f"other {name}") for name in TIED},
        ties={prefix + name: prefix + first for name, first in TIES.items()},
    )
    other = known(
        {"n." + name: shape for name, shape in TIED.items()}, ties={"n.lm_head.weight": "n.model.embed_tokens.weight"}
    )
    assert match(plain, wrapped) == Matching({name: prefix + name for name in TIED}, (), ())
    assert match(wrapped, plain) == Matching({prefix + name: name for name in TIED}, (), ())
    assert match(other, wrapped) == Matching({"n." + name: prefix + name for name in TIED}, (), ())


def test_what_a_wrapper_has_of_its_own_is_extra_even_under_a_name_of_the_reference() -> None:
    wrapped = {f"m.{name}": shape for name, shape in LLAMA.items()} | {"lm_head.weight": (11, 8), "value.weight": (1, 8)}
    content = {name: f"other {name}" for name in wrapped}
    matching = match(known(LLAMA), known(wrapped, content=content))
    assert matching.pairs == {name: f"m.{name}" for name in LLAMA}
    assert matching.extra == ("lm_head.weight", "value.weight")


def test_of_two_wrapped_models_only_the_one_with_the_shapes_is_matched_by_its_names() -> None:
    def two(hidden: int) -> dict[str, Shape]:
        one, other = LLAMA, llama_shapes(hidden=hidden)
        return {f"a.{name}": shape for name, shape in one.items()} | {f"b.{name}": shape for name, shape in other.items()}

    def unlike(shapes: dict[str, Shape]) -> dict[str, str]:
        return {name: f"other {name}" for name in shapes}

    assert match(known(LLAMA), known(two(16), content=unlike(two(16)))).pairs == {name: f"a.{name}" for name in LLAMA}
    with pytest.raises(UnmatchedWeights, match="cannot be matched"):
        match(known(LLAMA), known(two(8), content=unlike(two(8))))


def test_a_tensor_that_is_shared_under_another_name_was_not_lost() -> None:
    tied = known(llama_shapes(tied=True), ties={"lm_head.weight": "model.embed_tokens.weight"})
    names = {name: renamed(name) for name in llama_shapes(tied=True)}
    shapes = {names[name]: shape for name, shape in llama_shapes(tied=True).items()}
    content = {other: name for name, other in names.items()}
    matching = match(tied, known(shapes, ties={"output.weight": "token_embd.weight"}, content=content))
    assert (matching.untied, matching.tied, matching.missing, matching.extra) == ((), (), (), ())

    own = {**shapes, "output.weight": (11, 8)}
    matching = match(tied, known(own, content={**content, "output.weight": "other"}))
    assert matching.untied == (Tie("lm_head.weight", "model.embed_tokens.weight", "output.weight"),)
    assert (matching.missing, matching.extra, matching.unmatched) == ((), (), ())

    matching = match(known(LLAMA), known(shapes, ties={"output.weight": "token_embd.weight"}, content=content))
    assert matching.tied == (Tie("lm_head.weight", "model.embed_tokens.weight", "token_embd.weight"),)
    assert (matching.missing, matching.extra) == ((), ())
