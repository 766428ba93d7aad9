"""What a gate compares: from what its marker, options and fixtures name to :class:`~pytest_pot.gates.base.GateInputs`."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import pytest

from pytest_pot.baseline.baseline import Baseline
from pytest_pot.baseline.naming import is_baseline
from pytest_pot.baseline.staleness import refuse_stale
from pytest_pot.core.errors import PotError
from pytest_pot.core.text import count, shorten, some_of
from pytest_pot.engines.base import LoadedModel
from pytest_pot.engines.registry import common_device, device_of, embedding_rows, max_positions, not_loaded
from pytest_pot.engines.server.address import is_server
from pytest_pot.gates.base import Gate, GateInputs, RecordedReference, RecordReference, ReferenceUse
from pytest_pot.plugin.inputs.baseline_store import LiveReference, baseline_store
from pytest_pot.plugin.inputs.cached_reference import CachedReference, files_of
from pytest_pot.plugin.inputs.fixture_values import fixture_value
from pytest_pot.plugin.inputs.ladders import by_content, by_files, known_ladder, where_it_runs
from pytest_pot.plugin.inputs.model_store import no_model
from pytest_pot.plugin.inputs.prompt_source import PromptRequest, choose_prompts
from pytest_pot.plugin.inputs.reference_sources import ModelSources
from pytest_pot.plugin.options import flag
from pytest_pot.plugin.pytest_internals import is_overridden
from pytest_pot.plugin.session.item_properties import attach_properties
from pytest_pot.plugin.session.unused_baselines import UNUSED_BASELINES
from pytest_pot.prompts.prompt import Prompt
from pytest_pot.prompts.tokenization import EncodedPrompts
from pytest_pot.prompts.tokenizer_digests import tokenizer_identity
from pytest_pot.report.properties import RECORDED

__all__ = ["resolve"]


def resolve(request: pytest.FixtureRequest, gate: Gate) -> GateInputs:
    """The models, the tokenizer and the prompts of one gate.

    A recorded file is not read here: what is wrong with it is the test's failure, in its call phase.

    Raises:
        PotError: a model or its tokenizer cannot be loaded, the reference has no tokenizer, or prompts cannot be read.
    """
    return _Resolver(request, gate).inputs()


class _Resolver:
    def __init__(self, request: pytest.FixtureRequest, gate: Gate) -> None:
        self._request = request
        self._item: pytest.Item = request.node
        self._gate = gate
        self._settings = gate.settings
        self._config = request.config
        self._sources = ModelSources(request, gate.settings)

    def inputs(self) -> GateInputs:
        use = self._gate.uses_reference
        if use is ReferenceUse.NONE:
            source, candidate = self._sources.candidate()
            return self._inputs(
                source, candidate, self._encoded(self._sources.tokenizer_of(candidate, "candidate"), candidate), None
            )
        if use is ReferenceUse.LIVE:
            return self._live_only()
        reference = self._sources.reference()
        inputs = self._of_reference(reference)
        config = self._settings.config
        where = where_it_runs(replace(config, device=inputs.device) if config.device == "auto" else config, inputs.candidate)
        ladder = known_ladder(self._config, where, inputs.prompts, partial(self._identity, reference, inputs))
        return replace(inputs, ladder=ladder)

    def _of_reference(self, reference: Any) -> GateInputs:
        if isinstance(reference, Baseline):
            return self._recorded(reference)
        if is_baseline(reference):
            path = Path(reference)
            self._config.stash[UNUSED_BASELINES].note_use(path)
            return self._recorded_now(path) if flag(self._config, "update") else self._recorded(path)
        return self._live(reference)

    def _identity(self, reference: Any, inputs: GateInputs) -> Mapping[str, Any] | None:
        """What tells the reference from any other, as :func:`known_ladder` asks; None where nothing does."""
        if isinstance(reference, Baseline):
            return by_files(reference.provenance.files)
        if is_baseline(reference):
            return by_files(baseline_store(self._config).files_recorded_in(Path(reference)))
        files = files_of(self._config, str(reference)) if isinstance(reference, str | Path) else None
        if files or inputs.live_reference is None:
            return by_files(files) if files else by_content(inputs.reference)
        return by_content(inputs.live_reference())

    def _live_only(self) -> GateInputs:
        """Two live models, and nothing of what a recording or a cache knows of one."""
        reference = self._settings.reference or self._sources.live("reference")
        if reference is None:
            raise no_model("reference")
        loaded = self._sources.load(reference, "reference")
        source, candidate = self._sources.candidate()
        if isinstance(loaded.model, Baseline):
            raise PotError("the reference is a recording, which has no clock: max_slowdown and max_memory_ratio need a model")
        return self._both_live(reference, loaded, source, candidate)

    def _recorded(self, recorded: Path | Baseline) -> GateInputs:
        source, candidate = self._sources.candidate()
        prompts = self._encoded(self._sources.tokenizer_of(candidate, "candidate"), candidate)
        store, config, item = baseline_store(self._config), self._settings.config, self._item

        def read(_: RecordReference) -> RecordedReference:
            if isinstance(recorded, Path):
                baseline = store.read(recorded, item, config, prompts, partial(self._is_of_reference, prompts.tokenizer))
                return RecordedReference(baseline, "recorded")
            refuse_stale(recorded, config, prompts, allow_unseen=True)
            return RecordedReference(recorded, "recorded")

        name = store.shown(recorded) if isinstance(recorded, Path) else self._sources.name("reference", recorded)
        return replace(self._inputs(source, candidate, prompts, name), recording=read)

    def _is_of_reference(self, tokenizer: Any, recorded: Baseline) -> bool | None:
        """Whether the reference, recorded anew, would be recorded with ``tokenizer``; None where its own is not at hand."""
        if self._sources.chosen_tokenizer() is not None:
            return True
        if is_overridden(self._item, "pot_reference"):
            return None  # which may load a model
        reference = self._sources.live("reference")
        if reference is None or is_baseline(reference):
            reference = baseline_store(self._config).spec_of(recorded.provenance.reference)
        if reference is None or not os.path.exists(reference):
            return None
        theirs = self._sources.tokenizer_beside(str(reference))
        return None if theirs is None else tokenizer_identity(theirs) == tokenizer_identity(tokenizer)

    def _recorded_now(self, path: Path) -> GateInputs:
        """``--pot-update``: the file ``path`` is written first."""
        store, config, item = baseline_store(self._config), self._settings.config, self._item
        reference = self._to_record(path)
        loaded = self._sources.load(reference, "reference")
        source, candidate = self._sources.candidate()
        if self._config.getoption("pot_reference") is None and _are_same(reference, loaded, source, candidate):
            raise _own_reference(
                store.shown(path), self._sources.name("candidate", source), by_name=isinstance(source, str | Path)
            )
        prompts = self._encoded(self._sources.tokenizer_of(loaded, "reference"), loaded, candidate)
        spec = str(reference) if isinstance(reference, str | Path) else None
        name = self._sources.name("reference", reference) if spec is None else store.name_of(spec)
        live = LiveReference(loaded.model, name, spec, max_positions(candidate.model))

        def write(record: RecordReference) -> RecordedReference:
            baseline, line = store.write(path, live, record, config, prompts)
            if line is not None:
                attach_properties(item, [(RECORDED, line)])
            return RecordedReference(baseline, "recorded just now")

        return replace(
            self._inputs(source, candidate, prompts, store.shown(path)),
            recording=write,
            live_reference=lambda: loaded.model,
            candidate_tokenizer=self._sources.candidate_tokenizer(candidate),
            device=self._device(loaded, candidate),
        )

    def _to_record(self, path: Path) -> Any:
        """The live reference that ``path`` is recorded from: a fixture's, the options', or the one that the file itself names.

        Raises:
            PotError: there is none.
        """
        reference = self._sources.live("reference")
        if not (reference is None or isinstance(reference, Baseline) or is_baseline(reference)):
            return reference
        store = baseline_store(self._config)
        name = store.recorded_from(path)
        spec = None if name is None else store.spec_of(name)
        if spec is not None:
            return spec
        recorded = (
            "" if name is None else f". It was recorded from {shorten(name, 200)}, which is no model that is there by that name"
        )
        if name is not None and is_server(name):
            recorded = f". It was recorded from the server {shorten(name, 200)}, and no file decides which server is asked"
        raise PotError(
            f"--pot-update has no model to record {path.name} from. Name the live reference with --pot-reference or the "
            f"ini key pot_reference, or let the fixture pot_reference return it{recorded}"
        )

    def _live(self, reference: Any) -> GateInputs:
        """A live model, unless the cache knows what it would say: then it is not run, and a folder is not even loaded."""
        name = self._sources.name("reference", reference)
        source, candidate = self._sources.candidate()
        cache = None
        if isinstance(reference, str | Path) and CachedReference.is_on(self._config, self._settings.config):
            tokenizer = self._sources.tokenizer_beside(str(reference))
            cache = None if tokenizer is None else self._cache(self._encoded(tokenizer, candidate), candidate)
            if cache is not None and not cache.identify_by_files(str(reference)):
                cache = None
            if cache is not None and (known := cache.known()) is not None:
                theirs = self._sources.candidate_tokenizer(candidate)
                inputs = self._inputs(source, candidate, cache.prompts, name)
                live = partial(self._live_model, reference)
                return replace(inputs, recording=known, candidate_tokenizer=theirs, live_reference=live)
        loaded = self._sources.load(reference, "reference")
        inputs = self._both_live(reference, loaded, source, candidate)
        if cache is not None:  # the files tell all of the model, and of its tokenizer too: nothing is encoded again
            inputs = replace(inputs, prompts=cache.prompts)
        else:
            cache = self._cache(inputs.prompts, candidate)
            if cache is None:
                return _noted(inputs, CachedReference.why_off(self._config, self._settings.config))
            if not cache.identify_by_content(loaded.model):
                return _noted(inputs, cache.why_run(loaded.model))
            if (known := cache.known()) is not None:
                return replace(inputs, reference=None, recording=known, live_reference=lambda: loaded.model)
        if self._gate.sequential:
            return _noted(inputs, "the reference is run each time: with confidence it is run no further than needed")
        return _noted(replace(inputs, recording=cache.recording_of(loaded.model)), cache.why_run(loaded.model))

    def _live_model(self, reference: Any) -> Any:
        return self._sources.load(reference, "reference").model

    def _both_live(self, reference: Any, loaded: LoadedModel, source: Any, candidate: LoadedModel) -> GateInputs:
        tokenizer = self._sources.tokenizer_of(loaded, "reference")
        prompts = self._encoded(tokenizer, loaded, candidate)
        inputs = self._inputs(source, candidate, prompts, self._sources.name("reference", reference))
        return replace(
            inputs,
            reference=loaded.model,
            warnings=(*self._not_loaded(loaded, "reference"), *inputs.warnings),
            candidate_tokenizer=self._sources.candidate_tokenizer(candidate),
            device=self._device(loaded, candidate),
        )

    def _inputs(self, source: Any, candidate: LoadedModel, prompts: EncodedPrompts, name: str | None) -> GateInputs:
        """``source``: of the candidate; ``name``: of the reference."""
        return GateInputs(
            candidate=candidate.model,
            prompts=prompts,
            names=(name, self._sources.name("candidate", source)),
            endless=self._settings.key is not None and self._settings.prompts is None,
            warnings=self._not_loaded(candidate, "candidate"),
        )

    def _not_loaded(self, loaded: LoadedModel, role: str) -> tuple[str, ...]:
        """What to warn of if a model that a fixture or factory made has weights that its checkpoint lacked."""
        names = [] if loaded.movable else not_loaded(loaded.model)  # what pytest-pot loads is refused there
        if not names:
            return ()
        return (
            f"{self._settings.gate}: the {role} ({type(loaded.model).__name__}) has {count(len(names), 'tensor')} that "
            f"from_pretrained did not find in its checkpoint: {some_of(names)}. What was not set later holds random numbers",
        )

    def _encoded(self, tokenizer: Any, *models: LoadedModel) -> EncodedPrompts:
        """``models``: those that will read the prompts, as far as they are loaded."""
        rows = [n for model in models if (n := embedding_rows(model.model)) is not None]
        return EncodedPrompts(self._prompts, tokenizer, or_builtin=True, n_rows=min(rows, default=None))

    @cached_property
    def _prompts(self) -> Sequence[str | Prompt]:
        wanted = PromptRequest(self._settings.prompts, self._settings.key, self._gate.sequential)
        overridden = is_overridden(self._item, "pot_prompts")
        return choose_prompts(wanted, self._config, lambda: fixture_value(self._request, "pot_prompts"), overridden=overridden)

    def _cache(self, prompts: EncodedPrompts, candidate: LoadedModel) -> CachedReference | None:
        """The cache for a reference that runs where ``candidate`` is, if that may not be moved."""
        config = self._settings.config
        place = None if candidate.movable or config.device != "auto" else device_of(candidate.model)
        config = config if place is None else replace(config, device=place)
        return CachedReference.of(self._config, config, prompts, candidate.model)

    def _device(self, *models: LoadedModel) -> str:
        wanted = self._settings.config.device
        device = common_device(wanted, models)
        return "auto" if device == wanted else device


def _are_same(reference: Any, loaded: LoadedModel, source: Any, candidate: LoadedModel) -> bool:
    """Whether both sources name the same place, or give the same object."""
    if isinstance(reference, str | Path) and isinstance(source, str | Path):
        places = [os.path.realpath(spec) if os.path.exists(spec) else str(spec) for spec in (reference, source)]
        return places[0] == places[1]
    return loaded.model is candidate.model


def _own_reference(file: str, name: str, *, by_name: bool) -> PotError:
    """The error of an update that would record the candidate as its own reference into ``file``."""
    meant = f"; where today's candidate is meant to be the reference from now on, say so: --pot-reference={name}"
    return PotError(
        f"--pot-update would record the candidate, {name}, as its own reference into {file}, and later runs would compare it "
        f"with itself. Name the reference, --pot-reference=MODEL{meant if by_name else ''}"
    )


def _noted(inputs: GateInputs, note: str | None) -> GateInputs:
    return inputs if note is None else replace(inputs, notes=(*inputs.notes, note))
