"""The credentials of an attempt: what the providers return, checked and merged."""

from __future__ import annotations

import inspect
import re
from collections.abc import Coroutine, Generator, Iterator, Mapping, Sequence
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
from qsessions.errors import (
    ConfigurationError,
    QSessionsError,
    as_sentence,
    copy_error,
)
from qsessions.masking import mask

T = TypeVar("T")

# What follows an auth scheme, and a URL's user and password.
_CREDENTIALS = re.compile(
    r"(?i:(?<=bearer )|(?<=basic )|(?<=apikey ))(?=\S*\d)\S{8,}|(?<=://)[^\s/@]+(?=@)"
)
# How a file's name or a URL begins.
_PLACE = re.compile(r"[~./]|\w+:[/\\]")


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
    providers: Sequence[AuthProvider],
    transport: Transport,
    latest: SecretHeaders,
) -> list[SecretHeaders]:
    """Return the headers of the next attempt from each provider.

    Args:
        providers: What gives them.
        transport: For the providers' own requests.
        latest: Those of the latest attempt, which may show in an error, too.

    Raises:
        ConfigurationError: A provider returned something else, or failed with an error of its own.
        QSessionsError: What a provider raised, without secrets.
    """
    by_provider: list[SecretHeaders] = []
    for provider in providers:
        asked: object = ...
        try:
            asked = provider.headers(transport)
            headers: object = await asked
        except QSessionsError as error:
            raise _masked(error, _values(*by_provider, latest)) from None
        except Exception as error:  # noqa: BLE001 - it may be any
            secrets = _values(*by_provider, latest)
            raise _provider_error(provider, "headers", asked, error, secrets) from None
        # A user's own mapping isn't kept in a frame, which a traceback may show.
        if type(headers) is not SecretHeaders:
            if not isinstance(headers, Mapping):
                raise ConfigurationError(
                    f"{type(provider).__name__}.headers() gave {type(headers).__name__}, "
                    "not a mapping of header names to values."
                )
            headers = SecretHeaders(headers)
        by_provider.append(headers)
    return by_provider


def invalidate(provider: AuthProvider, refused: SecretHeaders) -> bool:
    """Have a provider drop what a 401 refused; return whether a fresh try may do better.

    Raises:
        ConfigurationError: It failed with an error of its own, or gave something else.
        QSessionsError: What it raised.
    """
    try:
        answer: object = provider.invalidate(refused)
        if inspect.iscoroutine(answer):
            answer.close()
            raise TypeError("it must not be async")
        return bool(answer)
    except QSessionsError as error:
        raise _masked(error, _values(refused)) from None
    except Exception as error:  # noqa: BLE001 - it may be any
        raise _provider_error(provider, "invalidate", ..., error, _values(refused)) from None


def _provider_error(
    provider: AuthProvider, method: str, asked: object, error: Exception, secrets: Sequence[str]
) -> ConfigurationError:
    """Return our error for one of a provider's own, as text: its frames may hold secrets.

    So may its message: what follows an auth scheme or is a URL's user and password, and what the
    provider has as an attribute.
    """
    failed = f"{type(provider).__name__}.{method}()"
    if asked is not ... and not inspect.isawaitable(asked):
        problem, solution = f"{failed} is not async", "Write `async def headers(self, transport)`."
    else:
        text = _CREDENTIALS.sub("***", f"{type(error).__name__}: {error}")
        text = mask(text, [*secrets, *_texts_of(provider)])
        problem = f"the auth provider failed in {failed}. {text}"
        solution = "Correct the provider in auth=, or what it depends on."
    return ConfigurationError(as_sentence(problem), solution=solution, argument="auth")


def _texts_of(provider: AuthProvider) -> Iterator[str]:
    """Yield the texts that a provider has as attributes, but for the names of files and URLs."""
    attributes = {**vars(type(provider)), **getattr(provider, "__dict__", {})}
    for name, value in attributes.items():
        if name.startswith("__"):
            continue
        if inspect.ismemberdescriptor(value):
            # One of `__slots__`.
            value = getattr(provider, name, None)  # noqa: PLW2901
        if isinstance(value, Mapping):
            value = [*value.values()]  # noqa: PLW2901
        for text in value if isinstance(value, list | tuple | set) else [value]:
            if isinstance(text, str) and not _PLACE.match(text):
                yield text


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


def _values(*mappings: Mapping[str, object]) -> list[str]:
    """Return the values of headers, of which one may be no text: it is checked later."""
    return [str(value) for headers in mappings for value in headers.values()]


def _masked(error: QSessionsError, secrets: Sequence[str]) -> QSessionsError:
    """Return an error that a provider raised, masked where its words are its own.

    It is a copy: the provider may raise the same error again, for another call.
    """
    error = copy_error(error)
    # One with an operation is that of a request, whose words are masked by then.
    if error.operation is None:
        error.reworded(mask(error.message, secrets))
        error.code, error.solution, error.trace_id = (
            text and mask(text, secrets) for text in (error.code, error.solution, error.trace_id)
        )
    return error


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
    with deadline.call_timeout(
        "the call's deadline passed while waiting for credentials; nothing was sent."
    ):
        return await _Resumed(coroutine, waits_for)
