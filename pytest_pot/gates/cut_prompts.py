"""Prompts that were cut to the length that fits: what stood before the cut was compared by nobody."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pytest_pot.core.config import ScoringConfig
from pytest_pot.prompts.builtin import builtin_prompts

if TYPE_CHECKING:  # these need numpy, and a gate is made while tests are collected
    from pytest_pot.engines.tokens import Tokens
    from pytest_pot.prompts.tokenization import EncodedPrompts

__all__ = ["cut_warnings"]


def cut_warnings(
    gate: str,
    config: ScoringConfig,
    prompts: EncodedPrompts,
    indices: Sequence[int],
    tokens: Sequence[Tokens],
    room: int | None = None,
) -> tuple[str, ...]:
    """A warning if prompts of the user's own were cut, in a tuple; built-in ones are known to be longer than most presets take.

    Args:
        gate: the marker's name.
        indices: the prompts that were read.
        tokens: what was read of each of them.
        room: how many tokens after each prompt there is to be room for; by default those of its continuation that are compared.
    """
    cut = {index: read for index, read in zip(indices, tokens, strict=True) if read.truncated}
    if not cut:
        return ()
    builtin = set(builtin_prompts(None))
    cut = {index: read for index, read in cut.items() if prompts.prompts[index] not in builtin}
    if not cut:
        return ()
    read_at_most = max(len(read.ids) for read in cut.values())
    longest = max(_length(prompts, index, config, room) for index in cut)
    n = len(indices)
    if read_at_most < config.max_length:
        reason = f"the models take no more, or did not when the reference was recorded; the longest prompt has {longest} tokens"
    else:
        reason = (
            f"the longest has {longest}. To compare them whole, set max_length={longest} in the marker, "
            f"--pot-max-length={longest}, or the ini key pot_max_length"
        )
    were = "prompt was" if n == 1 else "prompts was" if len(cut) == 1 else "prompts were"
    return (
        f"{gate}: {len(cut)} of {n} {were} cut on the left to {read_at_most} tokens, so nothing is known of what a longer "
        f"context changes: {reason}",
    )


def _length(prompts: EncodedPrompts, index: int, config: ScoringConfig, room: int | None) -> int:
    """Tokens of a whole prompt and as much of its continuation as is compared."""
    context, continuation = prompts.ids[index]
    if room is not None:
        return len(context) + room
    positions = config.positions_per_prompt
    return len(context) + (positions if continuation is None else min(len(continuation), positions))
