"""The cache of live references as a gate uses it: where its records are, and what they are called."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_pot.baseline.cache import ReferenceCache, cache_key, is_cacheable
from pytest_pot.baseline.provenance import file_digests
from pytest_pot.core.config import ScoringConfig
from pytest_pot.gates.verdict.gate import Taken
from pytest_pot.plugin import options as settings
from pytest_pot.prompts.prompt import Prompt, as_prompts

if TYPE_CHECKING:
    from pytest_pot.baseline.baseline import Baseline
    from pytest_pot.scoring.scorer import TeacherForcedScorer

__all__ = ["GateCache"]

_BUILT_IN = "pot"
"""Our plugin's name: that of its entry point."""


class GateCache:
    """Finds and keeps the record of one gate's reference."""

    def __init__(
        self, config: pytest.Config, folder: Path, scoring: ScoringConfig, prompts: Sequence[str | Prompt], candidate: Any
    ) -> None:
        from pytest_pot.engines.pytorch.model_traits import max_positions

        self._pytest_config = config
        self._files = ReferenceCache(folder, settings.cache_limit(config))
        self._scoring = scoring
        self._prompts = as_prompts(prompts)
        self._max_length = min(scoring.max_length, max_positions(candidate) or scoring.max_length)

    @classmethod
    def of(
        cls, config: pytest.Config, scoring: ScoringConfig, prompts: Sequence[str | Prompt], candidate: Any
    ) -> GateCache | None:
        """The gate's cache; None where it is off, or where such records are not kept."""
        cache = getattr(config, "cache", None)  # -p no:cacheprovider
        if cache is None or not settings.cache_limit(config) or not is_cacheable(scoring):
            return None
        return cls(config, cache.mkdir("pot"), scoring, prompts, candidate)

    def key_by_files(self, spec: str, tokenizer: Any) -> str | None:
        """The record's key from the files that ``spec`` names, without loading them; None where they do not tell all."""
        from pytest_pot.engines.pytorch.model_identity import loads_as_known

        hooks = self._pytest_config.hook.pytest_pot_load_model.get_hookimpls()
        if tokenizer is None or any(hook.plugin_name != _BUILT_IN for hook in hooks):
            return None  # another's hook may make anything of those files
        if not loads_as_known(spec):
            return None
        return self._key({"files": file_digests(spec)}, tokenizer)

    def key_by_content(self, model: Any, tokenizer: Any) -> str | None:
        """The record's key from a model in memory; None where its content does not tell all."""
        from pytest_pot.engines.pytorch.model_identity import content_of

        content = content_of(model)
        return None if content is None else self._key(content, tokenizer)

    def _key(self, reference: Mapping[str, Any], tokenizer: Any) -> str:
        return cache_key(reference, tokenizer, self._prompts, self._scoring, self._max_length)

    def known(self, key: str) -> Callable[[TeacherForcedScorer], Taken] | None:
        """Gives the record with that key; None where there is none."""
        found = self._files.get(key)
        return None if found is None else lambda _: Taken(self._told(found), "cached")

    def _told(self, record: Baseline) -> Baseline:
        """``record`` with this gate's prompts: their kinds may have other names by now, which no number depends on."""
        return replace(record, prompts=self._prompts)

    def to_be_kept(self, key: str, model: Any, tokenizer: Any) -> Callable[[TeacherForcedScorer], Taken]:
        """Runs ``model``, and keeps what it says for the next time."""

        def take(scorer: TeacherForcedScorer) -> Taken:
            record = scorer.record(model, self._prompts, tokenizer, max_length=self._max_length)
            self._files.put(key, record)
            return Taken(self._told(record), "")

        return take
