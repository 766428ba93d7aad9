"""The cache of live references: a second run skips the reference unless it, the tokens or the settings changed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GPT2LMHeadModel

from pytest_pot import Baseline

from .conftest import PROMPTS, WITH_CACHE, Project

GATED = """
import pytest

@pytest.mark.pot_identity(max_score=0)
def test_it():
    pass
"""

COUNTING = """
import pytest
from transformers import GPT2LMHeadModel
from pytest_pot.engines.pytorch import checkpoint
from pytest_pot.engines.pytorch.engine import TorchEngine

forwards, loads = [], []
forward, load = TorchEngine._forward, checkpoint._load_weights

def count_forward(self, *arguments, **keywords):
    forwards.append(self._role)
    return forward(self, *arguments, **keywords)

def count_load(spec, role, config):
    loads.append(role)
    return load(spec, role, config)

@pytest.fixture(autouse=True)
def count(monkeypatch):
    monkeypatch.setattr(TorchEngine, "_forward", count_forward)
    monkeypatch.setattr(checkpoint, "_load_weights", count_load)

def pytest_unconfigure():
    print("loaded", *loads, "forwards", *forwards)
"""


@pytest.fixture
def cached(project: Project, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A project with pytest's cache, and its own copy of the reference to change."""
    monkeypatch.setenv("PYTEST_ADDOPTS", WITH_CACHE)
    shutil.copytree(project.tiny.reference, project.path / "model")
    project.ini(pot_reference="model", pot_candidate=project.tiny.perturbed, pot_prompts="prompts.jsonl")
    project.write(conftest=COUNTING, test_it=GATED)
    return project


