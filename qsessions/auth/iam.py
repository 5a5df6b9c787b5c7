"""The token exchange at IAM: once for all who wait, ahead of time, across clients, event loops and threads."""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import re
import threading
from contextlib import suppress
from functools import partial
from typing import Self, TypeAlias
from urllib.parse import urlencode

from attrs import field, frozen
from yarl import URL

from qsessions.api.codec import Grant, decode_fault, decode_grant
from qsessions.api.messages import Request, Response, Transport, service_url, strip_frames
from qsessions.clock import Clock
from qsessions.errors import (
    ConnectionFailed,
    ProtocolError,
    QSessionsError,
    TokenExchangeFailed,
    copy_error,
)
from qsessions.events import TokenRenewed
from qsessions.http.attempts import Attempts
from qsessions.http.retry import REPEATABLE_STATUSES

DEFAULT_IAM_URL = "https://iam.cloud.ibm.com"

# IBM's own SDK core renews at this share of a token's life.
_RENEW_AT = 0.8
# The statuses that are about the key.
_REFUSALS = frozenset({400, 401, 403})
_LATER = "Make the call again later."
_CHECK_URL = "Check that IAM_URL is IAM's address, and that no proxy answers in its place."
# What the errors of a service advise, and what to do instead where it is IAM.
_ADVICE: dict[str | None, str] = {
    ConnectionFailed.hint: "Check the network, the proxy and IAM_URL.",
    ProtocolError.hint: _CHECK_URL,
}
# A token is used for no longer than this before its end, or than this share of its life: it must still be good when it arrives.
_LEAST_LEFT_S = 10.0
_LEAST_LEFT = 0.1
# The exchange has a deadline of its own: it serves everybody, not the caller that happened to start it.
_EXCHANGE_TIMEOUT_S = 60.0
# After a failed early renewal, at the most this long until the next try; less when the token has less than twice that left.
_RENEWAL_PAUSE_S = 60.0
# How often a caller looks whether the event loop that runs the exchange for it, in another thread, is still alive.
_LIVENESS_S = 1.0


@frozen
class _Token:
    value: str = field(repr=False)
    renew_at: float
    good_until: float

    @classmethod
    def granted(cls, grant: Grant, at: float) -> Self:
        """Return the token of a grant that was asked for at a time on the monotonic clock."""
        life = grant.expires_in
        return cls(
            grant.access_token,
            at + _RENEW_AT * life,
            at + life - min(_LEAST_LEFT_S, _LEAST_LEFT * life),
        )


# A token, the error that everybody who waits gets, or None where the exchange was abandoned: its client or event loop died.
_Outcome: TypeAlias = _Token | Exception | None


class _Flight:
    """An exchange under way, on one event loop, awaited from any."""

    def __init__(self, transport: Transport, clock: Clock) -> None:
        self.transport = transport
        self._clock = clock
        self._overdue_at = clock.monotonic() + _EXCHANGE_TIMEOUT_S + _LIVENESS_S
        self._loop = asyncio.get_running_loop()
        self._done: concurrent.futures.Future[_Outcome] = concurrent.futures.Future()

    def land(self, outcome: _Outcome) -> None:
        self._done.set_result(outcome)

    def is_alive(self) -> bool:
        # One that is overdue sits on a loop that something blocks.
        return self._loop.is_running() and self._clock.monotonic() < self._overdue_at

    async def outcome(self) -> _Outcome:
        loop = asyncio.get_running_loop()
        landed = asyncio.Event()

        def wake(_: object) -> None:
            # The waiter's loop may be gone by then.
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(landed.set)

        self._done.add_done_callback(wake)
        # On the exchange's own loop its task always lands; another loop may die without a word.
        patience = None if loop is self._loop else _LIVENESS_S
        while not self._done.done():
            with suppress(TimeoutError):
                async with asyncio.timeout(patience):
                    await landed.wait()
            if not self.is_alive():
                break
        return self._done.result() if self._done.done() else None


