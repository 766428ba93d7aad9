"""What loading has in common for all engines: factories, tokenizers, and errors that say what was being loaded."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pytest_pot.core.errors import PotError
from pytest_pot.core.gc_pause import gc_paused
from pytest_pot.engines.model_files import refuse_git_leftovers_of_tokenizer

__all__ = ["MODEL_FORMS", "call_factory", "gguf_source", "load_tokenizer", "loading_errors", "without_progress_bars"]

MODEL_FORMS = (
    "A model is named by a directory or hub id with safetensors weights, a .gguf file, or package.module:factory, a callable "
    "that returns the model or (model, tokenizer)."
)
"""Which forms a spec may have, for the messages of those that cannot be loaded."""


def call_factory(spec: str, role: str) -> Any:
    """What the callable that ``spec`` names, ``package.module:factory``, returns.

    Raises:
        PotError: it cannot be imported, or is not callable.
    """
    module_name, _, attribute = spec.partition(":")
    with without_progress_bars():
        try:
            with gc_paused():  # it may import torch, of which nothing is garbage
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


def load_tokenizer(spec: str) -> Any:
    """The tokenizer in a directory, on the hub, or in a ``.gguf`` file.

    Raises:
        PotError: there is none by that name.
    """
    refuse_git_leftovers_of_tokenizer(spec)
    folder, options = gguf_source(spec)
    with (
        gc_paused(),
        without_progress_bars(),
        loading_errors(f"the tokenizer {spec!r}", "A tokenizer is named by a directory, a hub id or a .gguf file."),
    ):
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(folder, trust_remote_code=False, **options)


def gguf_source(spec: str) -> tuple[str, dict[str, Any]]:
    """What transformers calls the place that ``spec`` names: a folder or hub id, and the file in it if ``spec`` is one."""
    path = Path(spec)
    if path.suffix == ".gguf":
        return str(path.parent), {"gguf_file": path.name}
    return spec, {}


@contextmanager
def loading_errors(what: str, forms: str) -> Iterator[None]:
    """Turn whatever a loader raises into one :class:`PotError` that says what was being loaded.

    Loading parses files that others made, through three libraries, which choose the kinds of error they raise.
    """
    try:
        yield
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise PotError(f"cannot load {what}: {reason[:400].rstrip('.')}. {forms}") from error


@contextmanager
def without_progress_bars() -> Iterator[None]:
    """Turn transformers' progress bars off; they would fill the captured output of a failing test."""
    from transformers.utils import logging as transformers_logging

    logging: Any = transformers_logging
    enabled = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if enabled:
            logging.enable_progress_bar()
