"""CI runs the command that the README gives to contributors."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_ci_runs_the_command_of_the_readme() -> None:
    development = (ROOT / "README.md").read_text(encoding="utf-8").partition("\n## Development\n")[2]
    command = development.split("```")[1].removeprefix("sh\n").strip()
    assert command.endswith("tox")
    assert (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()[-1] == command
