"""Files of prompts that cannot be read, wherever they are named: an error that names the file, and no waiting."""

from __future__ import annotations

import os

import pytest

from .conftest import Project

GATED = """
import pytest

@pytest.mark.pot_identity{arguments}
def test_it():
    pass
"""


@pytest.fixture
def odd(project: Project, request: pytest.FixtureRequest) -> Project:
    """A project with ``odd``, which is no regular file."""
    path = project.path / "odd"
    if request.param == "a FIFO":
        os.mkfifo(path)
    elif request.param == "a device":
        path.symlink_to("/dev/zero")
    else:
        path.mkdir()
    return project


KINDS = ["a FIFO", "a device", "a folder"]


@pytest.mark.parametrize(("odd", "kind"), [(kind, kind) for kind in KINDS], indirect=["odd"])
@pytest.mark.parametrize("where", ["marker", "option", "ini"])
def test_what_is_no_regular_file_is_a_usage_error(odd: Project, kind: str, where: str) -> None:
    odd.write(test_it=GATED.replace("{arguments}", '(prompts="odd")' if where == "marker" else ""))
    if where == "ini":
        odd.ini(pot_reference=odd.tiny.reference, pot_candidate=odd.tiny.copy, pot_prompts="odd")
    result = odd.run(*(["--pot-prompts=odd"] if where == "option" else []))
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert f"cannot read the prompts file {odd.path / 'odd'}: it is {kind}, not a regular file" in result.stderr.str()


@pytest.mark.parametrize(("odd", "kind"), [(kind, kind) for kind in KINDS], indirect=["odd"])
def test_a_fixture_may_not_name_it_either(odd: Project, kind: str) -> None:
    odd.write(
        conftest="""
        import pytest

        @pytest.fixture
        def pot_prompts():
            return "odd"
        """
    )
    result = odd.run_tests(GATED.replace("{arguments}", ""))
    result.assert_outcomes(errors=1)
    assert f"cannot read the prompts file {odd.path / 'odd'}: it is {kind}, not a regular file" in result.stdout.str()


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("[" * 100_000, "brackets are nested too deeply for a prompt"),
        ('{"text": "a", "id": ' + "9" * 5_000 + "}", "not JSON (Exceeds the limit (4300 digits) for integer string conversion"),
        (r'{"text": "a\ud800"}', r"Prompt: text has half of a character at index 1 ('\ud800', a lone surrogate)"),
        ('{"text": "a", "id": 1}\n{"text": "b", "id": 1}', "the id 1 is also that of line 1"),
        ('{"messages": [{"content": "a"}]}', 'Prompt.chat: messages[0] has no role; give it one, such as "role": "user"'),
    ],
    ids=["nesting", "digits", "surrogate", "ids", "chat"],
)
@pytest.mark.parametrize("where", ["marker", "option"])
def test_a_line_that_is_no_prompt_is_an_error_that_names_it(project: Project, line: str, reason: str, where: str) -> None:
    (project.path / "odd.jsonl").write_text(line + "\n", encoding="utf-8")
    project.write(test_it=GATED.replace("{arguments}", '(prompts="odd.jsonl")' if where == "marker" else ""))
    result = project.run(*(["--pot-prompts=odd.jsonl"] if where == "option" else []))
    result.assert_outcomes(errors=1)
    n = line.count("\n") + 1
    assert f"{project.path / 'odd.jsonl'}, line {n}: {reason}" in result.stdout.str()
    assert "Traceback" not in result.stdout.str()


def test_a_name_that_is_too_long_for_a_file_is_a_usage_error(project: Project) -> None:
    project.write(test_it=GATED.replace("{arguments}", ""))
    result = project.run(f"--pot-prompts={'x' * 300}")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert "does not exist" in result.stderr.str()


def test_half_of_a_character_in_a_marker_is_a_usage_error(project: Project) -> None:
    result = project.run_tests(GATED.replace("{arguments}", r"(prompts=['a\ud800'])"))
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert "pot_identity: prompt 0: Prompt: text has half of a character at index 1" in result.stderr.str()


def test_half_of_a_character_from_a_fixture_is_an_error(project: Project) -> None:
    project.write(
        conftest=r"""
        import pytest

        @pytest.fixture
        def pot_prompts():
            return ["a\ud800"]
        """
    )
    result = project.run_tests(GATED.replace("{arguments}", ""))
    result.assert_outcomes(errors=1)
    assert "the fixture pot_prompts: prompt 0: Prompt: text has half of a character" in result.stdout.str()


def test_a_file_with_a_byte_order_mark_is_read(project: Project) -> None:
    (project.path / "bom.jsonl").write_bytes(b'\xef\xbb\xbf{"text": "x", "continuation": "y"}\r\n')
    project.run_tests(GATED.replace("{arguments}", '(prompts="bom.jsonl")')).assert_outcomes(passed=1)
