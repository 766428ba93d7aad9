"""The models that the pages name, as folders: a tiny random Llama and changed copies of it, or SmolLM2."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedModel, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from pytest_pot import builtin_prompts
from tests.unit.models import tiny

__all__ = ["CHANGES", "save_smollm2", "save_tiny_models"]

EXAMPLES = Path(__file__).parents[2] / "examples"

_VOCAB = 400
_SHARPNESS = 10.5
"""Random matrices are multiplied by this, so that a gate finds evidence: a few tokens have most of the probability."""


def _rounded_to_8_bits(weight: torch.Tensor) -> torch.Tensor:
    """Each row as integers with a scale."""
    scale = weight.abs().amax(dim=1, keepdim=True).clamp(min=1e-9) / 127
    return torch.round(weight / scale) * scale


def _rounded_to_4_bits(weight: torch.Tensor) -> torch.Tensor:
    """Each 4 weights as integers from 0 to 15 with a scale and an offset."""
    groups = weight.reshape(-1, 4)
    least = groups.amin(dim=1, keepdim=True)
    scale = (groups.amax(dim=1, keepdim=True) - least).clamp(min=1e-9) / 15
    return (torch.round((groups - least) / scale) * scale + least).reshape(weight.shape)


def _pruned(weight: torch.Tensor) -> torch.Tensor:
    """The third of the weights that is nearest to zero, set to zero."""
    size = weight.abs()
    return weight.masked_fill(size <= size.flatten().kthvalue(weight.numel() // 3).values, 0.0)


CHANGES: Mapping[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "base": lambda weight: weight,
    "base-copy": lambda weight: weight,
    "base-bf16": lambda weight: weight.to(torch.bfloat16).to(torch.float32),
    "base-int8": _rounded_to_8_bits,
    "base-int4": _rounded_to_4_bits,
    "base-pruned": _pruned,
}
"""What each folder's matrices are made of the base's matrices by."""


def save_tiny_models(folder: Path) -> None:
    """All of :data:`CHANGES` and ``small``, from a random Llama of two layers."""
    sizes = {"vocab_size": _VOCAB, "max_position_embeddings": 1024, "hidden_size": 64, "intermediate_size": 96}
    tokenizer = _tokenizer()
    _save(folder, tiny("llama", scale=_SHARPNESS, **sizes), tokenizer, tuple(CHANGES))
    small = tiny("llama", seed=1, scale=_SHARPNESS, num_hidden_layers=1, **sizes)
    small.save_pretrained(folder / "small")
    tokenizer.save_pretrained(folder / "small")


def save_smollm2(folder: Path) -> None:
    """``base`` and its roundings, from SmolLM2."""
    if str(EXAMPLES) not in sys.path:
        sys.path.append(str(EXAMPLES))
    import smollm2

    model, tokenizer = smollm2.reference()
    _save(folder, model, tokenizer, ("base", "base-bf16", "base-int8", "base-int4"))


def _save(folder: Path, base: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, names: tuple[str, ...]) -> None:
    """The folders ``names`` of :data:`CHANGES`."""
    for name in names:
        model = copy.deepcopy(base)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim == 2:
                    parameter.copy_(CHANGES[name](parameter))
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)


def _tokenizer() -> PreTrainedTokenizerFast:
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=_VOCAB, initial_alphabet=alphabet, show_progress=False)
    backend.train_from_iterator([prompt.text + (prompt.continuation or "") for prompt in builtin_prompts(64)], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=backend)