def counts(project: Project, *arguments: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The loads and forward passes of the reference, the candidate's forward passes, and the gate's figures."""
    # The diagnosis of a failing gate loads and runs the reference, cached or not: it is not what is counted here.
    result = project.run("-s", "--pot-report=gates.json", "--pot-diagnosis=off", *arguments)
    [line] = [line for line in result.outlines if line.startswith("loaded")]
    loads, forwards = line.removeprefix("loaded").split("forwards")
    [gate] = json.loads((project.path / "gates.json").read_text(encoding="utf-8"))["gates"]
    figures = {name: gate[name] for name in ("score", "max_prompt_score", "kl", "jsd", "delta_ce", "top1_flip", "tail_mass")}
    return {
        "loaded": loads.split().count("reference"),
        "run": forwards.split().count("reference"),
        "candidate": forwards.split().count("candidate"),
    }, figures


FIRST_RUN = {"loaded": 1, "run": 1, "candidate": 1 + 1}
"""One batch for the suite, and one prompt alone for the noise floor of the candidate."""
LIVE_RUN = {"loaded": 1, "run": 1 + 1, "candidate": 1}
"""The same without a recording, which shows the noise floor of the reference."""
CACHED_RUN = {"loaded": 0, "run": 0, "candidate": 1 + 1}


def test_a_second_run_neither_loads_nor_runs_the_reference(cached: Project) -> None:
    first, figures = counts(cached)
    again, same = counts(cached)
    assert (first, again) == (FIRST_RUN, CACHED_RUN)
    assert figures == same
    assert figures["score"] > 0.5


def test_a_record_keeps_nothing_of_the_weights(cached: Project) -> None:
    """The reference itself is at hand, so its weights need not be read."""
    counts(cached)
    [file] = (cached.path / ".pytest_cache").rglob("*.pot.safetensors")
    assert Baseline.load(file).weights_print is None


def test_the_cache_does_not_change_the_figures(cached: Project) -> None:
    counts(cached)
    _, with_cache = counts(cached)
    cached.ini(pot_cache="false", pot_reference="model", pot_candidate=cached.tiny.perturbed, pot_prompts="prompts.jsonl")
    without, figures = counts(cached)
    assert without == LIVE_RUN
    assert figures == with_cache


def test_an_identical_candidate_scores_zero_against_a_cached_reference(cached: Project) -> None:
    cached.ini(pot_reference="model", pot_candidate=cached.tiny.copy, pot_prompts="prompts.jsonl")
    counts(cached)
    again, figures = counts(cached)
    assert again == CACHED_RUN
    assert set(figures.values()) == {0.0, figures["tail_mass"]}


def change_a_weight(cached: Project) -> None:
    model: Any = GPT2LMHeadModel.from_pretrained(cached.path / "model")
    with torch.no_grad():
        model.transformer.h[0].attn.c_attn.weight[0, 0] += 1e-3
    model.save_pretrained(cached.path / "model")


def change_the_configuration(cached: Project) -> None:
    path = cached.path / "model" / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**config, "layer_norm_epsilon": 1e-4}), encoding="utf-8")


def change_a_prompt(cached: Project) -> None:
    cached.prompts("prompts.jsonl", PROMPTS[0], PROMPTS[1], {**PROMPTS[2], "continuation": " Nobody, said the rain."})


def change_the_preset(cached: Project) -> None:
    cached.write(test_it=GATED.replace("max_score=0", 'max_score=0, preset="single"'))


def change_the_dtype(cached: Project) -> None:
    cached.ini(pot_dtype="float64", pot_reference="model", pot_candidate=cached.tiny.perturbed, pot_prompts="prompts.jsonl")


@pytest.mark.parametrize(
    "change", [change_a_weight, change_the_configuration, change_a_prompt, change_the_preset, change_the_dtype]
)
def test_a_change_runs_the_reference_again(cached: Project, change: Callable[[Project], None]) -> None:
    counts(cached)
    change(cached)
    after, _ = counts(cached)
    assert (after["loaded"], after["run"]) in {(1, 1), (1, 3)}  # the suite is one batch, or three batches of one prompt
    again, _ = counts(cached)
    assert (again["loaded"], again["run"]) == (0, 0)


def test_another_metric_uses_the_same_record(cached: Project) -> None:
    _, figures = counts(cached)
    cached.write(test_it=GATED.replace("max_score=0", 'max_score=0, metric="kl"'))
    again, by_kl = counts(cached)
    assert again == CACHED_RUN
    assert by_kl["score"] == figures["kl"]


def test_another_number_of_threads_runs_the_reference_again(cached: Project) -> None:
    counts(cached)
    cached.write(conftest=COUNTING + "\nimport torch\n\ntorch.set_num_threads(2)\n")
    try:
        after, _ = counts(cached)
    finally:
        torch.set_num_threads(1)
    assert after == FIRST_RUN


def test_cache_clear_runs_the_reference_again(cached: Project) -> None:
    counts(cached)
    after, _ = counts(cached, "--cache-clear")
    assert after == FIRST_RUN


def test_pot_cache_false_turns_the_cache_off(cached: Project) -> None:
    cached.ini(pot_cache="false", pot_reference="model", pot_candidate=cached.tiny.perturbed, pot_prompts="prompts.jsonl")
    counts(cached)
    assert counts(cached)[0] == LIVE_RUN
    assert not list(cached.path.rglob("*.pot.safetensors"))


def test_nothing_is_cached_without_pytests_cache(cached: Project) -> None:
    counts(cached, "-p", "no:cacheprovider")
    assert counts(cached, "-p", "no:cacheprovider")[0] == LIVE_RUN


def test_whole_vocabularies_are_not_cached(cached: Project) -> None:
    cached.write(test_it=GATED.replace("max_score=0", 'max_score=0, preset="original"'))
    counts(cached)
    again, _ = counts(cached)
    assert again["run"] == 3  # one prompt at a time, which needs no noise floor
    assert not list(cached.path.rglob("*.pot.safetensors"))


def test_pot_cache_mb_limits_the_size_of_the_cache(cached: Project) -> None:
    def ini(megabytes: object) -> None:
        cached.ini(
            pot_cache_mb=megabytes, pot_reference="model", pot_candidate=cached.tiny.perturbed, pot_prompts="prompts.jsonl"
        )

    def n_records() -> int:
        return len(list(cached.path.rglob(".pytest_cache/**/*.pot.safetensors")))

    ini(1)
    counts(cached)
    [record] = cached.path.rglob(".pytest_cache/**/*.pot.safetensors")
    size = record.stat().st_size / 1e6
    ini(1.5 * size)
    change_a_prompt(cached)
    counts(cached)  # removes the older record
    assert n_records() == 1
    assert counts(cached)[0] == CACHED_RUN
    ini(0.5 * size)
    change_the_preset(cached)
    counts(cached)
    assert counts(cached)[0]["run"] > 0
    assert n_records() == 0


def test_a_size_that_is_not_a_number_is_a_usage_error(cached: Project) -> None:
    cached.ini(pot_cache_mb="many")
    result = cached.run()
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: pot_cache_mb='many' is not a number of megabytes"])


def test_a_damaged_record_is_replaced(cached: Project) -> None:
    _, figures = counts(cached)
    [record] = cached.path.rglob(".pytest_cache/**/*.pot.safetensors")
    record.write_bytes(record.read_bytes()[:-7])
    again, same = counts(cached)
    assert again == FIRST_RUN
    assert same == figures
    assert counts(cached)[0] == CACHED_RUN


def test_a_model_from_the_load_hook_is_cached_by_its_weights(cached: Project) -> None:
    """The hook may load any model, so its weights identify it after loading."""
    hook = """
        def pytest_pot_load_model(spec, role):
            if role == "reference":
                loads.append(role)
                return GPT2LMHeadModel.from_pretrained(spec)
        """
    cached.ini(
        pot_reference="model",
        pot_candidate=cached.tiny.perturbed,
        pot_prompts="prompts.jsonl",
        pot_tokenizer=cached.tiny.reference,
    )
    cached.write(conftest=COUNTING + "\n" + "\n".join(line[8:] for line in hook.splitlines()))
    assert counts(cached)[0] == FIRST_RUN
    assert counts(cached)[0] == {**CACHED_RUN, "loaded": 1}


FIXTURE = """
@pytest.fixture
def pot_reference(request, monkeypatch):
    model = GPT2LMHeadModel.from_pretrained("model")
    {change}
    return model
"""


@pytest.mark.parametrize(
    "change",
    [
        "model.transformer.register_forward_hook(lambda module, inputs, output: None)",
        "original = model.forward; model.forward = lambda *a, **k: original(*a, **k)",
        "model.__class__ = type('Mine', (GPT2LMHeadModel,), dict(__module__='mine'))",
        "monkeypatch.setattr(type(model.transformer.h[0].mlp), 'forward', lambda self, x: x)",
        "monkeypatch.setattr('transformers.models.gpt2.modeling_gpt2.eager_attention_forward', lambda *a, **k: None)",
        "model.transformer.h[0].scale = torch.ones(1)",
        "request.addfinalizer(torch.nn.modules.module.register_module_forward_hook(lambda *a: None).remove)",
    ],
    ids=["hook", "forward", "class", "method", "function", "tensor", "global hook"],
)
def test_a_model_with_changed_code_is_never_cached(cached: Project, change: str) -> None:
    cached.ini(pot_candidate=cached.tiny.perturbed, pot_prompts="prompts.jsonl", pot_tokenizer=cached.tiny.reference)
    cached.write(conftest="import torch\n" + COUNTING + FIXTURE.format(change=change))
    counts(cached)
    assert counts(cached)[0]["run"] == LIVE_RUN["run"]


@pytest.mark.parametrize(
    "change",
    [
        "model.transformer.h[0].mlp.act = torch.nn.ReLU()",
        "model.transformer.ln_f.eps = 10.0",
        "model.transformer.h[0].attn.scaling = 0.0; model.transformer.h[0].attn.scale_attn_weights = False",
    ],
    ids=["module", "number", "flag"],
)
def test_a_change_outside_the_weights_runs_the_reference_again(cached: Project, change: str) -> None:
    cached.ini(pot_candidate=cached.tiny.perturbed, pot_prompts="prompts.jsonl", pot_tokenizer=cached.tiny.reference)
    cached.write(conftest="import torch\n" + COUNTING + FIXTURE.format(change=""))
    counts(cached)
    assert counts(cached)[0]["run"] == 0
    cached.write(conftest="import torch\n" + COUNTING + FIXTURE.format(change=change))
    assert counts(cached)[0]["run"] == FIRST_RUN["run"]


def test_a_model_of_a_registered_class_is_never_cached(cached: Project) -> None:
    """The folder's files do not tell which class will run."""
    registration = """
import transformers

class Mine(GPT2LMHeadModel):
    pass

# As register() does it; some versions of transformers do nothing there for a config of their own.
transformers.AutoModelForCausalLM._model_mapping._extra_content[transformers.GPT2Config] = Mine
"""
    mapping = "transformers.AutoModelForCausalLM._model_mapping._extra_content.clear()"
    cached.write(conftest=COUNTING.replace('    print("loaded"', f'    {mapping}\n    print("loaded"') + registration)
    counts(cached)
    again, _ = counts(cached)
    assert (again["loaded"], again["run"]) == (1, LIVE_RUN["run"])


def test_an_adapter_folder_is_not_identified_by_its_files(tmp_path: Path) -> None:
    from pytest_pot.engines.pytorch.model_identity import loads_as_known

    assert not loads_as_known(str(tmp_path))
    (tmp_path / "adapter_config.json").write_text("{}", encoding="utf-8")
    (tmp_path / "adapter_model.safetensors").write_bytes(b"")
    assert not loads_as_known(str(tmp_path))
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}', encoding="utf-8")
    assert not loads_as_known(str(tmp_path))
    (tmp_path / "adapter_config.json").unlink()
    assert loads_as_known(str(tmp_path))


