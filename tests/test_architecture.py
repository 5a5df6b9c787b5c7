"""The folder listing is the architecture: which way imports run, and how large things may be."""

from __future__ import annotations

import ast
import io
import tokenize
from collections.abc import Iterator
from pathlib import Path

import qsessions

PACKAGE = Path(qsessions.__file__).parent
MODULES = {path: ast.parse(path.read_text(encoding="utf-8")) for path in PACKAGE.rglob("*.py")}

# Lowest first: a module imports from its own room or from those above it in this list. A room is a
# folder or a module right below the package.
ROOMS = (
    ("errors", "arguments", "models", "events", "clock", "masking", "_version"),
    ("api",),
    ("http",),
    ("auth",),
    ("config",),
    ("caller",),
    ("ledger",),
    ("session",),
    ("client",),
    ("session_states", "sync"),
    ("reaper",),
    ("cli", "testing"),
)
RANK = {room: rank for rank, rooms in enumerate(ROOMS) for room in rooms}

# Inside the emulator: the service knows nothing of how it is served.
EMULATOR_RANK = {"service": 0, "faults": 1, "http": 2, "page": 3, "server": 4, "__init__": 5}

# The rooms that may import a library. Everything else goes through them.
LIBRARIES = {
    "aiohttp": {"http", "emulator"},
    "cattrs": {"api"},
    "json": {"api", "emulator", "cli", "ledger"},
    "jwt": {"emulator"},
    "platformdirs": {"ledger"},
}

# Imported when it is used, since it comes with an extra.
OPTIONAL = {"platformdirs"}

# Logical lines of the core, that is the package without these rooms. Later features may add to it.
NOT_CORE = {"cli", "emulator", "testing"}
CORE_LINES = 6200

# Lines of code: without docstrings, comments and blank lines; of a function without its signature.
MODULE_LINES, FUNCTION_LINES, NESTING = 250, 40, 3
# What is larger, and why: five modules and five functions at most.
LARGE_MODULES = {
    "client.py": "the signatures of the public calls, each a few lines",
    "sync/client.py": "generated from client.py",
}
LARGE_FUNCTIONS: dict[str, str] = {}


def name_of(path: Path) -> str:
    """Give a module's path in the package."""
    return path.relative_to(PACKAGE).as_posix()


def room_of(path: Path) -> str:
    """Give the room that a module is in."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(tree: ast.AST) -> Iterator[str]:
    """Give each imported module's full name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def ours(path: Path, depth: int = 1) -> set[str]:
    """Give the rooms that a module imports from, or, with another depth, what is inside one."""
    names = (name.split(".") for name in imports(MODULES[path]))
    return {parts[depth] for parts in names if parts[0] == "qsessions" and len(parts) > depth}


def test_imports_run_one_way() -> None:
    """A room imports only from rooms above it in the list; the emulator and the client side know
    nothing of each other.
    """
    wrong = []
    for path in MODULES:
        room = room_of(path)
        if room == "__init__":
            continue
        assert room in RANK or room == "emulator", f"{room} has no place in ROOMS"
        used = (ours(path) & (RANK.keys() | {"emulator"})) - {room}
        if room == "emulator":
            wrong += [(name_of(path), other) for other in used]
        else:
            allowed = {"emulator"} if room in {"cli", "testing"} else set()
            wrong += [
                (name_of(path), other)
                for other in used - allowed
                if RANK.get(other, len(ROOMS)) >= RANK[room] and not same_row(room, other)
            ]
    assert wrong == []


def same_row(room: str, other: str) -> bool:
    """Say whether two rooms are in one row, where imports run one way too, whichever."""
    return RANK.get(room) == RANK.get(other)


def test_the_emulators_service_is_pure() -> None:
    """Inside the emulator imports run from the server to the service, and the service neither waits
    nor serves.
    """
    wrong = []
    for path, tree in MODULES.items():
        parts = path.relative_to(PACKAGE).parts
        if parts[0] != "emulator":
            continue
        part = parts[1].removesuffix(".py")
        names = [name.split(".") for name in imports(tree)]
        used = {
            name[2] for name in names if name[:2] == ["qsessions", "emulator"] and len(name) > 2
        }
        wrong += [
            (name_of(path), other)
            for other in used & EMULATOR_RANK.keys()
            if EMULATOR_RANK[other] > EMULATOR_RANK[part]
        ]
        if part == "service":
            wrong += [(name_of(path), "await") for node in ast.walk(tree) if waits(node)]
    assert wrong == []


def test_the_api_is_data() -> None:
    """Nothing in api/ waits or reads a clock: it says what to send and how to read what comes."""
    for path, tree in MODULES.items():
        if room_of(path) == "api":
            assert not any(waits(node) for node in ast.walk(tree)), name_of(path)
            assert not {"time", "random"} & set(imports(tree)), name_of(path)


