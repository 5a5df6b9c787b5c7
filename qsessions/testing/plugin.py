"""The pytest plugin: an emulator and its clients as fixtures, and a check for sessions left open.

pytest imports it in every run, so it imports nothing of weight before a fixture is used.
"""

from __future__ import annotations

import socket
import warnings
from collections.abc import Collection, Generator, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

if TYPE_CHECKING:
    from qiskit_ibm_runtime import QiskitRuntimeService  # pyright: ignore[reportMissingImports]

    from qsessions.client import AsyncSessionClient
    from qsessions.sync.client import SessionClient
    from qsessions.testing.threaded import ThreadedEmulator

_MARKER = "qsessions"
# The options of the marker that are the clients'; the others are the emulator's.
_OF_CLIENTS = frozenset(
    {
        "api_version",
        "application",
        "headers",
        "ledger",
        "ledger_wait",
        "max_concurrency",
        "observers",
        "real_time",
        "retry",
        "timeout",
    }
)


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker."""
    config.addinivalue_line(
        "markers",
        f"{_MARKER}(allow_open=False, real_time=False, **options): options of the test's "
        "emulator, such as plan=, partner=, speed=, seed= and faults=, and of its clients, such as "
        "retry= and timeout=; allow_open=True lets the test leave sessions open, real_time=True "
        "has the clients wait in real time.",
    )


@pytest.fixture
def qsessions_emulator(request: pytest.FixtureRequest) -> Iterator[ThreadedEmulator]:
    """An emulator of the sessions service, for this test alone.

    It fails the test if that leaves a session open.
    """
    options = _options(request.node)
    with _emulator({name: options[name] for name in options.keys() - _OF_CLIENTS}) as emulator:
        yield emulator
        report = None if _allows_open(request.node) else _leak_report(emulator)
    _fail_with(report)


@pytest.fixture
def qsessions_client(
    request: pytest.FixtureRequest, qsessions_emulator: ThreadedEmulator
) -> Iterator[AsyncSessionClient]:
    """An asynchronous client of `qsessions_emulator`, which waits in its time."""
    from qsessions.testing.clients import async_client

    with (
        _reporting_bad_options(),
        async_client(qsessions_emulator, **_client_options(request.node)) as client,
    ):
        yield client


@pytest.fixture
def qsessions_sync_client(
    request: pytest.FixtureRequest, qsessions_emulator: ThreadedEmulator
) -> Iterator[SessionClient]:
    """A client of `qsessions_emulator` for code that doesn't await, which waits in its time."""
    from qsessions.testing.clients import sync_client

    with _reporting_bad_options():
        client = sync_client(qsessions_emulator, **_client_options(request.node))
    with client:
        yield client


@pytest.fixture
def qsessions_qiskit_service(
    qsessions_emulator: ThreadedEmulator,
) -> Iterator[QiskitRuntimeService]:
    """The official client's service on `qsessions_emulator`.

    While the test runs, nothing in this process can look up a host of IBM's cloud.
    """
    try:
        from qsessions.integrations import qiskit
    except ImportError:
        pytest.fail("it needs `pip install 'qsessions[qiskit]'`", pytrace=False)
    with qiskit.without_cloud():
        yield qiskit.service(qsessions_emulator)


@pytest.fixture(scope="session")
def qsessions_shared_emulator(pytestconfig: pytest.Config) -> Iterator[ThreadedEmulator]:
    """An emulator that all tests share (those of one worker, under xdist).

    It fails each test that leaves a session open.
    """
    with _emulator({}) as emulator:
        check = _SharedCheck(emulator)
        pytestconfig.pluginmanager.register(check)
        yield emulator
        pytestconfig.pluginmanager.unregister(check)
        report = check.end()
    _fail_with(report)


@pytest.fixture(scope="session")
def qsessions_shared_client(
    qsessions_shared_emulator: ThreadedEmulator,
) -> Iterator[AsyncSessionClient]:
    """An asynchronous client of `qsessions_shared_emulator`, whichever event loop each test has."""
    from qsessions.testing.clients import async_client

    with async_client(qsessions_shared_emulator) as client:
        yield client


@pytest.fixture(scope="session")
def qsessions_shared_sync_client(
    qsessions_shared_emulator: ThreadedEmulator,
) -> Iterator[SessionClient]:
    """A client of `qsessions_shared_emulator` for code that doesn't await."""
    from qsessions.testing.clients import sync_client

    with sync_client(qsessions_shared_emulator) as client:
        yield client