def test_a_record_with_the_content_of_another_is_not_used(cached: Project) -> None:
    _, figures = counts(cached)
    [record] = cached.path.rglob(".pytest_cache/**/*.pot.safetensors")
    change_a_prompt(cached)
    counts(cached)
    [other] = [path for path in cached.path.rglob(".pytest_cache/**/*.pot.safetensors") if path != record]
    record.write_bytes(other.read_bytes())
    cached.prompts("prompts.jsonl", *PROMPTS)
    again, same = counts(cached)
    assert again == FIRST_RUN
    assert same == figures


def test_a_changed_tokenizer_rule_runs_the_reference_again(cached: Project) -> None:
    counts(cached)
    path = cached.path / "model" / "tokenizer.json"
    parts = json.loads(path.read_text(encoding="utf-8"))
    parts["normalizer"] = {"type": "Replace", "pattern": {"String": "mill"}, "content": "barn"}
    path.write_text(json.dumps(parts), encoding="utf-8")
    cached.ini(pot_reference="model", pot_candidate=cached.tiny.perturbed, pot_prompts="prompts.jsonl", pot_tokenizer="model")
    assert counts(cached)[0]["run"] == FIRST_RUN["run"]


def test_a_fixtures_model_is_identified_by_its_weights(cached: Project) -> None:
    cached.ini(pot_candidate=cached.tiny.perturbed, pot_prompts="prompts.jsonl", pot_tokenizer=cached.tiny.reference)
    cached.write(conftest=COUNTING + FIXTURE.format(change=""))
    _, figures = counts(cached)
    again, same = counts(cached)
    assert again["run"] == 0
    assert same == figures
    change = "model.transformer.h[0].ln_1.weight.data[0] += 0.5"
    cached.write(conftest=COUNTING + FIXTURE.format(change=change))
    after, other = counts(cached)
    assert after["run"] == FIRST_RUN["run"]
    assert other["score"] != figures["score"]


