"""The options ``--pot-*`` and their ini keys: declare them, read their values, check them.

Every pytest run in the environment imports this module, so it imports only names and errors at the top.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal

import pytest

from pytest_pot.core.errors import InvalidArgument, PotError
from pytest_pot.core.names import DEFAULT_PRESET, DIAGNOSIS_MODES, DTYPES, METRICS, PATHS, PRESET_NAMES, RECORDED_SUFFIX

if TYPE_CHECKING:
    from pytest_pot.core.config import ScoringConfig
    from pytest_pot.gates.base import RunOptions

__all__ = [
    "API_KEY",
    "CALIBRATE",
    "ENVIRONMENT",
    "FLAGS",
    "INI_KEYS",
    "OPTIONS",
    "REPORT_ENDINGS",
    "SEVERAL",
    "add_options",
    "cache_limit",
    "check_field",
    "check_options",
    "flag",
    "option",
    "option_config",
    "option_flag",
    "option_values",
    "overrides",
    "run_options",
]

LATENCY_MODES = ("gate", "report", "off")
REPORT_ENDINGS = (".json", ".md", ".html")
"""How the name of a report's file ends, by its form: JSON, Markdown or HTML."""

_FIELDS: Mapping[str, str] = {
    "metric": "metric",
    "device": "device",
    "dtype": "dtype",
    "max_length": "max_length",
    "positions": "positions_per_prompt",
    "batch_size": "batch_size",
    "path": "path",
    "server_concurrency": "server_concurrency",
    "server_timeout": "server_timeout",
}
"""The options that override a field of a preset, and the field."""
_WHOLE_NUMBERS = ("max_length", "positions_per_prompt", "batch_size", "server_concurrency")
API_KEY = "POT_API_KEY"
"""The environment variable with the key for a server, which no option names."""

OPTIONS: Mapping[str, str] = {
    "reference": "the trusted model: a folder, a hub id, an ONNX graph, a .gguf file, the URL of a server, or "
    "package.module:factory",
    "candidate": "the model under test, named in the same way",
    "tokenizer": "the tokenizer for both models (default: the reference's)",
    "prompts": "a JSON Lines file of prompts (default: the built-in suite), or added-tokens: the built-in suite and prompts "
    "that hold each token that was added to the tokenizer",
    "key": "draw the prompts from this secret, not from a file; no candidate can have been fitted to them. Better give it as "
    "the environment variable POT_KEY: other users of a machine can read its command lines",
    "preset": f"preset for comparing models: {', '.join(PRESET_NAMES)} (default: {DEFAULT_PRESET})",
    "metric": f"the metric that limits apply to: {', '.join(METRICS)} (default: tv)",
    "tolerance": "limit on tv of gates whose marker gives none: identical, numeric, half, int8 or int4 (default: half)",
    "max_length": "the most tokens of prompt and continuation; longer prompts are cut on the left (default: the preset's)",
    "positions": "the most tokens of a continuation that are compared (default: the preset's)",
    "batch_size": "prompts per forward pass, or auto (default: the preset's)",
    "path": "how the candidate reads the continuation: prefill (in one forward pass) or decode (token by token, through its "
    "key-value cache) (default: prefill)",
    "max_tail": "the largest mean probability outside the compared tokens, by the reference, at which a gate may pass "
    "(default: 0.25)",
    "device": "device that models run on: auto, cpu, cuda, cuda:N, mps (default: auto)",
    "dtype": f"precision of the models: {', '.join(DTYPES)} (default: auto)",
    "candidate_dtype": "precision of the candidate, where it is to be another one than the reference's",
    "server_concurrency": "the most requests to a server at a time (default: 8)",
    "server_timeout": "seconds within which a server has to answer a request completely (default: 60)",
    "baseline": f"a recording of the reference (*{RECORDED_SUFFIX}), to use instead of running it; --pot-update writes it",
    "latency": f"mode of gates on latency: {', '.join(LATENCY_MODES)} (default: gate); report measures but never fails a test",
    "diagnosis": f"what a failing gate says of what changed between the models: {', '.join(DIAGNOSIS_MODES)} (default: short, "
    "which is full at -v); off computes nothing",
    "report": "write the results of all gates to this file, as JSON (.json), Markdown (.md) or a page to look at (.html); "
    "give it several times for several files",
}
"""Every option with its help, by its name in Python: ``max_length`` is ``--pot-max-length`` and the ini key
``pot_max_length``."""

