"""From a spec to a model and its tokenizer: a directory or hub id, a ``.gguf`` file, ``package.module:factory``.

Files are loaded as safetensors or GGUF only and no code from a model's repository is run, unless the user's own factory
does otherwise.
"""

from __future__ import annotations

import importlib
import importlib.util
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from pytest_pot.core.config import ScoringConfig
from pytest_pot.core.errors import PotError
from pytest_pot.core.gc_pause import no_garbage_collection
from pytest_pot.engines.base import LoadedModel
from pytest_pot.engines.pytorch.device import choose_device, choose_dtype, own_dtype, rng_untouched

__all__ = ["load_model", "load_tokenizer"]

_FACTORY = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")
_FORMS = (
    "A model is named by a directory or hub id with safetensors weights, a .gguf file, or package.module:factory, a callable "
    "that returns the model or (model, tokenizer)."
)
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json", "spiece.model")


def load_model(spec: str, role: str, config: ScoringConfig) -> LoadedModel:
    """The model that ``spec`` names, in evaluation mode, on ``config``'s device in its dtype, and its tokenizer if it has one.

    A factory's model is taken as it comes: its device and dtype are the factory's business.

    Raises:
        PotError: nothing can be loaded by that name; the message carries the reason and the forms of a spec.
    """
    path = Path(spec)
    if _FACTORY.fullmatch(spec) and not path.exists():
        with _quietly():
            return LoadedModel.of(_call_factory(spec, role))
    if path.is_file() and path.suffix != ".gguf":
        raise PotError(f"the {role} {spec!r} is a file that is no model. {_FORMS}")
    # What is imported and loaded stays: looking through it for garbage, again and again, is a sixth of the time.
    with no_garbage_collection(), _quietly(), rng_untouched():
        model = _load_weights(spec, role, config)
        return LoadedModel(model, _tokenizer_beside(spec, role))


def load_tokenizer(spec: str) -> Any:
    """The tokenizer in a directory, on the hub, or in a ``.gguf`` file.

    Raises:
        PotError: there is none by that name.
    """
    folder, options = _source(spec)
    with (
        no_garbage_collection(),
        _quietly(),
        _loading_errors(f"the tokenizer {spec!r}", "A tokenizer is named by a directory, a hub id or a .gguf file."),
    ):
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(folder, trust_remote_code=False, **options)


def _load_weights(spec: str, role: str, config: ScoringConfig) -> Any:
    from transformers import AutoModelForCausalLM

    device = choose_device(config.device)
    folder, options = _source(spec)
    if options:
        # A GGUF file's own dtype is its quantisation; what comes out of it is float32.
        _require_gguf(spec)
        options["dtype"] = choose_dtype(config.dtype, torch.float32, device)
    else:
        options["dtype"] = "auto" if config.dtype == "auto" else choose_dtype(config.dtype, None, device)
        options["use_safetensors"] = True
    with _loading_errors(f"the {role} {spec!r}", _FORMS):
        model: Any = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=False, **options)
        model.eval()
        own = own_dtype(model)
        wanted = choose_dtype(config.dtype, own, device)
        if own != wanted:
            model.to(wanted)
        if model.device.type != device.type:
            model.to(device)
    return model


def _source(spec: str) -> tuple[str, dict[str, Any]]:
    """What transformers calls the place that ``spec`` names: a folder or hub id, and the file in it."""
    path = Path(spec)
    if path.suffix == ".gguf":
        return str(path.parent), {"gguf_file": path.name}
    return spec, {}


def _tokenizer_beside(spec: str, role: str) -> Any:
    path = Path(spec)
    if path.is_dir() and not any((path / name).exists() for name in _TOKENIZER_FILES):
        return None
    try:
        return load_tokenizer(spec)
    except PotError as error:
        if path.exists():
            raise PotError(f"the {role}'s weights were loaded, but not its tokenizer: {error}") from error
        return None  # a hub repository may hold weights only


def _call_factory(spec: str, role: str) -> Any:
    module_name, _, attribute = spec.partition(":")
    try:
        factory: Any = importlib.import_module(module_name)
        for name in attribute.split("."):
            factory = getattr(factory, name)
    except (ImportError, AttributeError) as error:
        raise PotError(
            f"cannot find the {role} factory {spec!r}: {error}. It is imported as Python would from the tests; "
            "pythonpath = . in pytest's ini file makes modules in the root folder importable"
        ) from error
    if not callable(factory):
        raise PotError(f"the {role} {spec!r} is {type(factory).__name__}, not a callable that returns a model")
    return factory()


def _require_gguf(spec: str) -> None:
    for name in ("gguf", "accelerate"):
        if importlib.util.find_spec(name) is None:
            raise PotError(f"reading {spec!r} needs the package {name}: pip install 'pytest-pot[gguf]'")


@contextmanager
def _loading_errors(what: str, forms: str) -> Iterator[None]:
    """Whatever a loader raises, as one :class:`PotError` that says what was being loaded.

    Loading parses files that others made, through three libraries; the kinds of error they raise are theirs to choose.
    """
    try:
        yield
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise PotError(f"cannot load {what}: {reason[:400].rstrip('.')}. {forms}") from error


@contextmanager
def _quietly() -> Iterator[None]:
    """No progress bars of transformers meanwhile; they would fill the captured output of a failing test."""
    from transformers.utils import logging as transformers_logging

    logging: Any = transformers_logging
    enabled = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if enabled:
            logging.enable_progress_bar()
