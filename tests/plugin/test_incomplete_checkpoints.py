"""Gates refuse checkpoints that do not hold the whole model, live and recorded, for every marker, and name the tensors."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
import transformers
from transformers import BertConfig, BertForMaskedLM, LlamaConfig, LlamaForCausalLM

from ..unit.checkpoints import CHANGES, tensors_in, without_its_tensor
from .conftest import VOCAB, Project

GATES = {
    "identity": '@pytest.mark.pot_identity(tolerance="identical", candidate={candidate!r})',
    "recorded": '@pytest.mark.pot_identity(tolerance="int4", reference="ref.pot.safetensors", candidate={candidate!r})',
    "distinct": "@pytest.mark.pot_distinct(min_score=0.001, candidate={candidate!r})",
    "distinct_recorded": (
        '@pytest.mark.pot_distinct(min_score=0.001, reference="ref.pot.safetensors", candidate={candidate!r})'
    ),
    "latency": "@pytest.mark.pot_latency(budget_ms=1e6, candidate={candidate!r})",
}


def llama(folder: Path, project: Project, *, tied: bool) -> Path:
    config = LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        tie_word_embeddings=tied,
    )
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(40)  # distributions that are not flat
    model.save_pretrained(folder)
    project.tiny.tokenizer.save_pretrained(folder)
    return folder


def recorded(project: Project, reference: Path) -> None:
    twin = shutil.copytree(reference, project.path / "twin")
    project.ini(pot_reference=reference, pot_candidate=twin, pot_prompts="prompts.jsonl")
    test = 'import pytest\n\n@pytest.mark.pot_identity(reference="ref.pot.safetensors")\ndef test_it():\n    pass\n'
    project.run_tests(test, "--pot-update").assert_outcomes(passed=1)


def gates(candidates: dict[str, Path], kinds: dict[str, str] = GATES) -> str:
    tests = [
        f"{gate.format(candidate=str(folder))}\ndef test_{name}_{kind}():\n    pass\n"
        for name, folder in candidates.items()
        for kind, gate in kinds.items()
    ]
    return "import pytest\n\n\n" + "\n\n".join(tests)


@pytest.mark.parametrize("kind", ["gpt2", "llama", pytest.param("llama, tied", marks=pytest.mark.slow)])
def test_every_gate_refuses_every_checkpoint_with_a_changed_tensor(kind: str, project: Project) -> None:
    whole = project.tiny.reference
    if kind != "gpt2":
        whole = llama(project.path / "whole", project, tied=kind != "llama")
    recorded(project, whole)
    names = {}
    candidates = {"whole": whole}
    for index, tensor in enumerate(tensors_in(whole)):
        how = list(CHANGES)[index % 3]  # all of them on all tensors: tests/unit/engines/pytorch/test_loading_info.py
        names[f"{how}_{index}"] = tensor
        candidates[f"{how}_{index}"] = without_its_tensor(whole, project.path / f"{how}_{index}", how, tensor)
    result = project.run_tests(gates(candidates), "-q")
    # A whole copy passes all gates but those that ask for another model.
    result.assert_outcomes(passed=3, failed=2, errors=len(GATES) * len(names))
    for name, tensor in names.items():
        folder = str(candidates[name])
        first = f"the files of the candidate {folder!r} do not hold the model that transformers makes of them:"
        at = [index for index, line in enumerate(result.outlines) if line.removeprefix("E   ").strip() == first]
        assert len(at) == len(GATES), (name, tensor)
        assert all(tensor in result.outlines[index + 1] for index in at), (name, tensor)


def test_two_folders_that_lost_the_same_tensor_are_not_the_same_model(project: Project) -> None:
    """Both are filled with the same random numbers; before, they scored 0."""
    name = "transformer.h.1.attn.c_attn.weight"
    reference, candidate = (
        without_its_tensor(project.tiny.reference, project.path / folder, "dropped", name) for folder in ("a", "b")
    )
    project.ini(pot_reference=reference, pot_candidate=candidate, pot_prompts="prompts.jsonl")
    result = project.run_tests('import pytest\n\n@pytest.mark.pot_identity(tolerance="identical")\ndef test_it():\n    pass\n')
    result.assert_outcomes(errors=1)
    at = result.outlines.index(
        f"the files of the candidate {str(candidate)!r} do not hold the model that transformers makes of them:"
    )
    assert result.outlines[at + 1 : at + 4] == [
        f"  1 tensor missing, filled as before training: {name}",
        "  it was loaded as GPT2LMHeadModel; the config says GPT2LMHeadModel",
        "Convert or save the model again, as the class that its config names. If you mean it, list the tensors in pytest's ini "
        f"file, by name or by a pattern with *: pot_allow_tensors = {name}",
    ]


@pytest.mark.parametrize("role", ["reference", "candidate"])
def test_a_recording_is_not_made_of_such_a_reference(role: str, project: Project) -> None:
    broken = without_its_tensor(project.tiny.reference, project.path / "broken", "renamed", "transformer.ln_f.bias")
    models = {"reference": project.tiny.reference, "candidate": project.tiny.copy, role: broken}
    project.ini(pot_reference=models["reference"], pot_candidate=models["candidate"], pot_prompts="prompts.jsonl")
    test = 'import pytest\n\n@pytest.mark.pot_identity(reference="ref.pot.safetensors")\ndef test_it():\n    pass\n'
    result = project.run_tests(test, "--pot-update")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines([f"the files of the {role} * do not hold the model that transformers makes of them:"])
    assert not (project.path / "ref.pot.safetensors").exists()


def test_the_ini_key_allows_tensors(project: Project) -> None:
    name = "transformer.h.1.attn.c_attn.weight"
    broken = without_its_tensor(project.tiny.reference, project.path / "broken", "dropped", name)
    test = gates({"broken": broken}, {"distinct": GATES["distinct"]})
    for patterns, outcome in (
        (name, "passed"),
        ("lm_head.*\n  *.h.*.attn.* *.mlp.*", "passed"),
        ("*.c_proj.*", "errors"),
    ):
        project.ini(pot_reference=project.tiny.reference, pot_prompts="prompts.jsonl", pot_allow_tensors=patterns)
        project.run_tests(test).assert_outcomes(**{outcome: 1})


def test_a_masked_language_model_is_refused(project: Project) -> None:
    config = BertConfig(
        vocab_size=VOCAB, hidden_size=32, num_hidden_layers=1, num_attention_heads=4, intermediate_size=32, pad_token_id=0
    )
    BertForMaskedLM(config).save_pretrained(project.path / "bert")
    project.tiny.tokenizer.save_pretrained(project.path / "bert")
    project.ini(pot_reference="bert", pot_candidate="bert", pot_prompts="prompts.jsonl")
    test = "import pytest\n\n@pytest.mark.pot_identity(max_tail=1)\ndef test_it():\n    pass\n"
    result = project.run_tests(test)
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(
        ["the candidate '*bert' is no causal language model: *; the config says BertForMaskedLM, is_decoder=False.*"]
    )
    path = project.path / "bert" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "is_decoder": True}))
    project.run_tests(test).assert_outcomes(passed=1)


@pytest.mark.parametrize("how", ["fixture", "factory"])
def test_a_model_in_memory_that_was_not_loaded_is_refused(how: str, project: Project) -> None:
    make = """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    def make():
        model = AutoModelForCausalLM.from_pretrained({reference})
        model.transformer.h[1].mlp.to("meta")
        return model, AutoTokenizer.from_pretrained({reference})
    """
    names = ["c_fc.bias", "c_fc.weight", "c_proj.bias", "c_proj.weight"]
    message = (
        "pot_identity: the candidate (GPT2LMHeadModel) has 4 tensors without numbers, on torch's meta device: "
        f"{', '.join(f'transformer.h.1.mlp.{name}' for name in names)}. They were never loaded: let the fixture or factory "
        "that makes the model load all of its weights"
    )
    factory = f"making_for_{how}"
    project.write(**{factory: make})
    project.ini(pot_reference=project.tiny.reference, pot_prompts="prompts.jsonl", pythonpath=".")
    fixture = f"import pytest\nfrom {factory} import make\n\n@pytest.fixture\ndef pot_candidate():\n    return make()\n"
    project.write(conftest=fixture if how == "fixture" else "")
    argument = f"candidate='{factory}:make'" if how == "factory" else ""
    result = project.run_tests(f"import pytest\n\n@pytest.mark.pot_identity({argument})\ndef test_it():\n    pass\n")
    result.assert_outcomes(failed=1)
    assert message in result.outlines


@pytest.mark.skipif(transformers.__version__.startswith("4."), reason="transformers 5 marks what it loads")
@pytest.mark.parametrize("kind", ["live", "recorded"])
def test_a_pass_of_fixtures_with_weights_that_were_not_found_warns(kind: str, project: Project) -> None:
    """They may have been set later, so they are no error."""
    names = [f"transformer.h.{layer}.mlp.c_proj.bias" for layer in (0, 1)]
    broken = without_its_tensor(project.tiny.reference, project.path / "half", "dropped", names[0])
    broken = without_its_tensor(broken, project.path / "broken", "dropped", names[1])
    recorded(project, project.tiny.reference)
    project.ini(pot_prompts="prompts.jsonl", pot_tokenizer=project.tiny.reference)
    load = f"AutoModelForCausalLM.from_pretrained({str(broken)!r})"
    fixtures = [f"@pytest.fixture\ndef pot_{role}():\n    return {load}\n" for role in ("reference", "candidate")]
    project.write(conftest="import pytest\nfrom transformers import AutoModelForCausalLM\n\n" + "\n".join(fixtures))
    argument = 'reference="ref.pot.safetensors", ' if kind == "recorded" else ""
    result = project.run_tests(
        f"import pytest\n\n@pytest.mark.pot_identity({argument}max_score=1)\ndef test_it():\n    pass\n", "-v"
    )
    result.assert_outcomes(passed=1, warnings=2 if kind == "live" else 1)
    for role in ("reference", "candidate") if kind == "live" else ("candidate",):
        result.stdout.fnmatch_lines(
            [
                f"*PytestWarning: pot_identity: the {role} (GPT2LMHeadModel) has 2 tensors that from_pretrained did not find "
                f"in its checkpoint: {', '.join(names)}. What was not set later holds random numbers"
            ]
        )
