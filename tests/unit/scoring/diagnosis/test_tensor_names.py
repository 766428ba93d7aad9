from __future__ import annotations

import pytest

from pytest_pot.engines.weights import TensorInfo
from pytest_pot.scoring.diagnosis.tensor_names import Role, TensorName, role, template

VECTOR, MATRIX = TensorInfo((4,), "float32"), TensorInfo((4, 4), "float32")


@pytest.mark.parametrize(
    ("name", "info", "expected"),
    [
        ("model.embed_tokens.weight", MATRIX, Role.EMBEDDINGS),
        ("transformer.wte.weight", MATRIX, Role.EMBEDDINGS),
        ("gpt_neox.embed_in.weight", MATRIX, Role.EMBEDDINGS),
        ("tok_embeddings.weight", MATRIX, Role.EMBEDDINGS),
        ("embed_out.weight", MATRIX, Role.OUTPUT),
        ("lm_head.weight", MATRIX, Role.OUTPUT),
        ("output.weight", MATRIX, Role.OUTPUT),
        ("transformer.wpe.weight", MATRIX, Role.POSITIONS),
        ("model.decoder.embed_positions.weight", MATRIX, Role.POSITIONS),
        ("model.layers.3.input_layernorm.weight", VECTOR, Role.NORM),
        ("transformer.h.3.ln_1.bias", VECTOR, Role.NORM),
        ("model.layers.3.self_attn.q_norm.weight", VECTOR, Role.NORM),
        ("transformer.h.3.attn.c_attn.bias", VECTOR, Role.BIAS),
        ("model.layers.3.mlp.experts.gate_up_proj", TensorInfo((2, 4, 4), "float32"), Role.EXPERT),
        ("model.layers.3.block_sparse_moe.experts.2.w1.weight", MATRIX, Role.EXPERT),
        ("model.layers.3.mlp.gate.weight", MATRIX, Role.MATRIX),
        ("backbone.layers.3.mixer.A_log", MATRIX, Role.MATRIX),
        ("backbone.layers.3.mixer.D", VECTOR, Role.OTHER),
    ],
)
def test_the_role_of_a_tensor(name: str, info: TensorInfo, expected: Role) -> None:
    assert role(name, info) is expected


def test_a_name_is_taken_apart_at_its_layer() -> None:
    assert TensorName.of("model.layers.12.mlp.experts.3.w1.weight") == TensorName("model.layers", 12, "mlp.experts.3.w1.weight")
    assert TensorName.of("0.weight") == TensorName("", 0, "weight")
    assert TensorName.of("lm_head.weight") == TensorName("", None, "lm_head.weight")
    assert template("model.layers.12.mlp.experts.3.w1.weight") == "model.layers.*.mlp.experts.*.w1.weight"
