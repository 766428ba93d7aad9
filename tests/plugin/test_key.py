"""The key that draws prompts: read from the environment too, and shown nowhere."""

from __future__ import annotations

import pytest

from .conftest import WITH_CACHE, Project

SECRET = "sesame-4711"
GATED = """
import pytest

@pytest.mark.pot_identity(candidate={perturbed})
def test_miss():
    pass

@pytest.mark.pot_identity(candidate={copy}, reference="gone.pot.safetensors")
def test_missing():
    pass

@pytest.mark.pot_latency(candidate={copy}, budget_ms=1e9)
def test_latency():
    pass

@pytest.mark.pot_identity(candidate={nan})
def test_error():
    pass

@pytest.mark.pot_identity(candidate={copy}, confidence=0.95)
def test_drawn():
    pass
"""
TEXTS = """
import pytest

@pytest.mark.pot_identity{arguments}
def test_it(pot_result):
    print("texts", [prompt.text for prompt in pot_result.report.prompts][:3])
"""


def texts(project: Project, *arguments: str, marker: str = "") -> str:
    project.write(test_it=TEXTS.replace("{arguments}", marker))
    result = project.run("-s", *arguments)
    result.assert_outcomes(passed=1)
    [line] = [line for line in result.outlines if "texts " in line]
    return line.partition("texts ")[2]


def test_the_order_is_marker_command_line_environment_ini_file(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = {name: texts(project, f"--pot-key={name}") for name in ("marker", "line", "environment", "ini")}
    assert len(set(keys.values())) == 4
    project.ini(pot_reference=project.tiny.reference, pot_candidate=project.tiny.copy, pot_key="ini")
    assert texts(project) == keys["ini"]
    monkeypatch.setenv("POT_KEY", "environment")
    assert texts(project) == keys["environment"]
    assert texts(project, "--pot-key=line") == keys["line"]
    assert texts(project, "--pot-key=line", marker="(key='marker')") == keys["marker"]
    assert project.run("--pot-calibrate", "--pot-preset=single").outlines[0].endswith("on 32 prompts")


def test_workers_read_the_environment_too(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = texts(project, f"--pot-key={SECRET}")
    monkeypatch.setenv("POT_KEY", SECRET)
    project.write(
        test_it=TEXTS.replace("{arguments}", "")
        + f"    assert str([prompt.text for prompt in pot_result.report.prompts][:3]) == {expected!r}\n"
    )
    project.run_workers(1).assert_outcomes(passed=1)


def test_an_empty_variable_is_a_usage_error(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a key, prompts that the candidate may have been fitted to would be compared."""
    monkeypatch.setenv("POT_KEY", "")
    for arguments in ([], ["--pot-key=other"]):
        result = project.run(*arguments)
        assert result.ret == pytest.ExitCode.USAGE_ERROR
        assert [line for line in result.errlines if line] == [
            "ERROR: the environment variable POT_KEY is empty: give it a value, or unset it"
        ]


@pytest.mark.parametrize("where", ["environment", "command line", "ini file"])
def test_the_key_is_in_no_output(project: Project, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    monkeypatch.setenv("PYTEST_ADDOPTS", WITH_CACHE)
    monkeypatch.delenv("PYTEST_CURRENT_TEST", raising=False)
    arguments = ["-vv", "-l", "-ra", "--junitxml=out.xml"]
    if where == "environment":
        monkeypatch.setenv("POT_KEY", SECRET)
    elif where == "command line":
        arguments.append(f"--pot-key={SECRET}")
    else:
        project.ini(pot_reference=project.tiny.reference, pot_key=SECRET)
    project.write(test_it=GATED)
    for report in ("gates.json", "gates.md"):
        result = project.run(*arguments, f"--pot-report={report}")
        result.assert_outcomes(passed=2, failed=3)
        header = next(line for line in result.outlines if line.startswith("pot: "))
        seen = "key given on the command line, where others can read it (better: POT_KEY)"
        assert header.endswith(f", {seen if where == 'command line' else 'key given'}")
        assert SECRET not in result.stdout.str() + result.stderr.str()
    command = next(line for line in result.outlines if "--pot-update" in line)
    known = {"environment": "", "command line": "POT_KEY=KEY ", "ini file": ""}[where]
    assert command == f"  {known}pytest test_it.py::test_missing --pot-update"
    (project.path / "pytest.ini").unlink()
    files = [path for path in project.path.rglob("*") if path.is_file()]
    assert any(".pytest_cache" in path.parts and path.suffix == ".safetensors" for path in files)
    for path in files:
        assert SECRET not in str(path)
        assert SECRET.encode() not in path.read_bytes()


def test_nor_in_what_a_traceback_shows(project: Project) -> None:
    result = project.run_tests(
        f"""
        import pytest

        @pytest.fixture
        def broken(request, pot_result):
            [gate] = request.node.stash[gates_key(request.node)]
            raise RuntimeError(repr(gate.settings) + repr(gate))

        def gates_key(item):
            from pytest_pot.plugin.markers import GATES
            return GATES

        @pytest.mark.pot_identity(key="{SECRET}")
        def test_it(broken):
            pass
        """,
        "-l",
        "--tb=native",
    )
    result.assert_outcomes(errors=1)
    assert "GateSettings" in result.stdout.str() or "ScoreSettings" in result.stdout.str()
    assert SECRET not in result.stdout.str().replace(f'pot_identity(key="{SECRET}")', "")


@pytest.mark.parametrize(
    ("key", "what"), [("4711", "int"), ("b'sesame-4711'", "bytes"), ("''", "empty"), ("['sesame-4711']", "list")]
)
def test_a_wrong_key_is_not_shown(project: Project, key: str, what: str) -> None:
    result = project.run_tests(TEXTS.replace("{arguments}", f"(key={key})"))
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert [line for line in result.errlines if line] == [
        f"ERROR: test_it.py::test_it: pot_identity: the key must be a string that is not empty, and it is {what}"
    ]


def test_the_help_recommends_the_variable(project: Project) -> None:
    text = " ".join(project.run("--help").stdout.str().split())
    assert "Better give it as the environment variable POT_KEY: other users of a machine can read its command lines" in text