def test_a_failing_gate_says_that_the_reference_is_cached(cached: Project) -> None:
    counts(cached)
    result = cached.run()
    [line] = [line for line in result.outlines if line.startswith("  reference model, candidate ")]
    assert ", float32 on cpu (reference from the cache), noise floor " in line


@pytest.mark.parametrize("limit", ["max_score=0", "max_score=0.3"])
def test_a_gate_with_confidence_uses_the_record_and_compares_tokenizers(cached: Project, limit: str) -> None:
    counts(cached)
    cached.write(test_it=GATED.replace("max_score=0", f"{limit}, confidence=0.95"))
    result = cached.run()
    result.assert_outcomes(failed=1)
    assert any(", float32 on cpu (reference from the cache)" in line for line in result.outlines)
    cached.ini(pot_reference="model", pot_candidate=cached.tiny.other_tokenizer, pot_prompts="prompts.jsonl")
    result = cached.run()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["pot_identity: the tokenizers of reference and candidate disagree on *"])


@pytest.mark.slow
def test_two_workers_share_the_cache(cached: Project) -> None:
    cached.write(test_it=GATED + "\n\n" + GATED.replace("test_it", "test_too"))
    cached.run_workers(2).assert_outcomes(failed=2)
    cached.run_workers(2).assert_outcomes(failed=2)
    assert len(list(cached.path.rglob(".pytest_cache/**/*.pot.safetensors"))) == 1


