# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""The rules of the code's shape, as tests: who is pure, what loads what, and that nothing undocumented is public.

The layers themselves are held by import-linter (pyproject.toml).
"""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "kaito"
FILES = sorted(SOURCE.rglob("*.py"))

IMPURE = {
    "aiohttp", "asyncio", "httpx", "kaito.kube.client", "os", "random", "requests", "socket", "subprocess", "time",
    "urllib.request", "uvicorn",
}  # fmt: skip
PURE_GLOBS = (
    "api/*.py",
    "catalog/sizing.py",
    "catalog/flags.py",
    "operator/**/*.py",
    "provisioner/*.py",
    "engine/controllers/*.py",
    "engine/patching/*.py",
    "engine/schema/*.py",
    "engine/tables/*.py",
    "cli/phases.py",
)
IMPURE_BY_NATURE = {
    *(f"operator/{name}.py" for name in ("__main__", "settings", "app", "facts")),
    *(f"operator/{name}.py" for name in ("authority", "hooks", "logs", "metrics", "monitoring", "podlogs")),
    *(f"provisioner/{name}.py" for name in ("__main__", "settings", "app", "cloud", "metrics")),
}
HEAVY = {"torch", "transformers", "vllm", "faiss", "accelerate", "peft"}
LONGEST_FILE = 500
LONGEST_FUNCTION = 70
BROAD_EXCEPT_ALLOWED = {
    "kube/controller.py",  # the loop: one failing object must not stop the others
    "kube/webhook.py",  # HTTP error middleware
    "engine/http/server.py",
    "runtime/serve/front.py",
}


def tree(file: Path) -> ast.Module:
    return ast.parse(file.read_text())


def name_of(file: Path) -> str:
    return str(file.relative_to(SOURCE))


def imported(file: Path) -> set[str]:
    """Every module that the file names in an import, at any depth, type-checking imports left out."""
    found: set[str] = set()
    for node in ast.walk(tree(file)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def pure_files() -> list[Path]:
    files = {file for glob in PURE_GLOBS for file in SOURCE.glob(glob)}
    return sorted(file for file in files if name_of(file) not in IMPURE_BY_NATURE)


@pytest.mark.parametrize("file", pure_files(), ids=name_of)
def test_a_deciding_module_imports_nothing_that_acts(file: Path) -> None:
    assert not imported(file) & IMPURE


@pytest.mark.parametrize(
    "package",
    ["kaito.operator.app", "kaito.engine.app", "kaito.provisioner.app", "kaito.cli.main", "kaito.runtime.__main__"],
)
def test_a_deployable_starts_without_the_machine_learning_libraries(package: str) -> None:
    code = f"import sys, {package}; print(*sorted({HEAVY!r} & set(sys.modules)))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert loaded.stdout.strip() == ""


def test_packages_have_empty_init_files() -> None:
    assert [name_of(file) for file in SOURCE.rglob("__init__.py") if file.read_text().strip()] == []


def test_our_own_package_is_never_imported_inside_a_function() -> None:
    late = [
        f"{name_of(file)}:{node.lineno}"
        for file in FILES
        for function in ast.walk(tree(file))
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
        for node in ast.walk(function)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("kaito")
    ]
    assert late == []


def is_raised_again(handler: ast.ExceptHandler) -> bool:
    """Whether the handler only cleans up and lets the exception go on."""
    last = handler.body[-1]
    return isinstance(last, ast.Raise) and last.exc is None


def test_everything_is_caught_only_where_one_failure_must_not_stop_the_rest() -> None:
    broad = [
        name_of(file)
        for file in FILES
        for node in ast.walk(tree(file))
        if isinstance(node, ast.ExceptHandler)
        and (node.type is None or getattr(node.type, "id", "") in {"Exception", "BaseException"})
        and not is_raised_again(node)
    ]
    assert set(broad) <= BROAD_EXCEPT_ALLOWED


def test_files_and_functions_stay_readable_in_one_sitting() -> None:
    long_files = [name_of(file) for file in FILES if file.read_text().count("\n") > LONGEST_FILE]
    long_functions = [
        f"{name_of(file)}:{node.name}"
        for file in FILES
        for node in ast.walk(tree(file))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (node.end_lineno or 0) - node.lineno >= LONGEST_FUNCTION
    ]
    assert (long_files, long_functions) == ([], [])


def test_every_module_and_public_definition_says_what_it_is_for() -> None:
    silent = []
    for file in FILES:
        module = tree(file)
        if file.name != "__init__.py" and not ast.get_docstring(module):
            silent.append(name_of(file))
        silent += [
            f"{name_of(file)}:{node.name}"
            for node in module.body
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
            and not node.name.startswith("_")
            and not ast.get_docstring(node)
        ]
    assert silent == []
