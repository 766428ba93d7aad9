"""The cache of live references: a gate keeps what its reference returned, so that later runs need not run it again.

The key of a record is a hash of everything that the record depends on: weights, tokenizer, prompts, configuration, libraries
and machine. A model of the user's own classes is not cached, because its code may change while its weights stay the same."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from pytest_pot.baseline.atomic_write import replace_file, size_of
from pytest_pot.baseline.baseline import Baseline
from pytest_pot.baseline.provenance import digest_of_prompts, libraries
from pytest_pot.core.config import ScoringConfig
from pytest_pot.core.errors import PotError
from pytest_pot.core.files import Kept
from pytest_pot.core.hashing import digest
from pytest_pot.core.names import RECORDED_SUFFIX
from pytest_pot.prompts.tokenization import EncodedPrompts
from pytest_pot.prompts.tokenizer_digests import tokenizer_identity

__all__ = ["ReferenceCache", "cache_key", "is_cacheable"]

_KEPT_BYTES = 64_000_000
"""Records that are kept in memory, by the size of their files."""


class ReferenceCache:
    """Records in a folder; the least recently used ones are deleted when the folder exceeds ``limit_bytes``.

    The last few that were read stay in memory. A key stands for one content, so these stay right whatever becomes of the files.
    """

    def __init__(self, folder: Path, limit_bytes: int) -> None:
        self._folder = folder
        self._limit = limit_bytes
        self._kept: Kept[Baseline] = Kept(most=8, most_bytes=_KEPT_BYTES)

    def get(self, key: str) -> Baseline | None:
        """The record with that key; None if it is missing or cannot be read."""
        path = self._path(key)
        record = self._kept.get(key)
        if record is None:
            try:
                record, n_bytes = Baseline.load(path), path.stat().st_size
            except (PotError, OSError):
                return None  # missing, damaged or not readable: the gate makes it again
            if record.provenance.reference != key:
                return None  # the file holds the record of another key
            self._kept.keep(key, record, n_bytes)
        with suppress(OSError):
            os.utime(path)
        return record

    def put(self, key: str, record: Baseline) -> OSError | None:
        """Store ``record``, unless it alone exceeds the limit.

        Returns:
            why it could not be written, which is no error: the next run is slower. None where it was.
        """
        named = replace(record, provenance=replace(record.provenance, reference=key))
        content, path = named.pieces(), self._path(key)
        try:
            if size_of(content) <= self._limit:
                replace_file(path, content)
        except OSError as error:
            return error
        finally:
            with suppress(OSError):
                self._shrink(keep=path)
        return None

    def _path(self, key: str) -> Path:
        return self._folder / f"{key[:32]}{RECORDED_SUFFIX}"

    def _shrink(self, keep: Path) -> None:
        """Delete the least recently used records, ``keep`` last, until the rest is within the limit."""
        files = sorted(self._folder.glob(f"*{RECORDED_SUFFIX}"), key=lambda path: (path == keep, path.stat().st_mtime))
        total = sum(path.stat().st_size for path in files)
        for path in files:
            if total <= self._limit:
                return
            total -= path.stat().st_size
            path.unlink(missing_ok=True)


def is_cacheable(config: ScoringConfig) -> bool:
    """Whether records with this configuration are cached. Those of a whole vocabulary would take hundreds of megabytes, and the
    preset ``original`` (``every_position``) caches nothing."""
    return config.top_k is not None and not config.every_position


def cache_key(reference: Mapping[str, Any], prompts: EncodedPrompts, config: ScoringConfig, max_length: int) -> str:
    """SHA-256 over everything that can change a bit of a reference's record.

    Args:
        reference: identifies the reference by content: digests of its files, or of its weights and configuration.
        max_length: the longest sequence that both models take.
    """
    from pytest_pot.engines.pytorch.device import hardware

    # One record serves all metrics, and all ways of reading the candidate.
    settings = {name: value for name, value in asdict(config).items() if name not in ("metric", "path")}
    parts = {
        "reference": dict(reference),
        "tokenizer": tokenizer_identity(prompts.tokenizer),
        "prompts": digest_of_prompts(prompts.prompts),
        "tokens": prompts.ids,
        "config": settings,
        "max_length": max_length,
        "libraries": libraries("safetensors", "accelerate", "gguf"),
        "machine": [platform.platform(), *hardware()],
    }
    return digest([json.dumps(parts, sort_keys=True).encode()])
