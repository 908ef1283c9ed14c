# SPDX-License-Identifier: LGPL-2.1-or-later
"""A file imports only what stands above it, and the pure rooms import no drgn."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import pytest

from mminspect import __all__ as PUBLIC
from tests.kit.support import ROOT

# From the top down. Data flows this way.
ROOMS = (
    ("errors", "findings", "signals"),
    ("program",),
    ("typeinfo",),
    ("memorymap",),
    ("layout",),
    ("memmap",),
    ("kernel",),
    ("helpers",),
    ("rules",),
    ("consequences",),
    ("walk",),
    # The package's face: scan().
    ("__init__",),
    ("commands",),
    ("render",),
    ("fleet",),
    ("cli",),
    ("__main__", "drgn_plugin"),
)
PURE = ("findings", "memorymap", "rules", "consequences.model", "consequences.block", "render")
ORDER = {room: number for number, rooms in enumerate(ROOMS) for room in rooms}


def module_name(path: Path) -> str:
    """Get the name of a file inside the package: ``walk.scan``, ``rules.__init__``, ``errors``."""
    return ".".join(path.relative_to(ROOT / "mminspect").with_suffix("").parts)


PATHS = {module_name(path): path for path in (ROOT / "mminspect").rglob("*.py")}


def room(module: str) -> str:
    """Get the room of a file."""
    return module.split(".")[0]


def names_of(node: ast.AST) -> list[str]:
    """Get the full names that an import statement can mean."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        assert node.level == 0 and node.module is not None
        return [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return []


def to_modules(name: str) -> set[str]:
    """Get the file that a name is: a module, the face of a package, or what the package's own face defines."""
    package, _, inside = name.partition(".")
    if package != "mminspect":
        return set()
    if inside in PUBLIC:
        return {"__init__"}
    return {module for module in (inside, f"{inside}.__init__") if module in PATHS}


@cache
def imports(module: str) -> frozenset[str]:
    """Get the files of the package that a file imports, anywhere in it."""
    tree = ast.parse(PATHS[module].read_text(encoding="utf-8"))
    found = {other for node in ast.walk(tree) for name in names_of(node) for other in to_modules(name)}
    return frozenset(found - {module})


@cache
def outside(module: str) -> frozenset[str]:
    """Get the other packages that a file imports when it is itself imported, not those that only types need."""
    tree = ast.parse(PATHS[module].read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            node.body = [ast.Pass()]
    return frozenset(name.split(".")[0] for node in ast.walk(tree) for name in names_of(node)) - {"mminspect"}


def below(module: str) -> set[str]:
    """Get all files that a file imports, directly or through others."""
    seen: set[str] = set()
    waiting = [module]
    while waiting:
        for other in imports(waiting.pop()) - seen:
            seen.add(other)
            waiting.append(other)
    return seen


def test_every_file_is_in_a_room() -> None:
    assert {room(module) for module in PATHS} == set(ORDER)


@pytest.mark.parametrize("module", sorted(PATHS))
def test_a_file_imports_only_what_stands_above_it(module: str) -> None:
    assert [other for other in imports(module) if ORDER[room(other)] > ORDER[room(module)]] == []


@pytest.mark.parametrize("module", sorted(PATHS))
def test_no_file_imports_itself_through_others(module: str) -> None:
    assert module not in below(module)


@pytest.mark.parametrize("module", sorted(m for m in PATHS if m.startswith(PURE)))
def test_pure_files_import_no_drgn(module: str) -> None:
    assert [other for other in {module, *below(module)} if outside(other) & {"drgn", "_drgn"}] == []


def test_rooms_are_packages_with_small_faces() -> None:
    package = ROOT / "mminspect"
    top = {path.stem for path in package.glob("*.py")}
    assert top == {"__init__", "__main__", "drgn_plugin", "errors", "findings", "signals"}
    lines = {module: len(path.read_text(encoding="utf-8").splitlines()) for module, path in PATHS.items()}
    assert {module for module, number in lines.items() if module.endswith("__init__") and number > 20} == set()
    assert {module for module, number in lines.items() if number > 500} == set()
