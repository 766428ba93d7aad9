"""Code of the project that raises: a short message with the project's own frames, and none of the libraries'."""

from __future__ import annotations

import pytest

from .conftest import Project

MARKED = """
import pytest

@pytest.mark.pot_identity
def test_it():
    pass
"""
LIBRARIES = ("site-packages", "pytest_pot/", "pluggy/", "Traceback", "During handling", "return hook_impl")
TELL = """

def pytest_pot_gate(item, result):
    print("told", result.settings.gate, result.verdict, result.passed, result.report, result.names, result.explain())
"""


def message(result: pytest.RunResult, start: str) -> list[str]:
    """The lines from the one that begins with ``start`` to the table, without what the terminal adds."""
    text = result.stdout.str()
    assert not any(word in text for word in LIBRARIES), text
    lines = result.outlines
    begin = next(index for index, line in enumerate(lines) if line.startswith(start))
    end = next(index for index in range(begin, len(lines)) if lines[index].startswith(("=", "-", "_")))
    return lines[begin:end]


def test_a_loader_hook(project: Project) -> None:
    project.write(
        fetching="""
        def fetch(spec):
            raise ConnectionError(f"no answer\\nfor {spec}")
        """,
        conftest="""
        import fetching

        def pytest_pot_load_model(spec, role, config):
            if spec.startswith("registry://"):
                return fetching.fetch(spec)
        """
        + TELL.replace("\n", "\n        "),
    )
    project.ini(pot_reference=project.tiny.reference, pot_candidate="registry://x", pot_prompts="prompts.jsonl", pythonpath=".")
    result = project.run_tests(MARKED, "-s")
    result.assert_outcomes(errors=1)
    said = [
        "the hook pytest_pot_load_model, asked for the candidate 'registry://x', raised ConnectionError: no answer for registry://x",
        "  conftest.py:5 in pytest_pot_load_model: return fetching.fetch(spec)",
        '  fetching.py:2 in fetch: raise ConnectionError(f"no answer\\nfor {spec}")',
    ]
    assert message(result, "the hook") == said
    # The table and pytest_pot_gate know of the gate, too.
    result.stdout.fnmatch_lines(["*told pot_identity ERROR False None (None, None) pot_identity: the hook*", said[1], said[2]])
    assert sum("  ERROR, failed" in line for line in result.outlines) == 1


FACTORIES = """
import json
import torch

def library():
    return json.loads("{")

def own():
    try:
        helper(0)
    except ZeroDivisionError as error:
        raise RuntimeError from error

def helper(n):
    return 1 / n

def leave():
    raise SystemExit("no licence")

def deep(n=30):
    if n:
        return deep(n - 1)
    raise ValueError("x" * 1000)

def argument(size):
    pass

def weights():
    return torch.nn.Linear(2, 3).load_state_dict({})
"""


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        (
            "library",
            [
                "JSONDecodeError: Expecting property name enclosed in double quotes: line 1 column 2 (char 1)",
                '  factories.py:5 in library: return json.loads("{")',
            ],
        ),
        (
            "own",
            [
                "RuntimeError",
                "  factories.py:11 in own: raise RuntimeError from error",
                "  because of ZeroDivisionError: division by zero",
            ],
        ),
        ("leave", ["SystemExit: no licence", '  factories.py:17 in leave: raise SystemExit("no licence")']),
        (
            "deep",
            [
                f"ValueError: {'x' * 399}…",
                "  … 23 more calls",
                *["  factories.py:21 in deep: return deep(n - 1)"] * 7,
                '  factories.py:22 in deep: raise ValueError("x" * 1000)',
            ],
        ),
        ("argument", ["TypeError: argument() missing 1 required positional argument: 'size'"]),
        (
            "weights",
            [
                'RuntimeError: Error(s) in loading state_dict for Linear: Missing key(s) in state_dict: "weight", "bias".',
                "  factories.py:28 in weights: return torch.nn.Linear(2, 3).load_state_dict({})",
            ],
        ),
    ],
)
def test_a_factory(project: Project, name: str, lines: list[str]) -> None:
    project.write(factories=FACTORIES, test_it=MARKED)
    project.ini(pythonpath=".", pot_reference=f"factories:{name}", pot_candidate=project.tiny.copy, pot_prompts="prompts.jsonl")
    result = project.run()
    result.assert_outcomes(errors=1)
    start = f"the reference factory 'factories:{name}' raised "
    assert message(result, start) == [start + lines[0], *lines[1:]]


