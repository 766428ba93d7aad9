"""``python -m pytest_pot explain``: all that can be known of how two models differ, whatever a gate would say of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pytest_pot.baseline.baseline import Baseline
from pytest_pot.baseline.naming import is_baseline
from pytest_pot.core.config import ScoringConfig
from pytest_pot.core.errors import PotError
from pytest_pot.core.text import printable, shorten
from pytest_pot.engines.base import LoadedModel
from pytest_pot.engines.registry import (
    common_device,
    embedding_rows,
    load_model,
    max_positions,
    opened,
    refuse_other_than_model,
)
from pytest_pot.engines.tokens import Tokens
from pytest_pot.engines.weights import ChangeKind, TensorChange
from pytest_pot.prompts.builtin import builtin_prompts
from pytest_pot.prompts.jsonl import load_prompts
from pytest_pot.prompts.prompt import Prompt
from pytest_pot.prompts.tokenization import EncodedPrompts
from pytest_pot.scoring.diagnosis.diagnose import ModelPair, diagnose
from pytest_pot.scoring.diagnosis.diagnosis import Diagnosis
from pytest_pot.scoring.encoding import fit_all

__all__ = ["Explanation", "ExplanationRequest", "explain"]

_NAME = 200
"""Characters of a spec or of a tensor's name."""


@dataclass(frozen=True)
class ExplanationRequest:
    """Which models are compared, and how."""

    reference: str
    """A model's spec, or a recorded reference."""
    candidate: str
    config: ScoringConfig
    prompts: Path | None = None
    """A file whose first prompt the models read; None: a built-in one."""


@dataclass(frozen=True)
class Explanation:
    """A diagnosis, and what it is of."""

    reference: str
    candidate: str
    diagnosis: Diagnosis

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {"reference": self.reference, "candidate": self.candidate, **self.diagnosis.to_dict()}

    def lines(self) -> list[str]:
        """The whole of it for people: what changed in groups, where it starts, then each change by its name."""
        diagnosis = self.diagnosis
        lines = [f"reference  {shorten(self.reference, _NAME)}", f"candidate  {shorten(self.candidate, _NAME)}"]
        notes = list(map(printable, diagnosis.notes))
        lines += _section("what changed", diagnosis.what_changed[: len(diagnosis.what_changed) - len(notes)])
        lines += _section("where it starts", diagnosis.where_it_starts)
        lines += _section("not told", notes)
        lines += _section("configuration, reference -> candidate", _config_lines(diagnosis))
        return [*lines, *_section(*_weights_section(diagnosis))]


def explain(request: ExplanationRequest, progress: Callable[[int, int], None] | None = None) -> Explanation:
    """Load both models and compare configurations, weights and, where both are live, modules on one prompt.

    Args:
        request: what to compare.
        progress: called with (steps done, steps in all).

    Raises:
        PotError: one of them cannot be loaded, or is a recording where a model is needed; the prompts cannot be read.
    """
    recorded = _recorded_reference(request)
    prompts = None if request.prompts is None else load_prompts(request.prompts)
    config = request.config
    with ExitStack() as stack:
        candidate = _loaded(request.candidate, "candidate", config, stack)
        pair = ModelPair(candidate=candidate.model, candidate_config=config, config=config)
        untold = unknown_start = None
        if recorded is not None:
            pair = replace(pair, is_recorded=True, recorded=recorded.weights_print)
            if recorded.weights_print is not None:
                untold = "the numbers that modules keep beside their tensors, such as a scale: a recording does not hold them"
        else:
            reference = _loaded(request.reference, "reference", config, stack)
            config = replace(config, device=common_device(config.device, [reference, candidate]))
            pair = replace(pair, reference=reference.model, candidate_config=config, config=config)
            try:
                pair = replace(pair, tokens=_tokens(prompts, config, reference, candidate))
            except PotError as error:
                if prompts is not None:
                    raise
                unknown_start = f"not known: {str(error).splitlines()[0]}"
        diagnosis = diagnose(pair, progress)
    if untold is not None:
        notes, changed = (*diagnosis.notes, untold), (*diagnosis.what_changed, untold)
        diagnosis = replace(diagnosis, notes=notes, what_changed=changed)
    if unknown_start is not None:
        diagnosis = replace(diagnosis, where_it_starts=(unknown_start,))
    return Explanation(request.reference, request.candidate, diagnosis)


