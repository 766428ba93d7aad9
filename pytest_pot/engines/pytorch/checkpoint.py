"""Loading a transformers checkpoint: a folder or hub id with safetensors weights, or a ``.gguf`` file.

Only safetensors and GGUF files are loaded, and no code from a model's repository is run.
"""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import Any

import torch

from pytest_pot.core.config import ScoringConfig
from pytest_pot.core.errors import PotError
from pytest_pot.core.gc_pause import gc_paused
from pytest_pot.engines.base import LoadedModel
from pytest_pot.engines.loading import (
    MODEL_FORMS,
    gguf_source,
    load_tokenizer,
    loading_errors,
    require_packages,
    without_progress_bars,
)
from pytest_pot.engines.model_files import (
    n_gguf_files,
    onnx_graphs_in,
    refuse_git_leftovers_of_model,
    refuse_git_leftovers_of_tokenizer,
)
from pytest_pot.engines.pytorch.adapters import (
    IGNORE_ADAPTER,
    IGNORED,
    Adapter,
    adapter_in,
    apply_adapter,
    check_not_applied,
    without_adapter,
)
from pytest_pot.engines.pytorch.causality import refuse_bidirectional
from pytest_pot.engines.pytorch.description import note, note_adapter, origin_of_file, origin_of_folder, remember
from pytest_pot.engines.pytorch.device import choose_device, choose_dtype, own_dtype, rng_untouched
from pytest_pot.engines.pytorch.loading_info import complete_model
from pytest_pot.engines.pytorch.quantised import is_quantised, loading_options, quantisation_errors, refuse_dtype, settings_in

__all__ = ["load_checkpoint"]

_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json", "spiece.model")


def load_checkpoint(spec: str, role: str, config: ScoringConfig) -> LoadedModel:
    """The model that ``spec`` names, in evaluation mode, on ``config``'s device in its dtype, and the tokenizer beside it.

    Raises:
        PotError: the model or its tokenizer cannot be loaded; the message gives the reason.
    """
    refuse_git_leftovers_of_model(spec, role)
    if _may_have_tokenizer(spec):  # before the weights are loaded, which may take minutes
        refuse_git_leftovers_of_tokenizer(spec, role)
    # Imported modules and loaded weights stay in use; searching them for garbage repeatedly took a sixth of the time.
    with gc_paused(), without_progress_bars(), rng_untouched():
        adapter = adapter_in(spec)
        if adapter is not None and not adapter.beside_full_weights:
            return _load_adapter(adapter, role, config)
        model = _load_weights(spec, role, config)
        if adapter is not None:
            note(model, IGNORED)
        graphs = onnx_graphs_in(Path(spec))
        if graphs:
            note(model, f"its folder has ONNX graphs too, which were not scored: name the file for that, such as {graphs[0]}")
        return LoadedModel(model, _tokenizer_beside(spec, role), movable=True)


def _load_adapter(adapter: Adapter, role: str, config: ScoringConfig) -> LoadedModel:
    """The base model with ``adapter`` applied. Its tokenizer is the adapter's own, or else that of the base model."""
    spec, what = adapter.folder, f"the {role} {adapter.folder!r}"
    model = apply_adapter(adapter, what, partial(_loaded, config=config))
    _convert(model, config)
    note_adapter(model, adapter.kind)
    tokenizer = _tokenizer_beside(spec, role)
    return LoadedModel(model, tokenizer or _tokenizer_beside(str(adapter.base), role), movable=True)


def _load_weights(spec: str, role: str, config: ScoringConfig) -> Any:
    return _loaded(spec, f"the {role} {spec!r}", config)


def _loaded(spec: str, what: str, config: ScoringConfig) -> Any:
    """The model of the folder, hub id or ``.gguf`` file ``spec``, which messages call ``what``."""
    device = choose_device(config.device)
    folder, options = gguf_source(spec)
    settings = None if options else settings_in(folder)
    if options:
        # A GGUF file holds quantised weights; transformers dequantises them to float32.
        options["dtype"] = choose_dtype(config.dtype, torch.float32, device)
    else:
        options["dtype"] = "auto" if config.dtype == "auto" else choose_dtype(config.dtype, None, device)
        options |= {"use_safetensors": True, **IGNORE_ADAPTER, **loading_options(settings, device, config.dtype)}
    with quantisation_errors(what, settings, device), loading_errors(what, MODEL_FORMS, spec):
        if "gguf_file" in options:
            require_packages(f"reading {spec!r}", ("gguf", "accelerate"), "gguf")
            _refuse_split(spec, what)
        with without_adapter(folder) as files:
            model = complete_model(files, options, what, config.allow_tensors)
        if files != folder:
            model.name_or_path = model.config._name_or_path = folder
        model.eval()
        loaded_dtype = own_dtype(model)
        _convert(model, config)
        if model.device.type != device.type:
            model.to(device)
    check_not_applied(model, what)
    refuse_bidirectional(model, what)
    if is_quantised(model):
        refuse_dtype(model, config, what)
    asked_for = loaded_dtype if config.dtype == "auto" else None
    gguf_file = options.get("gguf_file")
    remember(model, origin_of_file(folder, gguf_file) if gguf_file else origin_of_folder(folder, settings, asked_for))
    return model


def _convert(model: Any, config: ScoringConfig) -> None:
    """Convert ``model`` to the dtype of ``config``, unless it is quantised."""
    own = own_dtype(model)
    dtype = choose_dtype(config.dtype, own, choose_device(config.device))
    if own != dtype and not is_quantised(model):
        model.to(dtype)


def _tokenizer_beside(spec: str, role: str) -> Any:
    if not _may_have_tokenizer(spec):
        return None
    try:
        return load_tokenizer(spec)
    except PotError as error:
        if os.path.exists(spec):
            raise PotError(f"the {role}'s weights were loaded, but not its tokenizer: {error}") from error
        return None  # a hub repository may hold weights only


def _may_have_tokenizer(spec: str) -> bool:
    """Whether a tokenizer is looked for: a folder without any file of one has none."""
    path = Path(spec)
    return not os.path.isdir(path) or any((path / name).exists() for name in _TOKENIZER_FILES)


def _refuse_split(spec: str, what: str) -> None:
    n = n_gguf_files(spec)
    if n > 1:
        raise PotError(
            f"cannot load {what}: it is split into {n} files, and transformers reads one. Run it with llama.cpp, as "
            f"llamacpp://{spec}, or make it one file: llama-gguf-split --merge FIRST.gguf WHOLE.gguf"
        )
