"""What loading has in common for all engines: factories, tokenizers, and errors that say what was being loaded."""

from __future__ import annotations

import importlib
import importlib.util
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pytest_pot.core.errors import PotError
from pytest_pot.core.gc_pause import gc_paused
from pytest_pot.core.user_code import in_short, is_of_the_project
from pytest_pot.engines.model_files import refuse_git_leftovers_of_tokenizer

__all__ = [
    "MODEL_FORMS",
    "NoSuchPath",
    "call_factory",
    "gguf_source",
    "load_tokenizer",
    "loading_errors",
    "none_exists",
    "require_packages",
    "without_progress_bars",
]

MODEL_FORMS = (
    "A model is named by a folder or hub id with safetensors weights or an ONNX graph, a .gguf file, a server's URL, or "
    "package.module:factory, a callable "
    "that returns the model or (model, tokenizer)."
)
"""Which forms a spec may have, for the messages of those that cannot be loaded."""


_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")
_TOKENIZER_FORMS = "A tokenizer is named by a folder, a hub id or a .gguf file."


class NoSuchPath(PotError):
    """What was to be loaded does not exist: a path, or a name that could be a hub id as well."""

    def __init__(self, what: str, spec: str, forms: str, reason: str = "", places: Sequence[Path] = ()) -> None:
        """The message about ``spec``.

        Args:
            what: see :func:`loading_errors`, and also for ``forms``.
            reason: why it cannot be loaded as a hub id; empty if it cannot be one.
            places: the folders in which it was looked for; empty for the current one.
        """
        self._parts = (what, spec, forms, reason)
        self._places = places
        missing = none_exists(spec, places or [Path.cwd()])
        super().__init__(
            f"cannot load {what}: {f'as a path, {missing}; as a hub id: {reason}' if reason else missing}. {forms}"
        )

    def looked_in(self, places: Sequence[Path]) -> NoSuchPath:
        """The same error with the folders in which the path was looked for, if it has none yet."""
        return self if self._places else NoSuchPath(*self._parts, places)


def none_exists(path: str, places: Sequence[Path]) -> str:
    """That ``path`` is in none of the folders ``places``, with each path that was looked for."""
    paths = list(dict.fromkeys(os.path.normpath(place / os.path.expanduser(path)) for place in places))
    return f"{paths[0]} does not exist" if len(paths) == 1 else f"none of these exists: {', '.join(paths)}"


def require_packages(what: str, packages: Sequence[str], extra: str) -> None:
    """Raise :class:`~pytest_pot.PotError` if one of ``packages`` is not installed, with the command that installs them.

    Args:
        what: what needs them, as the start of a sentence.
        extra: the extra of this project that brings them.
    """
    for name in packages:
        if importlib.util.find_spec(name) is None:
            raise PotError(f"{what} needs the package {name}: pip install 'pytest-pot[{extra}]'")


def call_factory(spec: str, role: str) -> Any:
    """What the callable that ``spec`` names, ``package.module:factory``, returns.

    Raises:
        PotError: it cannot be imported, is not callable, or raises an error; the message says where in the project.
    """
    with without_progress_bars():
        factory = _imported(spec, role)
        if not callable(factory):
            raise PotError(f"the {role} {spec!r} is {type(factory).__name__}, not a callable that returns a model")
        try:
            return factory()
        except PotError:
            raise
        except (Exception, SystemExit) as error:
            raise PotError(f"the {role} factory {spec!r} raised {in_short(error, _package(spec))}") from error


def _imported(spec: str, role: str) -> Any:
    """What ``package.module:name`` names."""
    module_name, _, attribute = spec.partition(":")
    try:
        with gc_paused():  # it may import torch, of which nothing is garbage
            factory: Any = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:
        if isinstance(error, ImportError) and not is_of_the_project(error):
            raise _not_found(spec, role, error) from error
        raise PotError(f"importing the {role} factory {spec!r} raised {in_short(error, _package(spec))}") from error
    try:
        for name in attribute.split("."):
            factory = getattr(factory, name)
    except AttributeError as error:
        raise _not_found(spec, role, error) from error
    return factory


def _not_found(spec: str, role: str, error: Exception) -> PotError:
    return PotError(
        f"cannot find the {role} factory {spec!r}: {error}. It is imported as Python would from the tests; "
        "pythonpath = . in pytest's ini file makes modules in the root folder importable"
    )


def _package(spec: str) -> str:
    return spec.partition(":")[0].partition(".")[0]


def load_tokenizer(spec: str) -> Any:
    """The tokenizer in a folder, on the hub, or in a ``.gguf`` file.

    Raises:
        PotError: there is none by that name.
    """
    refuse_git_leftovers_of_tokenizer(spec)
    if spec.endswith(".gguf"):
        require_packages(f"reading the tokenizer in {spec!r}", ("gguf",), "gguf")
    folder, options = gguf_source(spec)
    with (
        gc_paused(),
        without_progress_bars(),
        loading_errors(f"the tokenizer {spec!r}", _TOKENIZER_FORMS, spec),
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
def loading_errors(what: str, forms: str, spec: str) -> Iterator[None]:
    """Turn whatever a loader raises into one :class:`PotError` that says what was being loaded.

    Loading parses files that others made, through three libraries, which choose the kinds of error they raise.

    Args:
        what: what is being loaded, as messages name it.
        forms: how such a thing is named, for the end of a message.
        spec: its name: nothing is asked for it if it can only be a path, and does not exist.

    Raises:
        PotError: one that was raised inside, as it is; or any other error, as the reason.
    """
    exists = os.path.exists(spec)  # not Path.exists, which raises for what is too long to be a name
    if not exists and _is_path(spec):
        raise NoSuchPath(what, spec, forms)
    try:
        yield
    except PotError:
        raise
    except Exception as error:
        reason = (" ".join(str(error).split()) or type(error).__name__)[:400].rstrip(".")
        if exists or "://" in spec:
            raise PotError(f"cannot load {what}: {reason}. {forms}") from error
        raise NoSuchPath(what, spec, forms, reason) from error


def _is_path(spec: str) -> bool:
    """Whether ``spec`` can name nothing but a path: it cannot be a hub id, nor the address of something."""
    if "://" in spec:
        return False
    if spec.endswith(".gguf"):  # on the hub it is a file of a repository: owner/name/file.gguf
        return spec.count("/") != 2 or not _HUB_ID.fullmatch(spec.rpartition("/")[0])
    return not _HUB_ID.fullmatch(spec) or ".." in spec or "--" in spec


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
