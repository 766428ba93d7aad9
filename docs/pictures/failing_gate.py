"""Draw the README's picture: a gate that fails, in a real terminal of 80 columns.

    PYTHONPATH=. python docs/pictures/failing_gate.py

runs pytest in a pseudo-terminal, on SmolLM2-135M and a copy of it with weights rounded to 8 bits, and writes what the
terminal shows to failing-gate.svg beside this file. It needs what the examples need, and rich, which turns colours into SVG.
The text in the file is text: it can be searched and copied, and no font is fetched. A test compares it with what the present
code prints.
"""

from __future__ import annotations

import os
import pty
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import termios
from fcntl import ioctl
from io import StringIO
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import TerminalTheme
from rich.text import Text

HERE = Path(__file__).parent
EXAMPLES = HERE.parents[1] / "examples"
PICTURE = HERE / "failing-gate.svg"
COLUMNS = 80
COMMAND = "pytest"
DURATION = re.compile(r"\n.*1 failed.* in \d.*\s*\Z")
"""pytest's last line, which tells how long this machine took."""
TITLE = "A failing gate of pytest-pot in a terminal"

TEST = """\
import pytest


@pytest.mark.pot_identity(reference="models/base", candidate="models/base-int8", prompts="prompts.jsonl")
def test_int8():
    pass
"""

# No header, which names versions and folders; no captured output, in which libraries warn of what the environment lacks; no
# short summary, which in CI repeats the message.
SETTINGS = """\
[pytest]
addopts = --strict-markers --no-header --show-capture=no -rN
"""

# A diagnosis has a limit of time, which an idle machine keeps easily: here a busy one may take longer, and draws the same.
NO_HURRY = """\
import math

from pytest_pot.gates.verdict import diagnosing

assert diagnosing._LEAST_S > 0
diagnosing._LEAST_S = math.inf
"""

# Light text on a dark ground, whatever the page's own colours are; each colour has a contrast of at least 7 to 1.
THEME = TerminalTheme(
    background=(13, 17, 23),
    foreground=(230, 237, 243),
    normal=[
        (139, 148, 158),
        (255, 161, 152),
        (86, 211, 100),
        (227, 179, 65),
        (121, 192, 255),
        (210, 168, 255),
        (86, 212, 221),
        (230, 237, 243),
    ],
)

# rich's own template fetches a font; this one takes the reader's.
SVG = """\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {{width}} {{height}}" role="img" aria-labelledby="title desc">
  <title id="title">{title}</title>
  <desc id="desc">{description}</desc>
  <style>
    .{{unique_id}}-matrix {{{{
      font: {{char_height}}px ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace;
    }}}}
    .{{unique_id}}-title {{{{ font: bold 16px sans-serif; }}}}
    {{styles}}
  </style>
  <defs>{{lines}}</defs>
  {{chrome}}
  <g transform="translate({{terminal_x}}, {{terminal_y}})" class="{{unique_id}}-matrix">
    {{backgrounds}}
    {{matrix}}
  </g>
</svg>
"""
DESCRIPTION = (
    "pytest runs one test whose marker compares an 8-bit copy of a language model with the model itself. The test fails: its "
    "message gives the score and the limit, the worst prompts, the worst positions with the probabilities of both models, and "
    "what changed in the weights."
)


def write_project(folder: Path) -> None:
    """Write what the picture's user has: two models, prompts and a test."""
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    subprocess.run([sys.executable, EXAMPLES / "make_models.py"], cwd=folder, env=environment, capture_output=True, check=True)
    shutil.copy(EXAMPLES / "prompts.jsonl", folder)
    (folder / "test_models.py").write_text(TEST, encoding="utf-8")
    (folder / "conftest.py").write_text(NO_HURRY, encoding="utf-8")
    (folder / "pytest.ini").write_text(SETTINGS, encoding="utf-8")


def in_terminal(command: list[str], folder: Path) -> str:
    """Run a command in a pseudo-terminal of 80 columns, and return all that it wrote, with the escapes for colours."""
    screen, terminal = pty.openpty()
    ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 50, COLUMNS, 0, 0))
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in {"COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR", "GITHUB_STEP_SUMMARY"}
        and not name.startswith(("PYTEST", "PY_COLORS"))
    }
    # CI: no line of progress, which depends on the machine's speed. Other plugins have texts of their own.
    environment |= {"TERM": "xterm-256color", "CI": "true", "HF_HUB_OFFLINE": "1", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    process = subprocess.Popen(command, cwd=folder, env=environment, stdin=terminal, stdout=terminal, stderr=terminal)
    os.close(terminal)
    written = bytearray()
    while True:
        try:
            block = os.read(screen, 4096)
        except OSError:  # Linux: the other end is closed
            break
        if not block:
            break
        written += block
    os.close(screen)
    process.wait()
    return written.decode().replace("\r\n", "\n")


def failing_gate() -> str:
    """What a terminal shows when the gate fails, without the last line."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_project(folder)
        shown = in_terminal(
            [sys.executable, "-m", *COMMAND.split(), "-p", "pytest_pot.plugin", "-p", "no:cacheprovider"], folder
        )
    return DURATION.sub("", shown)


def screen_lines(output: str) -> list[Text]:
    """The lines of a screen; what the plugin prints fits it."""
    lines = Text.from_ansi(output.rstrip("\n")).split("\n")
    for line in lines:
        line.rstrip()
    return list(lines)


def picture(output: str) -> str:
    """The picture as SVG."""
    console = Console(
        record=True, width=COLUMNS, file=StringIO(), force_terminal=True, color_system="truecolor", legacy_windows=False
    )
    console.print(Text(f"$ {COMMAND}"))
    for line in screen_lines(output):
        console.print(line, highlight=False, no_wrap=True)
    template = SVG.format(title=TITLE, description=DESCRIPTION)
    return console.export_svg(title="", theme=THEME, code_format=template, unique_id="terminal")


if __name__ == "__main__":
    PICTURE.write_text(picture(failing_gate()), encoding="utf-8")
    sys.stdout.write(f"wrote {PICTURE}\n")
