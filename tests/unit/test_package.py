"""The package itself: its names, resolved on first use, and what importing it costs."""

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import qsessions

PUBLIC = sorted(qsessions._HOME)


def imports_for_type_checkers() -> dict[str, tuple[str, ...]]:
    """What stands under `if TYPE_CHECKING:`, as module and names; each name must be re-exported as itself."""
    source = Path(qsessions.__file__).read_text(encoding="utf-8")
    found: dict[str, tuple[str, ...]] = {}
    for block in ast.parse(source).body:
        if not (isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING"):
            continue
        for statement in block.body:
            assert isinstance(statement, ast.ImportFrom)
            assert statement.module is not None
            for alias in statement.names:
                assert alias.asname == alias.name
                module = statement.module.removeprefix("qsessions.")
                found[module] = (*found.get(module, ()), alias.name)
    return found


def test_both_lists_say_the_same() -> None:
    """Type checkers and the interpreter find the same names in the same modules."""
    assert {module: set(names) for module, names in imports_for_type_checkers().items()} == {
        module: set(names) for module, names in qsessions._HOMES.items()
    }
    assert len(PUBLIC) == sum(map(len, qsessions._HOMES.values()))
    assert sorted(qsessions.__all__) == PUBLIC


@pytest.mark.smoke
@pytest.mark.parametrize("name", PUBLIC)
def test_names(name: str) -> None:
    """Every public name can be imported and is the very object of its home module."""
    home = importlib.import_module(f"qsessions.{qsessions._HOME[name]}")
    value = qsessions.__getattr__(name)
    assert value is getattr(home, name)
    assert getattr(qsessions, name) is value
    assert name in dir(qsessions)


@pytest.mark.parametrize("name", ["NoSuchName", "_private", "__path_to_nowhere__"])
def test_no_such_name(name: str) -> None:
    """An unknown name is an AttributeError that says whose, as for any module."""
    with pytest.raises(AttributeError, match=f"^module 'qsessions' has no attribute '{name}'$"):
        getattr(qsessions, name)


def test_version() -> None:
    """The version is text that can be read without importing anything else."""
    assert qsessions.__version__.count(".") == 2


def test_import_is_cheap() -> None:
    """Importing the package loads none of its dependencies and none of its own modules; the first use of a name does."""
    program = (
        "import sys, qsessions\n"
        "heavy = {'aiohttp', 'attr', 'attrs', 'cattrs', 'yarl'}\n"
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
        "['qsessions._version', 'qsessions.errors']",
        "['attrs']",
    ]


def test_the_typing_sample_is_whole() -> None:
    """The consumer file for type checkers imports every public name, so that a new one is checked too."""
    source = (Path(__file__).parent.parent / "typing" / "api.py").read_text(encoding="utf-8")
    imported = {
        alias.name
        for statement in ast.parse(source).body
        if isinstance(statement, ast.ImportFrom) and statement.module == "qsessions"
        for alias in statement.names
    }
    assert imported == set(PUBLIC)
