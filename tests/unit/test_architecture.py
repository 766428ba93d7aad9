"""The rules of the house that import-linter cannot see; ``lint-imports`` holds the others."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import pytest_pot

PACKAGE = Path(pytest_pot.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
MODULES = {".".join(("pytest_pot", *path.relative_to(PACKAGE).with_suffix("").parts)): path for path in FILES}
MODULES = {name.removesuffix(".__init__"): path for name, path in MODULES.items()}
TESTS = Path(__file__).parent


def imports(path: Path) -> set[str]:
    """The modules of the package that ``path`` imports: at the top, in functions, and for types alone."""
    targets: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            targets.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            assert node.level == 0, f"{path}: imports are absolute"
            # A name may be a module below the one that is named.
            names = (f"{node.module}.{alias.name}" for alias in node.names)
            targets.update(name if name in MODULES else node.module for name in names)
    return targets & set(MODULES)


def test_no_circle_of_imports_not_even_in_a_function_or_for_types() -> None:
    graph = {name: imports(path) for name, path in MODULES.items()}
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, f"a circle: {' -> '.join((*trail[trail.index(name) :], name))}"
        if name not in done:
            for target in sorted(graph[name]):
                visit(target, (*trail, name))
            done.add(name)

    for name in sorted(graph):
        visit(name, ())


def test_the_front_door_is_small() -> None:
    entries = {path.name for path in PACKAGE.iterdir()} - {"__pycache__"}
    assert len(entries) <= 12, sorted(entries)


@pytest.mark.parametrize("folder", sorted({path.parent for path in FILES}), ids=lambda path: path.name)
def test_every_folder_says_what_lives_there_and_what_may_be_imported(folder: Path) -> None:
    docstring = ast.get_docstring(ast.parse((folder / "__init__.py").read_text(encoding="utf-8"))) or ""
    assert docstring.count("\n\n") >= 1
    assert folder == PACKAGE or "import" in docstring


def functions(path: Path) -> Iterator[ast.FunctionDef]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef):
            yield node


@pytest.mark.parametrize("name", sorted(MODULES))
def test_no_function_has_more_than_six_parameters(name: str) -> None:
    for function in functions(MODULES[name]):
        arguments = function.args
        names = [argument.arg for argument in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]
        assert len([name for name in names if name not in ("self", "cls")]) <= 6, f"{name}.{function.name}"


@pytest.mark.parametrize("name", sorted(name for name in MODULES if name.startswith("pytest_pot.plugin.")))
def test_private_names_of_pytest_are_used_in_one_module(name: str) -> None:
    if name == "pytest_pot.plugin.pytest_internals":
        return
    for node in ast.walk(ast.parse(MODULES[name].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.startswith("__"):
            assert isinstance(node.value, ast.Name), ast.unparse(node)
            assert node.value.id in ("self", "cls"), ast.unparse(node)
        if isinstance(node, ast.Import | ast.ImportFrom):
            assert "_pytest" not in ast.unparse(node)


def test_unit_tests_stand_where_their_modules_do() -> None:
    folders = {path.parent.relative_to(PACKAGE) for path in FILES}
    for path in TESTS.rglob("test_*.py"):
        folder = path.parent.relative_to(TESTS)
        assert folder in folders, f"{path}: there is no folder {folder} in the package"


def test_nothing_asks_for_the_kind_of_a_gate() -> None:
    """A gate and its result have one face: a new kind must not have to be added to a list of cases."""
    kinds = {"ScoreResult", "LatencyResult", "IdentityGate", "DistinctGate", "LatencyGate", "ScoreSettings", "LatencySettings"}
    for name, path in MODULES.items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "isinstance":
                asked = {leaf.id for leaf in ast.walk(node.args[1]) if isinstance(leaf, ast.Name)}
                assert not asked & kinds, f"{name}: {ast.unparse(node)}"
