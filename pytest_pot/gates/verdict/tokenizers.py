"""What a gate says of tokenizers beyond the prompts: parts that differ though no prompt shows it, and tokens in no prompt."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from pytest_pot.core.errors import PotError
from pytest_pot.core.text import count, number, quoted, shorten
from pytest_pot.gates.base import GateInputs, RecordedReference
from pytest_pot.gates.verdict.limits import TOLERANCE_METRIC, TOLERANCES, IdentityLimits
from pytest_pot.gates.verdict.settings import ScoreSettings

if TYPE_CHECKING:  # these need numpy, and a gate is made while tests are collected
    from pytest_pot.prompts.tokenization import EncodedPrompts

__all__ = ["doubled_bos_warnings", "live_tokenizer_notes", "recorded_tokenizer_notes", "unread_token_notes"]

_SHOWN = 4
"""Tokens that a note names."""


def live_tokenizer_notes(settings: ScoreSettings, inputs: GateInputs) -> tuple[str, ...]:
    """In which parts the candidate's own tokenizer differs from the gate's, where both give the same ids for every prompt.

    Raises:
        PotError: they differ, and the limit is one that only the same model meets.
    """
    from pytest_pot.prompts.tokenizer_differences import listed_parts
    from pytest_pot.prompts.tokenizer_digests import tokenizer_digests, tokenizer_identity
    from pytest_pot.prompts.tokenizer_parts import different_parts

    ours, theirs = inputs.prompts.tokenizer, inputs.candidate_tokenizer
    if theirs is None or theirs is ours:
        return ()
    identities = [tokenizer_identity(side) for side in (ours, theirs)]
    notes = _rules_unread(identities[1], theirs)
    names = [] if identities[0] == identities[1] else different_parts(tokenizer_digests(ours), tokenizer_digests(theirs))
    if not names:
        return notes
    parts = listed_parts(names, ours, theirs)
    _refuse_if_strict(settings, inputs.prompts, names, f"the tokenizers of reference and candidate differ in: {parts}")
    return (f"the tokenizers of reference and candidate differ, which no prompt shows: {parts}", *notes)


def recorded_tokenizer_notes(settings: ScoreSettings, inputs: GateInputs, reference: RecordedReference) -> tuple[str, ...]:
    """:func:`live_tokenizer_notes` for a recorded reference: parts that differ but do not make the recording stale.

    Raises:
        PotError: as :func:`live_tokenizer_notes`.
    """
    from pytest_pot.baseline.provenance import tolerated_tokenizer_differences
    from pytest_pot.prompts.tokenizer_digests import tokenizer_digests, tokens_beyond
    from pytest_pot.prompts.tokenizer_parts import PART_NAMES

    provenance = reference.baseline.provenance
    tokenizer, recorded = inputs.prompts.tokenizer, provenance.tokenizer
    digests = tokenizer_digests(tokenizer, recorded)
    names = list(tolerated_tokenizer_differences(provenance, digests))
    described = {name: PART_NAMES[name] for name in names}
    if digests.get("added_tokens") != recorded.get("added_tokens"):
        described = {"added_tokens": _added(tokens_beyond(recorded, tokenizer)), **described}
        described.pop("encoding", None)  # which depends on the others
    names = list(described)
    notes = _rules_unread(digests, tokenizer) if reference.note == "recorded" else ()  # else by this very tokenizer
    if not names:
        return notes
    parts = ", ".join(described.values())
    _refuse_if_strict(settings, inputs.prompts, names, f"the tokenizer differs from the recorded one in: {parts}")
    return (f"the tokenizer differs from the recorded one, which no prompt shows: {parts}", *notes)


def _rules_unread(parts: Mapping[str, str], tokenizer: object) -> tuple[str, ...]:
    """A note, in a tuple, on a tokenizer of whose rules there is no digest in ``parts``."""
    if not {"whole", "model", "sentencepiece"}.isdisjoint(parts):
        return ()
    return (
        f"the candidate's tokenizer ({type(tokenizer).__name__}) does not write down its rules: beside the ids of the prompts "
        "and of one other text, only its vocabulary, added and special tokens and chat template were compared",
    )


def _added(tokens: Mapping[int, str]) -> str:
    """The part ``added_tokens`` with an example: ``tokens``, by id, are in the gate's tokenizer only."""
    if not tokens:
        return "added tokens"
    index, text = next(iter(tokens.items()))
    more = f"; {len(tokens)} ids differ" if len(tokens) > 1 else ""
    return f"added tokens (id {index} is nothing in the recorded one and {text!r} in the candidate's{more})"


