"""What the gate checks, each step on its own: `nox -l` lists them, `nox -s lint` runs one."""

from __future__ import annotations

import tomllib
from pathlib import Path

import nox

nox.needs_version = ">=2026.10.20"
nox.options.default_venv_backend = "venv"
nox.options.error_on_missing_interpreters = False

ROOT = Path(__file__).parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
OLDEST = "3.11"


def install(session: nox.Session, *groups: str) -> None:
    """Install the package from this folder, what the tests need, and dependency groups."""
    # The first pip that knows dependency groups.
    session.install("--quiet", "pip>=25.1")
    session.install("--quiet", "-e", ".[test]", *(f"--group={group}" for group in groups))


def pytest(session: nox.Session, *arguments: str) -> None:
    """Run pytest with two workers, or as the arguments after `--` say."""
    session.run("python", "-m", "pytest", *arguments, *(session.posargs or ["-n2"]))


@nox.session(python=OLDEST, allow_parallel=True)
def lint(session: nox.Session) -> None:
    """Run the linters and type checkers, and compare the generated code with its source."""
    install(session, "lint")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("mypy")
    session.run("pyright", "--pythonpath", str(Path(session.bin) / "python"))
    session.run("python", "scripts/blocking.py", "--check")


def smoke_test(session: nox.Session, *requirements: str) -> None:
    """Run one test of each kind against the built wheel, in a folder without the sources."""
    session.install("--quiet", "build")
    folder = Path(session.create_tmp()).resolve()
    session.run("python", "-m", "build", "--quiet", "--outdir", str(folder), str(ROOT))
    (wheel,) = folder.glob("*.whl")
    session.install("--quiet", f"{wheel}[test]", *requirements)
    for name in ("tests", "benchmarks", "examples", "docs", "README.md", "pyproject.toml"):
        session.run("cp", "-r", str(ROOT / name), str(folder), external=True)
    session.chdir(folder)
    session.run("python", "-c", "import qsessions; assert 'site-packages' in qsessions.__file__")
    # Without workers: two of these sessions run at the same time.
    session.run("python", "-m", "pytest", "-m", "smoke", *session.posargs)


@nox.session(python=[OLDEST, "3.12", "3.13"], allow_parallel=True)
def smoke(session: nox.Session) -> None:
    """Test the built wheel on each Python, where that is installed."""
    smoke_test(session)


@nox.session(python=OLDEST, allow_parallel=True)
def lowest(session: nox.Session) -> None:
    """Test the built wheel with the lowest versions of the dependencies that it declares."""
    lowest = [line.replace(">=", "==") for line in PROJECT["project"]["dependencies"]]
    smoke_test(session, *lowest)


@nox.session(python=OLDEST, allow_parallel=True)
def package(session: nox.Session) -> None:
    """Check the wheel and the sdist, and install each extra alone."""
    install(session, "package")
    # Without workers, as above.
    session.run("python", "-m", "pytest", "tests/package", *session.posargs)


@nox.session(python=OLDEST)
def coverage(session: nox.Session) -> None:
    """Run the tests with more examples, and measure which lines and branches they reach.

    Those of a fleet, which need a PostgreSQL server, too.
    """
    install(session, "coverage", "fleet")
    session.run("coverage", "erase")
    pytest = ("coverage", "run", "-m", "pytest")
    session.run(*pytest, "-n2", "--hypothesis-profile=thorough")
    # More workers than processors: most of the time they wait for leases to run out.
    session.run(*pytest, "-n4", "tests/fleet")
    session.run("coverage", "combine", "--quiet")
    core = "--omit=qsessions/cli/*,qsessions/emulator/*,qsessions/integrations/*"
    session.run("coverage", "report", core, "--fail-under=100")
    session.run("coverage", "report", "--fail-under=95")


@nox.session(python=OLDEST)
def exhaustive(session: nox.Session) -> None:
    """Run every fault at every moment of every call, which takes minutes."""
    install(session)
    pytest(session, "tests/exhaustive")


@nox.session(python=OLDEST)
def peers(session: nox.Session) -> None:
    """Use the emulator from the official client, schemathesis, curl, a browser and on uvloop."""
    install(session, "peers")
    pytest(session, "tests/peers")


@nox.session(python=OLDEST)
def docs(session: nox.Session) -> None:
    """Build the site with warnings as errors, look at it in a browser, and run its tutorial."""
    install(session, "docs")
    # By file: each worker that has a test of the site builds it.
    pytest(session, "tests/site", "--dist=loadfile")


@nox.session(python=OLDEST, allow_parallel=True)
def prefect(session: nox.Session) -> None:
    """Run the example's flow with a Prefect server of its own."""
    install(session, "prefect")
    # Without workers: each would start a server.
    session.run("python", "-m", "pytest", "tests/prefect", *session.posargs)


@nox.session(python=OLDEST, allow_parallel=True)
def temporal(session: nox.Session) -> None:
    """Kill, pause and stop workers of a Temporal server, and the server, with a shared ledger."""
    install(session, "temporal")
    # Without workers, as above.
    session.run("python", "-m", "pytest", "tests/temporal", *session.posargs)
