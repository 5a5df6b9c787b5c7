"""The pytest plugin, in runs of pytest of their own, as users have them: warnings are errors, and
no thread may be left.
"""

from __future__ import annotations

import json
import re

import pytest

pytest_plugins = ["pytester"]

# What each run has besides its tests.
CONFTEST = """
import threading

def pytest_unconfigure():
    left = [thread.name for thread in threading.enumerate() if thread is not threading.main_thread()]
    # The workers of xdist have threads of their own.
    assert not [name for name in left if "qsessions" in name], left
"""
WITHOUT_PLUGINS = ("-p", "no:asyncio", "-p", "no:anyio", "-p", "no:xdist")
CREATE = 'create(mode="batch", backend="ibm_fez", max_ttl="10m")'


@pytest.fixture
def run(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Give a way to run tests."""
    monkeypatch.setenv("PYTHONWARNINGS", "error")
    monkeypatch.setenv("PYTHONDEVMODE", "1")
    # Where it thinks that it runs for a build server, pytest tells failures twice at full length.
    for name in ("CI", "BUILD_NUMBER"):
        monkeypatch.delenv(name, raising=False)
    pytester.makeconftest(CONFTEST)
    pytester.makeini(
        """
        [pytest]
        addopts = --strict-markers --strict-config -p no:cacheprovider
        filterwarnings = error
        """
    )
    return Run(pytester)


class Run:
    """Runs a module of tests in a process of its own; its folder is `path`."""

    def __init__(self, pytester: pytest.Pytester) -> None:
        self.path = pytester.path
        self._pytester = pytester

    def __call__(self, tests: str, *options: str) -> pytest.RunResult:
        """Run the tests, without the other plugins unless options are given."""
        self._pytester.makepyfile(test_it=tests)
        # Less than what a test may take, since only then is a run that hangs killed.
        result = self._pytester.runpytest_subprocess(*(options or WITHOUT_PLUGINS), timeout=90)
        # What is told once pytest has gone: threads that were left, warnings of the interpreter's
        # end.
        told = result.stderr.str()
        assert not told, told
        return result


ASYNC_TESTS = f"""
import pytest

{{marker}}
class TestOneForEach:
    async def test_create(self, qsessions_client, qsessions_emulator):
        session = await qsessions_client.{CREATE}
        qsessions_emulator.advance("5m")
        await qsessions_client.close(session.id)
        assert qsessions_emulator.sessions[session.id].state == "closed"

    async def test_that_each_has_its_own(self, qsessions_client, qsessions_emulator):
        assert [workload async for workload in qsessions_client.workloads()] == []
        assert len(qsessions_emulator.requests) == 3

    async def test_left(self, qsessions_client):
        await qsessions_client.{CREATE}

    async def test_open(self, qsessions_client, qsessions_emulator):
        async with qsessions_client.{CREATE.replace("create", "open")} as live:
            assert [session.id for session in qsessions_emulator.open_sessions] == [live.id]

    async def test_a_fixture_that_awaits(self, session, qsessions_client):
        assert (await qsessions_client.get(session.id)).state == "open"


{{marker}}
class TestShared:
    async def test_create(self, qsessions_shared_client):
        session = await qsessions_shared_client.{CREATE}
        await qsessions_shared_client.close(session.id)

    async def test_left(self, qsessions_shared_client):
        await qsessions_shared_client.{CREATE}

    async def test_that_all_share(self, qsessions_shared_client, qsessions_shared_emulator):
        live = qsessions_shared_client.attach([*qsessions_shared_emulator.sessions][0])
        assert (await live.wait_until("closed", timeout="30s")).is_final
        assert len([workload async for workload in qsessions_shared_client.workloads()]) == 2


{{fixture}}
async def session(qsessions_client):
    session = await qsessions_client.{CREATE}
    yield session
    await qsessions_client.close(session.id)
"""
STRICT = ("@pytest.mark.asyncio", "@__import__('pytest_asyncio').fixture")
ANYIO = ("@pytest.mark.anyio", "@pytest.fixture")
# Of each: the marker of a test, the decorator of a fixture, and the options of the run.
ASYNC_PLUGINS = {
    "pytest-asyncio strict": (*STRICT, "-p", "no:anyio"),
    "pytest-asyncio strict, one loop": (*STRICT, "-o", "asyncio_default_test_loop_scope=session"),
    "pytest-asyncio auto": ("", "@pytest.fixture", "-p", "no:anyio", "--asyncio-mode=auto"),
    "anyio": (*ANYIO, "-p", "no:asyncio"),
    "anyio beside pytest-asyncio": ANYIO,
    "anyio auto": ("", "@pytest.fixture", "-p", "no:asyncio", "--anyio-mode=auto"),
}


@pytest.mark.parametrize("plugin", ASYNC_PLUGINS)
def test_asynchronous_tests(run: Run, plugin: str) -> None:
    """Under every asyncio plugin the clients work in tests and in fixtures, and what fails is the
    two tests that left a session open.
    """
    marker, fixture, *options = ASYNC_PLUGINS[plugin]
    if "no:asyncio" not in options:
        scope = "session" if "one loop" in plugin else "function"
        options += ["-o", f"asyncio_default_fixture_loop_scope={scope}"]
    result = run(ASYNC_TESTS.format(marker=marker, fixture=fixture), "-p", "no:xdist", *options)
    result.assert_outcomes(passed=8, errors=2)
    assert re.findall(r"ERROR at teardown of (\w+\.\w+)", result.stdout.str()) == [
        "TestOneForEach.test_left",
        "TestShared.test_left",
    ]


SYNC_TESTS = f"""
import asyncio

def test_sync(qsessions_sync_client, qsessions_emulator):
    session = qsessions_sync_client.{CREATE}
    job = qsessions_emulator.submit_job(session.id, seconds=60)
    qsessions_emulator.advance("1m")
    assert qsessions_emulator.jobs[job].status == "Completed"
    qsessions_sync_client.drain(session.id)
    qsessions_emulator.assert_no_open_sessions()

def test_shared(qsessions_shared_sync_client):
    session = qsessions_shared_sync_client.{CREATE}
    qsessions_shared_sync_client.close(session.id)

def test_loops_of_the_test(qsessions_client):
    async def once():
        session = await qsessions_client.{CREATE}
        await qsessions_client.close(session.id)

    asyncio.run(once())
    asyncio.run(once())
"""


@pytest.mark.smoke
def test_without_an_asyncio_plugin(run: Run) -> None:
    """Where no asyncio plugin is installed, all that isn't an asynchronous test works."""
    run(SYNC_TESTS).assert_outcomes(passed=3)


LEFT = f"""
import pytest

def test_before(qsessions_sync_client):
    pass

def test_left(qsessions_sync_client, qsessions_emulator):
    session = qsessions_sync_client.{CREATE}
    qsessions_emulator.submit_job(session.id, seconds=5)

def test_failed_and_left(qsessions_sync_client):
    qsessions_sync_client.{CREATE}
    assert False

@pytest.mark.qsessions(allow_open=True)
def test_allowed(qsessions_sync_client):
    qsessions_sync_client.{CREATE}
"""


def test_the_story_of_what_a_test_left(run: Run) -> None:
    """The test that left a session open fails at its teardown with the session's story and the way
    to allow it; the others don't.
    """
    result = run(LEFT)
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


SHARED_LEFT = f"""
import pytest

@pytest.fixture(scope="module")
def lasting(qsessions_shared_sync_client):
    session = qsessions_shared_sync_client.{CREATE}
    yield session
    qsessions_shared_sync_client.close(session.id)

@pytest.fixture
def failing():
    yield
    raise ValueError("it broke")

@pytest.fixture
def own(qsessions_shared_sync_client):
    session = qsessions_shared_sync_client.{CREATE}
    yield session
    qsessions_shared_sync_client.close(session.id)

def test_a_lasting_one_is_not_left(lasting, own):
    pass

def test_left(qsessions_shared_sync_client):
    qsessions_shared_sync_client.{CREATE}

@pytest.mark.qsessions(allow_open=True)
def test_allowed(qsessions_shared_sync_client):
    qsessions_shared_sync_client.{CREATE}

def test_after(lasting):
    pass

def test_left_beside_another_error(qsessions_shared_sync_client, failing):
    qsessions_shared_sync_client.{CREATE}

def test_without_the_fixtures():
    pass

{{last}}
"""
LAST_LEFT = f"""
def test_last(qsessions_shared_sync_client):
    qsessions_shared_sync_client.{CREATE}
"""
LAST_ALLOWED = "@pytest.mark.qsessions(allow_open=True)" + LAST_LEFT
FORGOTTEN = f"""
@pytest.fixture(scope="session")
def forgotten(qsessions_shared_sync_client):
    qsessions_shared_sync_client.{CREATE}

@pytest.mark.qsessions(allow_open=True)
def test_last(forgotten):
    pass
"""


@pytest.mark.parametrize(
    ("last", "told"),
    [(LAST_LEFT, True), (LAST_ALLOWED, False), (FORGOTTEN, True)],
    ids=["left", "allowed", "forgotten"],
)
def test_what_a_test_left_on_the_shared_emulator(run: Run, last: str, told: bool) -> None:
    """Exactly the tests that left one fail, whatever others left before; a wider fixture has until
    the end of the run to close its own.
    """
    result = run(SHARED_LEFT.format(last=last))
    shown = result.stdout.str()
    failed = ["test_left", "test_left_beside_another_error", *(["test_last"] if told else [])]
    assert re.findall(r"ERROR at teardown of (\w+)", shown) == failed
    result.assert_outcomes(passed=7, errors=len(failed))
    assert shown.count("left alone it closes") == len(failed)
    assert "it broke" in shown


XDIST = f"""
import json, os, pathlib, pytest

@pytest.mark.parametrize("number", range(8))
def test_alone(number, qsessions_shared_sync_client, qsessions_shared_emulator, tmp_path):
    session = qsessions_shared_sync_client.{CREATE}
    assert [open_session.id for open_session in qsessions_shared_emulator.open_sessions] == [session.id]
    qsessions_shared_sync_client.close(session.id)
    seen = [os.environ["PYTEST_XDIST_WORKER"], qsessions_shared_emulator.crn]
    (pathlib.Path(__file__).parent / f"seen-{{number}}.json").write_text(json.dumps(seen))

def test_left(qsessions_shared_sync_client):
    qsessions_shared_sync_client.{CREATE}
"""


def test_workers_of_xdist(run: Run) -> None:
    """Each worker has a shared emulator of its own, and the test that left a session open is told."""
    run(XDIST, "-n", "2", "-p", "no:anyio", "-p", "no:asyncio").assert_outcomes(passed=9, errors=1)
    seen = {tuple(json.loads(path.read_text())) for path in run.path.glob("seen-*.json")}
    assert len(seen) == len(dict(seen)) == len({crn for _, crn in seen}) == 2


OPTIONS = """
import pytest
from qsessions import BadRequest, RateLimited
from qsessions.emulator import Fault

pytestmark = pytest.mark.qsessions(speed=0, seed=3)

@pytest.mark.qsessions(plan="open", seed=4)
def test_options_of_both_markers(qsessions_sync_client, qsessions_emulator):
    before = qsessions_emulator.now()
    with pytest.raises(BadRequest):
        qsessions_sync_client.create(mode="dedicated", backend="ibm_fez", max_ttl="10m")
    assert qsessions_emulator.now() == before
    assert qsessions_emulator.advance(60) == before + 60
    from qsessions.emulator import Emulator
    assert qsessions_emulator.api_key == Emulator(seed=4).api_key

@pytest.mark.qsessions(partner=True, faults=[Fault(kind="answer", status=429, nth=1, operations=["get"], retry_after=900)])
def test_faults(qsessions_sync_client):
    session = qsessions_sync_client.create(mode="batch", backend="ibm_fez", interactive_ttl=60, active_ttl=60, max_ttl=60)
    with pytest.raises(RateLimited):
        qsessions_sync_client.get(session.id)
    qsessions_sync_client.close(session.id)

@pytest.mark.qsessions(sped=2)
def test_no_such_option(qsessions_emulator):
    pass

@pytest.mark.qsessions(plan="free")
def test_no_such_plan(qsessions_emulator):
    pass

@pytest.mark.qsessions("open")
def test_no_name(qsessions_emulator):
    pass

def test_too_late(qsessions_shared_emulator):
    pass

def test_of_both(qsessions_shared_emulator, qsessions_emulator):
    pass
"""


def test_the_marker(run: Run) -> None:
    """Its arguments are those of the test's own emulator, the nearest marker's first; what makes no
    sense is told in a line.
    """
    result = run(OPTIONS)
    result.assert_outcomes(passed=3, failed=1, errors=3)
    result.stdout.fnmatch_lines(
        [
            "@pytest.mark.qsessions: *unexpected keyword argument 'sped'",
            "@pytest.mark.qsessions: plan must be *",
            "@pytest.mark.qsessions takes keyword arguments only",
            "@pytest.mark.qsessions: speed, seed can't be set for one test of an emulator that all share; *",
        ]
    )
    assert "Traceback" not in result.stdout.str()


COST = """
import sys

def test_modules():
    ours = {name for name in sys.modules if name.partition(".")[0] == "qsessions"}
    assert ours == {"qsessions", "qsessions._version", "qsessions.testing", "qsessions.testing.plugin"}
    assert not {"aiohttp", "attrs", "cattrs", "jwt", "yarl"} & set(sys.modules)
"""


def test_it_costs_nothing_until_it_is_used(run: Run) -> None:
    """A run that uses no fixture imports the plugin's own module and its packages, and nothing
    else, of ours or of others.
    """
    run(COST).assert_outcomes(passed=1)


def test_the_marker_is_listed(run: Run) -> None:
    """pytest tells what the marker is for."""
    run("", *WITHOUT_PLUGINS, "--markers").stdout.fnmatch_lines(
        ["@pytest.mark.qsessions(allow_open=False, **options): *"]
    )


def test_the_check_of_these_runs_can_fail(run: Run) -> None:
    """A thread that is left would be seen."""
    leak = """
import threading

def test_leak():
    threading.Thread(target=threading.Event().wait, name="qsessions-leak", daemon=True).start()
"""
    with pytest.raises(AssertionError, match="qsessions-leak"):
        run(leak)
