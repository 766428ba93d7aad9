from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np

from pytest_pot.engines.module_differences import ModuleDifference, ModuleTrace
from pytest_pot.engines.weights import ChangeKind, TensorChange
from pytest_pot.scoring.diagnosis.diagnosis import ConfigChange, Diagnosis, WeightsDifference
from pytest_pot.scoring.diagnosis.lines import what_changed, where_it_starts

EQUAL = WeightsDifference(272, 272, (), (), recorded=False)
ONE = TensorChange("model.norm.weight", ChangeKind.CHANGED, relative=0.001)
SOME = WeightsDifference(272, 271, (ONE,), ("one tensor: model.norm.weight changed (relative change 0.001)",), recorded=False)
ROPE = ConfigChange("rope_theta", 100000.0, 10000.0)


def lines(
    *config: ConfigChange, weights: WeightsDifference | None = EQUAL, notes: tuple[str, ...] = (), same: bool = False
) -> list[str]:
    return list(what_changed(Diagnosis(config, weights, None, same_weights=same, notes=notes)))


def test_a_change_of_the_configuration_alone() -> None:
    assert lines(ROPE) == ["rope_theta 100000 -> 10000; all 272 tensors are equal"]


def test_a_change_of_the_weights_alone() -> None:
    assert lines(weights=SOME) == [*SOME.summary, "271 of 272 tensors are equal, and so is the configuration"]
    in_half = what_changed(Diagnosis((), SOME, None, precisions=("float32", "float16")))
    assert in_half[-1] == "computed in another precision (float32 and float16)"


def test_both_changed() -> None:
    assert lines(ROPE, weights=SOME) == ["rope_theta 100000 -> 10000", *SOME.summary, "271 of 272 tensors are equal"]


def test_nothing_changed() -> None:
    diagnosis = Diagnosis((), EQUAL, None, same_weights=True)
    assert what_changed(diagnosis) == ["all 272 tensors are equal, and so is the configuration"]
    assert what_changed(replace(diagnosis, config=None)) == ["all 272 tensors are equal (of a configuration, nothing is known)"]
    assert what_changed(replace(diagnosis, precisions=("float32", "bfloat16"))) == [
        "same weights, computed in another precision (float32 and bfloat16): all 272 tensors are equal, and so is the "
        "configuration"
    ]


def test_values_are_short_but_told_apart() -> None:
    def words(reference: object, candidate: object) -> str:
        return lines(ConfigChange("field", reference, candidate), weights=None)[0]

    assert words(1e-5, 1e-3) == "field 1e-05 -> 0.001"
    assert words(0.0883883, 0.125) == "field 0.0884 -> 0.125"
    assert words(1e-5, 1.0001e-5) == "field 1e-05 -> 1.0001e-05"
    assert words(True, False) == "field true -> false"
    assert words(None, 4096) == "field none -> 4096"
    assert words("silu", "gelu") == "field silu -> gelu"
    assert words("1", 1) == "field '1' -> 1"
    assert words(["a", "b"], ["a", "c"]) == "field ['a', 'b'] -> ['a', 'c']"
    assert words(["a"] * 30, ["a"] * 6 + ["b"] * 24) == "field: 24 of 30 entries differ, the first at 6: a -> b"
    assert words("\x1b[2J", "b") == r"field \x1b[2J -> b"
    assert len(words(["long"] * 100, ["longer"] * 90)) < 200


def test_many_fields_share_lines_and_the_first_line_comes_before_the_weights() -> None:
    fields = [ConfigChange(f"a_field_of_some_length_{i}", i, i + 1) for i in range(10)]
    first, summary, *rest = lines(*fields, weights=SOME)
    assert first.startswith("a_field_of_some_length_0 0 -> 1, a_field_of_some_length_1 1 -> 2")
    assert summary == SOME.summary[0]
    assert all(len(line) < 200 for line in (first, *rest))
    assert all(f"length_{i} " in " ".join((first, *rest)) for i in range(10))


def test_numbers_that_modules_keep() -> None:
    everywhere = ConfigChange("model.layers.*.self_attn.scaling", 0.125, 0.1, n_modules=30)
    kept = "(kept by the modules, not by the configuration)"
    assert lines(everywhere, weights=None) == [f"scaling of all 30 self_attn: 0.125 -> 0.1 {kept}"]
    one = ConfigChange("model.layers.3.self_attn.scaling", 0.125, 0.1, n_modules=1)
    assert lines(one, weights=None) == [f"model.layers.3.self_attn.scaling: 0.125 -> 0.1 {kept}"]
    two = replace(one, field="model.layers.4.self_attn.scaling")
    assert lines(one, two, weights=None) == [f"scaling of 2 self_attn: 0.125 -> 0.1 {kept}"]
    three = replace(two, candidate=0.2)
    assert lines(one, three, weights=None) == [
        f"scaling of 2 self_attn: 0.125 -> 0.1 in model.layers.3.self_attn, others elsewhere {kept}"
    ]