SEVERAL = ("report",)
"""The options that can be given several times. Their ini keys have one value per line."""

ENVIRONMENT: Mapping[str, str] = {"key": "POT_KEY"}
"""The options that are read from the environment as well, where the command line has none."""

FLAGS: Mapping[str, str] = {
    "update": "record references again, into the files that gates name; without this option no such file is written",
}
"""Every option without a value. What it asks for is meant for one run, so none is an ini key."""

CALIBRATE = "run no tests; score known changes of the reference against it, print their scores, and propose limits between them"
"""The help of ``--pot-calibrate``, which is a command, not a setting, and so has no ini key."""

INI_KEYS: Mapping[str, tuple[Literal["linelist", "bool", "string"], bool | str | list[str], str]] = {
    "pot_allow_tensors": (
        "linelist",
        [],
        "tensors that a checkpoint may lack, hold in another shape or hold for nothing, by name or pattern (default: none)",
    ),
    "pot_cache": ("bool", True, "keep the outputs of live references in pytest's cache for later runs"),
    "pot_cache_mb": ("string", "256", "size limit of this cache in megabytes"),
    "pot_latency_inconclusive": (
        "string",
        "pass",
        "what an inconclusive gate on latency does: pass (with a warning) or fail",
    ),
}
"""The ini keys that are not options: type, default, help."""


def add_options(parser: pytest.Parser) -> None:
    """Declare all options and ini keys."""
    group = parser.getgroup("pot", "pytest-pot: is a language model still the same model?")
    for name, text in OPTIONS.items():
        several = name in SEVERAL
        action = "append" if several else "store"
        group.addoption(option_flag(name), action=action, dest=f"pot_{name}", default=None, metavar=name.upper(), help=text)
        if several:
            parser.addini(f"pot_{name}", f"{text} (here: one per line)", type="linelist", default=[])
        else:
            parser.addini(f"pot_{name}", text, default="")
    for name, text in FLAGS.items():
        group.addoption(f"--pot-{name}", dest=f"pot_{name}", action="store_true", default=None, help=text)
    group.addoption("--pot-calibrate", action="store_true", default=False, help=CALIBRATE)
    for key, (kind, default, text) in INI_KEYS.items():
        parser.addini(key, text, type=kind, default=default)


def option(config: pytest.Config, name: str) -> str | None:
    """The value of the option with this name, else of its environment variable or its ini key, else None.

    Of one that can be given several times, its values, one per line.
    """
    if name in SEVERAL:
        return "\n".join(option_values(config, name)) or None
    value: str | None = config.getoption(f"pot_{name}")
    if value is None and name in ENVIRONMENT:
        value = os.environ.get(ENVIRONMENT[name])
    return value if value is not None else (config.getini(f"pot_{name}") or None)


def option_values(config: pytest.Config, name: str) -> list[str]:
    """The values of an option that can be given several times: those of the command line, else those of its ini key."""
    values: list[str] = config.getoption(f"pot_{name}") or config.getini(f"pot_{name}")
    return values


def flag(config: pytest.Config, name: str) -> bool:
    """Whether the flag ``--pot-NAME`` is set."""
    return bool(config.getoption(f"pot_{name}"))


def run_options(config: pytest.Config) -> RunOptions:
    """The options and ini keys that all gates of this run get."""
    from pytest_pot.gates.base import RunOptions

    values = {name: option(config, name) for name in OPTIONS}
    values["latency_inconclusive"] = config.getini("pot_latency_inconclusive")
    set_values = {name: value for name, value in values.items() if value is not None}
    return RunOptions(set_values, is_worker=hasattr(config, "workerinput"))


