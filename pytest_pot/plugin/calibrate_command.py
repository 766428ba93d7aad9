"""``--pot-calibrate``: prints how far known changes move the user's own reference, and limits that follow from it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_pot.core.errors import PotError
from pytest_pot.core.text import printable, printable_lines, wrapped
from pytest_pot.core.user_code import raised_in
from pytest_pot.plugin.inputs.cached_reference import files_of
from pytest_pot.plugin.inputs.fixture_values import named_by_fixture
from pytest_pot.plugin.inputs.ladders import by_content, by_files, keep_ladder, where_it_runs
from pytest_pot.plugin.inputs.model_store import model_store, no_model, no_tokenizer
from pytest_pot.plugin.inputs.prompt_source import PromptRequest, choose_prompts
from pytest_pot.plugin.options import option, option_config
from pytest_pot.plugin.paths import option_path, recorded_reference
from pytest_pot.plugin.pytest_internals import fixtures_without_tests, terminal_width
from pytest_pot.prompts.prompt import as_prompts

__all__ = ["run"]


def run(config: pytest.Config) -> int:
    """Calibrate on the reference that the options name and print the result; the exit status."""
    with fixtures_without_tests(config, _folder(config)) as value_of:
        writer = config.get_terminal_writer()

        def fixture() -> object:
            with raised_in("the fixture pot_prompts"):
                item, value = value_of("pot_prompts")
            return named_by_fixture(item, "pot_prompts", value)

        try:
            lines = _lines(config, fixture)
        except (PotError, pytest.fail.Exception) as error:
            writer.line(wrapped(printable_lines(f"ERROR: {error}"), terminal_width(config)), red=True)
            return pytest.ExitCode.USAGE_ERROR
        for line in lines:
            to_copy = line.startswith("@")  # a marker
            writer.line(printable(line) if to_copy else wrapped(printable(line), terminal_width(config)))
    return pytest.ExitCode.OK


def _lines(config: pytest.Config, fixture: Callable[[], object]) -> list[str]:
    """``fixture``: gives the value of ``pot_prompts``."""
    from pytest_pot.calibration.explain import ladder_lines, proposal_lines
    from pytest_pot.calibration.ladder import calibrate
    from pytest_pot.scoring.scorer import TeacherForcedScorer

    store = model_store(config)
    if recorded_reference(config):
        raise PotError(
            "--pot-calibrate changes the reference's weights, and a recording has none: give a model, --pot-reference"
        )
    reference = store.from_options("reference")
    if reference is None:
        raise no_model("reference")
    tokenizer = store.tokenizer() or store.tokenizer_of(reference)
    if tokenizer is None:
        raise no_tokenizer()
    prompts = choose_prompts(PromptRequest(key=option(config, "key")), config, fixture)
    preset, scoring = option_config(config)
    writer = config.get_terminal_writer()

    def show(name: str) -> None:
        if writer.hasmarkup:  # on a terminal; a log has no use for progress
            writer.write(f"\rpot: trying {name:<24}\r", flush=True)

    # Before the model is used, which may change what it holds.
    spec = option_path(config, "reference")
    files = None if spec is None else files_of(config, spec)
    identities = [by_content(reference.model), by_files(files or {})]
    where = where_it_runs(scoring, reference.model)
    calibration = calibrate(TeacherForcedScorer(scoring), reference.model, prompts, tokenizer, tell=show)
    rungs = [(rung.name, rung.mean) for rung in calibration.rungs]
    keep_ladder(config, where, as_prompts(prompts), identities, rungs)
    name = option(config, "reference")
    conditions = f"preset {preset}, {calibration.metric} on {calibration.n_prompts} prompts"
    head = f"pot: {name}, {calibration.label}; {conditions}"
    return [head, *ladder_lines(calibration), "", *proposal_lines(calibration)]


def _folder(config: pytest.Config) -> Path:
    """The folder that pytest was asked for, whose fixtures count: that of the first argument."""
    argument = next(iter(config.args), "").partition("::")[0]
    path = (config.invocation_params.dir / argument).resolve()
    return path if path.is_dir() else path.parent
