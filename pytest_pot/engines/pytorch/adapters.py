"""Adapters in files: an adapter without its base model, and one that was left beside full weights.

Where a folder holds full weights, they are the model, whatever adapter lies beside them: that is what its ``config.json``
describes, what servers and converters read, and what transformers itself reads where peft is not installed. With peft,
transformers would apply the adapter on top, and a verdict would depend on what happens to be installed.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from safetensors import safe_open

from pytest_pot.core.errors import PotError
from pytest_pot.engines.loading import loading_errors
from pytest_pot.engines.pytorch.description import adapter_name

__all__ = ["IGNORED", "IGNORE_ADAPTER", "Adapter", "adapter_in", "apply_adapter", "check_not_applied", "without_adapter"]

_CONFIG, _WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_FULL_WEIGHTS, _INDEX = "model.safetensors", "model.safetensors.index.json"
_FULL_WEIGHTS_IN_FOLDER = (_FULL_WEIGHTS, _INDEX, "model-*.safetensors", "pytorch_model*.bin")
"""Files that only a whole model has; ``.bin`` is not read, but such a folder must be refused, not be taken for an adapter."""
_PREFIX = "base_model.model."
_FORMS = "An adapter is a folder or hub id with adapter_config.json and adapter_model.safetensors."
_MOST_NAMED = 5

IGNORE_ADAPTER = {"adapter_kwargs": {"subfolder": "no-adapter"}}
"""Options of ``from_pretrained``: look for an adapter in a subfolder that does not exist, and so apply none."""

IGNORED = (
    "adapter_config.json beside full weights: the adapter is not applied; transformers applies it on top where peft is "
    "installed, so remove it if it is merged already"
)
"""What a description notes of a model with an adapter beside it."""


@dataclass(frozen=True)
class Adapter:
    """An adapter among the files of a model."""

    folder: str
    base: str | None
    """The model that it changes; None if its config does not name one."""
    kind: str
    """``"LoRA"``, or what else peft calls it."""
    beside_full_weights: bool


def adapter_in(spec: str) -> Adapter | None:
    """The adapter in the folder or hub id ``spec``; None if there is none, or its config cannot be read."""
    file = _file(spec, _CONFIG)
    if file is None:
        return None
    settings: Any = {}
    with suppress(OSError, ValueError):
        settings = json.loads(file.read_text(encoding="utf-8"))
    settings = settings if isinstance(settings, dict) else {}
    base = settings.get("base_model_name_or_path")
    return Adapter(
        folder=spec,
        base=base if isinstance(base, str) and base else None,
        kind=adapter_name(settings),
        beside_full_weights=_holds_full_weights(spec),
    )


def apply_adapter(adapter: Adapter, what: str, load_base: Callable[[str, str], Any]) -> Any:
    """The base model of ``adapter``, by ``load_base(spec, what)``, with ``adapter`` applied.

    ``what``: the adapter's role and spec.

    Raises:
        PotError: peft is missing, the base model does not exist, or the adapter does not fit it.
    """
    if importlib.util.find_spec("peft") is None:
        raise PotError(f"{what} is an adapter, and that needs a package that is not installed: pip install 'pytest-pot[peft]'")
    named = "base_model_name_or_path in its adapter_config.json"
    if adapter.base is None:
        raise PotError(f"{what} is an adapter, and does not say of which model: {named} is empty")
    if _is_path(adapter.base) and not os.path.exists(adapter.base):
        raise PotError(
            f"{what} is an adapter of {adapter.base!r}, which does not exist. That is the {named}, as seen from {Path.cwd()}: "
            "correct it, or put the base model there"
        )
    of_base = adapter_in(adapter.base)
    if of_base is not None and not of_base.beside_full_weights:
        raise PotError(f"{what} is an adapter of {adapter.base!r}, which is an adapter itself: merge that one first")
    if _file(adapter.folder, _WEIGHTS) is None:
        raise PotError(f"{what} is an adapter without {_WEIGHTS}; no other file of weights is read")
    model = load_base(adapter.base, f"the base model {adapter.base!r} of {what}")
    with loading_errors(what, _FORMS, adapter.folder):
        model.load_adapter(adapter.folder)
        model.eval()
    _refuse_partial(model, adapter, what)
    return model


@contextmanager
def without_adapter(folder: str) -> Iterator[str]:
    """The model in ``folder`` without the adapter beside it: a folder of links to the other files.

    Some versions of transformers apply an adapter in a folder whatever they are told. Errors raised inside name ``folder``.
    """
    if not (Path(folder) / _CONFIG).is_file():
        yield folder
        return
    with TemporaryDirectory() as view:
        try:
            for file in Path(folder).resolve().iterdir():
                if file.name not in (_CONFIG, _WEIGHTS):
                    (Path(view) / file.name).symlink_to(file)
        except OSError:  # links need a right that Windows gives to few
            yield folder
            return
        try:
            yield view
        except Exception as error:
            _rename_in(error, view, folder)
            raise


def _rename_in(error: Exception, view: str, folder: str) -> None:
    """Say ``folder`` in the message of ``error`` where it says ``view``, a folder that will be gone when it is read."""
    error.args = tuple(value.replace(view, folder) if isinstance(value, str) else value for value in error.args)
    if view in str(error):  # such as an OSError, which keeps the name of a file elsewhere
        raise OSError(str(error).replace(view, folder)) from error


def check_not_applied(model: Any, what: str) -> None:
    """Raise :class:`PotError` if this version of transformers has applied an adapter that lay beside full weights."""
    if getattr(model, "_hf_peft_config_loaded", False):
        raise PotError(
            f"{what} has full weights and {_CONFIG} beside them, and this version of transformers applies the adapter on top. "
            f"Remove {_CONFIG} if the adapter is merged already, or move the adapter to a folder of its own"
        )


def _refuse_partial(model: Any, adapter: Adapter, what: str) -> None:
    """Raise :class:`PotError` unless the file has exactly the tensors that the adapter in ``model`` is made of.

    peft leaves a tensor that is missing at its initial value, and drops one that it has no place for.
    """
    file = _file(adapter.folder, _WEIGHTS)
    with loading_errors(what, _FORMS, adapter.folder), safe_open(str(file), framework="pt") as tensors:
        peft: Any = importlib.import_module("peft")
        stored = {name.removeprefix(_PREFIX) for name in tensors.keys()}  # noqa: SIM118 - it is no dict
        expected = {name.removeprefix(_PREFIX) for name in peft.get_peft_model_state_dict(model)}
    for names, fault in ((expected - stored, "lacks"), (stored - expected, "has no place for")):
        if names:
            shown = ", ".join(sorted(names)[:_MOST_NAMED])
            more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
            whose = "it" if fault == "lacks" else "that model"
            raise PotError(
                f"{what} is an adapter of {adapter.base!r}, and {whose} {fault} {shown}{more}: not all of it would run"
            )


def _file(spec: str, name: str) -> Path | None:
    """The file ``name`` in the folder or hub id ``spec``; None if it has none."""
    folder = Path(spec)
    if os.path.exists(folder):
        return folder / name if os.path.isfile(folder / name) else None
    from transformers.utils import hub

    with suppress(Exception):  # loading the model itself will say what is wrong
        found = hub.cached_file(
            spec, name, _raise_exceptions_for_missing_entries=False, _raise_exceptions_for_connection_errors=False
        )
        return None if found is None else Path(found)
    return None


def _holds_full_weights(spec: str) -> bool:
    """Whether the folder or hub id ``spec`` has weights other than an adapter's. Its config alone may be that of the base."""
    folder = Path(spec)
    if os.path.isdir(folder):
        return any(any(folder.glob(pattern)) for pattern in _FULL_WEIGHTS_IN_FOLDER)
    return any(_file(spec, name) is not None for name in (_FULL_WEIGHTS, _INDEX))


def _is_path(name: str) -> bool:
    """Whether ``name`` can only be a folder: a hub id has at most one slash, and no part that is empty or dots."""
    parts = name.replace("\\", "/").split("/")
    return len(parts) > 2 or any(part in ("", ".", "..", "~") for part in parts) or ":" in name