def unread_token_notes(prompts: EncodedPrompts, read: Iterable[Sequence[int]]) -> tuple[str, ...]:
    """Which added tokens of the tokenizer are in none of the sequences ``read`` of ids, and which have no row at all."""
    from pytest_pot.prompts.added_tokens import added_without_row, unread_added_tokens

    notes = []
    tokenizer, n_rows = prompts.tokenizer, prompts.n_rows
    if prompts.lacks_added_tokens:
        notes.append("prompts for added tokens were asked for, but the tokenizer has none that a text can hold")
    tokens = unread_added_tokens(tokenizer, read, n_rows)
    if tokens:
        is_ = "is" if len(tokens) == 1 else "are"
        rows = "its rows of the embeddings and the output layer are" if len(tokens) == 1 else "their rows are"
        notes.append(
            f"{count(len(tokens), 'added token')} of the tokenizer {is_} in no prompt, so {rows} not compared: "
            f"{_some(tokens)}{_how_to_read(prompts, tokens)}"
        )
    tokens = added_without_row(tokenizer, n_rows)
    if tokens:
        have, ids = ("has", "its id is") if len(tokens) == 1 else ("have", "their ids are")
        notes.append(
            f"{count(len(tokens), 'added token')} of the tokenizer {have} no row in the models' embeddings, which have "
            f"{n_rows} ({ids} beyond): {_some(tokens)}"
        )
    return tuple(notes)


def _how_to_read(prompts: EncodedPrompts, tokens: Sequence[str]) -> str:
    """What to do about ``tokens``, which no prompt that was scored holds."""
    from pytest_pot.prompts.added_tokens import are_added_token_prompts, unread_added_tokens

    if not are_added_token_prompts(prompts.prompts):
        return (
            '. pytest_pot.added_token_prompts(tokenizer) makes prompts that hold them, and prompts="added-tokens" adds these '
            "to the built-in suite"
        )
    ids = (context + (continuation or []) for context, continuation in prompts.ids)
    if set(tokens) & set(unread_added_tokens(prompts.tokenizer, ids, prompts.n_rows)):
        return f". added_token_prompts found no text that gives {'it' if len(tokens) == 1 else 'all of them'}"
    return ". The gate was decided before it came to the prompts that hold them"


def _some(tokens: Sequence[str]) -> str:
    more = f" and {len(tokens) - _SHOWN} more" if len(tokens) > _SHOWN else ""
    return ", ".join(shorten(ascii(token), 40) for token in tokens[:_SHOWN]) + more


def doubled_bos_warnings(gate: str, prompts: EncodedPrompts) -> tuple[str, ...]:
    """A warning, in a tuple, if texts begin with a BOS token already and get a second one; ``gate``: the marker's name."""
    doubled = prompts.doubled_bos
    if not doubled:
        return ()
    begin = "prompt begins" if len(doubled) == 1 else "prompts begin"
    first, tokens = next(iter(doubled.items()))
    return (
        f"{gate}: {len(doubled)} of {len(prompts)} {begin} with two BOS ({quoted(tokens, 60)}; the first is prompt {first}): "
        "the text has one, and the tokenizer adds another. Remove it from the text; or give a chat by its messages, "
        '{"messages": [...], "continuation": ...} or Prompt.chat(messages, continuation), which are encoded as the template '
        "renders them",
    )


def _refuse_if_strict(settings: ScoreSettings, prompts: EncodedPrompts, names: Sequence[str], difference: str) -> None:
    limits, metric = settings.limits, settings.config.metric
    strict = TOLERANCES["numeric"] if metric == TOLERANCE_METRIC else 0  # of other metrics, how small is small is not known
    if not isinstance(limits, IdentityLimits) or limits.score > strict:
        return
    more = "tolerance='half'" if metric == TOLERANCE_METRIC else f"a max_score above 0 on {metric}"
    if not prompts.holds_texts and set(names) <= {"post_processor", "encoding"}:
        return  # they add the special tokens of texts, and all prompts are chats, which have those of their template
    raise PotError(
        f"{difference}. No prompt shows it, but a limit of {number(limits.score)} claims that the models are the same, and "
        f"with other texts they would not be. Give both the same tokenizer; or allow more, such as {more}; or, if the "
        "candidate's tokenizer is not meant to be used, name the one to use with --pot-tokenizer or the pot_tokenizer "
        "fixture"
    )
