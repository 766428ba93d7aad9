from __future__ import annotations

from dataclasses import replace

from pytest_pot.engines.weights import ChangeKind, TensorChange
from pytest_pot.scoring.diagnosis.moved import with_moved

from .tensors import known, llama_shapes

SHAPES = llama_shapes(6)
PAIRS = {name: name for name in SHAPES}


def looked_up(content: dict[str, str], changes: list[TensorChange]) -> tuple[dict[str, str], list[str]]:
    """What was found to have moved, and whose digests were asked for."""
    candidate, asked = known(SHAPES, content=content), []

    def digest(name: str) -> bytes:
        asked.append(name)
        return candidate.digest(name)

    changes = list(with_moved(changes, PAIRS, known(SHAPES), digest))
    return {change.name: change.what for change in changes if change.kind is ChangeKind.MOVED}, asked


def changed(names: list[str], relative: float = 1.4, kind: ChangeKind = ChangeKind.CHANGED) -> list[TensorChange]:
    return [TensorChange(name, kind, relative=relative) for name in names]


def test_values_of_another_tensor_are_recognised() -> None:
    name, source = "model.layers.2.mlp.up_proj.weight", "model.layers.4.mlp.gate_proj.weight"
    assert looked_up({name: source}, changed([name]))[0] == {name: source}


def test_other_tensors_of_a_layer_that_moved_are_looked_up_however_little_they_changed() -> None:
    norm, matrix = (f"model.layers.2.{rest}.weight" for rest in ("input_layernorm", "mlp.up_proj"))
    sources = {name: name.replace("layers.2", "layers.4") for name in (norm, matrix)}
    assert looked_up(sources, changed([norm], 0.1) + changed([matrix]))[0] == sources
    assert looked_up(sources, changed([norm], 0.1)) == ({}, [])


def test_a_tensor_that_was_reset_is_not_taken_for_another_one_with_the_same_value() -> None:
    name, source = "model.layers.2.input_layernorm.weight", "model.layers.4.input_layernorm.weight"
    reset = [replace(change, detail="all values are 1") for change in changed([name])]
    assert looked_up({name: source}, reset) == ({}, [])
    whole = {name.replace("layers.4", "layers.2"): name for name in SHAPES if "layers.4." in name}
    assert looked_up(whole, reset + changed([other for other in whole if other != name]))[0] == whole


def test_what_changed_a_little_or_in_a_known_way_is_not_read() -> None:
    names = list(SHAPES)
    assert looked_up({}, changed(names, 0.4)) == ({}, [])
    assert looked_up({}, changed(names, 1.0, ChangeKind.ZERO)) == ({}, [])


def test_a_model_that_was_trained_is_not_read_to_the_end() -> None:
    moved, asked = looked_up({name: f"new {name}" for name in SHAPES}, changed(list(SHAPES)))
    assert moved == {}
    assert 0 < len(asked) <= 16


def test_values_that_several_tensors_have_are_no_source() -> None:
    name = "model.layers.2.input_layernorm.weight"
    ones = {f"model.layers.{i}.input_layernorm.weight": "ones" for i in range(6)}
    candidate = known(SHAPES, content=ones)
    reference = known(SHAPES, content={key: value for key, value in ones.items() if key != name})
    assert with_moved(changed([name]), PAIRS, reference, candidate.digest)[0].kind is ChangeKind.CHANGED