@pytest.mark.parametrize(
    ("source", "lines"),
    [
        ("import nothing_like_it", ["ModuleNotFoundError: No module named 'nothing_like_it'", "  broken.py:1 in <module>: {}"]),
        ("1 / 0", ["ZeroDivisionError: division by zero", "  broken.py:1 in <module>: {}"]),
        ("None.x", ["AttributeError: 'NoneType' object has no attribute 'x'", "  broken.py:1 in <module>: {}"]),
        ("def f(:", ["SyntaxError: invalid syntax (broken.py, line 1)", "  broken.py:1: {}"]),
    ],
)
def test_the_module_of_a_factory(project: Project, source: str, lines: list[str]) -> None:
    (project.path / "broken.py").write_text(source + "\n", encoding="utf-8")
    project.ini(pythonpath=".", pot_reference="broken:f", pot_candidate=project.tiny.copy, pot_prompts="prompts.jsonl")
    result = project.run_tests(MARKED)
    result.assert_outcomes(errors=1)
    start = "importing the reference factory 'broken:f' raised "
    assert message(result, start) == [start + lines[0], lines[1].format(source)]


@pytest.mark.parametrize(
    ("fixture", "gives"),
    [
        ("pot_reference", "the reference"),
        ("pot_candidate", "the candidate"),
        ("pot_tokenizer", "the tokenizer"),
        ("pot_prompts", "the prompts"),
    ],
)
@pytest.mark.parametrize("scope", ["function", "session"])
def test_a_fixture(project: Project, fixture: str, gives: str, scope: str) -> None:
    """What it calls in a library is cut; both tests of a session say the same."""
    project.write(
        conftest=f"""
        import pytest
        from transformers import AutoTokenizer

        @pytest.fixture(scope="{scope}")
        def {fixture}():
            return AutoTokenizer.from_pretrained(5)
        """
        + TELL.replace("\n", "\n        "),
        test_it=MARKED + MARKED.replace("test_it", "test_too"),
    )
    result = project.run("-s")
    result.assert_outcomes(errors=2)
    lines = message(result, "the fixture")
    assert lines[0].startswith(f"the fixture {fixture}, which gives {gives}, raised ")
    assert lines[1:] == [f"  conftest.py:6 in {fixture}: return AutoTokenizer.from_pretrained(5)"]
    assert sum(line.startswith(f"the fixture {fixture}, ") for line in result.outlines) == 2
    assert sum("told pot_identity ERROR False None" in line for line in result.outlines) == 2


def test_another_fixture_keeps_pytests_own_message(project: Project) -> None:
    result = project.run_tests(
        """
        import pytest

        @pytest.fixture
        def database():
            raise ConnectionError("no database")

        @pytest.mark.pot_identity
        def test_it(database):
            pass
        """
    )
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(['>       raise ConnectionError("no database")', "E       ConnectionError: no database"])
    assert sum("  ERROR, failed" in line for line in result.outlines) == 1


def test_a_skip_in_a_fixture_is_a_skip(project: Project) -> None:
    project.write(conftest="import pytest\n\n@pytest.fixture\ndef pot_candidate():\n    pytest.skip('no model today')\n")
    project.run_tests(MARKED).assert_outcomes(skipped=1)


