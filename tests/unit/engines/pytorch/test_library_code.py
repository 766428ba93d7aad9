"""Library code is recognised by the distribution that it belongs to, wherever that is installed."""

from __future__ import annotations

import importlib.metadata
import json
import subprocess
import sys
from pathlib import Path

import numpy
import packaging
import pluggy
import pytest
import torch
import transformers

from pytest_pot.engines.pytorch.library_code import is_known_code, owner_of

SITE_PACKAGES = Path(transformers.__file__).parents[1]


@pytest.mark.parametrize("module", [torch, transformers, numpy, packaging, json], ids=lambda module: module.__name__)
def test_code_of_the_libraries_and_of_python_is_known(module: object) -> None:
    assert is_known_code(str(module.__file__))  # type: ignore[attr-defined]
    assert is_known_code("<string>")


def test_code_of_a_test_suite_is_not(tmp_path: Path) -> None:
    for file in (__file__, str(tmp_path / "transformers" / "x.py"), str(SITE_PACKAGES / "transformers_of_mine" / "x.py")):
        assert not is_known_code(file)
        assert owner_of(file) is None


def test_other_code_is_known_by_its_distribution_and_version() -> None:
    assert not is_known_code(pluggy.__file__)
    assert owner_of(pluggy.__file__) == f"pluggy {importlib.metadata.version('pluggy')}"


def installed(folder: Path, name: str, version: str, *, editable: bool = False) -> Path:
    """A package with its metadata, as pip leaves it; the package's code is not there if ``editable``."""
    metadata = folder / f"{name}-{version}.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (metadata / "RECORD").write_text(f"{name}/__init__.py,,\n../../../bin/{name}.py,,\n")
    if editable:
        (metadata / "direct_url.json").write_text(json.dumps({"url": "file:///src", "dir_info": {"editable": True}}))
    (folder / name).mkdir()
    file = folder / name / "__init__.py"
    file.write_text("")
    return file


def test_a_distribution_in_another_folder_is_recognised_and_an_editable_one_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed_file = installed(tmp_path / "layer", "kernels_for_pot", "1.2")
    editable_file = installed(tmp_path / "layer", "checkout_for_pot", "0.1", editable=True)
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path / "layer")])
    owner_of.cache_clear()
    assert owner_of(str(installed_file)) == "kernels_for_pot 1.2"
    assert owner_of(str(editable_file)) is None
    assert owner_of(str(tmp_path / "bin" / "kernels_for_pot.py")) is None


def test_helper_libraries_in_another_layer_do_not_turn_the_cache_off(tmp_path: Path) -> None:
    """An environment on top of another: safetensors and huggingface_hub are in a folder before that of transformers."""
    layer = tmp_path / "layer"
    layer.mkdir()
    for name in ("safetensors", "huggingface_hub"):
        distribution = importlib.metadata.distribution(name)
        for entry in {name, Path(str(distribution.locate_file(f"{name}-{distribution.version}.dist-info"))).name}:
            (layer / entry).symlink_to(str(distribution.locate_file(entry)), target_is_directory=True)
    program = """
import safetensors.torch
from transformers import GPT2Config, GPT2LMHeadModel
from pytest_pot.engines.pytorch.model_identity import content_of, loads_as_known, why_no_content

assert safetensors.torch.__file__.startswith({layer!r})
model = GPT2LMHeadModel(GPT2Config(n_layer=1, n_embd=8, n_head=2, vocab_size=9, n_positions=16))
model.save_pretrained({folder!r})
print(why_no_content(model) or "known", content_of(model) is not None, loads_as_known({folder!r}))
"""
    code = f"import sys; sys.path.insert(0, {str(layer)!r})\n" + program.format(
        layer=str(layer), folder=str(tmp_path / "model")
    )
    environment = {"PYTHONPATH": str(Path(__file__).parents[4]), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PATH": ""}
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    assert result.stdout == "known True True\n", result.stderr


def test_an_environment_below_a_folder_that_is_on_the_path_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As with .venv or .tox in a project whose root is on the path."""
    file = installed(tmp_path / ".venv" / "site-packages", "einops_for_pot", "0.8")
    monkeypatch.setattr(sys, "path", [str(tmp_path), str(tmp_path / ".venv" / "site-packages"), *sys.path])
    owner_of.cache_clear()
    assert owner_of(str(file)) == "einops_for_pot 0.8"
