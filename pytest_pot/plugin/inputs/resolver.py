"""What a gate compares: a marker's specs, or else what the fixtures of its test return -> :class:`GateInputs`."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_pot.baseline.baseline import Baseline
from pytest_pot.baseline.naming import SUFFIX, is_baseline
from pytest_pot.baseline.replay import refuse_stale
from pytest_pot.core.errors import InvalidArgument, PotError
from pytest_pot.engines.base import LoadedModel
from pytest_pot.gates.latency.settings import LatencySettings
from pytest_pot.gates.verdict.gate import GateInputs, Taken
from pytest_pot.plugin import options as settings
from pytest_pot.plugin.collection import LEFTOVERS
from pytest_pot.plugin.inputs.baseline_store import RECORDINGS, Live
from pytest_pot.plugin.inputs.cached_reference import GateCache
from pytest_pot.plugin.inputs.model_store import STORE, ModelStore, is_overridden, named_by_fixture, no_model, no_tokenizer
from pytest_pot.plugin.options import GateSettings
from pytest_pot.plugin.session.item_properties import RECORDED, tell
from pytest_pot.prompts.challenges import challenge_prompts, challenge_sample
from pytest_pot.prompts.prompt import Prompt, as_prompts, builtin_prompts, listed, load_prompts, shorten

if TYPE_CHECKING:
    from pytest_pot.scoring.scorer import TeacherForcedScorer

__all__ = ["resolve"]

_DRAWN = 32
_DRAWN_AT_MOST = 256
"""Prompts drawn by a key: for a suite that is scored whole, and until a verdict is safe."""

Recording = Callable[["TeacherForcedScorer"], Taken]


def resolve(request: pytest.FixtureRequest, gate: GateSettings) -> GateInputs:
    """The models, the tokenizer and the prompts of one gate.

    A recorded file is not read here: what is wrong with it is the test's failure, in its call phase.

    Raises:
        PotError: a model or its tokenizer cannot be loaded, the reference has no tokenizer, or prompts cannot be read.
    """
    return _Resolver(request, gate).inputs()


class _Resolver:
    def __init__(self, request: pytest.FixtureRequest, gate: GateSettings) -> None:
        self._request = request
        self._gate = gate
        self._config = request.config
        self._store: ModelStore = request.config.stash[STORE]

    def inputs(self) -> GateInputs:
        if isinstance(self._gate, LatencySettings):
            return self._timed(self._gate)
        source = self._source("reference")
        if source is None:
            raise no_model("reference")
        if isinstance(source, Baseline):
            return self._recorded(source)
        if is_baseline(source):
            path = Path(source)
            self._config.stash[LEFTOVERS].name(path)
            return self._recorded_anew(path) if settings.flag(self._config, "update") else self._recorded(path)
        return self._live(source)

    # -- what is timed: live models, and never what a recording or a cache knows of one ---------------------------------

    def _timed(self, gate: LatencySettings) -> GateInputs:
        if gate.limits.need_reference:
            source = gate.reference or self._live_source()
            if source is None:
                raise no_model("reference")
            reference, candidate = self._loaded(source, "reference"), self._candidate()
            if isinstance(reference.model, Baseline):
                raise PotError(
                    "the reference is a recording, which has no clock: max_slowdown and max_memory_ratio need a model"
                )
            tokenizer, theirs = self._tokenizers(reference, candidate)
            name = self._name("reference", source)
            return self._inputs(candidate, tokenizer, theirs, self._prompts(), name, reference=reference.model)
        candidate, tokenizer = self._candidate_alone()
        return self._inputs(candidate, tokenizer, None, self._prompts(), None)

    # -- the three kinds of reference ----------------------------------------------------------------------------------

    def _recorded(self, source: Path | Baseline) -> GateInputs:
        candidate, tokenizer = self._candidate_alone()
        recordings, item, prompts = self._config.stash[RECORDINGS], self._request.node, self._prompts()

        def take(scorer: TeacherForcedScorer) -> Taken:
            if isinstance(source, Path):
                return Taken(recordings.read(source, item, scorer.config, tokenizer, prompts), "recorded")
            refuse_stale(source, scorer.config, tokenizer, as_prompts(prompts))
            return Taken(source, "recorded")

        name = recordings.shown(source) if isinstance(source, Path) else self._name("reference", source)
        return self._inputs(candidate, tokenizer, None, prompts, name, recording=take)

    def _recorded_anew(self, path: Path) -> GateInputs:
        from pytest_pot.engines.pytorch.model_traits import max_positions

        source = self._live_source()
        if source is None or isinstance(source, Baseline) or is_baseline(source):
            raise PotError(
                f"--pot-update has no model to record {path.name} from. Name the live reference with --pot-reference or the "
                "ini key pot_reference, or let the fixture pot_reference return it"
            )
        reference = self._loaded(source, "reference")
        candidate = self._candidate()
        tokenizer, theirs = self._tokenizers(reference, candidate)
        recordings, item, prompts = self._config.stash[RECORDINGS], self._request.node, self._prompts()
        path_or_none = str(source) if isinstance(source, str | Path) else None
        name = self._name("reference", source) if path_or_none is None else recordings.called(path_or_none)
        live = Live(reference.model, name, path_or_none)
        limit = max_positions(candidate.model)

        def told(line: str) -> None:
            tell(item, [(RECORDED, line)])

        def take(scorer: TeacherForcedScorer) -> Taken:
            return Taken(recordings.write(path, live, scorer, tokenizer, prompts, limit, told), "recorded just now")

        return self._inputs(candidate, tokenizer, theirs, prompts, recordings.shown(path), recording=take)

    def _live(self, source: Any) -> GateInputs:
        name, prompts, candidate = self._name("reference", source), self._prompts(), self._candidate()
        cache = GateCache.of(self._config, self._gate.config, prompts, candidate.model) if prompts else None
        key = None
        if cache is not None and isinstance(source, str | Path):
            chosen = self._chosen_tokenizer()
            tokenizer = self._store.tokenizer_at(str(source)) if chosen is None else chosen
            key = cache.key_by_files(str(source), tokenizer)
            known = None if key is None else cache.known(key)
            if known is not None:  # what the reference would say: it is not even loaded
                theirs = candidate.tokenizer if chosen is None else None
                return self._inputs(candidate, tokenizer, theirs, prompts, name, recording=known)
        reference = self._loaded(source, "reference")
        tokenizer, theirs = self._tokenizers(reference, candidate)
        take = None
        if cache is not None:
            key = key or cache.key_by_content(reference.model, tokenizer)
        if cache is not None and key is not None:
            known = cache.known(key)
            if known is not None:
                return self._inputs(candidate, tokenizer, theirs, prompts, name, recording=known)
            if not self._gate.sequential:  # else the reference is run no further than need be
                take = cache.to_be_kept(key, reference.model, tokenizer)
        return self._inputs(candidate, tokenizer, theirs, prompts, name, reference=reference.model, recording=take)

    # -- what marker, options and fixtures name ------------------------------------------------------------------------

    def _source(self, role: str) -> Any:
        """A marker's spec, what a fixture of the suite returns, or the option's spec; None where there is none of them."""
        spec = getattr(self._gate, role)
        if spec is not None:
            return spec
        if role == "reference" and self._gate.baseline is not None:
            return self._gate.baseline
        if role == "reference" and settings.option(self._config, "baseline") is not None:
            return settings.option_path(self._config, "baseline")
        return self._live_source(role)

    def _live_source(self, role: str = "reference") -> Any:
        if is_overridden(self._request.node, f"pot_{role}"):
            return self._from_fixture(f"pot_{role}")
        return settings.option_path(self._config, role)

    def _candidate(self) -> LoadedModel:
        source = self._source("candidate")
        if source is None:
            raise no_model("candidate")
        return self._loaded(source, "candidate")

    def _loaded(self, source: Any, role: str) -> LoadedModel:
        if is_baseline(source):
            raise PotError(f"the {role} {source} is a recording (*{SUFFIX}), and a model is needed here")
        if getattr(self._gate, role) is None and source == settings.option_path(self._config, role):
            loaded = self._store.from_options(role)
            assert loaded is not None
            return loaded
        return self._store.resolve(source, role)

    def _candidate_alone(self) -> tuple[LoadedModel, Any]:
        """The candidate with the tokenizer to use where no reference brings one."""
        candidate = self._candidate()
        chosen = self._chosen_tokenizer()
        tokenizer = self._store.tokenizer_of(candidate) if chosen is None else chosen
        if tokenizer is None:
            raise no_tokenizer("candidate")
        return candidate, tokenizer

    def _chosen_tokenizer(self) -> Any:
        """The one tokenizer that the user chose for both models; None where each comes with its own.

        The fixture of that name is of the session, and cannot ask for a ``pot_reference`` of a narrower scope: it is only
        asked where the suite has one of its own.
        """
        if is_overridden(self._request.node, "pot_tokenizer"):
            return self._request.getfixturevalue("pot_tokenizer")
        return self._store.tokenizer()

    def _tokenizers(self, reference: LoadedModel, candidate: LoadedModel) -> tuple[Any, Any]:
        """The tokenizer for both models, and the candidate's own where that has to agree with it."""
        chosen = self._chosen_tokenizer()
        tokenizer = self._store.tokenizer_of(reference) if chosen is None else chosen
        if tokenizer is None:
            raise no_tokenizer()
        return tokenizer, candidate.tokenizer if chosen is None else None

    def _prompts(self) -> Sequence[str | Prompt]:
        given = self._gate.prompts
        if isinstance(given, Path):
            return load_prompts(given)
        if given is not None:
            return given
        sequential = self._gate.sequential
        if self._gate.key is not None:
            return challenge_sample(self._gate.key, _DRAWN_AT_MOST) if sequential else challenge_prompts(self._gate.key, _DRAWN)
        if sequential and not self._has_prompts():
            return builtin_prompts(None)  # more to draw from than what is scored whole by default
        found = self._from_fixture("pot_prompts")
        if isinstance(found, str):
            if not os.path.isfile(found):
                raise PotError(
                    f"the fixture pot_prompts returned {shorten(found, 200)!r}: that is no list of prompts, and there is no "
                    f"such file beside the fixture or in {self._config.rootpath}"
                )
            return load_prompts(found)
        try:
            return listed(found)
        except InvalidArgument as error:
            raise PotError(f"the fixture pot_prompts: {error}") from error

    def _from_fixture(self, name: str) -> Any:
        return named_by_fixture(self._request.node, name, self._request.getfixturevalue(name))

    def _has_prompts(self) -> bool:
        """Whether the suite or its user names prompts, in place of the built-in ones."""
        return (
            is_overridden(self._request.node, "pot_prompts")
            or settings.option(self._config, "prompts") is not None
            or bool(self._config.hook.pytest_pot_prompts.get_hookimpls())
        )

    def _name(self, role: str, source: Any) -> str:
        """What people call a model: its spec, or the fixture that it came from."""
        if isinstance(source, str | Path):
            written = settings.option(self._config, role)
            return written if written is not None and str(source) == settings.option_path(self._config, role) else str(source)
        return f"{type(LoadedModel.of(source).model).__name__} from the fixture pot_{role}"

    def _inputs(
        self,
        candidate: LoadedModel,
        tokenizer: Any,
        candidate_tokenizer: Any,
        prompts: Sequence[str | Prompt],
        name: str | None,
        reference: Any = None,
        recording: Recording | None = None,
    ) -> GateInputs:
        return GateInputs(
            reference=reference,
            candidate=candidate.model,
            tokenizer=tokenizer,
            candidate_tokenizer=candidate_tokenizer,
            prompts=prompts,
            names=(name, self._name("candidate", self._source("candidate"))),
            recording=recording,
            endless=self._gate.key is not None and self._gate.prompts is None,
        )
