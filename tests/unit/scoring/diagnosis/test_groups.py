from __future__ import annotations

import re
from collections.abc import Iterable

import pytest

from pytest_pot.engines.weights import ChangeKind, TensorChange, TensorInfo
from pytest_pot.scoring.diagnosis.groups import summary

from .tensors import infos

LLAMA, _ = infos("llama", num_hidden_layers=8)
GPT2, GPT2_TIES = infos("gpt2", n_layer=4)


def changed(
    names: Iterable[str],
    kind: ChangeKind = ChangeKind.CHANGED,
    what: str = "",
    amount: float | None = None,
    relative: float | None = 0.01,
) -> list[TensorChange]:
    return [TensorChange(name, kind, what, amount, relative) for name in names]


def matching(pattern: str, tensors: dict[str, TensorInfo] | None = None) -> list[str]:
    return [name for name in tensors or LLAMA if re.search(pattern, name)]


def of_llama(changes: list[TensorChange], recorded: bool = False) -> list[str]:
    return list(summary(changes, LLAMA, {}, recorded=recorded))


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        ("", "all 75 tensors changed, as of training or noise"),
        (r"proj|embed|lm_head", "all 58 matrices (with the embeddings and the output layer) changed, as of training or noise"),
        (r"proj|lm_head", "all 57 matrices (with the output layer) changed, as of training or noise"),
        (r"proj", "all 56 matrices changed, as of training or noise"),
        (r"proj(?<!5.mlp.up_proj)", "55 of 56 matrices (without model.layers.5.mlp.up_proj.weight) changed"),
        (
            r"embed|lm_head|proj(?<!5.mlp.up_proj)",
            "57 of 58 matrices (with the embeddings and the output layer, without model.layers.5.mlp.up_proj.weight) changed",
        ),
        (r"norm", "all 17 norm tensors changed"),
        (r"embed", "the embeddings changed"),
        (r"lm_head", "the output layer changed"),
        (r"embed|lm_head", "the embeddings and the output layer changed"),
        (r"layers\.5\.", "all 9 tensors of layer 5 changed"),
        (r"layers\.[2-4]\.", "all 27 tensors of layers 2 to 4 changed"),
        (r"layers\.[257]\.", "all 27 tensors of layers 2, 5 and 7 changed"),
        (r"layers\.5\..*proj", "all 7 matrices of layer 5 changed"),
        (r"layers\.[0-6]\..*proj", "all 49 matrices of layers 0 to 6 changed"),
        (r"layers\.[0-357]\..*proj", "all 42 matrices of layers 0 to 3, 5 and 7 changed"),
        (r"[qk]_proj", "the q_proj and k_proj matrices of all 8 layers changed"),
        (r"layers\.[1-3]\..*gate_proj", "the gate_proj matrices of layers 1 to 3 changed"),
        (r"layers\.[16]\..*gate_proj", "the gate_proj matrices of layers 1 and 6 changed"),
        (r"input_layernorm", "the input_layernorm weights of all 8 layers changed"),
        (r"layers\.3\.mlp\.down", "one tensor: model.layers.3.mlp.down_proj.weight changed"),
        (
            r"layers\.3\.mlp\.(down|up)|model\.norm",
            "3 tensors: model.layers.3.mlp.up_proj.weight, model.layers.3.mlp.down_proj.weight, model.norm.weight changed",
        ),
        (r"layers\.3\.(mlp|self_attn\.[qk])", "5 of 58 matrices (in layer 3) changed"),
        (r"layers\.[36]\.(mlp|self_attn\.[qk])", "10 of 58 matrices (in layers 3 and 6) changed"),
        (r"embed|layers\.4\.", "all 9 tensors of layer 4 and the embeddings changed"),
    ],
)
def test_a_set_of_tensors_is_named_as_a_person_would(pattern: str, words: str) -> None:
    assert set(of_llama(changed(matching(pattern)))) == {f"{words} (relative change 0.01)"}


def test_names_of_gpt2() -> None:
    def words(pattern: str) -> tuple[str, ...]:
        return summary(changed(matching(pattern, GPT2), relative=None), GPT2, GPT2_TIES)

    assert words(r"attn\.c_proj\.weight") == ("the attn.c_proj matrices of all 4 layers changed",)
    assert words(r"c_attn\.bias") == ("the c_attn biases of all 4 layers changed",)
    assert words(r"(c_attn|c_proj|c_fc)\.bias") == ("all 16 biases changed",)
    assert words(r"wte") == ("the embeddings and the tied output layer changed",)
    assert words(r"wpe") == ("the position embeddings changed",)
    assert words(r"ln_") == ("all 18 norm tensors changed",)
    assert words(r"h\.2\.") == ("all 12 tensors of layer 2 changed",)


