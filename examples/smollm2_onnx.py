"""SmolLM2 as an ONNX graph, exported from the reference, and a quantised version of it.

Exporting takes half a minute, so we do it once, and keep the graphs beside the converted model; see smollm2.py. In your own
suite, the graphs come from your build: from optimum, or from torch.onnx.export as here.
"""

from __future__ import annotations

import logging
import warnings
from pathlib import Path

import smollm2
import torch


def graph() -> Path:
    """The folder with the reference's graph in float32, its config and its tokenizer."""
    return smollm2.folder("smollm2-135m-instruct-onnx", export)


def int8() -> Path:
    """The same with 8-bit weights and activations, as ONNX Runtime's dynamic quantisation makes it."""
    return smollm2.folder("smollm2-135m-instruct-onnx-int8", quantise)


class LogitsOnly(torch.nn.Module):
    """A model that returns a tensor: the exporter knows no outputs of transformers."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.model(input_ids, attention_mask=attention_mask, use_cache=False).logits
        return logits


def export(target: Path) -> None:
    model, tokenizer = smollm2.reference()
    ids = torch.ones(2, 8, dtype=torch.int64)
    axes = {0: "batch", 1: "length"}  # of any size: pytest-pot gives batches of texts of different lengths
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the tracer warns of each branch in the model's code
        torch.onnx.export(
            LogitsOnly(model),
            (ids, torch.ones_like(ids)),
            str(target / "model.onnx"),
            input_names=["input_ids", "attention_mask"],
            output_names=["logits"],
            dynamic_axes={"input_ids": axes, "attention_mask": axes, "logits": axes},
            dynamo=False,  # the newer exporter takes several times as long
        )
    model.config.save_pretrained(target)
    tokenizer.save_pretrained(target)


def quantise(target: Path) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    source = graph()
    logging.disable(logging.WARNING)  # it recommends a preprocessing step, which changes nothing here
    try:
        quantize_dynamic(source / "model.onnx", target / "model.onnx", weight_type=QuantType.QInt8)
    finally:
        logging.disable(logging.NOTSET)
    model, tokenizer = smollm2.reference()
    model.config.save_pretrained(target)
    tokenizer.save_pretrained(target)
