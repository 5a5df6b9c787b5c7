"""The credentials of an attempt: what the providers return, checked and merged."""

from __future__ import annotations

from collections.abc import Coroutine, Generator, Mapping, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

from qsessions.api.messages import (
    NO_HEADERS,
    RESERVED_HEADERS,
    AuthProvider,
    SecretHeaders,
    Transport,
    header_problem,
)
from qsessions.clock import Deadline
from qsessions.errors import CallTimeout, ConfigurationError

T = TypeVar("T")


class Credentials(NamedTuple):
    """The headers of all providers, checked.

    Attributes:
        by_provider: Those of each, in the order of the providers.
        merged: All of them.
    """

    by_provider: Sequence[SecretHeaders]
    merged: SecretHeaders


NO_CREDENTIALS = Credentials((), NO_HEADERS)


async def ask(
    providers: Sequence[AuthProvider], transport: Transport, by_provider: list[SecretHeaders]
) -> None:
    """Get the headers of the next attempt from each provider.

    Args:
        providers: What gives them.
        transport: For the providers' own requests.
        by_provider: Where they are put; whatever happens, those that came are there.

    Raises:
        ConfigurationError: A provider returned something else.
        Exception: What a provider raised.
    """
    for provider in providers:
        headers = await provider.headers(transport)
        # A user's own mapping isn't kept in a frame, which a traceback may show.
        if type(headers) is not SecretHeaders:
            headers = _secret(provider, headers)
        by_provider.append(headers)


def checked(providers: Sequence[AuthProvider], by_provider: Sequence[SecretHeaders]) -> Credentials:
    """Return the providers' headers as credentials.

    Raises:
        ConfigurationError: They aren't headers, or one is set elsewhere.
    """
    merged = SecretHeaders()
    names: set[str] = set()
    for provider, headers in zip(providers, by_provider, strict=True):
        who = type(provider).__name__
        for name, value in headers.items():
            if problem := header_problem(name, value):
                raise ConfigurationError(f"the header {name!r} that {who} gave {problem}.")
            if name.lower() in names:
                raise ConfigurationError(
                    f"two auth providers set the header {name}; the second is {who}."
                )
            if name.lower() in RESERVED_HEADERS:
                raise ConfigurationError(
                    f"{who} can't set the header {name}, which qsessions sets itself."
                )
            names.add(name.lower())
            merged[name] = value
    # Copies: a provider may change its own.
    return Credentials([SecretHeaders(headers) for headers in by_provider], merged)


def sendable(by_provider: Sequence[SecretHeaders]) -> SecretHeaders:
    """Return those of the providers' headers that can be sent. It keeps the rest off all frames."""
    return SecretHeaders(
        (name, value)
        for headers in by_provider
        for name, value in headers.items()
        if header_problem(name, value) is None
    )


class _Resumed(Generic[T]):
    """Awaits the rest of a coroutine that has begun, and waits for something."""

    def __init__(self, coroutine: Coroutine[Any, Any, T], waits_for: object) -> None:
        self._coroutine = coroutine
        self._waits_for = waits_for

    def __await__(self) -> Generator[Any, Any, T]:
        waits_for = self._waits_for
        try:
            while True:
                try:
                    sent = yield waits_for
                except BaseException as error:  # noqa: BLE001 - the coroutine's, as in `yield from`
                    waits_for = self._coroutine.throw(error)
                else:
                    waits_for = self._coroutine.send(sent)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]


async def rest_of(coroutine: Coroutine[Any, Any, T], waits_for: object, deadline: Deadline) -> T:
    """Await the rest of a coroutine that has begun.

    Args:
        coroutine: The coroutine.
        waits_for: What it waits for.
        deadline: When it has to be done.

    Raises:
        CallTimeout: The deadline passed.
        Exception: What it raised.
    """
    scope = deadline.timeout()
    try:
        with scope:
            return await _Resumed(coroutine, waits_for)
    except TimeoutError:
        if not scope.expired:
            raise
    raise CallTimeout(
        "the call's deadline passed while waiting for credentials; nothing was sent.", sent=False
    )


def _secret(provider: AuthProvider, headers: object) -> SecretHeaders:
    if isinstance(headers, Mapping):
        return SecretHeaders(headers)
    raise ConfigurationError(
        f"{type(provider).__name__}.headers() gave {type(headers).__name__}, "
        "not a mapping of header names to values."
    )
