"""The architecture rules that import-linter cannot check; ``lint-imports`` checks the others."""

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
    """The package's modules that ``path`` imports: at the top, in functions, or only for types."""
    targets: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            targets.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            assert node.level == 0, f"{path}: imports are absolute"
            # An imported name may itself be a module.
            names = (f"{node.module}.{alias.name}" for alias in node.names)
            targets.update(name if name in MODULES else node.module for name in names)
    return targets & set(MODULES)


def test_imports_are_not_circular_even_in_functions_or_for_types() -> None:
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


def test_the_package_has_at_most_12_top_level_entries() -> None:
    """Beside ``testing``: it is no part of how gates work, but public, for authors of engines."""
    entries = {path.name for path in PACKAGE.iterdir()} - {"__pycache__", "testing"}
    assert len(entries) <= 12, sorted(entries)


@pytest.mark.parametrize("folder", sorted({path.parent for path in FILES}), ids=lambda path: path.name)
def test_every_folder_documents_its_content_and_its_imports(folder: Path) -> None:
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


def test_unit_test_folders_mirror_the_package() -> None:
    folders = {path.parent.relative_to(PACKAGE) for path in FILES}
    for path in TESTS.rglob("test_*.py"):
        folder = path.parent.relative_to(TESTS)
        assert folder in folders, f"{path}: there is no folder {folder} in the package"


def test_no_code_checks_the_kind_of_a_gate() -> None:
    """Gates and results share one interface, so that a new kind needs no new case elsewhere."""
    kinds = {"ScoreResult", "LatencyResult", "IdentityGate", "DistinctGate", "LatencyGate", "ScoreSettings", "LatencySettings"}
    for name, path in MODULES.items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "isinstance":
                classes = {leaf.id for leaf in ast.walk(node.args[1]) if isinstance(leaf, ast.Name)}
                assert not classes & kinds, f"{name}: {ast.unparse(node)}"