def waits(node: ast.AST) -> bool:
    """Say whether a piece of code waits for something."""
    return isinstance(node, ast.Await | ast.AsyncFor | ast.AsyncWith)


def test_there_is_no_cycle() -> None:
    """Modules don't import each other in a circle."""
    names = {"qsessions." + name_of(path)[:-3].replace("/", "."): path for path in MODULES}
    names = {name.removesuffix(".__init__"): path for name, path in names.items()}
    uses = {
        name: (run_time_imports(path) & names.keys()) - {name, "qsessions"}
        for name, path in names.items()
        if name != "qsessions"
    }
    for used in uses.values():
        # `from package import module` is about the module.
        used -= {other.rpartition(".")[0] for other in used}
    while free := [name for name, used in uses.items() if not used & uses.keys()]:
        for name in free:
            del uses[name]
    assert uses == {}


def run_time_imports(path: Path) -> set[str]:
    """Give what a module imports when it is itself imported."""
    tree = ast.Module(
        [
            node
            for node in ast.parse(path.read_text(encoding="utf-8")).body
            if isinstance(node, ast.Import | ast.ImportFrom)
        ],
        [],
    )
    return set(imports(tree))


def test_libraries_stay_in_their_rooms() -> None:
    """A library that a room is there to hide is imported nowhere else."""
    wrong = [
        (name_of(path), name)
        for path, tree in MODULES.items()
        for name in imports(tree)
        if room_of(path) not in LIBRARIES.get(name.split(".")[0], {room_of(path)})
    ]
    assert wrong == []


def test_no_call_pays_for_an_import() -> None:
    """Only the package itself, the command line and the plugin import inside functions, and others
    what may not be there.
    """
    wrong = [
        (name_of(path), name)
        for path, tree in MODULES.items()
        if room_of(path) not in {"__init__", "cli", "testing"}
        for function in functions(tree)
        for name in imports(function)
        if name.split(".")[0] not in OPTIONAL
    ]
    assert wrong == []


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Give every function and method."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def logical_lines(path: Path) -> int:
    """Count a module's logical lines."""
    tokens = tokenize.generate_tokens(io.StringIO(path.read_text(encoding="utf-8")).readline)
    return sum(token.type == tokenize.NEWLINE for token in tokens)


def code_lines(path: Path) -> set[int]:
    """Give the numbers of a module's lines of code."""
    silent = {
        tokenize.NL,
        tokenize.COMMENT,
        tokenize.NEWLINE,
        tokenize.INDENT,
        tokenize.DEDENT,
        tokenize.ENDMARKER,
    }
    tokens = tokenize.generate_tokens(io.StringIO(path.read_text(encoding="utf-8")).readline)
    code = {
        number
        for token in tokens
        if token.type not in silent
        for number in range(token.start[0], token.end[0] + 1)
    }
    for node in ast.walk(MODULES[path]):
        if (
            isinstance(node, ast.Expr)
            and isinstance(node.value, ast.Constant)
            and isinstance(node.value.value, str)
        ):
            code -= set(range(node.lineno, (node.end_lineno or 0) + 1))
    return code


def depth(node: ast.AST) -> int:
    """Say how deep a function's blocks are nested; an `elif` is no deeper than its `if`."""
    blocks = ast.If | ast.For | ast.AsyncFor | ast.While | ast.With | ast.AsyncWith | ast.Try
    deepest = 0
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda):
            continue
        is_elif = isinstance(node, ast.If) and node.orelse == [child] and isinstance(child, ast.If)
        deeper = isinstance(child, blocks | ast.Match) and not is_elif
        deepest = max(deepest, depth(child) + deeper)
    return deepest


def test_the_core_is_small() -> None:
    """The core has no more logical lines than its budget, which a new capability pays for by what
    it lets us delete.
    """
    core = sum(logical_lines(path) for path in MODULES if room_of(path) not in NOT_CORE)
    assert core <= CORE_LINES


def test_modules_and_functions_are_small() -> None:
    """A module, a function and its nesting stay within the budgets, but for the few that are named
    with a reason.
    """
    large_modules = {}
    large_functions = {}
    for path, tree in MODULES.items():
        code = code_lines(path)
        if len(code) > MODULE_LINES:
            large_modules[name_of(path)] = len(code)
        for function in functions(tree):
            last = function.end_lineno or 0
            size = sum(function.body[0].lineno <= number <= last for number in code)
            if size > FUNCTION_LINES or depth(function) > NESTING:
                large_functions[f"{name_of(path)}:{function.name}"] = (size, depth(function))
    assert large_modules.keys() == LARGE_MODULES.keys(), large_modules
    assert large_functions.keys() == LARGE_FUNCTIONS.keys(), large_functions
    assert len(LARGE_MODULES) <= 5
    assert len(LARGE_FUNCTIONS) <= 5
