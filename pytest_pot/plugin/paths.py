"""Where relative paths are looked up: beside what names them, and then in pytest's root."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from pytest_pot.baseline.naming import is_baseline
from pytest_pot.core.errors import PotError
from pytest_pot.core.files import FileState, state_of
from pytest_pot.engines.llamacpp.spec import PREFIX, path_in
from pytest_pot.engines.loading import NoSuchPath, none_exists
from pytest_pot.engines.model_files import gguf_files
from pytest_pot.plugin.options import flag, option

__all__ = [
    "check_paths",
    "existing",
    "files_state",
    "fixture_path",
    "option_bases",
    "option_path",
    "placed",
    "places_named",
    "recorded_reference",
    "shown",
]


def option_path(config: pytest.Config, name: str) -> str | None:
    """The option ``name``, made absolute where it is a path: from the folder pytest was called in, or from the ini file's."""
    value = option(config, name)
    if value is None:
        return None
    bases = option_bases(config, name)
    return placed(value, bases) if is_baseline(value) else existing(value, bases)


def option_bases(config: pytest.Config, name: str) -> list[Path]:
    """The folders in which the path that the option ``name`` gives is looked for, in this order."""
    if config.getoption(f"pot_{name}") is not None:
        return [config.invocation_params.dir, config.rootpath]
    return [config.inipath.parent if config.inipath else config.rootpath]


def fixture_path(value: str | Path, bases: Sequence[Path]) -> str:
    """What a fixture returned as a name, resolved like one in a marker beside it."""
    return placed(str(value), bases) if is_baseline(value) else existing(str(value), bases)


def existing(value: str, bases: Sequence[Path]) -> str:
    """``value`` as a path below the first of ``bases`` that has it, else as it is: it may be no path at all."""
    inner = path_in(value)
    if inner is not None:
        return PREFIX + existing(inner, bases)
    for base in bases:
        path = base / os.path.expanduser(value)
        if os.path.exists(path):  # not Path.exists, which raises for what is too long to be a name
            return str(path)
    return value


def placed(value: str, bases: Sequence[Path]) -> str:
    """:func:`existing` for a file that need not exist yet: then it is below the first of ``bases``."""
    path = Path(existing(value, bases))
    return str(path if path.is_absolute() or os.path.exists(path) else bases[0] / value)


def files_state(spec: str) -> tuple[tuple[str, FileState], ...] | None:
    """What tells whether the files that a model or a tokenizer is loaded from were written since: names and states.

    None where ``spec`` names none on this machine.
    """
    inner = path_in(spec)
    path = Path(spec if inner is None else inner)
    try:
        if path.is_dir():
            beside = [*path.iterdir(), *path.glob("onnx/*")]
            files = sorted({*(file for file in beside if file.is_file()), *path.rglob("*.safetensors")})
        elif path.suffix == ".onnx" and path.is_file():  # its weights may be in files of any name beside it
            files = sorted(file for file in path.parent.iterdir() if file.is_file())
        else:
            files = gguf_files(path)
        return tuple((str(file), state_of(file)) for file in files) or None
    except (OSError, ValueError):  # a file that went away, or a name that cannot be one
        return None


@contextmanager
def places_named(bases: Sequence[Path]) -> Iterator[None]:
    """Add to the error of a path that does not exist that it was looked for in ``bases``."""
    try:
        yield
    except NoSuchPath as error:
        raise error.looked_in(bases) from error.__cause__


def shown(config: pytest.Config, path: Path) -> str:
    """``path`` as people call it: relative to pytest's root, where it is below it."""
    root = config.rootpath
    return str(path.relative_to(root)) if path.is_relative_to(root) else str(path)


def recorded_reference(config: pytest.Config) -> bool:
    """Whether the options name a recording to compare with, and no gate is to make one."""
    recorded = option(config, "baseline") is not None or is_baseline(option(config, "reference"))
    return recorded and not flag(config, "update")


def check_paths(config: pytest.Config) -> None:
    """Raise ``pytest.UsageError`` where the prompts file that an option names does not exist or is no regular file."""
    prompts = option_path(config, "prompts")
    if prompts is None:
        return
    from pytest_pot.prompts.added_tokens import named_prompts
    from pytest_pot.prompts.jsonl import check_regular

    if os.path.exists(prompts):
        try:
            check_regular(prompts)
        except PotError as error:
            raise pytest.UsageError(str(error)) from None
    elif named_prompts(prompts) is None:
        raise pytest.UsageError(f"the prompts file {prompts!r}: {none_exists(prompts, option_bases(config, 'prompts'))}")
