"""What all kinds of gate have in common: settings in, :meth:`Gate.run`, and a result that explains itself.

A new kind is a folder beside this module with a :class:`Gate`, and one line in :mod:`pytest_pot.plugin.markers`. Nothing else
asks what kind of gate it has before it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Self

from pytest_pot.core.config import ScoringConfig
from pytest_pot.prompts.prompt import Prompt

if TYPE_CHECKING:  # these need numpy, and settings are made while tests are collected
    from pytest_pot.baseline.baseline import Baseline
    from pytest_pot.prompts.tokenization import EncodedPrompts
    from pytest_pot.scoring.diagnosis.diagnosis import Diagnosis

__all__ = [
    "COMMON_ARGUMENTS",
    "CONFIG_ARGUMENTS",
    "ErrorResult",
    "Gate",
    "GateInputs",
    "GateResult",
    "GateSettings",
    "Progress",
    "RecordReference",
    "RecordedReference",
    "ReferenceUse",
    "RunOptions",
    "only",
]

CONFIG_ARGUMENTS: Mapping[str, str] = {
    "metric": "metric",
    "max_length": "max_length",
    "positions": "positions_per_prompt",
    "batch_size": "batch_size",
    "path": "path",
}
"""Marker arguments, and the fields of :class:`~pytest_pot.ScoringConfig` that they set. A kind of gate takes those that it
names."""

COMMON_ARGUMENTS = ("reference", "candidate", "prompts", "key", "max_length", "positions", "batch_size", "candidate_dtype")
"""The marker arguments that, with ``preset``, become :class:`GateSettings`, whatever the kind of gate."""


class Progress(Protocol):
    """Shows a person how far a gate is."""

    def __call__(self, done: int, total: int, stage: str | None = None, /, *, at_most: bool = False) -> None:
        """``done`` of ``total`` are done, of what :attr:`Gate.counted` says.

        Args:
            done: how many.
            total: of how many; 0 where it is not known yet.
            stage: which part of the gate this is, where it has several: ``"reference"``, ``"candidate"``, ``"diagnosing"``.
            at_most: whether fewer than ``total`` may be enough.
        """


@dataclass(frozen=True, kw_only=True)
class GateSettings:
    """What the arguments that all markers share, and the options, ask of one gate; each kind adds its own."""

    gate: str
    """The marker's name."""
    preset: str
    config: ScoringConfig
    reference: str | None = None
    """A spec from the marker; None leaves it to the fixture ``pot_reference``."""
    baseline: Path | None = None
    """The marker's recorded reference, which need not exist yet."""
    candidate: str | None = None
    prompts: Path | Sequence[Prompt] | None = None
    """A file or prompts from the marker; None leaves it to the key or the fixture ``pot_prompts``."""
    key: str | None = field(default=None, repr=False)
    """Draws the prompts, where the marker names none; a secret, which a traceback must not show."""
    candidate_dtype: str | None = None
    """The candidate's precision, where it is not that of the reference."""

    def candidate_config(self, config: ScoringConfig) -> ScoringConfig:
        """``config``, which the reference is opened with, as the candidate is opened with it."""
        return config if self.candidate_dtype is None else replace(config, dtype=self.candidate_dtype)


@dataclass(frozen=True)
class RunOptions:
    """What this run of pytest says to all gates."""

    values: Mapping[str, str] = field(repr=False)
    """Options and ini keys that have a value, by their names without the prefix ``pot_``."""
    is_worker: bool = False
    """Whether this is one of several processes that run tests side by side (``-n``)."""


class ReferenceUse(Enum):
    """What a gate does with a reference."""

    ANY = "compare with a live model or a recording"
    LIVE = "run a live model"
    NONE = "nothing"


class RecordReference(Protocol):
    """Runs a live reference over the gate's prompts and records it; a model that the gate has open is not opened again."""

    def __call__(
        self, model: Any, *, name: str | None = None, max_length: int | None = None, keep_weights: bool = True
    ) -> Baseline: ...


@dataclass(frozen=True)
class RecordedReference:
    """A recorded reference, known to be of the gate's tokenizer, prompts and configuration."""

    baseline: Baseline
    note: str
    """Where it comes from: ``"recorded"``, ``"cached"``, or empty where the reference has just been run."""


@dataclass(frozen=True)
class GateInputs:
    """What one gate compares, resolved from marker, options and fixtures before the test's call phase."""

    candidate: Any
    prompts: EncodedPrompts
    """The prompts, with their token ids by the tokenizer of the gate."""
    names: tuple[str | None, str]
    """Reference and candidate, as people call them; no reference where the gate needs none."""
    reference: Any = None
    """A live model to run; None where it is recorded, or the gate needs none."""
    recording: Callable[[RecordReference], RecordedReference] | None = None
    """Provides the recorded reference, or raises :class:`~pytest_pot.PotError` where it cannot be used."""
    candidate_tokenizer: Any = None
    """The candidate's own, which must agree with the gate's; None where it has none, or the user chose one for both."""
    endless: bool = False
    """Whether the prompts are drawn at random from more than could ever be scored, in an order that is random already."""
    device: str = "auto"
    """Where both models run; ``"auto"``: each where it is."""
    notes: tuple[str, ...] = ()
    """What a reader of a green run should know, one line each; shown at ``-v`` and in reports."""
    warnings: tuple[str, ...] = ()
    """What to warn of if the gate passes, one line each."""
    ladder: tuple[tuple[str, float], ...] = ()
    """Known changes of the reference and their scores on these prompts, the smallest first, where ``--pot-calibrate`` has
    measured them on this machine."""
    live_reference: Callable[[], Any] | None = None
    """Loads the live model that the record in ``recording`` is of, for a gate that fails; None where there is none, or where
    it is ``reference``. It may raise an error of any kind."""