def cache_limit(config: pytest.Config) -> int:
    """Size limit of the cache of references in bytes; 0 if the cache is off."""
    return int(float(config.getini("pot_cache_mb")) * 1e6) if config.getini("pot_cache") else 0


def overrides(config: pytest.Config) -> dict[str, Any]:
    """The fields of a preset that options override."""
    values = {field: option(config, name) for name, field in _FIELDS.items()}
    changes: dict[str, Any] = {field: _parsed(field, value) for field, value in values.items() if value is not None}
    if lines := config.getini("pot_allow_tensors"):
        changes["allow_tensors"] = tuple(" ".join(lines).split())
    return changes


def option_config(config: pytest.Config) -> tuple[str, ScoringConfig]:
    """The preset's name, and the configuration from the options alone."""
    from pytest_pot.core.config import ScoringConfig

    preset = option(config, "preset") or DEFAULT_PRESET
    return preset, ScoringConfig.preset(preset, **overrides(config))


def check_options(config: pytest.Config) -> None:
    """Raise ``pytest.UsageError`` if an option or an ini key has a value that is not allowed, or if there is no such key."""
    _check_keys(config)
    for name in OPTIONS:
        value = config.getoption(f"pot_{name}")
        # As with --pot-candidate=$CANDIDATE if the variable is not set.
        if value == "" or (name in SEVERAL and "" in (value or ())):
            raise pytest.UsageError(
                f"{option_flag(name)} is empty: give it a value, or leave it out to use the ini key pot_{name}"
            )
    if any(option(config, name) is not None for name in _CHECKS):
        for name, check in _CHECKS.items():
            value = option(config, name)
            if value is not None:
                source = option_flag(name) if config.getoption(f"pot_{name}") is not None else f"pot_{name}"
                for each in option_values(config, name) if name in SEVERAL else [value]:
                    _check(check, source, each)
    for variable in (*ENVIRONMENT.values(), API_KEY):
        if os.environ.get(variable) == "":  # as where a secret of a CI is not there for a fork's pull request
            raise pytest.UsageError(f"the environment variable {variable} is empty: give it a value, or unset it")
    try:
        config.getini("pot_cache")
    except ValueError as error:
        raise pytest.UsageError(f"pot_cache: {error}; it must be true or false") from None
    limit = config.getini("pot_cache_mb")
    integer, _, decimals = limit.partition(".")
    if not (integer.isdecimal() and (decimals.isdecimal() or "." not in limit)):
        raise pytest.UsageError(f"pot_cache_mb={limit!r} is not a number of megabytes")
    if (inconclusive := config.getini("pot_latency_inconclusive")) not in ("pass", "fail"):
        _check(_one_of(("pass", "fail")), "pot_latency_inconclusive", inconclusive)


def _check_keys(config: pytest.Config) -> None:
    """Refuse ini keys that look like ours: pytest only warns of them, and the gates would run without what they ask for."""
    from pytest_pot.plugin.pytest_internals import unknown_ini_keys

    for key in sorted(unknown_ini_keys(config)):
        if not key.startswith("pot_"):
            continue
        where = f" in {config.inipath.name}" if config.inipath is not None else ""
        name = key.removeprefix("pot_")
        if name in (*FLAGS, "calibrate"):
            raise pytest.UsageError(
                f"{key}{where}: there is no such ini key. {option_flag(name)} is meant for one run: give it on the command line"
            )
        from difflib import get_close_matches

        keys = (*(f"pot_{option}" for option in OPTIONS), *INI_KEYS)
        near = get_close_matches(key, keys, n=1, cutoff=0.7)
        meant = f": did you mean {near[0]}?" if near else f". The keys of pytest-pot are {', '.join(keys)}"
        raise pytest.UsageError(f"{key}{where}: there is no such ini key{meant}")