@pytest.mark.parametrize(
    ("name", "pattern", "words"),
    [
        ("mixtral", r"experts", "all 4 matrices of the experts changed"),
        ("mixtral", r"mlp\.gate\.weight", "the gate matrices of all 2 layers changed"),
        ("mixtral", r"\.1\.mlp\.experts\.down_proj", "one tensor: model.layers.1.mlp.experts.down_proj changed"),
        ("mamba", r"A_log", "the A_log matrices of all 2 layers changed"),
        ("mamba", r"mixer\.D", "the D vectors of all 2 layers changed"),
        ("mamba", r"embeddings", "the embeddings and the tied output layer changed"),
        ("gemma2-softcap", r"pre_feedforward_layernorm", "the pre_feedforward_layernorm weights of all 2 layers changed"),
        ("opt", r"embed_positions", "the position embeddings changed"),
        ("opt", r"fc1\.weight", "the fc1 matrices of all 2 layers changed"),
        ("opt", r"[qkv]_proj\.bias", "the k_proj, v_proj and q_proj biases of all 2 layers changed"),
        ("bloom", r"query_key_value\.weight", "the query_key_value matrices of all 2 layers changed"),
    ],
)
def test_names_of_other_architectures(name: str, pattern: str, words: str) -> None:
    tensors, ties = infos(name)
    assert summary(changed(matching(pattern, tensors), relative=None), tensors, ties) == (words,)


def test_experts_that_are_numbered() -> None:
    tensors = {
        f"model.layers.{layer}.block_sparse_moe.experts.{expert}.w{n}.weight": TensorInfo((4, 4), "float32")
        for layer in range(3)
        for expert in range(4)
        for n in (1, 2, 3)
    } | {f"model.layers.{layer}.self_attn.q_proj.weight": TensorInfo((4, 4), "float32") for layer in range(3)}
    one_kind = changed(matching(r"\.w2\.", tensors), relative=None)
    assert summary(one_kind, tensors, {}) == ("the w2 matrices of all 3 layers changed",)
    assert summary(changed(matching("experts", tensors), relative=None), tensors, {}) == (
        "all 36 matrices of the experts changed",
    )


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            changed(matching("proj"), ChangeKind.ROUNDED, "8 bits per row", relative=0.0057),
            "all 56 matrices rounded to 8 bits per row (relative change 0.0057)",
        ),
        (
            changed(matching("proj"), ChangeKind.PRUNED, amount=0.2, relative=0.1),
            "all 56 matrices: 20 % of the values are new zeros, as of pruning (relative change 0.1)",
        ),
        (changed(matching("v_proj"), ChangeKind.SCALED, amount=1.25), "the v_proj matrices of all 8 layers multiplied by 1.25"),
        (
            changed(matching(r"layers\.2\.mlp\.up"), ChangeKind.ZERO),
            "one tensor: model.layers.2.mlp.up_proj.weight: all values are 0",
        ),
        (
            changed(matching("[qk]_proj"), ChangeKind.PERMUTED, "rows"),
            "the q_proj and k_proj matrices of all 8 layers: rows in another order (permuted)",
        ),
        (changed(matching("o_proj"), ChangeKind.TRANSPOSED), "the o_proj matrices of all 8 layers transposed"),
        (
            changed(matching("o_proj"), ChangeKind.TRANSPOSED, "rounded to bfloat16"),
            "the o_proj matrices of all 8 layers transposed, rounded to bfloat16",
        ),
        (
            changed(matching("o_proj"), ChangeKind.TRANSPOSED, "and changed"),
            "the o_proj matrices of all 8 layers transposed and changed",
        ),
        (
            changed(matching("q_proj"), ChangeKind.LOW_RANK, amount=8, relative=0.02),
            "the q_proj matrices of all 8 layers: a difference of rank 8, as of a merged adapter (relative change 0.02)",
        ),
        (changed(matching("lm_head"), ChangeKind.NOT_FINITE), "the output layer: NaN or infinite values"),
        (changed(matching("embed"), ChangeKind.REORDERED), "the embeddings: the same values in another order"),
        (changed(matching(r"layers\.7\."), ChangeKind.MISSING), "all 9 tensors of layer 7 missing in the candidate"),
        (
            changed(matching("embed|head"), ChangeKind.SHAPE, "[97, 32] -> [128, 32]"),
            "the embeddings and the output layer with another shape: [97, 32] -> [128, 32]",
        ),
    ],
)
def test_each_kind_of_change_has_its_words(changes: list[TensorChange], words: str) -> None:
    assert of_llama(changes) == [words]


