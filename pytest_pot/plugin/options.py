"""Marker + option + ini -> one frozen :class:`Settings`. Every usage error is found here, while tests are collected."""

from __future__ import annotations

import os
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pytest

from pytest_pot.baseline.naming import SUFFIX, is_baseline
from pytest_pot.core.config import DEFAULT_PRESET, DTYPES, METRICS, PRESETS, ScoringConfig, check_device, one_of
from pytest_pot.core.errors import InvalidArgument
from pytest_pot.gates.verdict.limits import DEFAULT_MAX_OUTLIERS, DistinctLimit, IdentityLimits, default_prompt_limit
from pytest_pot.prompts.prompt import Prompt, as_prompts, shorten

if TYPE_CHECKING:
    from pytest_pot.gates.verdict.sequential import SequentialTest

__all__ = [
    "CALIBRATE",
    "FLAGS",
    "INI_KEYS",
    "OPTIONS",
    "GateSettings",
    "Settings",
    "cache_limit",
    "check_options",
    "common",
    "fixture_path",
    "flag",
    "option",
    "option_config",
    "option_path",
    "recorded_reference",
    "scoring_settings",
]

LATENCY_MODES = ("gate", "report", "off")

OPTIONS: Mapping[str, str] = {
    "reference": "the trusted model: a directory or hub id, a .gguf file, or package.module:factory",
    "candidate": "the model under test, named in the same ways",
    "tokenizer": "the tokenizer for both models (default: the reference's own)",
    "prompts": "JSON Lines file of prompts (default: the built-in suite)",
    "key": "draw prompts by this secret, which no candidate can have been fitted to, in place of a file",
    "preset": f"how models are compared: {', '.join(PRESETS)} (default: {DEFAULT_PRESET})",
    "metric": f"the metric that limits apply to: {', '.join(METRICS)} (default: tv)",
    "device": "where models run: auto, cpu, cuda, cuda:N, mps (default: auto)",
    "dtype": f"precision of the models: {', '.join(DTYPES)} (default: auto)",
    "baseline": f"a recorded reference, *{SUFFIX}, in place of running the reference; with --pot-update it is written",
    "latency": f"what gates on latency do: {', '.join(LATENCY_MODES)} (default: gate); report never fails a test",
    "report": "write the gates' results to this file, JSON or Markdown by its ending (.json, .md)",
}
"""Every option ``--pot-NAME``, which is also the ini key ``pot_NAME``, with its help."""

FLAGS: Mapping[str, str] = {
    "update": "record references anew into the files that gates name; without it no such file is ever written",
}
"""Every option without a value, which is also a boolean ini key."""

CALIBRATE = (
    "run no tests: score known changes of the reference against it, print how far each is, and propose limits between them"
)
"""The help of ``--pot-calibrate``, a command and no setting: it has no ini key."""

INI_KEYS: Mapping[str, tuple[Literal["bool", "string"], bool | str, str]] = {
    "pot_cache": ("bool", True, "keep what a live reference said to a suite in pytest's cache, for later runs"),
    "pot_cache_mb": ("string", "256", "how many megabytes of it are kept"),
    "pot_latency_inconclusive": (
        "string",
        "pass",
        "what a gate on latency does that cannot be decided: pass (and warn) or fail",
    ),
}
"""The ini keys that are no options: type, default, help."""


@dataclass(frozen=True)
class GateSettings(ABC):
    """What a gate of any kind was asked to do, and with which models and prompts."""

    gate: str
    """The marker's name."""
    preset: str
    config: ScoringConfig
    reference: str | None
    """A spec from the marker; None leaves it to the fixture ``pot_reference``."""
    baseline: Path | None
    """The marker's recorded reference, which need not exist yet."""
    candidate: str | None
    prompts: Path | Sequence[Prompt] | None
    """A file or prompts from the marker; None leaves it to the key or the fixture ``pot_prompts``."""
    key: str | None
    """Draws the prompts, where the marker names none."""

    @property
    def sequential(self) -> bool:
        """Whether prompts are taken from a pool only until the verdict is safe."""
        return False

    @property
    def counted(self) -> str:
        """What the gate goes through one by one, for people."""
        return "prompts"

    @property
    @abstractmethod
    def asked(self) -> tuple[str, float]:
        """What the first limit is on, and the limit."""


@dataclass(frozen=True)
class Settings(GateSettings):
    """All that one gate on a score was asked to do."""

    limits: IdentityLimits | DistinctLimit
    confidence: float | None
    """Decide as soon as it is safe to, at this confidence; None scores the suite whole."""
    max_outliers: float
    """With ``confidence``: the share of prompts above the limit for one prompt that SAME claims not to be reached."""

    @property
    def sequential(self) -> bool:
        return self.confidence is not None

    @property
    def asked(self) -> tuple[str, float]:
        return self.config.metric, self.limits.score

    @property
    def score_clip(self) -> float:
        """With ``confidence``: the limit for one prompt, at which scores are clipped; 0 where the limit is 0."""
        if self.limits.score == 0:
            return 0.0
        if isinstance(self.limits, IdentityLimits):
            return self.limits.max_prompt_score
        return default_prompt_limit(self.config.metric, self.limits.score)

    def sequential_test(self, pool: int | None) -> SequentialTest:
        """The test that decides this gate; ``pool`` is the number of prompts, None where they are drawn from more."""
        from pytest_pot.gates.verdict.sequential import SequentialTest

        assert self.confidence is not None
        return SequentialTest(
            self.limits.score,
            confidence=self.confidence,
            score_clip=self.score_clip or None,
            max_outliers=self.max_outliers,
            pool=pool,
        )