class GateResult(ABC):
    """What a gate found. ``report`` and ``verdict`` are of the kind's own types."""

    kind: ClassVar[str]
    """``"score"`` or ``"latency"``, or the name of another kind."""
    settings: GateSettings
    names: tuple[str | None, str]
    """Reference, None where none was needed, and candidate, as people call them."""
    report: Any
    verdict: Any

    @property
    @abstractmethod
    def passed(self) -> bool:
        """Whether the test may go on."""

    @property
    def warnings(self) -> tuple[str, ...]:
        """What to warn of although the gate passed, one line each."""
        return ()

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of a green run should know, one line each; shown at ``-v`` and in reports."""
        return ()

    @property
    def diagnosis(self) -> Diagnosis | None:
        """What changed and where it starts; None where the gate passed, and where nothing was compared for that."""
        return None

    @property
    @abstractmethod
    def headline(self) -> str:
        """The outcome, why the gate passed or failed, in one line. All reports show it, without the gate's name before it."""

    @abstractmethod
    def explain(self, verbosity: int = 0) -> str:
        """Why the gate failed. ``verbosity`` below 0 gives the headline and little else; above 0, more details."""

    @abstractmethod
    def properties(self) -> dict[str, Any]:
        """The result as JSON types by name, for reports; beside those of :meth:`Gate.identification`."""

    def details(self) -> Mapping[str, Any]:
        """What only a report in a file has room for, as JSON types by name: not written to JUnit XML."""
        return {}


@dataclass(frozen=True)
class ErrorResult(GateResult):
    """A gate that came to no verdict: what it compares is missing, cannot be loaded or cannot be scored. It never passes."""

    settings: GateSettings
    names: tuple[str | None, str | None]  # type: ignore[assignment]  # not known where the models could not be found
    message: str
    """What was wrong."""

    kind = "error"
    report = None
    verdict = "ERROR"
    passed = False

    @property
    def headline(self) -> str:
        return f"{self.settings.gate}: {self.message.partition(chr(10))[0]}"

    def explain(self, verbosity: int = 0) -> str:
        return self.headline if verbosity < 0 else f"{self.settings.gate}: {self.message}"

    def properties(self) -> dict[str, Any]:
        return {"verdict": self.verdict, "passed": False, "error": self.message}


@dataclass(frozen=True)
class Gate(ABC):
    """One gate of one test: made from its marker's arguments while tests are collected, run in the call phase."""

    settings: GateSettings

    arguments: ClassVar[tuple[str, ...]]
    """What the marker takes."""

    @classmethod
    @abstractmethod
    def from_arguments(cls, settings: GateSettings, arguments: Mapping[str, Any], options: RunOptions) -> Self:
        """The gate that a marker asks for.

        Args:
            settings: made from the arguments that all markers share.
            arguments: all those that were given, by name.

        Raises:
            InvalidArgument: one of them has no meaning; the message names it and the choices.
        """

    @classmethod
    def reference_use(cls, arguments: Mapping[str, Any]) -> ReferenceUse:  # noqa: ARG003 - for those who override it
        """What a gate with these arguments will do with a reference; they are not validated yet."""
        return ReferenceUse.ANY

    @property
    def uses_reference(self) -> ReferenceUse:
        """What this gate does with a reference."""
        return ReferenceUse.ANY

    @classmethod
    def switched_off(cls, options: RunOptions) -> str | None:  # noqa: ARG003
        """By what the user has turned gates of this kind off, in one line: their tests go on without them. None elsewhere."""
        return None

    @classmethod
    def not_run(cls, options: RunOptions) -> str | None:  # noqa: ARG003
        """Why gates of this kind cannot be run in this run of pytest, in one line; None where they can. A test all of whose
        gates cannot be run is skipped."""
        return None

    @property
    @abstractmethod
    def limit(self) -> tuple[str, float]:
        """What the gate's first limit is on, and the limit."""

    @property
    def counted(self) -> str:
        """What the gate goes through one by one, for the progress line."""
        return "prompts"

    @property
    def sequential(self) -> bool:
        """Whether prompts are drawn only until the verdict is safe, so that more of them do not cost more."""
        return False

    def refuse_recording(self, name: str) -> None:  # noqa: B027 - most gates take one
        """Raise :class:`InvalidArgument` if the recorded reference ``name`` is of no use to this gate."""

    @abstractmethod
    def run(self, inputs: GateInputs, progress: Progress) -> GateResult:
        """Compare what ``inputs`` holds.

        Raises:
            PotError: that is not possible; such a gate has no verdict and never passes.
        """

    def identification(self, names: tuple[str | None, str | None]) -> dict[str, Any]:
        """What was asked, and of which models, as JSON types; known also where the gate came to no verdict."""
        metric, limit = self.limit
        return {
            "gate": self.settings.gate,
            "reference": names[0],
            "candidate": names[1],
            "preset": self.settings.preset,
            "metric": metric,
            "limit": limit,
        }


def only(arguments: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """Those of ``arguments`` that are in ``names``."""
    return {name: arguments[name] for name in names if name in arguments}
