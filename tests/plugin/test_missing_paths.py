"""A path that does not exist is said to be one, with all paths that were looked for; never a bad name for the hub."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from .conftest import Project

FORMS = (
    "A model is named by a folder or hub id with safetensors weights or an ONNX graph, a .gguf file, a server's URL, or "
    "package.module:factory, a callable "
    "that returns the model or (model, tokenizer)."
)
TOKENIZER_FORMS = "A tokenizer is named by a folder, a hub id or a .gguf file."
MARKED = "import pytest\n\n@pytest.mark.pot_identity({})\ndef test_it():\n    pass\n"


def error_of(result: pytest.RunResult) -> str:
    """The one line of the error at set-up."""
    result.assert_outcomes(errors=1)
    at = next(index for index, line in enumerate(result.outlines) if line.startswith("_") and " ERROR at setup of " in line)
    return result.outlines[at + 1]


@pytest.mark.parametrize("name", ["./nowhere", "nowhere/", "models/new/best", "../x y", "model.gguf", "new/model.gguf", "a--b"])
@pytest.mark.parametrize("role", ["reference", "candidate"])
def test_a_marker_names_a_path_that_does_not_exist(role: str, name: str, project: Project) -> None:
    (project.path / "sub").mkdir()
    project.write(**{"sub/test_it": MARKED.format(f"{role}={name!r}")})
    paths = [os.path.normpath(folder / name) for folder in (project.path / "sub", project.path)]
    assert error_of(project.run("sub")) == (
        f"cannot load the {role} {name!r}: none of these exists: {paths[0]}, {paths[1]}. {FORMS}"
    )


def test_a_name_that_could_be_a_hub_id_is_looked_for_in_both_places(project: Project) -> None:
    """The reason is transformers' own; the run is offline."""
    for name in ("models/new", "new"):
        line = error_of(project.run_tests(MARKED.format(f"candidate={name!r}")))
        start = f"cannot load the candidate {name!r}: as a path, {project.path / name} does not exist; as a hub id: "
        assert line.startswith(start)
        assert line.endswith(f". {FORMS}")
        reason = line.removeprefix(start).removesuffix(f". {FORMS}")
        assert "https://huggingface.co" in reason
        assert not reason.endswith(".")


@pytest.mark.parametrize("role", ["reference", "candidate", "tokenizer"])
def test_an_option_and_an_ini_key_say_where_they_were_looked_for(role: str, project: Project) -> None:
    what, forms = (f"the {role}", FORMS) if role != "tokenizer" else ("the tokenizer", TOKENIZER_FORMS)
    project.write(test_it=MARKED.format(""))
    elsewhere = project.path / "elsewhere"
    elsewhere.mkdir()
    os.chdir(elsewhere)
    result = project.run(f"--pot-{role}=./nowhere", "--rootdir", str(project.path), "-c", "../pytest.ini", "..")
    paths = f"{elsewhere / 'nowhere'}, {project.path / 'nowhere'}"
    assert error_of(result) == f"cannot load {what} './nowhere': none of these exists: {paths}. {forms}"
    models = {"pot_reference": project.tiny.reference, "pot_candidate": project.tiny.copy, "pot_prompts": "prompts.jsonl"}
    project.ini(**{**models, f"pot_{role}": "./nowhere"})
    result = project.run("--rootdir", str(project.path), "-c", "../pytest.ini", "..")
    assert error_of(result) == f"cannot load {what} './nowhere': {project.path / 'nowhere'} does not exist. {forms}"


def test_an_absolute_path_is_named_once(project: Project) -> None:
    path = project.path / "models" / "nowhere"
    assert error_of(project.run_tests(MARKED.format(f"candidate={str(path)!r}"))) == (
        f"cannot load the candidate {str(path)!r}: {path} does not exist. {FORMS}"
    )


def test_the_home_folder_may_be_written_as_a_tilde(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(project.tiny.copy.parent))
    project.run_tests(MARKED.format('candidate="~/copy"')).assert_outcomes(passed=1)
    assert error_of(project.run_tests(MARKED.format('candidate="~/nowhere"'))) == (
        f"cannot load the candidate '~/nowhere': {project.tiny.copy.parent / 'nowhere'} does not exist. {FORMS}"
    )


@pytest.mark.parametrize("kind", ["Path", "str"])
def test_a_fixture_names_a_path_that_does_not_exist(kind: str, project: Project) -> None:
    (project.path / "sub").mkdir()
    fixture = (
        f"import pytest\nfrom pathlib import Path\n\n@pytest.fixture\ndef pot_candidate():\n    return {kind}('models/a/b')\n"
    )
    project.write(**{"sub/conftest": fixture, "sub/test_it": MARKED.format("")})
    paths = f"{project.path / 'sub/models/a/b'}, {project.path / 'models/a/b'}"
    assert error_of(project.run()) == f"cannot load the candidate 'models/a/b': none of these exists: {paths}. {FORMS}"


def test_the_fixture_pot_tokenizer_says_where_a_model_was_looked_for(project: Project) -> None:
    project.ini()
    fixture = "import pytest\n\n@pytest.fixture(scope='session')\ndef pot_reference():\n    return './nowhere'\n"
    project.write(conftest=fixture)
    result = project.run_tests("def test_it(pot_tokenizer):\n    pass\n")
    assert error_of(result) == f"cannot load the reference './nowhere': {project.path / 'nowhere'} does not exist. {FORMS}"


def test_calibration_says_where_a_model_was_looked_for(project: Project) -> None:
    result = project.run("--pot-calibrate", "--pot-reference=./nowhere")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stdout.fnmatch_lines(
        [f"ERROR: cannot load the reference './nowhere': {project.path / 'nowhere'} does not exist. {FORMS}"]
    )


def test_a_url_is_no_path(project: Project, tmp_path: Path) -> None:
    line = error_of(project.run_tests(MARKED.format('candidate="registry://models/new"')))
    assert line.startswith("cannot load the candidate 'registry://models/new': ")
    assert "exist" not in line.removesuffix(FORMS)