def option(config: pytest.Config, name: str) -> str | None:
    """``--pot-NAME`` or, where it is not given, the ini key ``pot_NAME``; None where neither is."""
    given: str | None = config.getoption(f"pot_{name}")
    return given if given is not None else (config.getini(f"pot_{name}") or None)


def flag(config: pytest.Config, name: str) -> bool:
    """``--pot-NAME`` or the ini key ``pot_NAME``, without a value."""
    return bool(config.getoption(f"pot_{name}") or config.getini(f"pot_{name}"))


def recorded_reference(config: pytest.Config) -> bool:
    """Whether the options name a recording to compare with, and no gate is to make one."""
    recorded = option(config, "baseline") is not None or is_baseline(option(config, "reference"))
    return recorded and not flag(config, "update")


def cache_limit(config: pytest.Config) -> int:
    """Bytes that the cache of references may take; 0 where it is off."""
    return int(float(config.getini("pot_cache_mb")) * 1e6) if config.getini("pot_cache") else 0


def option_path(config: pytest.Config, name: str) -> str | None:
    """:func:`option`, where it is a path made absolute: from the folder pytest was called in, or from the ini file's."""
    value = option(config, name)
    if value is None:
        return None
    from_ini = config.getoption(f"pot_{name}") is None
    ini_folder = config.inipath.parent if config.inipath else config.rootpath
    bases = [ini_folder] if from_ini else [config.invocation_params.dir, config.rootpath]
    return _placed(value, bases) if is_baseline(value) else _existing(value, bases)


def option_config(config: pytest.Config) -> tuple[str, ScoringConfig]:
    """The preset's name, and the configuration that the options alone ask for."""
    preset = option(config, "preset") or DEFAULT_PRESET
    return preset, ScoringConfig.preset(preset, **_overrides(config))


def check_options(config: pytest.Config) -> None:
    """Raise ``pytest.UsageError`` where an option or an ini key has a value that is none of its choices."""
    checks: dict[str, Callable[[str, object], None]] = {
        "preset": lambda name, value: one_of(name, value, tuple(PRESETS)),
        "metric": lambda name, value: one_of(name, value, METRICS),
        "device": check_device,
        "dtype": lambda name, value: one_of(name, value, DTYPES),
        "baseline": _check_baseline,
        "latency": lambda name, value: one_of(name, value, LATENCY_MODES),
        "report": _check_report,
    }
    for name, check in checks.items():
        value = option(config, name)
        source = f"--pot-{name}" if config.getoption(f"pot_{name}") is not None else f"pot_{name}"
        if value is not None:
            try:
                check(source, value)
            except InvalidArgument as error:
                raise pytest.UsageError(str(error)) from None
    for name in OPTIONS:
        if config.getoption(f"pot_{name}") == "":  # --pot-candidate=$CANDIDATE with the variable not set
            raise pytest.UsageError(f"--pot-{name} is empty: give it a value, or leave it out to use the ini key pot_{name}")
    for key in ("pot_cache", *(f"pot_{name}" for name in FLAGS)):
        try:
            config.getini(key)
        except ValueError as error:
            raise pytest.UsageError(f"{key}: {error}; it is true or false") from None
    limit = config.getini("pot_cache_mb")
    if not re.fullmatch(r"\d+(\.\d+)?", limit):
        raise pytest.UsageError(f"pot_cache_mb={limit!r} is not a number of megabytes")
    try:
        one_of("pot_latency_inconclusive", config.getini("pot_latency_inconclusive"), ("pass", "fail"))
    except InvalidArgument as error:
        raise pytest.UsageError(str(error)) from None
    prompts = option_path(config, "prompts")
    if prompts is not None and not Path(prompts).is_file():
        raise pytest.UsageError(f"the prompts file {prompts} does not exist")