def test_sizes_are_a_range_where_they_differ_and_about_where_they_are_estimated() -> None:
    changes = [
        TensorChange(name, ChangeKind.CHANGED, relative=0.002 + 0.001 * (i % 8)) for i, name in enumerate(matching("proj"))
    ]
    assert of_llama(changes) == ["all 56 matrices changed, as of training or noise (relative change 0.002 to 0.009)"]
    (estimated,) = of_llama(changes, recorded=True)
    assert estimated.endswith(" (relative change about 0.002 to 0.009)")


def test_ranks_and_shares_are_ranges_where_they_differ() -> None:
    ranks = [TensorChange(name, ChangeKind.LOW_RANK, amount=4 + i % 5) for i, name in enumerate(matching("q_proj"))]
    assert of_llama(ranks) == ["the q_proj matrices of all 8 layers: a difference of rank 4 to 8, as of a merged adapter"]
    shares = [TensorChange(name, ChangeKind.PRUNED, amount=0.1 + 0.1 * (i % 2)) for i, name in enumerate(matching("q_proj"))]
    assert of_llama(shares) == ["the q_proj matrices of all 8 layers: 10 % to 20 % of the values are new zeros, as of pruning"]


def test_tensors_that_changed_by_far_more_are_told_apart() -> None:
    changes = changed(matching("q_proj"), relative=0.001) + changed(matching(r"layers\.[34]\.mlp\.up"), relative=0.5)
    assert of_llama(changes) == [
        "the q_proj matrices of all 8 layers changed (relative change 0.001)",
        "the up_proj matrices of layers 3 and 4 changed (relative change 0.5)",
    ]
    everywhere = [TensorChange(name, ChangeKind.CHANGED, relative=0.9 if ".5." in name else 0.01) for name in LLAMA]
    assert of_llama(everywhere) == [
        "all 75 tensors changed, as of training or noise (relative change 0.01 to 0.9, most in all 9 tensors of layer 5)"
    ]


def test_two_ways_of_rounding_are_two_sentences_the_larger_first() -> None:
    changes = changed(matching("lm_head"), ChangeKind.ROUNDED, "8 bits per row") + changed(
        matching("proj"), ChangeKind.ROUNDED, "4 bits in groups of 32"
    )
    assert [line.split(" (")[0] for line in of_llama(changes)] == [
        "all 56 matrices rounded to 4 bits in groups of 32",
        "the output layer rounded to 8 bits per row",
    ]


def test_what_is_broken_comes_before_what_is_many() -> None:
    changes = changed(matching("proj")) + changed(matching("model.norm"), ChangeKind.NOT_FINITE)
    assert of_llama(changes)[0] == "one tensor: model.norm.weight: NaN or infinite values"


def test_of_groups_of_one_size_the_largest_change_comes_first() -> None:
    changes = [
        *changed(matching(r"layers\.3\.mlp\.up"), relative=0.01),
        *changed(matching(r"layers\.1\.mlp\.down"), relative=3.31),
        *changed(matching(r"layers\.2\.mlp\.gate"), ChangeKind.LOW_RANK, amount=2, relative=0.4),
        *changed(matching(r"layers\.4\.mlp\.gate"), ChangeKind.PRUNED, amount=0.1, relative=0.2),
        *changed(matching(r"layers\.[56]\.mlp\.gate"), ChangeKind.SCALED, amount=1.001, relative=0.001),
    ]
    assert [re.findall(r"layers\D*(\d)", line)[0] for line in of_llama(changes)] == ["5", "1", "2", "4", "3"]
    assert [re.findall(r"layers\D*(\d)", line)[0] for line in of_llama(changes[::-1])] == ["5", "1", "2", "4", "3"]