# -- why a reference was run, at -v ------------------------------------------------------------------------------------

IS_RUN = "the reference is run"
NOT_KEPT = (
    f"{IS_RUN}: no earlier run kept its outputs for these weights, prompts, settings and library versions on this machine"
)


def reasons(project: Project, *arguments: str) -> list[str]:
    """The lines at -v that say why the reference was run; without -v there are none."""
    quiet = project.run(*arguments)
    assert not [line for line in quiet.outlines if IS_RUN in line]
    project.run("--cache-clear", "--collect-only")
    return [line.strip() for line in project.run("-v", *arguments).outlines if IS_RUN in line]


def test_a_first_run_says_why_the_reference_is_run_and_a_second_says_nothing(cached: Project) -> None:
    assert set(reasons(cached)) == {NOT_KEPT}
    assert not [line for line in cached.run("-v").outlines if IS_RUN in line]
    [gate] = cached.gates()
    assert NOT_KEPT not in gate["notes"]
    [gate] = cached.gates("--cache-clear")
    assert NOT_KEPT in gate["notes"]


PRINTING_NOTES = """
import pytest
import torch
from transformers import GPT2LMHeadModel


def patched(*arguments, **keywords):
    return torch.zeros(())


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_call(item):
    from pytest_pot.plugin.gates import INPUTS

    print("", *item.stash[INPUTS][0].notes, sep="\\n")

"""


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("model.transformer.h[0].register_forward_hook(lambda *a: None)", "transformer.h.0 has a forward hook"),
        (
            "model.__class__ = type('Mine', (GPT2LMHeadModel,), dict(__module__='mine'))",
            "the class Mine is of mine, not of torch or transformers",
        ),
        (
            "original = model.forward; model.forward = lambda *a, **k: original(*a, **k)",
            "the model has the attribute forward, a function that is in no weights and no config",
        ),
        (
            "model.transformer.h[0].scale = torch.ones(1)",
            "transformer.h.0 has the attribute scale, an object of the class Tensor that is in no weights and no config",
        ),
        (
            "monkeypatch.setattr(type(model.transformer.h[0].mlp), 'forward', patched)",
            "GPT2MLP.patched is code in {conftest}, of no library that is known",
        ),
        (
            "monkeypatch.setattr('transformers.models.gpt2.modeling_gpt2.eager_attention_forward', patched)",
            "transformers.models.gpt2.modeling_gpt2.patched is code in {conftest}, of no installed library",
        ),
        (
            "request.addfinalizer(torch.nn.modules.module.register_module_forward_hook(lambda *a: None).remove)",
            "torch has a forward hook for all modules",
        ),
    ],
    ids=["hook", "class", "attribute", "tensor", "method", "function", "global hook"],
)
def test_a_model_that_cannot_be_cached_says_why(cached: Project, change: str, reason: str) -> None:
    cached.ini(pot_candidate=cached.tiny.perturbed, pot_prompts="prompts.jsonl", pot_tokenizer=cached.tiny.reference)
    # The gate itself may fail, so its notes are printed before it runs.
    cached.write(conftest=PRINTING_NOTES + FIXTURE.format(change=change))
    lines = {line.strip() for line in cached.run("-s").outlines}
    assert f"{IS_RUN} each time: {reason.format(conftest=cached.path / 'conftest.py')}" in lines


def test_whole_vocabularies_and_confidence_say_why_nothing_is_kept(cached: Project) -> None:
    cached.write(test_it=GATED.replace("max_score=0", 'max_score=0, preset="accurate"'))
    assert set(reasons(cached)) == {f"{IS_RUN} each time: what it says about a whole vocabulary is too large to keep"}
    cached.write(test_it=GATED.replace("max_score=0", "max_score=0.3, confidence=0.95"))
    assert set(reasons(cached)) == {f"{IS_RUN} each time: with confidence it is run no further than needed"}


def test_nothing_is_said_where_the_cache_is_off(cached: Project) -> None:
    assert reasons(cached, "-p", "no:cacheprovider") == []
    cached.ini(pot_cache="false", pot_reference="model", pot_candidate=cached.tiny.perturbed, pot_prompts="prompts.jsonl")
    assert reasons(cached) == []
