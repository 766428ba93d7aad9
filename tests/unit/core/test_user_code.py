"""Errors of the project's own code, said in short."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from pytest_pot import PotError
from pytest_pot.core.user_code import in_short, is_of_the_project, raised_in


def caught(source: str, file: str, module: str) -> Exception:
    """The error that ``source`` raises as the module ``module`` in ``file``."""
    try:
        exec(compile(source, file, "exec"), {"__name__": module})
    except Exception as error:
        error.__traceback__ = error.__traceback__ and error.__traceback__.tb_next  # without this function
        return error
    raise AssertionError


@pytest.mark.parametrize(
    ("file", "module"),
    [
        (f"{sys.prefix}/lib/python3/site-packages/torch/nn.py", "torch.nn"),
        ("/usr/lib/python3/dist-packages/numpy/core.py", "numpy.core"),
        (json.__file__, "json"),
        ("/checkout/of/pytest_pot/plugin/hooks.py", "pytest_pot.plugin.hooks"),
        ("<string>", "generated"),
    ],
)
def test_frames_of_libraries_are_cut(file: str, module: str) -> None:
    error = caught("1 / 0", file, module)
    assert in_short(error) == "ZeroDivisionError: division by zero"
    assert not is_of_the_project(error)


def test_a_package_of_the_project_may_be_installed(tmp_path: Path) -> None:
    file = str(tmp_path / "site-packages" / "ours" / "models.py")
    error = caught("1 / 0", file, "ours.models")
    assert in_short(error) == "ZeroDivisionError: division by zero"
    assert in_short(error, "ours") == f"ZeroDivisionError: division by zero\n  {file}:1 in <module>"


def test_a_file_below_the_current_folder_is_named_from_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text("\nNone.x\n", encoding="utf-8")
    error = caught("\nNone.x", str(tmp_path / "mine.py"), "mine")
    assert in_short(error) == "AttributeError: 'NoneType' object has no attribute 'x'\n  mine.py:2 in <module>: None.x"


def test_what_is_raised_on_purpose_passes() -> None:
    with pytest.raises(PotError, match=r"^said already$"), raised_in("the hook"):
        raise PotError("said already")


def test_a_cause_of_the_project_is_named_too() -> None:
    source = "try:\n    1 / 0\nexcept ZeroDivisionError as error:\n    raise KeyError('x') from error"
    lines = in_short(caught(source, "/project/mine.py", "mine")).split("\n")
    assert lines[0] == "KeyError: 'x'"
    assert lines[-1] == "  because of ZeroDivisionError: division by zero"
