"""What passes between the protocol and the network: requests, responses, their carriers."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime
from functools import wraps
from typing import Any, ParamSpec, Protocol, TypeVar

from attrs import define, field, frozen
from yarl import URL

from qsessions.masking import mask
from qsessions.values import Value

P = ParamSpec("P")
T = TypeVar("T")


class SecretValues(dict[str, str]):
    """Values whose repr shows only their names, so that no traceback or log shows a secret."""

    def __repr__(self) -> str:
        """Show the names."""
        return f"{type(self).__name__}({sorted(self)})"


class SecretHeaders(SecretValues):
    """Headers that hold credentials."""


NO_HEADERS = SecretHeaders()


def replaced(before: Mapping[str, str], headers: Mapping[str, str]) -> SecretHeaders:
    """Return headers with others in place of those of the same names."""
    names = {name.lower() for name in headers}
    kept = {name: text for name, text in before.items() if name.lower() not in names}
    return SecretHeaders(kept, **headers)


def hidden(headers: Mapping[str, str] | None) -> Mapping[str, str] | None:
    """Return what a user passed as headers in a form that a traceback may show."""
    return SecretHeaders(headers) if isinstance(headers, Mapping) else headers


def strip_frames(error: BaseException) -> None:
    """Remove an error's frames, and other errors with theirs: their locals may hold secrets."""
    error.__cause__ = error.__context__ = error.__traceback__ = None


def strips_frames(function: Callable[P, T]) -> Callable[P, T]:
    """Decorate a function that is called with secrets: its errors come without their frames."""

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return function(*args, **kwargs)
        except BaseException as error:
            del args, kwargs
            strip_frames(error)
            raise

    return call


class Progress:
    """How far one request has come, at its present attempt.

    Attributes:
        begun: False while nothing of the body was sent, so that nothing can have been carried out;
            None while it is with a transport that can't tell.
        attempts: How many times it was sent, or was about to be.
        stopped: Set by the sender: nothing more of it must be sent.
        answer: The answer of a success.
        wait: Waits so many seconds before a retry, or longer; None for the clock's `sleep`.
    """

    begun: bool | None = None
    attempts: int = 0
    stopped: bool = False
    answer: Response | None = None
    wait: Callable[[float], Awaitable[None]] | None = None


@define
class Request:
    """One HTTP request, ready to be carried.

    Nothing changes it once a transport has it. Its repr shows neither credentials nor body.

    Attributes:
        operation: The name of the operation, for errors and events.
        method: The HTTP method.
        url: The absolute URL, already encoded.
        headers: The headers that are the same at every attempt; those that the user set may be
            secret.
        body: The body's bytes, or None.
        session_id: The session it is about, or None.
        repeatable: False when a request that may have been carried out must not be sent again
            (creating a session).
        done_when_repeated: Statuses that mean success once an earlier attempt may have been carried
            out.
        secrets: Texts in the body that must never show up anywhere else; what the user set as
            headers must not either.
        credentials: The headers that are secret, set for each attempt.
        timeout: How many seconds `Transport.send` may take, or None.
        urgent: Whether it must not wait for a connection that other requests hold: the end of a
            session depends on it, or may.
        progress: How far it has come; its attempts share it.
    """

    operation: str
    method: str
    url: URL
    headers: Mapping[str, str] = field(repr=False)
    body: bytes | None = field(default=None, repr=False)
    session_id: str | None = None
    repeatable: bool = True
    done_when_repeated: frozenset[int] = frozenset()
    secrets: tuple[str, ...] = field(default=(), repr=False)
    credentials: SecretHeaders = field(default=NO_HEADERS)
    timeout: float | None = None
    urgent: bool = False
    progress: Progress = field(factory=Progress, eq=False)

    def mask(self, text: str, more: Iterable[str] = ()) -> str:
        """Return text from a server with the secrets of this request, and `more` of them, replaced.

        A header that the user set counts as secret. The CRN doesn't.
        """
        values = [
            value
            for name, value in {**self.headers, **self.credentials}.items()
            if name.lower() not in _PUBLIC_HEADERS
        ]
        return mask(text, (*self.secrets, *values, *more))


@frozen(eq=False, repr=False)
class Response(Value):
    """One HTTP answer. Its repr doesn't show the body, which may hold a token.

    Attributes:
        status: The HTTP status.
        headers: The headers; look one up with `header`.
        body: The body's bytes, decompressed.
        attempts: How many requests it took.
        secrets: What the transport added to the request and must never show up elsewhere, such as
            a proxy's password.
    """

    status: int
    headers: Mapping[str, str] = field(factory=dict, repr=False)
    body: bytes = field(default=b"", repr=lambda body: f"<{len(body)} bytes>")
    attempts: int = 1
    secrets: tuple[str, ...] = field(default=(), repr=False)

    @property
    def is_success(self) -> bool:
        """Whether the status is one of success, 2xx."""
        return 200 <= self.status < 300

    def header(self, name: str) -> str | None:
        """Return the value of a header, in any case of its name, or None."""
        lower = name.lower()
        return next((value for key, value in self.headers.items() if key.lower() == lower), None)