@pytest.mark.parametrize("lazy", [False, True])
def test_the_prompts_hook(project: Project, lazy: bool) -> None:
    project.ini(pot_reference=project.tiny.reference, pot_candidate=project.tiny.copy)
    call = "yield open('gone.txt')" if lazy else "return open('gone.txt')"
    project.write(conftest=f"def pytest_pot_prompts(config):\n    return texts()\n\ndef texts():\n    {call}\n")
    result = project.run_tests(MARKED)
    result.assert_outcomes(errors=1)
    frames = [f"  conftest.py:5 in texts: {call}"]
    assert message(result, "the hook") == [
        "the hook pytest_pot_prompts raised FileNotFoundError: [Errno 2] No such file or directory: 'gone.txt'",
        *([] if lazy else ["  conftest.py:2 in pytest_pot_prompts: return texts()"]),
        *frames,
    ]


def test_the_gate_hook(project: Project) -> None:
    project.write(conftest="def pytest_pot_gate(item, result):\n    result.no_such_thing\n")
    result = project.run_tests(MARKED + MARKED.replace("pot_identity", "pot_distinct").replace("test_it", "test_too"))
    result.assert_outcomes(failed=2)
    assert message(result, "the hook") == [
        "the hook pytest_pot_gate raised AttributeError: 'ScoreResult' object has no attribute 'no_such_thing'",
        "  conftest.py:2 in pytest_pot_gate: result.no_such_thing",
    ]


def test_a_model_of_the_project(project: Project) -> None:
    project.write(
        conftest="""
        import pytest
        import torch

        class Model(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.layer = torch.nn.Linear(2, 3)

            def forward(self, input_ids, **_):
                return self.layer(input_ids)

        @pytest.fixture
        def pot_candidate():
            return Model()
        """
        + TELL.replace("\n", "\n        ")
    )
    result = project.run_tests(MARKED, "-s")
    result.assert_outcomes(failed=1)
    lines = message(result, "pot_identity: ")
    assert lines[0].startswith("pot_identity: the project's own code, a model's or a tokenizer's, raised RuntimeError: mat1")
    assert lines[1:] == ["  conftest.py:10 in forward: return self.layer(input_ids)"]
    assert "told pot_identity ERROR False None" in result.stdout.str()


def test_calibrating_with_a_fixture_that_raises(project: Project) -> None:
    project.write(conftest="import pytest\n\n@pytest.fixture\ndef pot_prompts():\n    raise KeyError('texts')\n")
    result = project.run("--pot-calibrate")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert result.outlines == [
        "ERROR: the fixture pot_prompts raised KeyError: 'texts'",
        "  conftest.py:5 in pot_prompts: raise KeyError('texts')",
    ]


def test_the_gate_hook_hears_of_gates_without_a_verdict(project: Project) -> None:
    """One that cannot be scored, one whose model cannot be found, and one whose recording is missing."""
    project.write(conftest=TELL)
    result = project.run_tests(
        """
        import pytest

        @pytest.mark.pot_identity(candidate={nan})
        def test_nan():
            pass

        @pytest.mark.pot_distinct(candidate="no_such_module:model", preset="single")
        @pytest.mark.pot_latency(budget_ms=1e9)
        def test_missing():
            pass

        @pytest.mark.pot_identity(reference="gone.pot.safetensors")
        def test_recording():
            pass
        """,
        "-s",
    )
    result.assert_outcomes(failed=2, errors=1)
    told = [line.partition("told ")[2].split(" ", 3) for line in result.outlines if "told pot_" in line]
    assert [entry[:3] for entry in told] == [
        ["pot_identity", "ERROR", "False"],
        ["pot_distinct", "ERROR", "False"],
        ["pot_latency", "ERROR", "False"],
        ["pot_identity", "ERROR", "False"],
    ]
    assert "cannot find the candidate factory 'no_such_module:model'" in told[1][3]
    assert "there is no recording gone.pot.safetensors: " in told[3][3]
