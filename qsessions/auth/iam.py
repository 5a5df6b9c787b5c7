"""`IBMCloudAuth`: a bearer token, from an API key that IAM exchanges or from the user.

One exchange serves all callers: across clients, event loops and threads. A token is renewed ahead
of time.
"""

from __future__ import annotations

import asyncio
import inspect
import os
import threading
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import Future
from functools import partial
from typing import Self, TypeAlias
from urllib.parse import urlencode

from attrs import define
from yarl import URL

from qsessions.api.addresses import service_url
from qsessions.api.codec import Grant, decode_grant
from qsessions.api.error_body import decode_error_body
from qsessions.api.messages import (
    Request,
    Response,
    SecretHeaders,
    Transport,
    credential_problem,
    strip_frames,
    strips_frames,
)
from qsessions.auth.static import OwnProvider
from qsessions.clock import SYSTEM_CLOCK, Clock
from qsessions.errors import (
    ConfigurationError,
    ConnectionFailed,
    ProtocolError,
    QSessionsError,
    TokenExchangeFailed,
    copy_error,
)
from qsessions.events import TokenRenewed
from qsessions.http.attempts import Attempts
from qsessions.http.retry import REPEATABLE_STATUSES

TokenSource: TypeAlias = str | Callable[[], str | Awaitable[str]]

_SCHEME = "Bearer "

DEFAULT_IAM_URL = "https://iam.cloud.ibm.com"

# IBM's own SDK core renews at this share of a token's life.
_RENEW_AT = 0.8
# The statuses that are about the key.
_REFUSALS = frozenset({400, 401, 403})
_RETRY_LATER = "Make the call again later."
_CHECK_URL = "Check that IAM_URL is IAM's address, and that no proxy answers in its place."
# The hints of errors that name the service's address, for IAM's address.
_HINTS: dict[type[QSessionsError], str] = {
    ConnectionFailed: "Check the network, the proxy and IAM_URL.",
    ProtocolError: _CHECK_URL,
}
# A token must still be good when it arrives: it is not sent in the last seconds of its life, nor in
# the last share of a short one.
_MARGIN_S = 10.0
_MARGIN = 0.1
# The exchange has a deadline of its own: it serves all callers, not the one that started it.
_EXCHANGE_TIMEOUT_S = 60.0
# The pause after a failed early renewal, or half of the token's remaining life if that is shorter.
_RENEWAL_PAUSE_S = 60.0
# How often a caller checks that the event loop that runs the exchange, maybe another one, is alive.
_LIVENESS_S = 1.0


@define(eq=False, repr=False)
class _Token:
    value: str
    # What the times are by.
    clock: Clock
    good_until: float
    renew_at: float


class _Exchange:
    """An exchange under way: a task on one event loop, awaited from any."""

    def __init__(self, transport: Transport, clock: Clock) -> None:
        self.transport = transport
        self.clock = clock
        # None where the exchange was abandoned: its client or event loop ended.
        self.result: Future[_Token | Exception | None] = Future()
        self._loop = asyncio.get_running_loop()
        self.begin()

    def begin(self) -> float:
        """Begin a request, and return when that was."""
        now = self.clock.monotonic()
        self._overdue_at = now + _EXCHANGE_TIMEOUT_S + _LIVENESS_S
        return now

    def is_alive(self) -> bool:
        # An exchange that is overdue runs on a loop that something blocks.
        return self._loop.is_running() and self.clock.monotonic() < self._overdue_at

    async def wait(self, clock: Clock) -> _Token | Exception | None:
        """Return the result. Cancelling a caller that waits here cancels nothing else."""
        finished = asyncio.wrap_future(self.result)
        while self.is_alive() and not self.result.done():
            await clock.deadline(_LIVENESS_S).wait({finished})
        return self.result.result() if self.result.done() else None


