"""The cache of live references: what a reference said to a suite, kept between runs, so that it need not be run again.

A record is found by the content of everything that it depends on: weights, tokenizer, prompts, configuration, libraries and
machine. Whatever cannot be known from its content is not cached: a model of the user's own classes, whose code may change
while its weights stay.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from pytest_pot.baseline.baseline import Baseline
from pytest_pot.baseline.file_format import to_bytes, write_bytes
from pytest_pot.baseline.naming import SUFFIX
from pytest_pot.baseline.provenance import digest, digest_of_prompts, libraries, tokenizer_digests
from pytest_pot.core.config import ScoringConfig
from pytest_pot.core.errors import PotError
from pytest_pot.prompts.prompt import Prompt
from pytest_pot.prompts.tokenization import tokenise

__all__ = ["ReferenceCache", "cache_key", "is_cacheable"]


class ReferenceCache:
    """Records in a folder, the least recently used of which go when there are too many."""

    def __init__(self, folder: Path, limit_bytes: int) -> None:
        self._folder = folder
        self._limit = limit_bytes

    def get(self, key: str) -> Baseline | None:
        """The record with that key; None where there is none, or none that can be read."""
        path = self._path(key)
        try:
            found = Baseline.load(path)
        except PotError:
            return None  # not there, or damaged: it is made anew
        if found.provenance.reference != key:
            return None  # another record under this one's name
        with suppress(OSError):
            os.utime(path)
        return found

    def put(self, key: str, record: Baseline) -> None:
        """Keep ``record``, unless it alone is larger than the cache may be; a cache that cannot be written is no error."""
        named = replace(record, provenance=replace(record.provenance, reference=key))
        content, path = to_bytes(named), self._path(key)
        with suppress(PotError, OSError):
            if len(content) <= self._limit:
                write_bytes(content, path)
            self._shrink(keep=path)

    def _path(self, key: str) -> Path:
        return self._folder / f"{key[:32]}{SUFFIX}"

    def _shrink(self, keep: Path) -> None:
        """Delete the records used longest ago, but not ``keep``, until the rest is within the limit."""
        files = sorted(self._folder.glob(f"*{SUFFIX}"), key=lambda path: (path == keep, path.stat().st_mtime))
        total = sum(path.stat().st_size for path in files)
        for path in files:
            if total <= self._limit:
                return
            total -= path.stat().st_size
            path.unlink(missing_ok=True)


def is_cacheable(config: ScoringConfig) -> bool:
    """Whether records of this configuration are kept: those of a whole vocabulary would be hundreds of megabytes, and the
    yardstick, ``original``, caches nothing."""
    return config.top_k is not None and not config.every_position


def cache_key(
    reference: Mapping[str, Any], tokenizer: Any, prompts: Sequence[Prompt], config: ScoringConfig, max_length: int
) -> str:
    """SHA-256 over all that the record of a reference depends on, to the last bit.

    Args:
        reference: what tells the reference by its content: digests of its files, or of its weights and configuration.
        max_length: the longest sequence that both models take.
    """
    from pytest_pot.engines.pytorch.device import hardware

    # The metric alone is left out: a record serves all of them.
    asked = {name: value for name, value in asdict(config).items() if name != "metric"}
    parts = {
        "reference": dict(reference),
        "tokenizer": tokenizer_digests(tokenizer),
        "prompts": digest_of_prompts(prompts),
        "tokens": tokenise(tokenizer, prompts),
        "config": asked,
        "max_length": max_length,
        "libraries": libraries("safetensors", "accelerate", "gguf"),
        "machine": [platform.platform(), *hardware()],
    }
    return digest([json.dumps(parts, sort_keys=True).encode()])
