"""The pytest plugin: an emulator and clients of it as fixtures, and a check that no test leaves a session open.

pytest imports it in every run, so it imports nothing of weight before a fixture is used.
"""

from __future__ import annotations

from collections.abc import Collection, Generator, Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from qsessions.client import AsyncSessionClient
    from qsessions.sync.client import SessionClient
    from qsessions.testing.threaded import ThreadedEmulator

_MARKER = "qsessions"


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker."""
    config.addinivalue_line(
        "markers",
        f"{_MARKER}(allow_open=False, **options): options of the test's emulator, such as plan=, partner=, speed=, seed= and faults=; "
        "allow_open=True lets the test leave sessions open.",
    )


@pytest.fixture
def qsessions_emulator(request: pytest.FixtureRequest) -> Iterator[ThreadedEmulator]:
    """An emulator of the sessions service, for this test alone. Fails the test if it leaves a session open."""
    with _emulator(_options(request.node)) as emulator:
        yield emulator
        story = None if _allows_open(request.node) else _story(emulator)
    if story is not None:
        pytest.fail(story, pytrace=False)


@pytest.fixture
def qsessions_client(qsessions_emulator: ThreadedEmulator) -> Iterator[AsyncSessionClient]:
    """An asynchronous client of `qsessions_emulator`."""
    from qsessions.testing.clients import async_client

    with async_client(qsessions_emulator) as client:
        yield client


@pytest.fixture
def qsessions_sync_client(qsessions_emulator: ThreadedEmulator) -> Iterator[SessionClient]:
    """A client of `qsessions_emulator` for code that doesn't await."""
    from qsessions.testing.clients import sync_client

    with sync_client(qsessions_emulator) as client:
        yield client


@pytest.fixture(scope="session")
def qsessions_shared_emulator(pytestconfig: pytest.Config) -> Iterator[ThreadedEmulator]:
    """An emulator that all tests share (those of one worker, under xdist). Fails each test that leaves a session open."""
    with _emulator({}) as emulator:
        check = _SharedCheck(emulator)
        pytestconfig.pluginmanager.register(check)
        yield emulator
        pytestconfig.pluginmanager.unregister(check)
        story = check.end()
    if story is not None:
        pytest.fail(story, pytrace=False)


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
    """Says which test left a session open on the shared emulator. pytest knows it once there is one."""

    def __init__(self, emulator: ThreadedEmulator) -> None:
        self._emulator = emulator
        self._over = False
        self._allow_open = False
        # Those of fixtures that outlive a test, and those that need not be told again.
        self._lasting: set[str] = set()
        self._known: set[str] = set()

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(
        self, fixturedef: pytest.FixtureDef[Any]
    ) -> Generator[None, object, object]:
        """Leave to a fixture of a wider scope what it opened: it closes it later."""
        value = yield
        if fixturedef.scope != "function":
            self._lasting |= self._open() - self._known
        return value

    def pytest_runtest_call(self, item: pytest.Item) -> None:
        """Refuse options where they come too late."""
        used = getattr(item, "fixturenames", ())
        options = _options(item)
        if options and "qsessions_shared_emulator" in used and "qsessions_emulator" not in used:
            pytest.fail(
                f"@pytest.mark.{_MARKER}: {', '.join(options)} can't be set for one test of an emulator that all share; "
                "use qsessions_emulator, or a fixture of your own around qsessions.testing.threaded.ThreadedEmulator",
                pytrace=False,
            )

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_teardown(self, item: pytest.Item) -> Generator[None, object, object]:
        """Look for what the test left, once its own fixtures have ended."""
        self._allow_open = _allows_open(item)
        try:
            value = yield
        except BaseException as error:
            story = self._left()
            if story is not None:
                error.add_note(story)
            raise
        story = self._left()
        if story is not None:
            pytest.fail(story, pytrace=False)
        return value

    def end(self) -> str | None:
        """Tell what is left and not yet told: the last test's, and what fixtures of a wider scope forgot."""
        self._over = True
        allowed = self._open() - self._lasting if self._allow_open else set()
        return _story(self._emulator, self._known | allowed)

    def _left(self) -> str | None:
        # The last test's teardown ends the emulator, too.
        if self._over:
            return None
        story = None if self._allow_open else _story(self._emulator, self._known | self._lasting)
        self._known |= self._open() - self._lasting
        return story

    def _open(self) -> set[str]:
        return {session.id for session in self._emulator.open_sessions}


def _emulator(options: dict[str, Any]) -> ThreadedEmulator:
    from qsessions.emulator import Emulator
    from qsessions.testing.threaded import ThreadedEmulator

    try:
        return ThreadedEmulator(Emulator(**options))
    except (TypeError, ValueError) as error:
        told = str(error)
    pytest.fail(f"@pytest.mark.{_MARKER}: {told}", pytrace=False)


def _options(node: pytest.Item) -> dict[str, Any]:
    """Give what the markers say about the emulator; the one nearest to the test comes first."""
    options: dict[str, Any] = {}
    for mark in node.iter_markers(_MARKER):
        if mark.args:
            pytest.fail(f"@pytest.mark.{_MARKER} takes keyword arguments only", pytrace=False)
        options = {**mark.kwargs, **options}
    options.pop("allow_open", None)
    return options


def _allows_open(node: pytest.Item) -> bool:
    said = (
        mark.kwargs["allow_open"]
        for mark in node.iter_markers(_MARKER)
        if "allow_open" in mark.kwargs
    )
    return bool(next(said, False))


def _story(emulator: ThreadedEmulator, ignoring: Collection[str] = ()) -> str | None:
    try:
        emulator.assert_no_open_sessions(ignoring)
    except AssertionError as error:
        return f"{error}\n(A test that means to says @pytest.mark.{_MARKER}(allow_open=True).)"
    return None