class TokenExchange:
    """Exchanges an API key for access tokens and keeps the current one.

    A token's life counts from the start of its exchange on the monotonic clock, so that a wrong
    wall clock does no harm. That clock is the client's which had it exchanged.

    Args:
        api_key: The API key.
        iam_url: IAM's base URL; by default the environment variable IAM_URL, else IBM Cloud's.
        clock: The time; None for each client's own.

    Raises:
        ConfigurationError: The URL is not a base URL.
    """

    def __init__(self, api_key: str, iam_url: str | None, clock: Clock | None) -> None:
        base_url = iam_url if iam_url is not None else os.environ.get("IAM_URL") or DEFAULT_IAM_URL
        self._clock = clock
        # Guards the two fields below; held for a few instructions. Re-entrant, since an eager task
        # factory runs a task inside spawn.
        self._lock = threading.RLock()
        self._token: _Token | None = None
        self._exchange: _Exchange | None = None
        url = service_url(base_url, "IAM_URL" if iam_url is None else "iam_url", DEFAULT_IAM_URL)
        self._request = Request(
            "token_exchange",
            "POST",
            URL(f"{url}/identity/token", encoded=True),
            {"Content-Type": "application/x-www-form-urlencoded"},
            urlencode(
                {"grant_type": "urn:ibm:params:oauth:grant-type:apikey", "apikey": api_key}
            ).encode(),
            secrets=(api_key,),
            timeout=_EXCHANGE_TIMEOUT_S,
        )
        self._exchange_name = f"the token exchange with IAM at {self._request.url.host}"

    async def token(self, transport: Transport) -> str:
        """Return a token with enough of its life left, after an exchange if there is none.

        Raises:
            QSessionsError: The exchange failed; see `IBMCloudAuth.headers`.
        """
        while True:
            with self._lock:
                token = self._token
                now = 0.0 if token is None else token.clock.monotonic()
                if token is not None and now < token.renew_at:
                    return token.value
                exchange = self._join(transport)
            if token is not None and now < token.good_until:
                return token.value
            result = await exchange.wait(self._clock_of(transport))
            if isinstance(result, _Token):
                return result.value
            # Whether IAM can be reached depends on the client: another one tries for itself.
            is_ours = exchange.transport is transport or isinstance(result, TokenExchangeFailed)
            if result is not None and is_ours:
                raise copy_error(result)

    def may_be_of(self, api_key: str) -> bool:
        """Return whether this is the key that is exchanged."""
        return self._request.secrets == (api_key,)

    def refuse(self, token: str) -> bool:
        """Drop the token if it is the current one. Return True: a fresh one may do better."""
        with self._lock:
            if self._token is not None and self._token.value == token:
                self._token = None
        return True

    def _join(self, transport: Transport) -> _Exchange:
        """Return the exchange under way, or start one."""
        if self._exchange is not None and self._exchange.is_alive():
            return self._exchange
        exchange = _Exchange(transport, self._clock_of(transport))
        task = transport.spawn(self._run(exchange))
        self._exchange = exchange
        # A callback, since a task that is cancelled before its first step runs no line of its own.
        task.add_done_callback(partial(self._finish, exchange))
        return exchange

    def _clock_of(self, transport: Transport) -> Clock:
        if self._clock is not None:
            return self._clock
        return transport.clock if isinstance(transport, Attempts) else SYSTEM_CLOCK

    async def _run(self, exchange: _Exchange) -> _Token | Exception:
        """Exchange the key. Return the token, or the error for those who wait."""
        transport, clock = exchange.transport, exchange.clock
        try:
            # A second time if the clock was set or IAM was very slow, but not again and again.
            for _ in range(2):
                asked_at = exchange.begin()
                grant = self._read(await transport.send(self._request))
                life = grant.expires_in
                if isinstance(transport, Attempts):
                    transport.observers.notify(
                        TokenRenewed(host=self._request.url.host or "", expires_in=life)
                    )
                good_until = asked_at + life - min(_MARGIN_S, _MARGIN * life)
                if clock.monotonic() < good_until:
                    return _Token(
                        grant.access_token, clock, good_until, asked_at + _RENEW_AT * life
                    )
            raise TokenExchangeFailed(
                f"{self._exchange_name}: the tokens had expired before they arrived.",
                operation=self._request.operation,
                method=self._request.method,
                path=self._request.url.raw_path,
                solution=_RETRY_LATER,
                retryable=True,
            )
        except BaseException as error:
            # The frames of the reading hold the token.
            strip_frames(error)
            if not isinstance(error, Exception):
                # It ends the event loop of the exchange, not the callers in other threads.
                raise
            if isinstance(error, QSessionsError) and not isinstance(error, TokenExchangeFailed):
                error.reworded(f"{self._exchange_name}: {error.message}")
                # Advice that is not the class's own stays.
                if error.solution == error.hint:
                    error.solution = _HINTS.get(type(error), error.hint)
            return error

    def _finish(self, exchange: _Exchange, task: asyncio.Task[_Token | Exception]) -> None:
        result = None if task.cancelled() or task.exception() else task.result()
        with self._lock:
            if self._exchange is exchange:
                self._exchange = None
            if isinstance(result, _Token):
                self._token = result
            elif (token := self._token) is not None:
                now = token.clock.monotonic()
                pause = min(_RENEWAL_PAUSE_S, (token.good_until - now) / 2)
                token.renew_at = max(token.renew_at, now + pause)
        exchange.result.set_result(result)

    def _read(self, response: Response) -> Grant:
        """Return what IAM granted.

        Raises:
            TokenExchangeFailed: It granted nothing usable: due to the key, IAM or the address.
        """
        grant = decode_grant(response.body) if response.is_success else None
        if grant is not None and grant.expires_in > 0:
            return grant
        parsed = decode_error_body(response.body)
        parsed = parsed.masked(partial(self._request.mask, more=response.secrets))
        reason = "" if response.is_success else f": {parsed.message or 'it gave no reason'}"
        status = response.status
        # The first line that applies tells what IAM did and what to do.
        answers = (
            (grant is not None, "gave a token that has expired already", _RETRY_LATER),
            (status in _REFUSALS and not parsed.html, "refused to exchange the API key", None),
            (status == 429, "is overloaded", _RETRY_LATER),
            (status >= 500, "failed", _RETRY_LATER),
            (not response.is_success, "has no token to give", _CHECK_URL),
            (True, "gave an answer that holds no access token with a lifetime", _CHECK_URL),
        )
        what, solution = next((what, solution) for applies, what, solution in answers if applies)
        raise TokenExchangeFailed(
            f"IAM at {self._request.url.host} {what}{reason}",
            operation=self._request.operation,
            method=self._request.method,
            path=self._request.url.raw_path,
            status=status,
            code=parsed.code,
            solution=solution,
            trace_id=parsed.trace_id,
            attempts=response.attempts,
            retryable=status in REPEATABLE_STATUSES,
        )


