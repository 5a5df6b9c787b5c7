"""The package itself: its names, resolved on first use, and what importing it costs."""

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import qsessions
from tests.support.tables import table

# The stub, which type checkers read instead of the module, doesn't have it.
# The modules that the client loads beside aiohttp and attrs, 62 now, and the characters of code that
# attrs writes for its classes meanwhile, 28,000 now.
MOST_MODULES = 62
MOST_WRITTEN = 31_000

HOMES: dict[str, tuple[str, ...]] = vars(qsessions)["_HOMES"]
HOME = {name: module for module, names in HOMES.items() for name in names}


def imports_for_type_checkers() -> dict[str, set[str]]:
    """The stub as modules and names; each name must be re-exported as itself."""
    source = Path(qsessions.__file__).with_suffix(".pyi").read_text(encoding="utf-8")
    found: dict[str, set[str]] = {}
    for statement in ast.parse(source).body:
        assert isinstance(statement, ast.ImportFrom)
        assert statement.module is not None
        names = [alias.name for alias in statement.names]
        assert [alias.asname for alias in statement.names] == names
        found[statement.module.removeprefix("qsessions.")] = set(names)
    return found


def test_both_lists_say_the_same() -> None:
    """Type checkers and the interpreter find the same names in the same modules."""
    stub = imports_for_type_checkers()
    assert stub.pop("_version") == {"__version__"}
    assert stub == {module: set(names) for module, names in HOMES.items()}
    assert len(HOME) == sum(map(len, HOMES.values()))
    assert sorted(vars(qsessions)["__all__"]) == sorted(HOME)


@pytest.mark.smoke
@table("name", sorted(HOME))
def test_names(name: str) -> None:
    """Every public name can be imported and is the very object of its home module."""
    home = importlib.import_module(f"qsessions.{HOME[name]}")
    value = vars(qsessions)["__getattr__"](name)
    assert value is getattr(home, name)
    assert getattr(qsessions, name) is value
    assert name in dir(qsessions)


@table("name", ["NoSuchName", "_private", "__path_to_nowhere__"])
def test_no_such_name(name: str) -> None:
    """An unknown name is an AttributeError that says whose, as for any module."""
    with pytest.raises(AttributeError, match=f"^module 'qsessions' has no attribute '{name}'$"):
        getattr(qsessions, name)


def test_version() -> None:
    """The version is text that can be read without importing anything else."""
    assert qsessions.__version__.count(".") == 2


def test_the_extension_needs_ipython(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only IPython's own `%load_ext qsessions` loads what needs IPython."""
    monkeypatch.setitem(sys.modules, "IPython", None)
    monkeypatch.delitem(sys.modules, "qsessions.integrations.ipython", raising=False)
    with pytest.raises(ImportError, match="IPython"):
        vars(qsessions)["load_ipython_extension"](object())


def test_import_is_cheap() -> None:
    """Importing the package loads none of its dependencies and none of its own modules; the first
    use of a name does.
    """
    program = (
        "import sys, qsessions\n"
        "heavy = {'aiohttp', 'attr', 'attrs', 'yarl'}\n"
        "print(sorted(heavy & set(sys.modules)), [name for name in sys.modules if name.startswith('qsessions.')])\n"
        "qsessions.NotFound\n"
        "print([name for name in sys.modules if name.startswith('qsessions.')])\n"
        "qsessions.Session\n"
        "print(sorted({'attrs', 'aiohttp'} & set(sys.modules)))\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True, timeout=60
    )
    assert run.stdout.splitlines() == [
        "[] ['qsessions._version']",
        "['qsessions._version', 'qsessions.jsonable', 'qsessions.errors']",
        "['attrs']",
    ]


def test_the_client_is_loaded_without_what_few_programs_use() -> None:
    """Beside aiohttp the client loads few modules, none that it can do without at first, and little
    code that is written only then: of all that takes time, attrs' methods took the most.
    """
    program = (
        "import sys, aiohttp, attrs\n"
        "before, written = set(sys.modules), []\n"
        "def compiling(event, arguments):\n"
        "    if event == 'compile' and '<attrs' in str(arguments[1]):\n"
        "        written.append(len(arguments[0]))\n"
        "sys.addaudithook(compiling)\n"
        "from qsessions import AsyncSessionClient\n"
        "print(sum(written), *sorted(set(sys.modules) - before))\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True, timeout=60
    )
    written, *loaded = run.stdout.split()
    assert not {"cattrs", "html", "qsessions.ledger.local", "qsessions.session.watch"} & set(loaded)
    assert len(loaded) <= MOST_MODULES, loaded
    assert 0 < int(written) <= MOST_WRITTEN


def test_the_typing_sample_is_whole() -> None:
    """The consumer file for type checkers imports every public name, so that a new one is checked
    too.
    """
    source = (Path(__file__).parent.parent / "typing" / "api.py").read_text(encoding="utf-8")
    imported = {
        alias.name
        for statement in ast.parse(source).body
        if isinstance(statement, ast.ImportFrom) and statement.module == "qsessions"
        for alias in statement.names
    }
    assert imported == set(HOME)