def check_field(name: str, value: object) -> None:
    """Check the marker argument ``name``, which is an option too.

    Raises:
        InvalidArgument: it does not take ``value``; the message names the argument, and what is allowed.
    """
    from pytest_pot.core.validation import one_of, whole_number

    match name:
        case "max_length" | "positions":
            whole_number(name, value)
        case "batch_size":
            if value != "auto":
                whole_number(name, value, also="'auto'")
        case "candidate_dtype":
            one_of(name, value, DTYPES)
        case "path":
            one_of(name, value, PATHS)


def option_flag(name: str) -> str:
    """How the option is written on the command line."""
    return f"--pot-{name.replace('_', '-')}"


def _parsed(field: str, value: str) -> float | str:
    """An option's value, whose text was checked, as the field of a configuration takes it."""
    if field == "server_timeout":
        return float(value)
    return int(value) if field in _WHOLE_NUMBERS and value != "auto" else value


def _check(check: Callable[[str, str], None], source: str, value: str) -> None:
    try:
        check(source, value)
    except InvalidArgument as error:
        raise pytest.UsageError(str(error)) from None


def _one_of(choices: tuple[str, ...]) -> Callable[[str, str], None]:
    def check(source: str, value: str) -> None:
        from pytest_pot.core.validation import one_of

        one_of(source, value, choices)

    return check


def _check_device(source: str, value: str) -> None:
    from pytest_pot.core.validation import device_name

    device_name(source, value)


def _check_whole(also: str | None = None) -> Callable[[str, str], None]:
    def check(source: str, value: str) -> None:
        from pytest_pot.core.validation import whole_number

        if value != also:
            digits = value.isascii() and value.isdecimal() and len(value) < 10
            whole_number(source, int(value) if digits else value, also=also and repr(also))

    return check


def _check_seconds(source: str, value: str) -> None:
    from pytest_pot.core.validation import seconds_to_wait

    try:
        seconds: float | str = float(value)
    except ValueError:
        seconds = value
    seconds_to_wait(source, seconds)


def _check_model(source: str, value: str) -> None:
    """Refuse the address of a server that would show a password in the header and in reports."""
    if "://" in value:
        from pytest_pot.engines.server.address import is_server, parse

        try:
            if is_server(value):
                parse(value)
        except PotError as error:
            raise InvalidArgument(f"{source}: {error}") from None


def _check_tolerance(source: str, value: str) -> None:
    from pytest_pot.core.validation import one_of
    from pytest_pot.gates.verdict.limits import TOLERANCES

    one_of(source, value, tuple(TOLERANCES))


def _check_share(source: str, value: str) -> None:
    from pytest_pot.gates.verdict.limits import max_tail_of

    max_tail_of(source, value)


def _check_ending(*endings: str) -> Callable[[str, str], None]:
    def check(source: str, value: str) -> None:
        if not value.endswith(endings):
            *others, last = endings
            choices = f"{', '.join(others)} or {last}" if others else last
            raise InvalidArgument(f"{source}={value!r} must end in {choices}")

    return check


_CHECKS: Mapping[str, Callable[[str, str], None]] = {
    "preset": _one_of(PRESET_NAMES),
    "metric": _one_of(METRICS),
    "tolerance": _check_tolerance,
    "max_length": _check_whole(),
    "positions": _check_whole(),
    "batch_size": _check_whole(also="auto"),
    "path": _one_of(PATHS),
    "max_tail": _check_share,
    "device": _check_device,
    "dtype": _one_of(DTYPES),
    "candidate_dtype": _one_of(DTYPES),
    "reference": _check_model,
    "candidate": _check_model,
    "server_concurrency": _check_whole(),
    "server_timeout": _check_seconds,
    "baseline": _check_ending(RECORDED_SUFFIX),
    "latency": _one_of(LATENCY_MODES),
    "diagnosis": _one_of(DIAGNOSIS_MODES),
    "report": _check_ending(*REPORT_ENDINGS),
}
"""By option, a function that raises :class:`InvalidArgument` for a wrong value; ``source`` names the option or ini key."""