class IBMCloudAuth(OwnProvider):
    """Sends `Authorization: Bearer <IAM access token>`; IAM gives the token for an API key.

    The exchange happens once for any number of concurrent callers, in any number of clients, event
    loops and threads that share this object. At 80 % of a token's life it is renewed in the
    background while callers go on with the old one. A 401 costs one new exchange, however many
    calls it hits. If the exchange fails, the error says so with IAM's own code; the API key itself
    is never sent to the service.

    Args:
        api_key: An IBM Cloud API key.
        iam_url: IAM's base URL; by default the environment variable IAM_URL, else
            https://iam.cloud.ibm.com.
        clock: Time and chance, for tests; by default each client's own.

    Raises:
        ConfigurationError: The key can't be sent in a header, is in quotation marks or a
            placeholder, or the URL is not a base URL.
    """

    header = "Authorization"

    @strips_frames
    def __init__(
        self, api_key: str, iam_url: str | None = None, *, clock: Clock | None = None
    ) -> None:
        if problem := credential_problem(self.header, api_key):
            raise ConfigurationError(f"the API key for IBMCloudAuth {problem}.")
        self._tokens: TokenExchange | _UserTokens = TokenExchange(api_key, iam_url, clock)

    @classmethod
    @strips_frames
    def from_token(cls, token: TokenSource) -> Self:
        """Return a provider of your own token, or of those that a callable yields.

        Args:
            token: The token without "Bearer ", or a callable, plain or async, that returns one. It
                is called at every attempt, on the event loop: cache what is costly to get, and make
                it async if it takes time.

        Raises:
            ConfigurationError: It is neither a callable nor a token that can be sent in a header.
        """
        if not callable(token) and (problem := credential_problem(cls.header, token)):
            raise ConfigurationError(f"the token for IBMCloudAuth {problem}.")
        provider = cls.__new__(cls)
        provider._tokens = _UserTokens(token)  # noqa: SLF001 - a second constructor of this class
        return provider

    async def headers(self, transport: Transport) -> Mapping[str, str]:
        """Return the header, after an exchange if there is no usable token.

        Raises:
            TokenExchangeFailed: IAM refused or failed, or its answer can't be read.
            ConnectionFailed: IAM can't be reached.
            CallTimeout: IAM didn't answer in time.
        """
        return SecretHeaders({self.header: _SCHEME + await self._tokens.token(transport)})

    def may_be_of(self, api_key: str) -> bool:
        """Return False where the tokens are known to be another key's."""
        return self._tokens.may_be_of(api_key)

    def invalidate(self, refused: Mapping[str, str]) -> bool:
        """Drop the refused token if it is the current one; return whether a fresh one may help."""
        return self._tokens.refuse(refused.get(self.header, "").removeprefix(_SCHEME))


class _UserTokens:
    """Tokens from the user."""

    def __init__(self, source: TokenSource) -> None:
        self._is_fixed = isinstance(source, str)
        # A token within a function is in no repr and can't be pickled.
        self._source = source if callable(source) else lambda: source

    async def token(self, transport: Transport) -> str:
        token = self._source()
        if not isinstance(token, str) and inspect.isawaitable(token):
            token = await token
        if isinstance(token, str):
            return token
        kind = type(token).__name__
        del token
        raise ConfigurationError(
            f"the callable given to IBMCloudAuth.from_token yielded {kind}, not text."
        )

    def may_be_of(self, api_key: str) -> bool:
        return True

    def refuse(self, token: str) -> bool:
        return not self._is_fixed
