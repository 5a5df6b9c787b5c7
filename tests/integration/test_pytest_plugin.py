"""The pytest plugin, in runs of pytest as users have them: warnings are errors, and no thread may be
left.
"""

from __future__ import annotations

import gc
import re
import socket
import threading
from pathlib import Path

import pytest

# What the runs use is imported here once, or each of them would import it anew.
import qsessions.sync.client
import qsessions.testing.clients  # noqa: F401
from qsessions import AsyncSessionClient, SessionClient  # noqa: F401

pytest_plugins = ["pytester"]

PROGRAMS = Path(__file__).parents[1] / "programs"
# What is installed beside the plugin and not needed here; each would cost every run its start.
NEEDLESS = [f"-pno:{name}" for name in ("cacheprovider", "hypothesispytest", "schemathesis")]
WITHOUT_ASYNCIO = ("-pno:asyncio", "-pno:anyio", "-pno:xdist")


@pytest.fixture
def run(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Return a way to run tests."""
    # Where it thinks that it runs for a build server, pytest shows failures twice at full length;
    # and the tests here may themselves run in a worker of xdist.
    for name in ("CI", "BUILD_NUMBER", "PYTEST_XDIST_WORKER", "PYTEST_ADDOPTS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PYTHONWARNINGS", "error")
    pytester.makeini(
        "[pytest]\naddopts = --strict-markers --strict-config\nfilterwarnings = error\n"
    )
    return Run(pytester)


class Run:
    """Runs a module of tests/programs in this process; the folder of the run is `path`."""

    def __init__(self, pytester: pytest.Pytester) -> None:
        self.path = pytester.path
        self._pytester = pytester

    def __call__(self, program: str, *options: str, process: bool = False) -> pytest.RunResult:
        """Run the tests, without an asyncio plugin and xdist unless options are passed; in a process
        of its own, if that is wanted.
        """
        self._pytester.makepyfile(test_it=(PROGRAMS / program).read_text(encoding="utf-8"))
        options = (*NEEDLESS, *(options or WITHOUT_ASYNCIO))
        if process:
            # Less than what a test may take: only then is a run that hangs killed.
            result = self._pytester.runpytest_subprocess(*options, timeout=90)
        else:
            # Other tests have threads that hang for ever on purpose.
            before = our_threads()
            result = self._pytester.runpytest_inprocess(*options)
            assert our_threads() == before
            # What was left unclosed warns now, which fails the test here.
            gc.collect()
        assert result.stderr.str() == ""
        return result


def our_threads() -> set[threading.Thread]:
    """Return the threads of ours that run."""
    return {thread for thread in threading.enumerate() if "qsessions" in thread.name}


def test_a_thread_of_ours_is_seen() -> None:
    """A thread that a run left would be seen."""
    before, over = our_threads(), threading.Event()
    thread = threading.Thread(target=over.wait, name="qsessions-leak")
    thread.start()
    assert our_threads() - before == {thread}
    over.set()
    thread.join()


# Of each: the marker of the tests, and the options of the run.
ONE_LOOP = ["asyncio_default_test_loop_scope=session", "asyncio_default_fixture_loop_scope=session"]
FUNCTION = "-oasyncio_default_fixture_loop_scope=function"
ASYNC_PLUGINS = {
    "pytest-asyncio strict": ("asyncio", "-pno:anyio", FUNCTION),
    "pytest-asyncio strict, one loop": ("asyncio", *[f"-o{option}" for option in ONE_LOOP]),
    "pytest-asyncio auto": ("", "-pno:anyio", "--asyncio-mode=auto", FUNCTION),
    "anyio": ("anyio", "-pno:asyncio"),
    "anyio beside pytest-asyncio": ("anyio", FUNCTION),
    "anyio auto": ("", "-pno:asyncio", "--anyio-mode=auto"),
}


@pytest.mark.parametrize("plugin", ASYNC_PLUGINS)
def test_asynchronous_tests(run: Run, plugin: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under every asyncio plugin the clients work in tests and in fixtures, and what fails is the
    two tests that left a session open.
    """
    mark, *options = ASYNC_PLUGINS[plugin]
    monkeypatch.setenv("ASYNC_MARK", mark)
    result = run("plugin_async.py", "-pno:xdist", *options)
    result.assert_outcomes(passed=8, errors=2)
    assert re.findall(r"ERROR at teardown of (\w+\.\w+)", result.stdout.str()) == [
        "TestOneForEach.test_left",
        "TestShared.test_left",
    ]


def test_waits_take_no_time(run: Run) -> None:
    """Sixty waits of minutes, of code that knows nothing of tests, end when their time has come in
    the emulator's time.
    """
    run("plugin_waits.py").assert_outcomes(passed=6)


@pytest.mark.smoke
def test_without_an_asyncio_plugin(run: Run) -> None:
    """Where no asyncio plugin is installed, all that isn't an asynchronous test works."""
    run("plugin_sync.py").assert_outcomes(passed=3)


def test_the_story_of_what_a_test_left(run: Run) -> None:
    """The test that left a session open fails at its teardown with the session's story and the way
    to allow it; the others don't.
    """
    result = run("plugin_left.py")
    result.assert_outcomes(passed=3, failed=1, errors=2)
    result.stdout.fnmatch_lines(
        [
            "*ERROR at teardown of test_left*",
            "1 session was left open:",
            "*: batch on ibm_fez, active, takes jobs; 0 queued and 1 running; *",
            '*created at * by POST /api/v1/sessions from qsessions/*, with {"mode":"batch",*',
            "*: job * started",
            "*left alone it closes in *",
            "(A test that means to says @pytest.mark.qsessions(allow_open=True).)",
            "*ERROR at teardown of test_failed_and_left*",
        ]
    )
    assert "Traceback" not in result.stdout.str()


@pytest.mark.parametrize("last", ["test_last_left", "test_last_allowed", "test_last_forgotten"])
def test_what_a_test_left_on_the_shared_emulator(run: Run, last: str) -> None:
    """Exactly the tests that left a session fail, whatever others left before; a wider fixture has
    until the end of the run to close its own.
    """
    result = run("plugin_shared.py", *WITHOUT_ASYNCIO, "-k", f"not test_last or {last}")
    shown = result.stdout.str()
    failed = ["test_left", "test_left_beside_another_error", last]
    if last == "test_last_allowed":
        failed.remove(last)
    assert re.findall(r"ERROR at teardown of (\w+)", shown) == failed
    result.assert_outcomes(passed=7, errors=len(failed), deselected=2)
    assert shown.count("left alone it closes") == len(failed)
    assert "it broke" in shown


def test_workers_of_xdist(run: Run) -> None:
    """Each worker has a shared emulator of its own, and the test that left a session open fails."""
    result = run("plugin_workers.py", "-n2", "-pno:asyncio", "-pno:anyio")
    result.assert_outcomes(passed=9, errors=1)
    seen = {path.read_text(encoding="utf-8") for path in run.path.glob("seen-*")}
    workers, emulators = zip(*(text.split() for text in seen), strict=True)
    assert len(seen) == len(set(workers)) == len(set(emulators)) == 2


def test_the_marker(run: Run) -> None:
    """Its arguments are those of the test's own emulator and its clients, the nearest marker's first;
    what makes no sense is reported in a line.
    """
    result = run("plugin_options.py")
    result.assert_outcomes(passed=5, failed=1, errors=6)
    result.stdout.fnmatch_lines(
        [
            "@pytest.mark.qsessions: *unexpected keyword argument 'sped'",
            "@pytest.mark.qsessions: plan must be *",
            "@pytest.mark.qsessions: retry= must be *",
            "@pytest.mark.qsessions: *timeout*",
            "@pytest.mark.qsessions: ledger= needs real_time=True, *",
            "@pytest.mark.qsessions takes keyword arguments only",
            "@pytest.mark.qsessions: speed, seed can't be set for one test of an emulator that all share; *",
        ]
    )
    assert "Traceback" not in result.stdout.str()


def test_it_costs_nothing_until_it_is_used(run: Run) -> None:
    """A run that uses no fixture imports the plugin's own module and its packages, and nothing
    else, of ours or of others.
    """
    run("plugin_unused.py", process=True).assert_outcomes(passed=1)


def test_the_marker_is_listed(run: Run) -> None:
    """pytest shows what the marker is for."""
    run("plugin_unused.py", *WITHOUT_ASYNCIO, "--markers").stdout.fnmatch_lines(
        ["@pytest.mark.qsessions(allow_open=False, real_time=False, **options): *"]
    )


def test_frozen_time(run: Run) -> None:
    """While freezegun or time-machine freezes or moves the time, all works as without: nothing hangs,
    whichever event loop it is on.
    """
    run("plugin_frozen.py", process=True).assert_outcomes(passed=24)


BLOCKED = (
    "The emulator listens on 127.0.0.1: pass --allow-hosts=127.0.0.1 to pytest, or, for an emulator "
    "of the test's own, mark the test with @pytest.mark.enable_socket."
)


@pytest.mark.parametrize(
    ("options", "passed", "failed"),
    [
        (("--disable-socket", "--allow-hosts=127.0.0.1"), 7, 0),
        (("--allow-hosts=localhost,10.0.0.0/8",), 7, 0),
        (("--disable-socket",), 4, 3),
        (("--allow-hosts=10.0.0.1",), 4, 3),
    ],
)
def test_blocked_sockets(run: Run, options: tuple[str, ...], passed: int, failed: int) -> None:
    """Where pytest-socket allows this machine or the test allows sockets, all works; elsewhere a test
    that needs an emulator fails at once and is told what to set, and no other test does.
    """
    before = socket.socket, socket.socket.connect
    result = run("plugin_sockets.py", *WITHOUT_ASYNCIO, *options)
    assert (socket.socket, socket.socket.connect) == before
    shown = result.stdout.str()
    assert shown.count(BLOCKED) == failed
    # Those with an emulator of their own fail at their setup.
    result.assert_outcomes(passed=passed, failed=min(failed, 1), errors=max(failed - 1, 0))
    assert "Traceback" not in shown


def test_the_official_clients_service(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fixture hands over the official client's service, made for the test's emulator, and keeps the
    test from the cloud; without that client it says what to install.
    """
    run("plugin_qiskit.py", process=True).assert_outcomes(passed=2)
    monkeypatch.setenv("WITHOUT_QISKIT", "1")
    result = run("plugin_qiskit.py", *WITHOUT_ASYNCIO, "-k", "service", process=True)
    result.assert_outcomes(errors=1, deselected=1)
    result.stdout.fnmatch_lines(["*it needs `pip install 'qsessions[[]qiskit]'`"])
