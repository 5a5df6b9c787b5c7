"""The official client beside qsessions: on the emulator, and in sessions of ours.

It needs the extra `qiskit`.
"""

# What it imports comes with an extra.
# pyright: reportMissingImports=false

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from qiskit_ibm_runtime import Batch, QiskitRuntimeService, Session
from qiskit_ibm_runtime.exceptions import IBMInputValueError

from qsessions.api.addresses import is_emulator
from qsessions.config.checks import checked_insecure_hosts
from qsessions.errors import ConfigurationError

_CLOUD = "cloud.ibm.com"
# An emulator is reached directly.
_PROXIES = ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")


class _Emulator(Protocol):
    @property
    def iam_url(self) -> str: ...

    @property
    def url(self) -> str: ...

    @property
    def crn(self) -> str: ...

    api_key: str


class _HasId(Protocol):
    @property
    def id(self) -> str: ...


class CloudReached(Exception):
    """A program that runs on the emulator was about to call IBM's cloud."""


@contextmanager
def without_cloud() -> Iterator[None]:
    """Keep this process from IBM's cloud for a while: looking up a host of it is `CloudReached`."""
    before = _guard.holders
    _guard.hold()
    try:
        yield
    finally:
        # Of a service that was made meanwhile, too.
        _guard.holders = before


def service(emulator: _Emulator | None = None, **options: Any) -> QiskitRuntimeService:
    """Return the official client's service on an emulator.

    From then on this process can't look up a host of IBM's cloud: what would reach it by mistake
    gets a `CloudReached`; within `without_cloud`, until that ends. Proxies of the environment are
    passed over while it is made.

    Args:
        emulator: An `Emulator` or a `ThreadedEmulator` that is running. The client blocks, so an
            `Emulator` must run in another thread or process than the caller's event loop. None for
            the one that the environment names, as `qsessions emulator` prints it.
        options: Further arguments of `QiskitRuntimeService`, such as `instance=`.

    Raises:
        ConfigurationError: The environment names no emulator.
    """
    url, iam_url, key, crn = _address(emulator)
    _guard.hold()
    # The client reads where to look for the account and its instances from these alone.
    surroundings = {
        "IAM_URL": iam_url,
        "GLOBAL_SEARCH_URL": iam_url,
        "GLOBAL_CATALOG_URL": iam_url,
        "RESOURCE_CONTROLLER_URL": iam_url,
    }
    arguments: dict[str, Any] = {
        "channel": "ibm_quantum_platform",
        "token": key,
        "instance": crn,
        # Its own way to the service keeps no port.
        "url_resolver": lambda *_: f"{url}/v1",
    }
    with _environment(surroundings):
        return QiskitRuntimeService(**(arguments | options))


def qiskit_session(
    session: _HasId | str | None = None, service: QiskitRuntimeService | None = None
) -> Session:
    """Return the official client's `Session` or `Batch` for a session of ours.

    It ends when ours does, and not before: its `close` and `cancel`, and the end of its `with`,
    only keep it from taking further jobs here. Close or drain ours to end it.

    Args:
        session: What `open` or `attach` yields, a `Session`, or an id; None for the one that
            `qsessions run` made, whose id is in QSESSIONS_SESSION_ID.
        service: The official client's service; None for one of the emulator where
            QSESSIONS_BASE_URL names one, else of the account that it would take.

    Raises:
        ConfigurationError: There is no session.
        IBMInputValueError: The service has no such session.
        IBMRuntimeError: The session has no backend yet: name one when it is created.
    """
    session_id = os.environ.get("QSESSIONS_SESSION_ID") if session is None else session
    if not session_id:
        raise ConfigurationError(
            "there is no session: QSESSIONS_SESSION_ID is not set.",
            solution="Pass the session, or start the program with `qsessions run`.",
        )
    if not isinstance(session_id, str):
        session_id = session_id.id
    if service is None:
        service = _service()
    try:
        official = Session.from_id(session_id, service)
    except IBMInputValueError as error:
        if "execution mode batch" not in str(error):
            raise
        official = Batch.from_id(session_id, service)

    def leave() -> None:
        official._active = False  # noqa: SLF001 - as its own `close` does, which also ends it

    # Not a subclass: the client tells the mode by the name of the class.
    official.close = official.cancel = leave
    return official


def _service() -> QiskitRuntimeService:
    url = os.environ.get("QSESSIONS_BASE_URL", "")
    return service() if _is_emulator(url) else QiskitRuntimeService()


def _is_emulator(url: str) -> bool:
    return is_emulator(url, checked_insecure_hosts(os.environ))


def _address(emulator: _Emulator | None) -> tuple[str, str, str, str]:
    if emulator is not None:
        return emulator.url, emulator.iam_url, emulator.api_key, emulator.crn
    names = ("QSESSIONS_BASE_URL", "IAM_URL", "QISKIT_IBM_TOKEN", "QISKIT_IBM_INSTANCE")
    url, iam_url, key, crn = (os.environ.get(name, "") for name in names)
    if not (_is_emulator(url) and _is_emulator(iam_url) and key and crn):
        raise ConfigurationError(
            f"{', '.join(names)} don't name an emulator.",
            solution="Set what `qsessions emulator` prints, or pass the emulator.",
        )
    return url, iam_url, key, crn


@contextmanager
def _environment(variables: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in (*variables, *_PROXIES)}
    for name in _PROXIES:
        os.environ.pop(name, None)
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


class _Guard:
    """Refuses to look up a host of IBM's cloud, whichever library asks for it.

    Attributes:
        holders: How many want that.
    """

    def __init__(self) -> None:
        self.holders = 0
        self._is_known = False

    def hold(self) -> None:
        """Begin."""
        self.holders += 1
        if not self._is_known:
            # For good: there is no way to remove it.
            sys.addaudithook(self._check)
            self._is_known = True

    def _check(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event != "socket.getaddrinfo" or not self.holders:
            return
        host = arguments[0]
        name = host.decode(errors="replace") if isinstance(host, bytes) else str(host)
        if _names_cloud(name):
            raise CloudReached(
                f"{name} is IBM's cloud, and this program runs on the emulator: make each service "
                "by qsessions.integrations.qiskit.service(emulator)"
            )


def _names_cloud(host: str) -> bool:
    return f".{host.lower().rstrip('.')}".endswith(f".{_CLOUD}")


_guard = _Guard()
