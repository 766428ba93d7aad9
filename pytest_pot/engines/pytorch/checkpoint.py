"""Loading a transformers checkpoint: a directory or hub id with safetensors weights, or a ``.gguf`` file.

Only safetensors and GGUF files are loaded, and no code from a model's repository is run.
"""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Any

import torch

from pytest_pot.core.config import ScoringConfig
from pytest_pot.core.errors import PotError
from pytest_pot.core.gc_pause import gc_paused
from pytest_pot.engines.base import LoadedModel
from pytest_pot.engines.loading import MODEL_FORMS, gguf_source, load_tokenizer, loading_errors, without_progress_bars
from pytest_pot.engines.model_files import refuse_git_leftovers_of_model
from pytest_pot.engines.pytorch.device import choose_device, choose_dtype, own_dtype, rng_untouched

__all__ = ["load_checkpoint"]

_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json", "spiece.model")


def load_checkpoint(spec: str, role: str, config: ScoringConfig) -> LoadedModel:
    """The model that ``spec`` names, in evaluation mode, on ``config``'s device in its dtype, and the tokenizer beside it.

    Raises:
        PotError: the model or its tokenizer cannot be loaded; the message gives the reason.
    """
    refuse_git_leftovers_of_model(spec, role)
    # Imported modules and loaded weights stay in use; searching them for garbage repeatedly took a sixth of the time.
    with gc_paused(), without_progress_bars(), rng_untouched():
        model = _load_weights(spec, role, config)
        return LoadedModel(model, _tokenizer_beside(spec, role), movable=True)


def _load_weights(spec: str, role: str, config: ScoringConfig) -> Any:
    from transformers import AutoModelForCausalLM

    device = choose_device(config.device)
    folder, options = gguf_source(spec)
    if options:
        # A GGUF file holds quantised weights; transformers dequantises them to float32.
        _require_gguf(spec)
        options["dtype"] = choose_dtype(config.dtype, torch.float32, device)
    else:
        options["dtype"] = "auto" if config.dtype == "auto" else choose_dtype(config.dtype, None, device)
        options["use_safetensors"] = True
    with loading_errors(f"the {role} {spec!r}", MODEL_FORMS):
        model: Any = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=False, **options)
        model.eval()
        loaded_dtype = own_dtype(model)
        dtype = choose_dtype(config.dtype, loaded_dtype, device)
        if loaded_dtype != dtype:
            model.to(dtype)
        if model.device.type != device.type:
            model.to(device)
    return model


def _tokenizer_beside(spec: str, role: str) -> Any:
    path = Path(spec)
    if os.path.isdir(path) and not any((path / name).exists() for name in _TOKENIZER_FILES):
        return None
    try:
        return load_tokenizer(spec)
    except PotError as error:
        if os.path.exists(path):
            raise PotError(f"the {role}'s weights were loaded, but not its tokenizer: {error}") from error
        return None  # a hub repository may hold weights only


def _require_gguf(spec: str) -> None:
    for name in ("gguf", "accelerate"):
        if importlib.util.find_spec(name) is None:
            raise PotError(f"reading {spec!r} needs the package {name}: pip install 'pytest-pot[gguf]'")