def test_buffers_that_are_computed_are_one_line() -> None:
    changes = tuple(
        TensorChange(f"model.rotary_emb.{name}", ChangeKind.CHANGED, relative=0.5) for name in ("inv_freq", "original_inv_freq")
    )
    assert lines(weights=replace(EQUAL, computed=changes)) == [
        "the computed buffers have other values (relative change 0.5), which no field of the configuration explains: "
        "model.rotary_emb.inv_freq, model.rotary_emb.original_inv_freq",
        "all 272 saved tensors are equal, and so is the configuration",
    ]


UNTIED = TensorChange("lm_head.weight", ChangeKind.UNTIED, "model.embed_tokens.weight", relative=0.3)
OWN = "lm_head.weight is a tensor of its own now"


def test_a_tie_that_was_cut_comes_before_the_field_and_all_others_are_the_others() -> None:
    tie = ConfigChange("tie_word_embeddings", True, False)
    weights = replace(EQUAL, changes=(UNTIED,), summary=(OWN,))
    others = "the other 272 tensors are equal"
    assert lines(tie, weights=weights) == [OWN, "tie_word_embeddings true -> false", others]
    assert lines(ROPE, tie, weights=weights) == ["rope_theta 100000 -> 10000, tie_word_embeddings true -> false", OWN, others]
    assert lines(weights=weights) == [OWN, f"{others}, and so is the configuration"]
    still_equal = replace(weights, changes=(replace(UNTIED, relative=0.0),))
    assert lines(tie, weights=still_equal)[-1] == "all 272 tensors are equal"


def test_beside_tensors_that_only_one_model_has_all_others_are_the_others() -> None:
    for kind in (ChangeKind.EXTRA, ChangeKind.MISSING):
        weights = replace(EQUAL, changes=(TensorChange("a.bias", kind),), summary=("a sentence",))
        assert lines(weights=weights)[-1] == "the other 272 tensors are equal, and so is the configuration"


def test_what_is_not_known_comes_last_and_there_is_always_a_line() -> None:
    assert lines(ROPE, weights=None, notes=("the weights cannot be matched",)) == [
        "rope_theta 100000 -> 10000",
        "the weights cannot be matched",
    ]
    assert what_changed(Diagnosis(None, None, None)) == ["nothing is known of what changed"]


MLP = ModuleDifference("model.layers.3.mlp", "LlamaMLP", before=3e-7, after=0.01, noise=2e-7)


def starts(first: ModuleDifference | None, largest: ModuleDifference | None = None, n: int = 1) -> list[str]:
    return list(where_it_starts(Diagnosis((), EQUAL, ModuleTrace(first, largest, 61, n))))


def test_where_it_starts() -> None:
    begin = "model.layers.3.mlp (LlamaMLP): its output differs by 0.01 of its norm for the same inputs (noise 2e-07)"
    assert starts(MLP) == [f"{begin}; the modules before it agree to 3e-07"]
    assert starts(replace(MLP, itself=True)) == [
        f"{begin}, in what its own forward computes: each module inside it agrees; the modules before it agree to 3e-07"
    ]
    assert starts(replace(MLP, before=0.0)) == [f"{begin}; the modules before it are equal"]
    assert starts(replace(MLP, name=""))[0].startswith("the model itself (LlamaMLP): ")
    other = replace(MLP, name="lm_head", module_class="Linear", after=0.5)
    assert starts(MLP, other, 5)[1:] == [
        "the largest difference arises in lm_head (Linear): 0.5 for the same inputs",
        "5 of 61 modules differ by more than rounding",
    ]
    hook = "; the candidate has a forward hook there: conftest.hook"
    hooked = replace(MLP, own_code=hook.removeprefix("; "))
    assert starts(hooked) == [f"{begin}{hook}; the modules before it agree to 3e-07"]
    assert starts(replace(hooked, itself=True)) == [
        f"{begin}{hook}; each module inside it agrees; the modules before it agree to 3e-07"
    ]
    assert where_it_starts(Diagnosis((), EQUAL, None)) == []
    noted = ModuleTrace(MLP, None, 61, 1, note="one module did not run")
    assert where_it_starts(Diagnosis((), EQUAL, noted))[-1] == "one module did not run"


