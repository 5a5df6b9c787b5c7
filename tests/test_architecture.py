"""Imports point one way, as the folder listing promises."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import qsessions

PACKAGE = Path(qsessions.__file__).parent

# Lowest first; a module imports from its own row or from rows above it in this list.
LAYERS = (
    ("errors", "models", "events", "clock", "masking", "_version"),
    ("api",),
    ("http",),
    ("auth",),
    ("config",),
    ("caller",),
    ("ledger",),
    ("session",),
    ("client",),
    ("states", "sync"),
    ("reaper",),
    ("cli", "testing"),
)
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}

# Who may import a library that one module is there to hide.
KEEPERS = {
    "aiohttp": {"http", "emulator"},
    "cattrs": {"api"},
    "json": {"api", "emulator", "cli", "ledger"},
    "jwt": {"emulator"},
    "platformdirs": {"ledger"},
}

# Libraries of an optional extra, which may be missing.
OPTIONAL = {"platformdirs"}


def modules() -> list[Path]:
    """List the package's modules."""
    return sorted(PACKAGE.rglob("*.py"))


def part(path: Path) -> str:
    """Give the name of the room a module is in: a module or a folder right below the package."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(tree: ast.AST) -> Iterator[tuple[str, ast.AST]]:
    """Give each imported module's full name, with the statement."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            if node.module == "qsessions":
                yield from ((f"qsessions.{alias.name}", node) for alias in node.names)
            yield node.module, node


def rooms_used(path: Path) -> set[str]:
    """Give the rooms of the package that a module imports from, its own aside."""
    tree = ast.parse(path.read_text())
    names = {name.split(".")[1] for name, _ in imports(tree) if name.startswith("qsessions.")}
    return (names & (RANK.keys() | {"emulator"})) - {part(path)}


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_down(path: Path) -> None:
    """A module imports only from its own layer or a lower one; the emulator and the client side know nothing of each other."""
    room = part(path)
    if room == "__init__":
        return
    assert room in RANK or room == "emulator", f"{room} has no place in LAYERS"
    used = rooms_used(path)
    if room == "emulator":
        assert not used
    else:
        assert {name for name in used - {"emulator"} if RANK[name] > RANK[room]} == set()
        assert "emulator" not in used or room in {"cli", "testing"}


def test_there_is_no_cycle() -> None:
    """Rooms of one layer import each other in one direction only."""
    uses: dict[str, set[str]] = {}
    for path in modules():
        if part(path) != "__init__":
            uses.setdefault(part(path), set()).update(rooms_used(path))
    while free := [room for room, used in uses.items() if not used & uses.keys()]:
        for room in free:
            del uses[room]
    assert uses == {}


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_libraries_are_imported_by_their_keepers_only(path: Path) -> None:
    """On the client side aiohttp is known to the transport alone, cattrs to the codec alone, JSON to the codec and the ledger."""
    for name, _ in imports(ast.parse(path.read_text())):
        keepers = KEEPERS.get(name.split(".")[0])
        assert keepers is None or part(path) in keepers, f"{name} in {path.name}"


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_call_pays_for_an_import(path: Path) -> None:
    """Only the package itself and the command line import inside functions, and others what may not be there."""
    if part(path) in {"__init__", "cli", "testing"}:
        return
    tree = ast.parse(path.read_text())
    functions = [
        node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    lazy = [name for function in functions for name, _ in imports(function) if name not in OPTIONAL]
    assert lazy == []
