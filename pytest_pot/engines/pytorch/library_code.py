"""Which code belongs to an installed library, by the distribution whose files it is in.

The libraries may lie in several site-packages: in an environment on top of another, or with ``--system-site-packages``. Code in
a checkout that is installed as editable belongs to no library here, because it changes without its version.
"""

from __future__ import annotations

import json
import os
import sys
import sysconfig
from functools import cache
from importlib import metadata

__all__ = ["is_known_code", "owner_of"]

_LIBRARIES = (
    "torch",
    "transformers",
    "huggingface_hub",
    "safetensors",
    "tokenizers",
    "accelerate",
    "numpy",
    "tqdm",
    "packaging",
    "regex",
)
"""Distributions whose code is known: it changes only with the versions that are part of the key of each cached reference."""


def is_known_code(file: str) -> bool:
    """Whether the code in ``file`` is of torch, transformers, a library that these need, or Python itself."""
    return file.startswith(_known_paths())


@cache
def _known_paths() -> tuple[str, ...]:
    standard_library = sysconfig.get_path("stdlib")
    return (
        *(path for name in _LIBRARIES for path in _paths_of(name)),
        *(os.path.join(standard_library, name + end) for name in sys.stdlib_module_names for end in (".py", os.sep)),
        "<",  # code without a file, such as the methods that dataclasses generate
    )


def _paths_of(name: str) -> list[str]:
    """The package of the distribution ``name``, which it is called after; nothing if it is not installed, or editable."""
    try:
        distribution = metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return []
    place = str(distribution.locate_file(name))
    return [place + os.sep] if os.path.isdir(place) and not _is_editable(distribution) else []


def _is_editable(distribution: metadata.Distribution) -> bool:
    origin = json.loads(distribution.read_text("direct_url.json") or "{}")
    return bool(origin.get("dir_info", {}).get("editable"))


def _packages(distribution: metadata.Distribution) -> list[str]:
    """The names under which ``distribution`` is imported."""
    listed = distribution.read_text("top_level.txt")
    if listed is not None:
        names = set(listed.split())
    else:
        names = {file.parts[0].removesuffix(".py") for file in distribution.files or () if file.suffix == ".py"}
    return sorted(name for name in names if name.isidentifier())  # not "..", for files outside site-packages


@cache
def owner_of(file: str) -> str | None:
    """The installed distribution that ``file`` belongs to, with its version: ``"einops 0.8.1"``. None if there is none."""
    folders = {os.path.abspath(folder) for folder in sys.path}
    # An environment often lies below the project's own folder, which may be on the path too: the nearest counts.
    folder = max((folder for folder in folders if file.startswith(folder + os.sep)), key=len, default=None)
    if folder is None:
        return None
    package = file[len(folder) + 1 :].partition(os.sep)[0].removesuffix(".py")
    return _owners(folder).get(package)


@cache
def _owners(folder: str) -> dict[str, str]:
    """The distributions that are installed in ``folder``, by the names under which they are imported."""
    distributions = metadata.distributions(path=[folder])
    return {
        package: f"{distribution.name} {distribution.version}"
        for distribution in distributions
        if not _is_editable(distribution)
        for package in _packages(distribution)
    }