class Transport(Protocol):
    """Carries requests and owns background tasks.

    A client takes one of yours as `transport=`. A request has the credentials in `credentials` and
    maybe in `body`; send `headers` and `credentials`, and keep neither. Follow no redirect, and
    don't repeat a request: the client does.
    """

    async def send(self, request: Request) -> Response:
        """Carry one request within `request.timeout` seconds and return its answer of any status.

        Raises:
            ConnectionFailed: No (whole) answer came. Its `sent` says whether the request may have
                reached the service.
            CallTimeout: Time was up. Its `sent` says the same.
            ProtocolError: The answer is not valid HTTP, or too large.
        """
        ...

    def spawn(self, coroutine: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Run a coroutine as a task that lives no longer than the transport.

        The tasks of auth providers; the client ends its own.
        """
        ...


class AuthProvider(Protocol):
    """Provides the headers that prove who is calling.

    The five schemes of the service come with qsessions; your own takes ten lines. What it raises
    comes out of the call as a `ConfigurationError` with its type and text, an error of qsessions as
    itself.
    """

    async def headers(self, transport: Transport) -> Mapping[str, str]:
        """Return the headers of one attempt. Called for every attempt: cache what is costly to get.

        Args:
            transport: The client's own connections, for a provider that sends requests. They
                carry no credentials but the provider's own and follow the client's
                retry policy.
        """
        ...

    def invalidate(self, refused: Mapping[str, str]) -> bool:
        """Handle the service's answer 401 to these headers of this provider.

        Drop a credential only if it is still the current one: the answer may come late, when a
        fresh one is there already.

        Returns:
            True when a fresh try may do better.
        """
        ...


# Set by qsessions only: a user can't set them, and their values are no secrets.
RESERVED_HEADERS = frozenset(
    {
        "accept",
        "accept-encoding",
        "connection",
        "content-encoding",
        "content-length",
        "content-type",
        "cookie",
        "expect",
        "host",
        "ibm-api-version",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "user-agent",
    }
)

# What may show wherever a server repeats it.
_PUBLIC_HEADERS = RESERVED_HEADERS | {"service-crn"}

_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_VALUE = re.compile(r"[!-~]([ -~]*[!-~])?")
_QUOTES = ("'", '"', "`")


def header_problem(name: object, value: object) -> str | None:
    """Return why a name and a value can't be a header, without repeating the value, or None.

    Line ends and NUL would let a value smuggle in further headers; other characters outside
    printable ASCII are always a paste error in a credential, and servers read them differently.
    """
    if not isinstance(name, str) or not _TOKEN.fullmatch(name):
        return "has a name that no header can have"
    if not isinstance(value, str):
        return f"is not text but {type(value).__name__}"
    if _VALUE.fullmatch(value):
        return None
    if not value:
        return "is empty"
    if any(character in value for character in "\r\n\0"):
        return "contains a line end (CR, LF) or NUL, as text read from a file without strip() does"
    if value != value.strip():
        return "starts or ends with white space"
    return "contains characters outside printable ASCII"


# A template's placeholder, which is no credential, CRN or address; the last are those of guides.
_PLACEHOLDER = re.compile(
    r".*(<[^<>]*>|\{[^{}]*\}).*|\[.*\]|\$(\w+|\(.*\))|%\w+%|\*+|\.{3,}|none|null|undefined"
    r"|your[-_ ]?[a-z][a-z_ -]*|deletethis.*",
    re.IGNORECASE | re.DOTALL,
)


def quoted_problem(text: str) -> str | None:
    """Return that a text is in quotation marks, which a shell would have removed, or None."""
    if text[:1] in _QUOTES or text[-1:] in _QUOTES:
        return "begins or ends with a quotation mark, as `docker --env-file` keeps it: leave it out"
    return None


def leftover_problem(text: str) -> str | None:
    """Return why a text is not the value that it stands for, without repeating it, or None."""
    if _PLACEHOLDER.fullmatch(text.strip("\"'` ")):
        return 'is a placeholder such as "<YOUR_KEY>" or "{apikey}", or holds one: fill it in'
    return quoted_problem(text)


def credential_problem(header: str, value: object) -> str | None:
    """Return why a value can't be the credential in a header, without repeating it, or None."""
    return header_problem(header, value) or leftover_problem(str(value))


def http_date(text: str | None) -> float | None:
    """Return an HTTP date in seconds since 1970, or None where it is missing or can't be read."""
    try:
        time = parsedate_to_datetime(text or "")
        return (time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp()
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