def test_where_nothing_stands_out_above_rounding() -> None:
    agreeing = ModuleTrace(None, None, 61, 0)
    rounded = replace(agreeing, within=0.0042, precision="bfloat16")
    explained = "0.0042, which rounding to bfloat16 explains"
    wrapper = "the candidate (Wrapper)"
    for trace, line in (
        (agreeing, "in no module: all 61 are equal for the same inputs"),
        (rounded, f"in no module: none of 61 differs for the same inputs by more than {explained}"),
        (replace(agreeing, wrapper=wrapper), "in what wraps the candidate (Wrapper): all 61 modules inside are equal"),
        (
            replace(rounded, wrapper=wrapper),
            f"in what wraps the candidate (Wrapper): all 61 modules inside agree to {explained}",
        ),
    ):
        assert where_it_starts(Diagnosis((), EQUAL, trace)) == [line]
        assert where_it_starts(Diagnosis((ROPE,), EQUAL, trace)) == []
        assert where_it_starts(Diagnosis((), SOME, trace)) == []
    noted = replace(agreeing, note="the models are of different classes")
    assert len(where_it_starts(Diagnosis((), EQUAL, noted))) == 2


def test_why_it_is_not_known_is_short_and_no_change() -> None:
    for n_modules in (0, 61):
        trace = ModuleTrace(None, None, n_modules, 0, note="a reason " * 50, incomplete=True)
        for diagnosis in (Diagnosis((), EQUAL, trace), Diagnosis((ROPE,), SOME, trace)):
            (line,) = where_it_starts(diagnosis)
            assert line.startswith("not known: a reason ")
            assert len(line) < 200
            assert not any("a reason" in line for line in what_changed(diagnosis))


def test_the_first_module_behind_changed_tensors_is_the_first_above_rounding() -> None:
    order = ("model.norm", MLP.name, "lm_head")
    for change, before, hidden in ((ONE, 3e-7, True), (ONE, 0.0, False), (replace(ONE, name="lm_head.weight"), 3e-7, False)):
        trace = ModuleTrace(replace(MLP, before=before), None, 61, 1, order=order)
        line = where_it_starts(Diagnosis((), replace(SOME, changes=(change,)), trace))[0]
        assert line.startswith("model.layers.3.mlp (LlamaMLP), the first above rounding: its output") == hidden


def test_a_diagnosis_as_json() -> None:
    change = TensorChange("a", ChangeKind.NOT_FINITE, relative=math.nan, amount=float(np.float64(math.inf)))
    weights = WeightsDifference(2, 1, (change,), ("a sentence",), recorded=True)
    trace = ModuleTrace(replace(MLP, after=np.float32(0.5)), None, 61, 1)  # type: ignore[arg-type]
    diagnosis = Diagnosis((ConfigChange("eps", 1e-5, None),), weights, trace, precisions=("float32", "bfloat16"))
    document = json.loads(json.dumps(diagnosis.to_dict(), allow_nan=False))
    assert (
        document["weights"]["changes"][0] | {"kind": "not finite", "relative": "nan", "amount": "inf"}
        == (document["weights"]["changes"][0])
    )
    assert document["config"] == [{"field": "eps", "reference": 1e-5, "candidate": None, "n_modules": 0}]
    assert document["trace"]["first"]["after"] == 0.5
    assert "order" not in document["trace"]
    assert document["precisions"] == ["float32", "bfloat16"]
    assert document["what_changed"] == []


def test_another_class_comes_first_unless_its_modules_agree() -> None:
    equal = "all 272 tensors are equal, and so is the configuration"
    diagnosis = Diagnosis((), EQUAL, None, same_weights=True, classes=("One", "Other"), precisions=("float32", "bfloat16"))
    in_half = "computed in another precision (float32 and bfloat16)"
    assert what_changed(diagnosis) == ["class One -> Other", equal, in_half]
    agree = replace(diagnosis, trace=ModuleTrace(None, None, n_modules=396, n_differing=0))
    assert what_changed(agree) == [f"same weights, {in_half}: {equal}", "class One -> Other"]


def test_the_first_line_is_the_field_unless_tensors_show_it() -> None:
    """A field of the types of layers changes without a layer less, too."""
    types = ConfigChange("layer_types", ["sliding"], ["full"])
    rounded = TensorChange("a.weight", ChangeKind.ROUNDED, "bfloat16")
    gone = TensorChange("b.3.weight", ChangeKind.MISSING)
    for change, first in ((rounded, "layer_types"), (gone, "a sentence")):
        weights = replace(EQUAL, n_equal=4, changes=(change,), summary=("a sentence",))
        assert lines(types, weights=weights)[0].startswith(first)
