"""Gate what is shipped: an ONNX graph, run by ONNX Runtime, against the model that it was exported from.

A graph is named like any model: `candidate="build/model.onnx"`, or the folder that holds it, as optimum writes it. Here it is
exported first, so a fixture names it. It needs `pip install 'pytest-pot[onnx]'`, and for exporting and quantising `onnx`.
"""

import pytest
import smollm2_onnx


class TestExport:
    @pytest.fixture
    def pot_candidate(self) -> str:
        return str(smollm2_onnx.graph())

    # The same weights in the same precision: only the order of sums differs. A conversion that went wrong (another base of the
    # rotary embeddings, a mask that is off by one) scores far above this limit.
    @pytest.mark.pot_identity(tolerance="numeric", prompts="prompts.jsonl")
    def test_the_graph_is_the_model(self) -> None:
        pass


class TestDynamicInt8:
    @pytest.fixture
    def pot_candidate(self) -> str:
        return str(smollm2_onnx.int8())

    # Dynamic quantisation rounds the activations of a whole pass with one scale, which costs this model more than 8-bit weights
    # alone do: it is above the tolerance that is meant for those.
    @pytest.mark.pot_distinct(tolerance="int8", prompts="prompts.jsonl")
    def test_dynamic_int8_is_another_model(self) -> None:
        pass
