"""What each argument of the markers takes and means: one text for the documentation, ``--markers`` and editors."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

__all__ = ["ARGUMENT_HELP", "ArgumentHelp"]


class ArgumentHelp(NamedTuple):
    """One argument of a marker."""

    type: str
    """The type, as Python writes it."""
    default: str
    """What applies without the argument: a value as Python writes it, or in words."""
    text: str
    """What it means, in one sentence or two, without a full stop at the end."""


def _described(*lines: tuple[str, str, str, str]) -> Mapping[str, ArgumentHelp]:
    return MappingProxyType({name: ArgumentHelp(*rest) for name, *rest in lines})


ARGUMENT_HELP = _described(
    (
        "reference",
        "str | Path",
        "the fixture pot_reference",
        "the trusted model: a folder, a hub id, an ONNX graph, a .gguf file, the URL of a server, package.module:factory, or a "
        "recording of the reference (*.pot.safetensors)",
    ),
    ("candidate", "str | Path", "the fixture pot_candidate", "the model under test, named in the same way, but no recording"),
    (
        "prompts",
        "str | Path | list[str | Prompt]",
        "the fixture pot_prompts",
        "a JSON Lines file, a list of prompts, or 'added-tokens': the built-in prompts and some that hold each token that was "
        "added to the tokenizer",
    ),
    ("key", "str", "the option --pot-key", "draw the prompts from this secret; no candidate can have been fitted to them"),
    ("preset", "str", "the option --pot-preset, else 'auto'", "a set of values for what is compared and how"),
    ("metric", "str", "the option --pot-metric, else 'tv'", "the metric that the limits apply to"),
    (
        "max_score",
        "float",
        "the limit of the tolerance",
        "SAME if the mean score is at most this and no prompt is above its own limit; instead of a tolerance",
    ),
    (
        "max_prompt_score",
        "float",
        "ten times the limit on the mean; for metrics that end at 1, at most a quarter of the way from that limit to 1",
        "the limit on the score of each prompt, since a mean hides one broken prompt",
    ),
    (
        "min_score",
        "float",
        "the limit of the tolerance",
        "DIFFERENT if the mean score is above this; instead of a tolerance",
    ),
    ("tolerance", "str", "the option --pot-tolerance, else 'half'", "a limit on the metric tv, by its name"),
    (
        "confidence",
        "float",
        "None: all prompts are scored",
        "take the prompts as a sample in random order, and decide once a verdict is wrong with a probability of at most "
        "1 - confidence",
    ),
    (
        "max_outliers",
        "float",
        "0.05",
        "with a confidence: SAME also claims that fewer than this share of prompts score above the limit for one prompt",
    ),
    (
        "max_length",
        "int",
        "the option --pot-max-length, else the preset's",
        "the most tokens of prompt and continuation together; longer prompts are cut on the left",
    ),
    (
        "positions",
        "int",
        "the option --pot-positions, else the preset's",
        "the most tokens of a continuation that are compared",
    ),
    (
        "batch_size",
        "int | 'auto'",
        "the option --pot-batch-size, else the preset's",
        "prompts per forward pass; 'auto' plans the batches that cost least",
    ),
    (
        "candidate_dtype",
        "str",
        "the option --pot-candidate-dtype, else the reference's",
        "the precision that the candidate runs in: 'float32', 'float16', 'bfloat16', 'float64' or 'auto'",
    ),
    (
        "path",
        "str",
        "the option --pot-path, else 'prefill'",
        "how the candidate reads a continuation: 'prefill' in one forward pass, 'decode' token by token through its own "
        "key-value cache",
    ),
    (
        "max_tail",
        "float",
        "the option --pot-max-tail, else 0.25",
        "the largest mean probability of the reference outside the compared tokens at which the gate may pass",
    ),
    (
        "budget_ms",
        "float",
        "None: no limit",
        "the most milliseconds of the candidate, per what 'per' says; it depends on the machine",
    ),
    (
        "max_slowdown",
        "float",
        "None: no limit",
        "the most that the candidate's time may be as a multiple of the reference's, timed in turn; a 95% bound must be above "
        "it for a failure",
    ),
    (
        "min_tokens_per_s",
        "float",
        "None: no limit",
        "the fewest tokens that the candidate reads per second, or generates with what='decode'",
    ),
    (
        "max_memory_mb",
        "float",
        "None: no limit",
        "the most peak memory of the candidate's run, weights included, in megabytes of 10^6 bytes",
    ),
    (
        "max_memory_ratio",
        "float",
        "None: no limit",
        "the most that the candidate's peak memory may be as a multiple of the reference's",
    ),
    ("per", "str", "'prompt'", "what a budget is for: 'prompt', 'batch' or 'token'"),
    ("stat", "str", "'median'", "the statistic that a budget limits: 'median' or 'p95'"),
    (
        "what",
        "str",
        "'score'",
        "what is timed: 'score' the forward pass of a gate on a score, 'prefill' the bare forward pass, 'decode' greedy "
        "generation",
    ),
    ("new_tokens", "int", "8", "with what='decode': how many tokens are generated per prompt, at least 2"),
    ("max_seconds", "float", "120", "the most seconds for measuring; a timing that has begun is completed"),
)
"""Every argument of every marker by name. A name means the same in all markers that take it."""