def common(item: pytest.Item, gate: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of :class:`GateSettings` from a marker's arguments.

    Raises:
        InvalidArgument: one of them has no meaning; the message names the choices.
    """
    preset = given.get("preset", option(item.config, "preset") or DEFAULT_PRESET)
    overrides = _overrides(item.config)
    if "metric" in given:
        overrides["metric"] = given["metric"]
    config = ScoringConfig.preset(preset, **overrides)
    reference = given.get("reference")
    if "prompts" in given and "key" in given:
        raise InvalidArgument("prompts and key both name the prompts; give one")
    bases = [item.path.parent, item.config.rootpath]
    return {
        "gate": gate,
        "preset": preset,
        "config": config,
        "reference": None if is_baseline(reference) else _spec("reference", reference, bases),
        "baseline": Path(_placed(str(reference), bases)) if is_baseline(reference) else None,
        "candidate": _candidate(given.get("candidate"), bases),
        "prompts": _prompts(given.get("prompts"), bases),
        "key": _key(given.get("key")) if "key" in given or "prompts" in given else option(item.config, "key"),
    }


def scoring_settings(
    item: pytest.Item,
    gate: str,
    given: Mapping[str, Any],
    limit_names: Sequence[str],
    make_limits: Callable[..., IdentityLimits | DistinctLimit],
) -> Settings:
    """The settings of a gate on a score; ``make_limits(metric, **limits)`` makes its limits out of those of ``limit_names``.

    Raises:
        InvalidArgument: as :func:`common`.
    """
    if "max_outliers" in given and "confidence" not in given:
        raise InvalidArgument("max_outliers is a part of what is claimed with a confidence; give that too, confidence=0.95")
    fields = common(item, gate, given)
    asked = {name: given[name] for name in (*limit_names, "tolerance") if name in given}
    limits = make_limits(fields["config"].metric, **asked)
    confidence = given.get("confidence")
    max_outliers = given.get("max_outliers", DEFAULT_MAX_OUTLIERS)
    settings = Settings(**fields, limits=limits, confidence=confidence, max_outliers=max_outliers)
    if settings.confidence is not None:
        if isinstance(limits, IdentityLimits) and 0 < limits.max_score >= limits.max_prompt_score:
            alone = "" if {"max_score", "tolerance"} & asked.keys() else "; give max_score or tolerance beside it"
            raise InvalidArgument(
                f"with a confidence, max_prompt_score={limits.max_prompt_score!r} must be above the limit on the mean, "
                f"{limits.max_score!r}: it clips the scores{alone}"
            )
        settings.sequential_test(None)  # what has no meaning is an error now, not when it runs
    return settings


def _overrides(config: pytest.Config) -> dict[str, Any]:
    values = {name: option(config, name) for name in ("metric", "device", "dtype")}
    return {name: value for name, value in values.items() if value is not None}


def _spec(name: str, value: object, bases: Sequence[Path]) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str | Path) or not str(value):
        raise InvalidArgument(
            f"{name}={value!r} must name a model: a directory or hub id, a .gguf file, or package.module:factory; a model "
            f"that is already in memory comes from the fixture pot_{name}"
        )
    return _existing(str(value), bases)


def _candidate(value: object, bases: Sequence[Path]) -> str | None:
    if is_baseline(value):
        raise InvalidArgument(
            f"candidate={str(value)!r} is a recording, and a gate runs its candidate; python -m pytest_pot compare scores two "
            "recordings against each other"
        )
    return _spec("candidate", value, bases)


def _prompts(value: object, bases: Sequence[Path]) -> Path | Sequence[Prompt] | None:
    if value is None:
        return None
    if isinstance(value, list | tuple):
        return tuple(as_prompts(value, or_builtin=True))
    if not isinstance(value, str | Path):
        raise InvalidArgument(f"prompts={value!r} must be a JSON Lines file or a list of prompts")
    path = Path(_existing(str(value), bases))
    if not os.path.isfile(path):
        raise InvalidArgument(f"prompts={shorten(str(value), 200)!r}: no such file beside the test or in {bases[-1]}")
    return path


def _key(value: object) -> str | None:
    if value is not None and (not isinstance(value, str) or not value):
        raise InvalidArgument(f"key={value!r} must be a string that is not empty")
    return value


def _existing(value: str, bases: Sequence[Path]) -> str:
    """``value`` as a path below the first of ``bases`` that has it, else as it is: it may be no path at all."""
    for base in bases:
        path = base / value
        if os.path.exists(path):  # not Path.exists, which raises for what is too long to be a name
            return str(path)
    return value


def fixture_path(value: str | Path, folder: Path, config: pytest.Config) -> str:
    """What a fixture that is written in ``folder`` returned for a name, resolved like one in a marker beside it."""
    bases = [folder, config.rootpath]
    return _placed(str(value), bases) if is_baseline(value) else _existing(str(value), bases)


def _placed(value: str, bases: Sequence[Path]) -> str:
    """:func:`_existing` for a file that may be yet to write: then it is below the first of ``bases``."""
    found = Path(_existing(value, bases))
    return str(found if found.is_absolute() or found.exists() else bases[0] / value)


def _check_baseline(name: str, value: object) -> None:
    if not is_baseline(value):
        raise InvalidArgument(f"{name}={value!r} must end in {SUFFIX}")


def _check_report(name: str, value: object) -> None:
    if not str(value).endswith((".json", ".md")):
        raise InvalidArgument(f"{name}={value!r} must end in .json or .md")
