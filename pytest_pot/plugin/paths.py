"""Where relative paths are looked up: beside what names them, and then in pytest's root."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from pytest_pot.baseline.naming import is_baseline
from pytest_pot.core.errors import PotError
from pytest_pot.plugin.options import flag, option

__all__ = ["check_paths", "existing", "fixture_path", "option_path", "placed", "recorded_reference", "shown"]


def option_path(config: pytest.Config, name: str) -> str | None:
    """The option ``name``, made absolute where it is a path: from the folder pytest was called in, or from the ini file's."""
    value = option(config, name)
    if value is None:
        return None
    from_ini = config.getoption(f"pot_{name}") is None
    ini_folder = config.inipath.parent if config.inipath else config.rootpath
    bases = [ini_folder] if from_ini else [config.invocation_params.dir, config.rootpath]
    return placed(value, bases) if is_baseline(value) else existing(value, bases)


def fixture_path(value: str | Path, folder: Path, config: pytest.Config) -> str:
    """What a fixture that is written in ``folder`` returned as a name, resolved like one in a marker beside it."""
    bases = [folder, config.rootpath]
    return placed(str(value), bases) if is_baseline(value) else existing(str(value), bases)


def existing(value: str, bases: Sequence[Path]) -> str:
    """``value`` as a path below the first of ``bases`` that has it, else as it is: it may be no path at all."""
    for base in bases:
        path = base / value
        if os.path.exists(path):  # not Path.exists, which raises for what is too long to be a name
            return str(path)
    return value


def placed(value: str, bases: Sequence[Path]) -> str:
    """:func:`existing` for a file that need not exist yet: then it is below the first of ``bases``."""
    path = Path(existing(value, bases))
    return str(path if path.is_absolute() or os.path.exists(path) else bases[0] / value)


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
        raise pytest.UsageError(f"the prompts file {prompts} does not exist")
