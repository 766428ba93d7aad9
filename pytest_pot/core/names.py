"""The names that users choose from: metrics, presets, dtypes, and how a recorded file is called.

This module imports nothing: the options and their help texts are made from it in every pytest run.
"""

from __future__ import annotations

__all__ = [
    "DEFAULT_PRESET",
    "DIAGNOSIS_MODES",
    "DTYPES",
    "METRICS",
    "PATHS",
    "PLAIN_FORMATS",
    "PRESET_NAMES",
    "RECORDED_SUFFIX",
    "TAILS",
]

METRICS = ("tv", "jsd", "kl", "kl_reverse", "delta_ce", "top1_flip")
"""The metrics by name; :mod:`pytest_pot.scoring.metrics` defines each one."""

PRESET_NAMES = ("auto", "balanced", "accurate", "fastest", "single", "original")
DEFAULT_PRESET = "auto"

TAILS = ("bucket", "renormalise")
PATHS = ("prefill", "decode")
DTYPES = ("auto", "float32", "float16", "bfloat16", "float64")

DIAGNOSIS_MODES = ("off", "short", "full")
"""How much a failing gate says of what changed: nothing, which costs nothing; a few lines, and all at ``-v``; or all."""

PLAIN_FORMATS = ("safetensors", "in memory")
"""How weights are kept that need no word about it: plain numbers, run in this process by torch."""

RECORDED_SUFFIX = ".pot.safetensors"
"""How the name of a recorded reference ends."""