class _SharedCheck:
    """Fails the test that left a session open on the shared emulator.

    It is a plugin of its own, registered while there is such an emulator.
    """

    def __init__(self, emulator: ThreadedEmulator) -> None:
        self._emulator = emulator
        self._has_ended = False
        # Whether the last test may leave sessions open.
        self._allow_open = False
        # The ids of sessions of fixtures that outlive a test.
        self._of_fixtures: set[str] = set()
        # The ids that were reported, or were allowed to be open.
        self._handled: set[str] = set()

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(
        self, fixturedef: pytest.FixtureDef[Any]
    ) -> Generator[None, object, object]:
        """Record what a fixture of a wider scope has opened, which it closes later."""
        value = yield
        if fixturedef.scope != "function":
            self._of_fixtures |= self._open() - self._handled
        return value

    def pytest_runtest_call(self, item: pytest.Item) -> None:
        """Refuse options where they come too late, and sockets that are blocked."""
        used = getattr(item, "fixturenames", ())
        if "qsessions_shared_emulator" in used:
            _refuse_blocked_sockets(self._emulator.url)
        options = _options(item)
        if options and "qsessions_shared_emulator" in used and "qsessions_emulator" not in used:
            pytest.fail(
                f"@pytest.mark.{_MARKER}: {', '.join(options)} can't be set for one test of an "
                "emulator that all share; use qsessions_emulator, or a fixture of your own around "
                "qsessions.testing.threaded.ThreadedEmulator",
                pytrace=False,
            )

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_teardown(self, item: pytest.Item) -> Generator[None, object, object]:
        """Report what the test has left open, once its own fixtures have ended."""
        self._allow_open = _allows_open(item)
        try:
            value = yield
        except BaseException as error:
            report = self._new_leaks()
            if report is not None:
                error.add_note(report)
            raise
        _fail_with(self._new_leaks())
        return value

    def end(self) -> str | None:
        """Return the last report: on the last test, and on fixtures of a wider scope."""
        self._has_ended = True
        allowed = self._open() - self._of_fixtures if self._allow_open else set()
        return _leak_report(self._emulator, self._handled | allowed)

    def _new_leaks(self) -> str | None:
        # The last test's teardown ends the emulator, too.
        if self._has_ended:
            return None
        ignored = self._handled | self._of_fixtures
        report = None if self._allow_open else _leak_report(self._emulator, ignored)
        self._handled |= self._open() - self._of_fixtures
        return report

    def _open(self) -> set[str]:
        return {session.id for session in self._emulator.open_sessions}


@contextmanager
def _emulator(options: dict[str, Any]) -> Iterator[ThreadedEmulator]:
    from qsessions.emulator import Emulator
    from qsessions.testing.threaded import ThreadedEmulator

    _refuse_blocked_sockets()
    try:
        emulator = ThreadedEmulator(Emulator(**options))
    except (TypeError, ValueError) as error:
        pytest.fail(f"@pytest.mark.{_MARKER}: {error}", pytrace=False)
    with emulator:
        _refuse_blocked_sockets(emulator.url)
        yield emulator


def _refuse_blocked_sockets(url: str | None = None) -> None:
    """Fail where pytest-socket keeps the test from sockets, or from the emulator at a URL."""
    try:
        # Its errors warn, too.
        with warnings.catch_warnings(action="ignore"), socket.socket() as probe:
            if url is not None:
                address = urlsplit(url)
                probe.connect((address.hostname, address.port))
    except RuntimeError as error:
        pytest.fail(
            f"{error} The emulator listens on 127.0.0.1: pass --allow-hosts=127.0.0.1 to pytest, "
            "or, for an emulator of the test's own, mark the test with @pytest.mark.enable_socket.",
            pytrace=False,
        )


def _options(node: pytest.Item) -> dict[str, Any]:
    """Return the emulator's options in the markers; the marker nearest to the test comes first."""
    options: dict[str, Any] = {}
    for mark in node.iter_markers(_MARKER):
        if mark.args:
            pytest.fail(f"@pytest.mark.{_MARKER} takes keyword arguments only", pytrace=False)
        options = {**mark.kwargs, **options}
    options.pop("allow_open", None)
    return options


def _client_options(node: pytest.Item) -> dict[str, Any]:
    options = {name: value for name, value in _options(node).items() if name in _OF_CLIENTS}
    if options.get("ledger") is not None and not options.get("real_time"):
        pytest.fail(
            f"@pytest.mark.{_MARKER}: ledger= needs real_time=True, since what a ledger writes "
            "takes real time",
            pytrace=False,
        )
    return options


@contextmanager
def _reporting_bad_options() -> Iterator[None]:
    """Have what is wrong with a marker's options fail the test with one line."""
    from qsessions.errors import QSessionsError

    try:
        yield
    except (TypeError, ValueError, QSessionsError) as error:
        pytest.fail(f"@pytest.mark.{_MARKER}: {error}", pytrace=False)


def _allows_open(node: pytest.Item) -> bool:
    marks = [mark.kwargs for mark in node.iter_markers(_MARKER) if "allow_open" in mark.kwargs]
    return bool(marks and marks[0]["allow_open"])


def _fail_with(report: str | None) -> None:
    if report is not None:
        pytest.fail(report, pytrace=False)


def _leak_report(emulator: ThreadedEmulator, ignoring: Collection[str] = ()) -> str | None:
    try:
        emulator.assert_no_open_sessions(ignoring)
    except AssertionError as error:
        return f"{error}\n(A test that means to says @pytest.mark.{_MARKER}(allow_open=True).)"
    return None