def _recorded_reference(request: ExplanationRequest) -> Baseline | None:
    """The recording that the reference is; None where it is a model.

    Raises:
        PotError: the candidate is a recording, prompts are named for a recording, or the file cannot be read.
    """
    if is_baseline(request.candidate):
        if is_baseline(request.reference):
            reference, candidate = Baseline.load(request.reference), Baseline.load(request.candidate)
            raise PotError(
                f"both are recordings, and explain needs the candidate's weights; {_recorded_weights(reference, candidate)}. "
                "What both recorded is compared by python -m pytest_pot compare"
            )
        raise PotError(
            f"the candidate {request.candidate} is a recording, and explain needs the candidate's weights: name a model. Only "
            "the reference may be a recording"
        )
    if not is_baseline(request.reference):
        return None
    if request.prompts is not None:
        raise PotError(f"--prompts is for two live models: the reference {request.reference} is a recording, which reads none")
    return Baseline.load(request.reference)


def _recorded_weights(reference: Baseline, candidate: Baseline) -> str:
    """Whether the weights of two recordings are the same, as a clause."""
    prints = reference.weights_print, candidate.weights_print
    if prints[0] is not None and prints[1] is not None:
        sides = [{name: tensor.digest for name, tensor in side.tensors.items()} for side in prints if side is not None]
        names = sides[0].keys() | sides[1].keys()
        different = [name for name in names if sides[0].get(name) != sides[1].get(name)]
        return (
            f"of the {len(names)} tensors that they know, {len(different)} differ" if different else "their weights are equal"
        )
    digests = reference.provenance.weights, candidate.provenance.weights
    if None in digests:
        return "whether their weights are the same is not recorded"
    return "their weights are equal" if digests[0] == digests[1] else "their weights differ"


def _loaded(spec: str, role: str, config: ScoringConfig, stack: ExitStack) -> LoadedModel:
    loaded = LoadedModel.of(load_model(spec, role, config))
    refuse_other_than_model(loaded.model, f"{role} {spec!r}")
    if loaded.close is not None:
        stack.callback(loaded.close)
    return loaded


def _tokens(prompts: list[Prompt] | None, config: ScoringConfig, reference: LoadedModel, candidate: LoadedModel) -> Tokens:
    """The first of ``prompts``, or the longest of the built-in ones, as both models read it."""
    tokenizer = reference.tokenizer if reference.tokenizer is not None else candidate.tokenizer
    if tokenizer is None:
        raise PotError("neither model comes with a tokenizer, so there is no prompt to compare them on module by module")
    prompt = prompts[0] if prompts is not None else max(builtin_prompts(), key=lambda prompt: len(prompt.text))
    rows = [n for model in (reference, candidate) if (n := embedding_rows(model.model)) is not None]
    encoded = EncodedPrompts([prompt], tokenizer, n_rows=min(rows, default=None))
    with opened(reference.model, "reference", config) as engine:
        [tokens] = fit_all(config, encoded.ids, engine, max_positions(candidate.model))
    return tokens


# -- lines -------------------------------------------------------------------------------------------------------------


def _section(title: str, entries: Sequence[str]) -> list[str]:
    return [f"{title}:", *(printable(f"  {entry}") for entry in entries)] if entries else []


def _config_lines(diagnosis: Diagnosis) -> list[str]:
    return [f"{change.field}: {change.reference!r} -> {change.candidate!r}" for change in diagnosis.config or ()]


def _weights_section(diagnosis: Diagnosis) -> tuple[str, list[str]]:
    """The title of the section on the weights, and every changed tensor by its name, with the kind and the size of its
    change."""
    weights = diagnosis.weights
    if weights is None:
        return "", []
    estimated = "; sizes are estimated from the recording" if weights.recorded else ""
    title = f"tensors, {weights.n_equal} of {weights.n_tensors} equal{estimated}"
    changes = (*weights.changes, *weights.computed)
    names = [shorten(_both_names(change), _NAME) for change in changes]
    whats = [_what(change) for change in weights.changes] + [f"computed, {_what(change)}" for change in weights.computed]
    width, what_width = (max(map(len, texts), default=0) for texts in (names, whats))
    sizes = ["" if change.relative is None else f"relative change {change.relative:.3g}" for change in changes]
    rows = zip(names, whats, sizes, strict=True)
    return title, [f"{name.ljust(width)}  {what.ljust(what_width)}  {size}".rstrip() for name, what, size in rows]


def _both_names(change: TensorChange) -> str:
    other = change.candidate_name
    return change.name if other in (None, change.name) else f"{change.name} (candidate: {other})"


def _what(change: TensorChange) -> str:
    """The kind of a change, with what it leaves open."""
    amount = change.amount
    amounts = {
        ChangeKind.PRUNED: "{:.1%} new zeros",
        ChangeKind.SCALED: "by {:.4g}",
        ChangeKind.LOW_RANK: "rank {:.0f}",
    }
    number = "" if amount is None else amounts.get(change.kind, "{:.3g}").format(amount)
    parts = [change.kind.value, change.what, number, change.detail]
    return shorten(" ".join(filter(None, parts)), _NAME)
