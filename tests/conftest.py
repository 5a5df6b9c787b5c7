"""What every test has at hand."""

from __future__ import annotations

import pwd
import signal
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from itertools import count
from pathlib import Path
from typing import Any, NoReturn

import pytest
import trustme
from blockbuster import BlockBuster, blockbuster_ctx
from hypothesis import HealthCheck, settings

from qsessions import AsyncSessionClient
from qsessions.emulator import Emulator
from qsessions.testing import ManualClock
from tests.support.clients import Against, client_of, static_auth
from tests.support.fault_server import Answer, FaultServer
from tests.support.leaks import leaving_nothing
from tests.support.manual_clock import Stepped, settled

# A shell that starts the tests in the background has them ignore Ctrl-C, and every program that
# they start with them.
for _number in (signal.SIGINT, signal.SIGQUIT):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(
            _number, signal.default_int_handler if _number is signal.SIGINT else signal.SIG_DFL
        )

# How long an example takes says something about the machine, and nothing about what must hold.
# `--hypothesis-profile=thorough` tries more of them.
for _name, _examples in (("default", 25), ("thorough", 100)):
    settings.register_profile(
        _name,
        deadline=None,
        max_examples=_examples,
        suppress_health_check=[HealthCheck.too_slow],
    )
settings.load_profile("default")

# All that leads a client somewhere.
VARIABLES = (
    "QSESSIONS_BASE_URL",
    "QSESSIONS_INSECURE_HOSTS",
    "QSESSIONS_TIMEOUT",
    "QSESSIONS_MAX_TTL",
    "QSESSIONS_BACKEND",
    "QSESSIONS_LOG",
    "QISKIT_IBM_TOKEN",
    "QISKIT_IBM_INSTANCE",
    "QISKIT_IBM_URL",
    "QISKIT_IBM_CHANNEL",
    "IAM_URL",
    "GLOBAL_SEARCH_URL",
    "GLOBAL_CATALOG_URL",
    # The emulator's own.
    "QSESSIONS_EMULATOR_API_KEY",
    "QSESSIONS_EMULATOR_CRN",
    "QSESSIONS_EMULATOR_SEED",
    "QSESSIONS_EMULATOR_ADMIN_TOKEN",
    "QSESSIONS_EMULATOR_ADVERTISED_HOST",
    # Where the ledger is.
    "XDG_STATE_HOME",
    *(
        name
        for proxy in ("HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY", "NO_PROXY")
        for name in (proxy, proxy.lower())
    ),
)


@pytest.fixture(scope="session", autouse=True)
def detector() -> Iterator[BlockBuster]:
    """Fail any test in which something blocks the event loop."""
    with blockbuster_ctx() as detector:
        # Of a module that another thread is importing. Files are allowed there, too.
        detector.functions["threading.Lock.acquire"].can_block_in(
            "<frozen importlib._bootstrap>", "_find_and_load"
        )
        yield detector


@pytest.fixture
def blockbuster(detector: BlockBuster) -> Iterator[BlockBuster]:
    """Return the detector, for a test that turns it off; the next test has it on again."""
    yield detector
    detector.activate()


@pytest.fixture(scope="session")
def homes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Return a name for each next home folder. (`mktemp` would list all that there are, at each of
    thousands of tests.)
    """
    folder = tmp_path_factory.mktemp("homes")
    return (folder / str(number) for number in count())


@pytest.fixture(autouse=True)
def home(monkeypatch: pytest.MonkeyPatch, homes: Iterator[Path]) -> Path:
    """Return an empty home folder, in an environment without the developer's credentials and proxies."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    home = next(homes)
    home.mkdir()
    for name in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(name, str(home))
    return home


@pytest.fixture
def no_home(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Yield the working directory of a user without a home folder, as in many containers: HOME isn't
    set, and the user's number has no name. Nothing may be written there.
    """

    def nobody(number: int) -> NoReturn:
        raise KeyError(f"getpwuid(): uid not found: {number}")

    for name in ("HOME", "USERPROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", nobody)
    monkeypatch.chdir(home)
    yield home
    assert list(home.iterdir()) == []


@pytest.fixture
def time() -> ManualClock:
    """Return the time of the test, which client and emulator share."""
    return ManualClock()


@pytest.fixture
async def stepped() -> AsyncIterator[Stepped]:
    """Return a clock that moves in steps, and check that nobody sleeps on it at the end."""
    time = Stepped()
    yield time
    await settled()
    assert time.timers == []


@pytest.fixture
async def emulator(time: ManualClock) -> AsyncIterator[Emulator]:
    """Return a running emulator on the test's time."""
    async with Emulator(clock=time.wall, seed=1) as emulator:
        yield emulator


@pytest.fixture
async def client(emulator: Emulator, time: ManualClock) -> AsyncIterator[AsyncSessionClient]:
    """Return a client of the emulator, on the test's time."""
    async with client_of(emulator, time) as client:
        yield client


@pytest.fixture
async def against(time: ManualClock) -> AsyncIterator[Against]:
    """Return a function that starts a scripted server and a client of it on the test's time."""
    async with AsyncExitStack() as stack:

        async def start(*answers: Answer, **options: Any) -> tuple[FaultServer, AsyncSessionClient]:
            server = await stack.enter_async_context(FaultServer(*answers))
            settings: dict[str, Any] = {
                "auth": static_auth(),
                "base_url": server.url,
                "clock": time,
            } | options
            return server, await stack.enter_async_context(
                leaving_nothing(AsyncSessionClient(**settings), server)
            )

        yield start


@pytest.fixture(scope="session")
def authority() -> trustme.CA:
    """Return a certificate authority that nobody trusts."""
    return trustme.CA()


@pytest.fixture(scope="session")
def server_tls(authority: trustme.CA) -> ssl.SSLContext:
    """Return the TLS settings of a server on 127.0.0.1 with a certificate of that authority."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    return context


@pytest.fixture(scope="session")
def client_tls(authority: trustme.CA) -> ssl.SSLContext:
    """Return the TLS settings of a client that trusts that authority."""
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context