def test_long_names_do_not_share_a_line() -> None:
    names = [
        f"model.language_model.{'inner_model.' * 3}layers.{i}.feed_forward.shared_expert.down_proj.weight" for i in range(3)
    ]
    tensors = {**{name: TensorInfo((4, 4), "float32") for name in names}, **LLAMA}
    tensors["x." + names[1]] = TensorInfo((4, 4), "float32")
    lines = summary(changed([names[0], "x." + names[1]]), tensors, {})
    assert len(lines) == 2
    assert all(line.startswith("one tensor: …") and "shared_expert.down_proj.weight changed (" in line for line in lines)
    lines += summary(changed(names[1:]), tensors, {}) + summary(changed(names, ChangeKind.MOVED, names[0]), tensors, {})
    assert all(len(line) < 200 for line in lines)


def moved(sources: dict[int, int], pattern: str = "proj") -> list[TensorChange]:
    return [
        TensorChange(f"model.layers.{layer}.{rest}", ChangeKind.MOVED, f"model.layers.{source}.{rest}", relative=1.4)
        for layer, source in sources.items()
        for rest in (name.removeprefix("model.layers.0.") for name in matching(r"layers\.0\." + f".*{pattern}"))
    ]


def test_layers_that_moved() -> None:
    assert of_llama(moved({2: 6, 6: 2})) == ["layers 2 and 6 are swapped (14 tensors)"]
    before, after = {i: i - 1 for i in range(3, 8)}, {i: i + 1 for i in range(3, 7)}
    assert of_llama(moved(before)) == ["layers 3 to 7 hold the weights of the layer before (35 tensors)"]
    assert of_llama(moved(after)) == ["layers 3 to 6 hold the weights of the layer after (28 tensors)"]
    assert of_llama(moved({4: 0})) == ["layer 4 holds the weights of layer 0 (7 tensors)"]
    assert of_llama(moved({4: 0, 5: 1})) == ["layers 4 and 5 hold the weights of the layer 4 before (14 tensors)"]


@pytest.mark.parametrize(
    ("sources", "gone", "words"),
    [
        ({5: 6, 6: 7}, [7], "layer 5 was taken out: layers 5 and 6 hold the weights of the layer after"),
        ({6: 7}, [7], "layer 6 was taken out: layer 6 holds the weights of the layer after"),
        ({i: i + 1 for i in range(7)}, [7], "layer 0 was taken out: layers 0 to 6 hold the weights of the layer after"),
        ({4: 6, 5: 7}, [6, 7], "layers 4 and 5 were taken out: layers 4 and 5 hold the weights of the layer 2 after"),
        ({2: 3, 3: 5, 4: 6, 5: 7}, [6, 7], "layers 2 and 4 were taken out: layers 2 to 5 hold the weights of later ones"),
    ],
)
def test_layers_that_were_taken_out(sources: dict[int, int], gone: list[int], words: str) -> None:
    missing = [TensorChange(name, ChangeKind.MISSING) for i in gone for name in matching(rf"layers\.{i}\.")]
    assert of_llama(moved(sources, "") + missing) == [words]
    bias = changed(["lm_head.weight"], relative=1e-3)
    assert of_llama(moved(sources, "") + missing + bias)[0] == words, "it matters more than what else changed"


def test_a_layer_that_was_taken_out_beside_one_that_changed_has_no_number() -> None:
    """The one that changed may be made from the one that is missing."""
    missing = [TensorChange(name, ChangeKind.MISSING) for name in matching(r"layers\.7\.")]
    lines = of_llama(moved({5: 6, 6: 7}, "") + missing + changed(matching(r"layers\.4\.mlp\.up")))
    assert lines[0] == "all 9 tensors of layer 7 missing in the candidate"
    assert "layers 5 and 6 hold the weights of the layer after (18 tensors)" in lines
    far = of_llama(moved({5: 6, 6: 7}, "") + missing + changed(matching(r"layers\.2\.mlp\.up")))
    assert far[0] == "layer 5 was taken out: layers 5 and 6 hold the weights of the layer after"