class TokenExchange:
    """Exchanges an API key for access tokens and keeps the current one.

    A token's life is counted from the start of its exchange on the monotonic clock, so a wrong wall clock does no harm.

    Args:
        api_key: The API key.
        iam_url: IAM's base URL; by default the environment variable IAM_URL, else IBM Cloud's.
        clock: Time and chance.

    Raises:
        ConfigurationError: The URL can't be one.
    """

    def __init__(self, api_key: str, iam_url: str | None, clock: Clock) -> None:
        name = "IAM_URL" if iam_url is None else "iam_url"
        base_url = iam_url if iam_url is not None else os.environ.get("IAM_URL") or DEFAULT_IAM_URL
        self._clock = clock
        # Guards the three fields below; held for a few instructions. Re-entrant, since an eager task factory runs a task inside spawn.
        self._lock = threading.RLock()
        self._token: _Token | None = None
        self._flight: _Flight | None = None
        self._no_renewal_before = 0.0
        form = {"grant_type": "urn:ibm:params:oauth:grant-type:apikey", "apikey": api_key}
        self._request = Request(
            "token_exchange",
            "POST",
            URL(service_url(base_url, name, DEFAULT_IAM_URL) + "/identity/token", encoded=True),
            {"Content-Type": "application/x-www-form-urlencoded"},
            urlencode(form).encode(),
            secrets=(api_key,),
            timeout=_EXCHANGE_TIMEOUT_S,
        )

    async def token(self, transport: Transport) -> str:
        """Return a token that has enough of its life left, after an exchange where none is at hand."""
        came_late = False
        while True:
            with self._lock:
                now = self._clock.monotonic()
                token = self._token
                if token is not None and now >= token.good_until:
                    token = self._token = None
                if token is not None:
                    if now >= max(token.renew_at, self._no_renewal_before):
                        self._join(transport)
                    return token.value
                flight = self._join(transport)
            outcome = await flight.outcome()
            if isinstance(outcome, _Token):
                if self._clock.monotonic() < outcome.good_until:
                    return outcome.value
                # The clock was set, or IAM was very slow: not twice in a row.
                if came_late:
                    raise self._came_late()
                came_late = True
            # Whether IAM can be reached is a matter of the client that asked: another one tries for itself.
            elif isinstance(outcome, TokenExchangeFailed) or (
                outcome is not None and flight.transport is transport
            ):
                raise copy_error(outcome)

    def refuse(self, token: str) -> bool:
        """Drop the token if it is the current one. A fresh one may always do better, and may be here already."""
        with self._lock:
            if self._token is not None and self._token.value == token:
                self._token = None
        return True

    def _join(self, transport: Transport) -> _Flight:
        """Give the exchange under way, or start one."""
        if self._flight is not None and self._flight.is_alive():
            return self._flight
        flight = self._flight = _Flight(transport, self._clock)
        try:
            task = transport.spawn(self._exchange(transport))
        except BaseException:
            self._flight = None
            raise
        # Not a part of the task: one that is cancelled before its first step runs no line of its own.
        task.add_done_callback(partial(self._land, flight))
        return flight

    def _land(self, flight: _Flight, task: asyncio.Task[_Token]) -> None:
        outcome = _outcome_of(task)
        with self._lock:
            if self._flight is flight:
                self._flight = None
            if isinstance(outcome, _Token):
                self._token = outcome
            elif self._token is not None:
                now = self._clock.monotonic()
                self._no_renewal_before = now + min(
                    _RENEWAL_PAUSE_S, (self._token.good_until - now) / 2
                )
        flight.land(outcome)

    async def _exchange(self, transport: Transport) -> _Token:
        try:
            return await self._exchanged(transport)
        except BaseException as error:
            # The frames of the reading hold the token.
            strip_frames(error)
            raise

    async def _exchanged(self, transport: Transport) -> _Token:
        started = self._clock.monotonic()
        try:
            response = await transport.send(self._request)
        except QSessionsError as error:
            # Who carries the request calls everybody "the service".
            told = f"the token exchange with {self._iam}: {re.sub('^the service(?= )', 'it', error.message)}"
            error.message, error.args = told, (told,)
            error.solution = _ADVICE.get(error.solution) or error.solution
            raise
        if not response.is_success:
            raise self._refused(response)
        grant = decode_grant(response.body)
        if grant is None:
            told = f"the answer of {self._iam} holds no access token with a lifetime."
            raise self._failed(response, told, _CHECK_URL)
        if grant.expires_in <= 0:
            raise self._failed(
                response, f"{self._iam} gave a token that has expired already.", _LATER
            )
        if isinstance(transport, Attempts):
            transport.notify(
                TokenRenewed(host=self._request.url.host or "", expires_in=grant.expires_in)
            )
        return _Token.granted(grant, started)

    @property
    def _iam(self) -> str:
        return f"IAM at {self._request.url.host}"

    def _came_late(self) -> TokenExchangeFailed:
        return TokenExchangeFailed(
            f"the token exchange with {self._iam}: the tokens that it gave were over before they came.",
            operation=self._request.operation,
            method=self._request.method,
            path=self._request.url.raw_path,
            solution=_LATER,
            retryable=True,
        )

    def _refused(self, response: Response) -> TokenExchangeFailed:
        """Tell a status that is no success: whether it is the key's fault, IAM's or the address's."""
        fault = decode_fault(response.body)
        what = "has no token to give"
        solution: str | None = _CHECK_URL
        if response.status in _REFUSALS and not fault.html:
            what, solution = "refused to exchange the API key", None
        elif response.status == 429:
            what, solution = "is overloaded", _LATER
        elif response.status >= 500:
            what, solution = "failed", _LATER
        reason = self._request.mask(fault.message or "it gave no reason", response.secrets)
        return self._failed(response, f"{self._iam} {what}: {reason}", solution)

    def _failed(
        self, response: Response, message: str, solution: str | None
    ) -> TokenExchangeFailed:
        fault = decode_fault(response.body)
        mask = partial(self._request.mask, more=response.secrets)
        return TokenExchangeFailed(
            message,
            operation=self._request.operation,
            method=self._request.method,
            path=self._request.url.raw_path,
            status=response.status,
            code=fault.code and mask(fault.code),
            solution=solution,
            trace_id=fault.trace_id and mask(fault.trace_id),
            attempts=response.attempts,
            retryable=response.status in REPEATABLE_STATUSES,
        )


def _outcome_of(task: asyncio.Task[_Token]) -> _Outcome:
    if task.cancelled():
        return None
    error = task.exception()
    if error is None:
        return task.result()
    # What isn't an Exception ends the event loop of the exchange, not the callers in other threads.
    return error.with_traceback(None) if isinstance(error, Exception) else None
