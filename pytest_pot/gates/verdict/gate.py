"""The gates on a score: ``pot_identity`` and ``pot_distinct``."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Self

from pytest_pot.core.config import ScoringConfig
from pytest_pot.core.errors import PotError
from pytest_pot.core.names import PLAIN_FORMATS
from pytest_pot.gates.base import (
    COMMON_ARGUMENTS,
    Gate,
    GateInputs,
    GateResult,
    GateSettings,
    Progress,
    RecordedReference,
    RunOptions,
)
from pytest_pot.gates.verdict.limits import DistinctLimit, Verdict, distinct_limit, identity_limits
from pytest_pot.gates.verdict.result import ScoreOutcome
from pytest_pot.gates.verdict.settings import Limits, ScoreSettings, score_settings
from pytest_pot.gates.verdict.tokenizers import (
    doubled_bos_warnings,
    live_tokenizer_notes,
    recorded_tokenizer_notes,
    unread_token_notes,
)

if TYPE_CHECKING:  # these need numpy, and a gate is made while tests are collected
    from pytest_pot.baseline.baseline import Baseline
    from pytest_pot.engines.base import Engine
    from pytest_pot.gates.verdict.sequential import Decision
    from pytest_pot.scoring.noise_floor import NoiseFloor
    from pytest_pot.scoring.run import ScoringRun
    from pytest_pot.scoring.score_report import ScoreReport

__all__ = ["DistinctGate", "IdentityGate", "ScoreResult"]

_SCORING = ("tolerance", "confidence", "max_outliers")
_READING = ("path", "max_tail")


@dataclass(frozen=True, repr=False)
class ScoreResult(ScoreOutcome, GateResult):
    """The result of a gate on a score: a :class:`~pytest_pot.gates.verdict.result.ScoreOutcome` that explains itself."""

    kind = "score"

    @property
    def headline(self) -> str:
        from pytest_pot.gates.verdict.explain import headline

        return headline(self)

    def explain(self, verbosity: int = 0) -> str:
        from pytest_pot.gates.verdict.explain import explain

        return explain(self, verbosity)

    def properties(self) -> dict[str, Any]:
        from pytest_pot.gates.verdict.explain import properties

        return properties(self)

    def details(self) -> Mapping[str, Any]:
        from pytest_pot.gates.verdict.details import details

        return details(self)


@dataclass(frozen=True)
class _ScoreGate(Gate):
    """Scores the candidate, and holds the score against limits."""

    settings: ScoreSettings

    limit_names: ClassVar[tuple[str, ...]]
    """The arguments that limits are made of."""
    make_limits: ClassVar[Callable[..., Limits]]

    @classmethod
    def from_arguments(cls, settings: GateSettings, arguments: Mapping[str, Any], options: RunOptions) -> Self:
        return cls(score_settings(settings, arguments, options.values, cls.limit_names, cls.make_limits))

    @property
    def limit(self) -> tuple[str, float]:
        return self.settings.config.metric, self.settings.limits.score

    @property
    def sequential(self) -> bool:
        return self.settings.confidence is not None

    def run(self, inputs: GateInputs, progress: Progress) -> ScoreResult:
        config = self.settings.config if inputs.device == "auto" else replace(self.settings.config, device=inputs.device)
        started = time.thread_time()  # as the diagnosis counts its own time
        result, baseline = self._scored(inputs, config, progress)
        seconds = time.thread_time() - started
        if result.passed or self.settings.diagnosis == "off":
            return result
        from pytest_pot.gates.verdict.diagnosing import diagnosis_of

        return replace(result, diagnosis=diagnosis_of(result, inputs, config, baseline, progress, seconds))

    def _scored(self, inputs: GateInputs, config: ScoringConfig, progress: Progress) -> tuple[ScoreResult, Baseline | None]:
        """The result without a diagnosis, and the recorded reference, where one was used."""
        from pytest_pot.engines.registry import opened
        from pytest_pot.scoring.run import ScoringRun

        run = ScoringRun(self.settings.config, inputs.prompts, self._stage(progress))
        if inputs.candidate_tokenizer is not None:
            inputs.prompts.check_same(inputs.candidate_tokenizer)
        inputs = replace(
            inputs,
            notes=(*inputs.notes, *live_tokenizer_notes(self.settings, inputs)),
            warnings=(*inputs.warnings, *doubled_bos_warnings(self.settings.gate, inputs.prompts)),
        )
        if inputs.reference is None:
            with opened(inputs.candidate, "candidate", self.settings.candidate_config(config)) as candidate:
                run.progress = self._stage(progress, "reference")
                recorded = _recorded(inputs, run, config, check=lambda: self._check_before_writing(run, candidate))
                run.progress = self._stage(progress, "candidate")
                return self._against_recording(run, inputs, recorded, candidate), recorded.baseline
        if inputs.recording is not None:  # the reference is run as a whole, so that it need not be run the next time
            with opened(inputs.reference, "reference", config) as reference:
                progress(0, len(inputs.prompts), "reference")
                run.progress = self._stage(progress, "reference")
                recorded = _recorded(inputs, run, config, reference=reference)
            with opened(inputs.candidate, "candidate", self.settings.candidate_config(config)) as candidate:
                progress(0, len(inputs.prompts), "candidate")
                run.progress = self._stage(progress, "candidate")
                return self._against_recording(run, inputs, recorded, candidate), recorded.baseline
        with (
            opened(inputs.reference, "reference", config) as reference,
            opened(inputs.candidate, "candidate", self.settings.candidate_config(config)) as candidate,
        ):
            # Two models that run differently round differently: the one that rounds more decides.
            run.probed = ("reference",) if _run_alike(reference, candidate) else ("reference", "candidate")
            if self.settings.config.path == "decode":  # a run token by token alone costs as much as one of many prompts
                run.probed = ("reference",)
            return self._against_model(run, inputs, reference, candidate), None

    def _stage(self, progress: Progress, stage: str | None = None) -> Callable[[int, int], None]:
        """``progress`` of the model or, without ``stage``, of both side by side."""
        # A reference that is run alone is recorded, as a whole.
        at_most = self.sequential and stage != "reference"
        return lambda done, total: progress(done, total, stage, at_most=at_most)

    def _check_before_writing(self, run: ScoringRun, candidate: Engine) -> None:
        """Raise :class:`PotError` if the candidate does not run, or the limit is below its noise floor."""
        floor = run.noise_floor(candidate, "candidate")
        if floor is None:
            run.try_out(candidate)
        self._refuse_below_noise(floor)

    def _refuse_below_noise(self, floor: NoiseFloor | None) -> None:
        """Raise :class:`PotError` if the limit is below the noise floor of a model, and not 0."""
        limit = self.settings.limits.score
        if floor is not None and 0 < limit < floor.value:
            zero = ", or set it to 0: the same weights score exactly 0 where both models run in the same batches"
            alike = self.settings.config.path == "prefill" and self.settings.candidate_dtype is None
            raise PotError(
                f"the limit {limit:.3g} on {self.settings.config.metric} is below the noise floor {floor.value:.3g}: that far "
                f"is the {floor.role} from itself in another batch shape, by rounding alone ({floor.how}). Such a limit cannot "
                f"tell a changed model from the same one. Raise it above the noise floor{zero * alike}"
            )

    def _against_model(self, run: ScoringRun, inputs: GateInputs, reference: Engine, candidate: Engine) -> ScoreResult:
        if not self.sequential:
            return self._result(inputs, run.score(reference, candidate), run.floor)
        pool, seed = _drawing(inputs)
        test = self.settings.sequential_test(pool)
        report = run.score_until(reference, candidate, test, seed=seed)
        return self._result(inputs, report, run.floor, test.decision(), pool)

    def _against_recording(
        self, run: ScoringRun, inputs: GateInputs, recorded: RecordedReference, candidate: Engine
    ) -> ScoreResult:
        baseline, note = recorded.baseline, recorded.note
        if self.settings.config.path == "decode":
            run.floor = run.noise_floor(candidate, "candidate", brief=True)
            self._refuse_below_noise(run.floor)
        else:
            run.probed = ("candidate",)
        told = recorded_tokenizer_notes(self.settings, inputs, recorded)
        inputs = replace(inputs, notes=(*inputs.notes, *told))
        if not self.sequential:
            same_batches = self.settings.limits.score == 0
            report = run.replay(baseline, candidate, note=note, same_batches=same_batches)
            return self._result(inputs, report, run.floor)
        if self.settings.limits.score > 0:
            pool, seed = _drawing(inputs)
            test = self.settings.sequential_test(pool)
            report = run.replay_until(baseline, candidate, test, note=note, seed=seed)
            return self._result(inputs, report, run.floor, test.decision(), pool)
        # A recording is made in batches by length. Drawn in another order, the same model would be rounded differently: a limit
        # of 0 is decided on the whole suite, in the batches that were recorded.
        report = run.replay(baseline, candidate, note=note, same_batches=True)
        test = self.settings.sequential_test(len(inputs.prompts))
        test.update(report.scores.tolist())
        return self._result(inputs, report, run.floor, test.decision(), len(inputs.prompts))

    def _result(
        self,
        inputs: GateInputs,
        report: ScoreReport,
        floor: NoiseFloor | None,
        decision: Decision | None = None,
        pool: int | None = None,
    ) -> ScoreResult:
        from pytest_pot.gates.cut_prompts import cut_warnings
        from pytest_pot.gates.verdict.evidence import contradictions, refuse_hidden, refuse_unseen
        from pytest_pot.gates.verdict.explain import notes_on

        self._refuse_below_noise(floor)
        settings = self.settings
        read = (tokens.ids for tokens in report.tokens)
        verdict = settings.limits.verdict(report.mean, report.max) if decision is None else decision.verdict
        if isinstance(settings.limits, DistinctLimit) or verdict is not Verdict.DIFFERENT:
            refuse_hidden(report, settings)
        if verdict is not Verdict.DIFFERENT:  # a lower bound above the limit is evidence however loose it is
            refuse_unseen(report, settings)
        warnings = list(inputs.warnings)
        if not inputs.endless:
            warnings += cut_warnings(settings.gate, settings.config, inputs.prompts, report.indices, report.tokens)
        if verdict is Verdict.SAME:
            warnings += contradictions(report, settings)
        return ScoreResult(
            settings,
            inputs.names,
            report,
            verdict,
            decision,
            floor,
            pool,
            notes=(*inputs.notes, *unread_token_notes(inputs.prompts, read), *notes_on(report)),
            warnings=tuple(warnings),
            ladder=inputs.ladder,
        )


class IdentityGate(_ScoreGate):
    """``pot_identity``: passes where the verdict is SAME."""

    limit_names = ("max_score", "max_prompt_score")
    make_limits = staticmethod(identity_limits)
    arguments = ("preset", "metric", *limit_names, *_SCORING, *COMMON_ARGUMENTS, *_READING)


class DistinctGate(_ScoreGate):
    """``pot_distinct``: passes where the verdict is DIFFERENT."""

    limit_names = ("min_score",)
    make_limits = staticmethod(distinct_limit)
    arguments = ("preset", "metric", *limit_names, *_SCORING, *COMMON_ARGUMENTS, *_READING)


def _run_alike(reference: Engine, candidate: Engine) -> bool:
    """Whether both engines run in the same precision on the same device, and both or neither with quantised weights."""
    from pytest_pot.engines.base import description_of

    formats = [model.format if model is not None else None for model in map(description_of, (reference, candidate))]
    same_format = formats[0] == formats[1] or all(name in PLAIN_FORMATS for name in formats)
    return same_format and reference.label == candidate.label


def _drawing(inputs: GateInputs) -> tuple[int | None, int | None]:
    """How many prompts there are to draw from, and the seed of the order; neither where they were drawn at random already."""
    return (None, None) if inputs.endless else (len(inputs.prompts), 0)


def _recorded(
    inputs: GateInputs,
    run: ScoringRun,
    config: ScoringConfig,
    *,
    reference: Engine | None = None,
    check: Callable[[], None] | None = None,
) -> RecordedReference:
    """The recorded reference.

    Args:
        reference: an open engine of ``inputs.reference``, to record with.
        check: called before something is recorded, which may overwrite a file; may raise.
    """
    from pytest_pot.engines.registry import opened

    def record(model: Any, *, name: str | None = None, max_length: int | None = None, keep_weights: bool = True) -> Baseline:
        if check is not None:
            check()
        if reference is not None and model is inputs.reference:
            return run.record(reference, model, name=name, max_length=max_length, keep_weights=keep_weights)
        with opened(model, "reference", config) as engine:
            return run.record(engine, model, name=name, max_length=max_length, keep_weights=keep_weights)

    assert inputs.recording is not None
    return inputs.recording(record)