def test_the_stack_of_layers_is_named_where_there_are_several() -> None:
    tensors = {
        f"{stack}.block.{layer}.{kind}.weight": TensorInfo((4, 4), "float32")
        for stack in ("encoder", "decoder")
        for layer in range(4)
        for kind in ("up", "down")
    }

    def told(stack: str, sources: dict[int, int], there: str | None = None, missing: str = "none") -> list[str]:
        changes = [
            TensorChange(
                f"{stack}.block.{layer}.{kind}.weight", ChangeKind.MOVED, f"{there or stack}.block.{source}.{kind}.weight"
            )
            for layer, source in sources.items()
            for kind in ("up", "down")
        ]
        return list(summary([*changes, *changed(matching(missing, tensors), ChangeKind.MISSING)], tensors, {}))

    assert told("encoder", {1: 2, 2: 3}, missing=r"encoder\.block\.3") == [
        "layer 1 of encoder.block was taken out: layers 1 and 2 hold the weights of the layer after"
    ]
    assert told("decoder", {1: 2, 2: 1}) == ["layers 1 and 2 of decoder.block are swapped (4 tensors)"]
    assert told("decoder", {1: 1, 2: 2}, "encoder") == [
        "layers 1 and 2 of decoder.block hold the weights of the layer of the same number of encoder.block (4 tensors)"
    ]


def test_a_missing_tie_of_a_numbered_name_is_no_layer() -> None:
    changes = [TensorChange("lm_heads.0.weight", ChangeKind.MISSING), *changed(["model.layers.1.mlp.up_proj.weight"])]
    lines = summary(changes, LLAMA, {"lm_heads.0.weight": "model.embed_tokens.weight"})
    assert lines[0] == "lm_heads.0.weight is missing: the candidate has nothing in its place"


def test_layers_in_another_order_of_which_the_last_is_missing_were_not_taken_out() -> None:
    missing = [TensorChange(name, ChangeKind.MISSING) for name in matching(r"layers\.7\.")]
    lines = of_llama(moved({5: 6, 6: 4}, "") + missing)
    assert lines[0] == "all 9 tensors of layer 7 missing in the candidate"
    part = [change for change in missing if "mlp" in change.name]
    assert not any("taken out" in line for line in of_llama(moved({5: 6, 6: 7}, "") + part))


def test_a_layer_of_which_a_part_moved_did_not_move() -> None:
    changes = moved({4: 0}, "up_proj") + changed(["model.layers.4.mlp.gate_proj.weight"])
    assert "model.layers.4.mlp.up_proj.weight holds the values of model.layers.0.mlp.up_proj.weight" in of_llama(changes)


def test_single_tensors_that_are_swapped() -> None:
    q, k = "model.layers.1.mlp.gate_proj.weight", "model.layers.1.mlp.up_proj.weight"
    changes = [TensorChange(q, ChangeKind.MOVED, k), TensorChange(k, ChangeKind.MOVED, q)]
    assert of_llama(changes) == [f"{q} and {k} are swapped"]


def test_ties_that_were_lost() -> None:
    def words(kind: ChangeKind, what: str, relative: float | None) -> str:
        (line,) = summary([TensorChange("lm_head.weight", kind, what, relative=relative)], GPT2, GPT2_TIES)
        return line

    own = "lm_head.weight is a tensor of its own now, no longer tied to transformer.wte.weight"
    assert words(ChangeKind.UNTIED, "transformer.wte.weight", 0.25) == f"{own}, and 0.25 away from it"
    assert words(ChangeKind.UNTIED, "transformer.wte.weight", 0.0) == f"{own}; its values are still equal"
    assert words(ChangeKind.MISSING, "", None) == "lm_head.weight is missing: the candidate has nothing in its place"
    lost = [TensorChange("lm_head.weight", ChangeKind.MISSING, "model.embed_tokens.weight", relative=1.4)]
    assert of_llama(lost) == ["lm_head.weight was lost: the candidate uses model.embed_tokens.weight in its place (tied)"]


def test_tensors_that_only_the_candidate_has() -> None:
    extra = {f"model.layers.{i}.self_attn.q_proj.bias": TensorInfo((32,), "float32") for i in range(8)}
    assert summary(changed(extra, ChangeKind.EXTRA), LLAMA, {}, extra) == ("all 8 biases only in the candidate",)
    layer = {name.replace("layers.0.", "layers.8."): info for name, info in LLAMA.items() if "layers.0." in name}
    assert summary(changed(layer, ChangeKind.EXTRA), LLAMA, {}, layer) == ("all 9 tensors of layer 8 only in the candidate",)


def test_no_change_is_no_sentence() -> None:
    assert of_llama([]) == []
