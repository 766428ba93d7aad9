"""CI runs the command that the README gives to contributors, and the oldest versions that we promise are tested."""

from __future__ import annotations

import tomllib
from configparser import ConfigParser
from itertools import chain
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_ci_runs_the_command_of_the_readme() -> None:
    development = (ROOT / "README.md").read_text(encoding="utf-8").partition("\n## Development\n")[2]
    command = development.split("```")[1].removeprefix("sh\n").strip()
    assert command.endswith("tox")
    assert (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()[-1] == command


def test_the_lowest_versions_are_those_that_are_promised() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    tox = ConfigParser(interpolation=None)
    tox.read(ROOT / "tox.ini", encoding="utf-8")
    lowest = tox["testenv:lowest"]
    extras = project["optional-dependencies"]
    promised = chain(project["dependencies"], *(extras[name] for name in ("gguf", "onnx", "pandas", "server")))
    floors = dict(requirement.split(">=") for requirement in promised)
    pins = dict(line.split("==") for line in lowest["deps"].splitlines() if "==" in line)
    assert lowest["base_python"] == "py" + project["requires-python"].removeprefix(">=").replace(".", "")
    del floors["torch"], pins["torch"]  # kernels differ too much between its versions
    assert pins == floors
