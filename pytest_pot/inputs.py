"""What a gate compares: a marker's specs, or else what the fixtures of its test return -> :class:`GateInputs`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from pytest_pot import settings
from pytest_pot.engines.base import LoadedModel
from pytest_pot.gates import GateInputs
from pytest_pot.models import STORE, no_tokenizer
from pytest_pot.prompts import Prompt, load_prompts
from pytest_pot.settings import Settings

__all__ = ["resolve"]

_FIXTURES = "pytest_pot.plugin"


def resolve(request: pytest.FixtureRequest, gate: Settings) -> GateInputs:
    """The models, the tokenizer and the prompts of one gate.

    Raises:
        PotError: a model or its tokenizer cannot be loaded, the reference has no tokenizer, or prompts cannot be read.
    """
    store = request.config.stash[STORE]
    sources = {
        role: getattr(gate, role) or request.getfixturevalue(f"pot_{role}")  # a marker's spec, or what the fixture returned
        for role in ("reference", "candidate")
    }
    reference, candidate = (store.resolve(source, role) for role, source in sources.items())
    # One tokenizer that the user chose for both models, or the reference's, which the candidate's must then agree with.
    chosen = request.getfixturevalue("pot_tokenizer") if _is_overridden(request, "pot_tokenizer") else store.tokenizer()
    tokenizer = store.tokenizer_of(reference) if chosen is None else chosen
    if tokenizer is None:
        raise no_tokenizer()
    if isinstance(gate.prompts, Path):
        prompts: Sequence[str | Prompt] = load_prompts(gate.prompts)
    else:
        prompts = gate.prompts if gate.prompts is not None else request.getfixturevalue("pot_prompts")
    return GateInputs(
        reference=reference.model,
        candidate=candidate.model,
        tokenizer=tokenizer,
        candidate_tokenizer=candidate.tokenizer if chosen is None else None,
        prompts=prompts,
        names=(_name(request.config, "reference", sources), _name(request.config, "candidate", sources)),
    )


def _is_overridden(request: pytest.FixtureRequest, name: str) -> bool:
    """Whether the suite has a fixture, or a parametrisation, of that name besides pytest-pot's own.

    Asked because that one is of the session, and cannot ask for a ``pot_reference`` of a narrower scope. pytest has
    no public way to look a fixture up without running it.
    """
    found = request._fixturemanager.getfixturedefs(name, request.node) or []
    parameters = getattr(getattr(request.node, "callspec", None), "params", {})
    return name in parameters or any(getattr(fixture.func, "__module__", None) != _FIXTURES for fixture in found)


def _name(config: pytest.Config, role: str, sources: Mapping[str, Any]) -> str:
    """What people call a model: its spec, or the fixture that it came from."""
    source = sources[role]
    if isinstance(source, str | Path):
        return str(source)
    if config.stash[STORE].is_from_options(role, source):
        return str(settings.option(config, role))
    return f"{type(LoadedModel.of(source).model).__name__} from the fixture pot_{role}"
