"""The cache of live references: recordings made on the way, kept between runs, so that a reference need not be run again.

A record is found by the content of everything that it depends on: weights, tokenizer, prompts, configuration, libraries and
machine. What content does not identify is not cached: a model of the user's own classes, whose code may change while its
weights stay."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from pytest_pot.baseline.atomic_write import write_bytes
from pytest_pot.baseline.baseline import Baseline
from pytest_pot.baseline.provenance import digest_of_prompts, libraries, tokenizer_digests
from pytest_pot.core.config import ScoringConfig
from pytest_pot.core.errors import PotError
from pytest_pot.core.hashing import digest
from pytest_pot.core.names import RECORDED_SUFFIX
from pytest_pot.prompts.tokenization import EncodedPrompts

__all__ = ["ReferenceCache", "cache_key", "is_cacheable"]


class ReferenceCache:
    """Records in a folder; the least recently used ones are deleted when they take too much space."""

    def __init__(self, folder: Path, limit_bytes: int) -> None:
        self._folder = folder
        self._limit = limit_bytes

    def get(self, key: str) -> Baseline | None:
        """The record with that key; None where there is none, or none that can be read."""
        path = self._path(key)
        try:
            record = Baseline.load(path)
        except PotError:
            return None  # missing or damaged: it is made again
        if record.provenance.reference != key:
            return None  # another record under this one's name
        with suppress(OSError):
            os.utime(path)
        return record

    def put(self, key: str, record: Baseline) -> None:
        """Keep ``record``, unless it alone is larger than the cache may be; a cache that cannot be written is no error."""
        named = replace(record, provenance=replace(record.provenance, reference=key))
        content, path = named.to_bytes(), self._path(key)
        with suppress(PotError, OSError):
            if len(content) <= self._limit:
                write_bytes(content, path)
            self._shrink(keep=path)

    def _path(self, key: str) -> Path:
        return self._folder / f"{key[:32]}{RECORDED_SUFFIX}"

    def _shrink(self, keep: Path) -> None:
        """Delete the records used longest ago, but not ``keep``, until the rest is within the limit."""
        files = sorted(self._folder.glob(f"*{RECORDED_SUFFIX}"), key=lambda path: (path == keep, path.stat().st_mtime))
        total = sum(path.stat().st_size for path in files)
        for path in files:
            if total <= self._limit:
                return
            total -= path.stat().st_size
            path.unlink(missing_ok=True)


def is_cacheable(config: ScoringConfig) -> bool:
    """Whether records of this configuration are kept. Those of a whole vocabulary would be hundreds of megabytes, and the
    preset ``original`` caches nothing."""
    return config.top_k is not None and not config.every_position


def cache_key(reference: Mapping[str, Any], prompts: EncodedPrompts, config: ScoringConfig, max_length: int) -> str:
    """SHA-256 over all that the record of a reference depends on, to the last bit.

    Args:
        reference: what identifies the reference by its content: digests of its files, or of its weights and configuration.
        max_length: the longest sequence that both models take.
    """
    from pytest_pot.engines.pytorch.device import hardware

    # The metric alone is left out: a record serves all of them.
    asked = {name: value for name, value in asdict(config).items() if name != "metric"}
    parts = {
        "reference": dict(reference),
        "tokenizer": tokenizer_digests(prompts.tokenizer),
        "prompts": digest_of_prompts(prompts.prompts),
        "tokens": prompts.ids,
        "config": asked,
        "max_length": max_length,
        "libraries": libraries("safetensors", "accelerate", "gguf"),
        "machine": [platform.platform(), *hardware()],
    }
    return digest([json.dumps(parts, sort_keys=True).encode()])
