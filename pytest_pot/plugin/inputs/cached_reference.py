"""The cache of live references as one gate uses it: where its records are, and which of them is the gate's."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest

from pytest_pot.baseline.baseline import Baseline
from pytest_pot.baseline.cache import ReferenceCache, cache_key, is_cacheable
from pytest_pot.baseline.provenance import file_digests
from pytest_pot.core.config import ScoringConfig
from pytest_pot.engines.registry import content, files_tell_all, max_positions, why_no_content
from pytest_pot.gates.base import RecordedReference, RecordReference
from pytest_pot.plugin.options import cache_limit
from pytest_pot.plugin.session.notes import NOTES
from pytest_pot.prompts.tokenization import EncodedPrompts

__all__ = ["CachedReference", "files_of"]

_OWN_HOOKS = "pytest_pot.plugin.hooks"
"""The module of pytest-pot's own implementation of the hook that loads models."""

_RECORDS = pytest.StashKey[ReferenceCache]()
"""The session's records."""

Recording = Callable[[RecordReference], RecordedReference]


class CachedReference:
    """Finds and keeps the record of one gate's reference."""

    def __init__(
        self, config: pytest.Config, records: ReferenceCache, scoring: ScoringConfig, prompts: EncodedPrompts, candidate: Any
    ) -> None:
        self._pytest_config = config
        self._records = records
        self._scoring = scoring
        self.prompts = prompts
        self._max_length = min(scoring.max_length, max_positions(candidate) or scoring.max_length)
        self._key: str | None = None

    @classmethod
    def of(
        cls, config: pytest.Config, scoring: ScoringConfig, prompts: EncodedPrompts, candidate: Any
    ) -> CachedReference | None:
        """The gate's cache; None where it is off, where such records are not kept, or where its folder cannot be made."""
        if not cls.is_on(config, scoring) or prompts.is_empty:
            return None
        try:
            folder = config.cache.mkdir("pot")
        except OSError as error:  # a read-only checkout, for example
            _note_not_cached(config, error)
            return None
        if _RECORDS not in config.stash:
            config.stash[_RECORDS] = ReferenceCache(folder, cache_limit(config))
        return cls(config, config.stash[_RECORDS], scoring, prompts, candidate)

    @staticmethod
    def is_on(config: pytest.Config, scoring: ScoringConfig) -> bool:
        """Whether records of such gates are kept in this run."""
        has_cache = getattr(config, "cache", None) is not None  # -p no:cacheprovider
        return has_cache and cache_limit(config) > 0 and is_cacheable(scoring)

    @staticmethod
    def why_off(config: pytest.Config, scoring: ScoringConfig) -> str | None:
        """Why no records of such gates are kept, for people; None where there are some, or where the user turned the cache
        off."""
        has_cache = getattr(config, "cache", None) is not None
        if not has_cache or cache_limit(config) == 0 or is_cacheable(scoring):
            return None
        return "the reference is run each time: what it says about a whole vocabulary is too large to keep"

    def identify_by_files(self, spec: str) -> bool:
        """Find the record of the model in the files of ``spec``, without loading them; False where they do not tell all of
        it."""
        files = files_of(self._pytest_config, spec)
        self._key = None if files is None else self._key_of({"files": files})
        return self._key is not None

    def identify_by_content(self, model: Any) -> bool:
        """Find the record of ``model`` in memory; False where its content does not tell all of it."""
        identity = content(model)
        self._key = None if identity is None else self._key_of(identity)
        return self._key is not None

    def why_run(self, model: Any) -> str:
        """Why the reference is run, for people, where :meth:`known` gives no record of it."""
        if self._key is None:
            return f"the reference is run each time: {why_no_content(model)}"
        return (
            "the reference is run: no earlier run kept its outputs for these weights, prompts, settings and library versions "
            "on this machine"
        )

    def known(self) -> Recording | None:
        """The record, where there is one."""
        record = None if self._key is None else self._records.get(self._key)
        return None if record is None else lambda _: RecordedReference(self._with_own_prompts(record), "cached")

    def recording_of(self, model: Any) -> Recording:
        """Runs ``model``, and keeps what it says for the next time."""

        def run(record: RecordReference) -> RecordedReference:
            baseline = record(model, max_length=self._max_length, keep_weights=False)  # the model itself is at hand
            assert self._key is not None
            error = self._records.put(self._key, baseline)
            if error is not None:
                _note_not_cached(self._pytest_config, error)
            return RecordedReference(self._with_own_prompts(baseline), "")

        return run

    def _key_of(self, reference: Mapping[str, Any]) -> str:
        return cache_key(reference, self.prompts, self._scoring, self._max_length)

    def _with_own_prompts(self, record: Baseline) -> Baseline:
        """``record`` with this gate's prompts: their kinds may have other names by now, which no number depends on."""
        return replace(record, prompts=self.prompts.prompts)


def files_of(config: pytest.Config, spec: str) -> dict[str, str] | None:
    """The digests of the files of ``spec``; None where they do not tell all of the model that is loaded from them."""
    hooks = config.hook.pytest_pot_load_model.get_hookimpls()
    if any(hook.function.__module__ != _OWN_HOOKS for hook in hooks):
        return None  # another's hook may make anything of those files
    return file_digests(spec) if files_tell_all(spec) else None


def _note_not_cached(config: pytest.Config, error: OSError) -> None:
    """Say once in this run, with ``-v``, that references are run each time, and why."""
    config.stash[NOTES].add(
        f"live references are not cached: cannot write into {config.getini('cache_dir')}: {error.strerror or error}. To keep "
        "them for the next run, name a folder with the ini key cache_dir of pytest; pot_cache = false turns the cache off"
    )
