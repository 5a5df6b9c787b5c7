"""Requests that can't be repeated, carried to their end: what becomes of one whose caller is cancelled while it is in flight."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any, Protocol, TypeVar

from qsessions.api.messages import Request, Response, Transport
from qsessions.errors import ClientClosed, ConnectionFailed, ProtocolError, QSessionsError, replica
from qsessions.events import CreateCancelled, Observers
from qsessions.http.retry import facts_of, may_be_carried_out

T = TypeVar("T")
F = TypeVar("F", bound="asyncio.Future[Any]")

# How many seconds a create that was cancelled in flight, and the close of the session that came of it, may each take.
ENDING_TIMEOUT = 30.0

_SHUT_DOWN = "the client or the event loop was shut down meanwhile."


class Undo(Protocol):
    """What becomes of what a request did whose caller was cancelled while it was in flight. None of it raises."""

    def begin(self) -> None:
        """Take note that the caller was cancelled in flight: one of the others follows."""
        ...

    def sent(self) -> None:
        """Take note that the request is about to go out, each time that it is."""
        ...

    def nothing(self) -> None:
        """Take note that the request did nothing."""
        ...

    async def keep(self, answer: Response) -> None:
        """Record what the request did, by the answer of its success, before its caller hears of it. It takes a few seconds at the most."""
        ...

    async def undo(self, answer: Response) -> str | None:
        """Undo what the request did, by the answer of its success; give what is left to tell the caller, or None."""
        ...

    def lost(self) -> None:
        """Take note that nobody can tell what it did."""
        ...


class InFlight:
    """Sends requests so that cancelling their callers doesn't tear them in two.

    Attributes:
        refusal: Why none is begun, since nobody would be there to end what comes of it; None while they are.
    """

    def __init__(self, transport: Transport, observers: Observers) -> None:
        self._transport = transport
        self._observers = observers
        self.refusal: ClientClosed | None = None
        # What is in flight, and the callers who have yet to hear of it: each is done when there is nothing more to wait for.
        self._pending: set[asyncio.Future[Any]] = set()

    async def settle(self, timeout: float) -> None:
        """Wait, `timeout` seconds at the most, until nothing is in flight and every caller has got its answer."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                while self._pending:
                    await asyncio.wait(self._pending)

    async def admit(self) -> None:
        """Raise the refusal, if there is one."""
        if (refusal := self.refusal) is not None:
            # Whoever tries again at once must not keep the loop from what it waits for.
            await asyncio.sleep(0)
            raise replica(refusal)

    async def send(self, request: Request, undo: Undo) -> Response:
        """Carry a request as `Transport.send` does.

        A success is returned only when what the request did is recorded. When the caller is cancelled before anything was sent, nothing is.
        When it is cancelled later, until it has the answer, the request is brought to its end and what it did is undone; then the
        cancellation goes on, with a note where something is left to tell. A second cancellation ends the wait for that, not the ending
        itself.
        """
        await self.admit()
        undo.sent()
        heard = self._until_done(asyncio.get_running_loop().create_future())
        try:
            return await self._send(request, undo)
        finally:
            heard.set_result(None)

    async def _send(self, request: Request, undo: Undo) -> Response:
        sending = self._keep(self._carry(request, undo))
        try:
            await asyncio.wait({sending})
        except asyncio.CancelledError as cancelled:
            if await _never_began(request, sending):
                raise
            if left := await self._left_of(request, sending, undo):
                cancelled.add_note(left)
            raise
        return _result_of(sending)

    async def _carry(self, request: Request, undo: Undo) -> Response:
        answer = await self._transport.send(request)
        if answer.is_success:
            # This task is cancelled when the event loop shuts down, and the answer must not be lost by that.
            with suppress(asyncio.CancelledError):
                await undo.keep(answer)
        return answer

    async def _left_of(
        self, request: Request, sending: asyncio.Task[Response], undo: Undo
    ) -> str | None:
        undo.begin()
        try:
            ending = self._keep(self._end(request, sending, undo))
        except ClientClosed as error:
            return self._lost(request, error.message, undo)
        # Not in the task itself: one that is cancelled before its first step runs no line of its own.
        ending.add_done_callback(
            lambda _: self._lost(request, _SHUT_DOWN, undo) if ending.cancelled() else None
        )
        await asyncio.wait({ending})
        return _unknown(request, _SHUT_DOWN) if ending.cancelled() else ending.result()

    async def _end(
        self, request: Request, sending: asyncio.Task[Response], undo: Undo
    ) -> str | None:
        """Bring a request to its end and undo what it did; give what is left to tell."""
        await asyncio.wait({sending}, timeout=ENDING_TIMEOUT)
        sending.cancel()
        await asyncio.wait({sending})
        try:
            answer: Response | QSessionsError = _result_of(sending)
        except QSessionsError as error:
            answer = error
        except Exception as error:  # noqa: BLE001 - it must not take the place of the cancellation
            answer = ProtocolError(type(error).__name__)
        if isinstance(answer, Response) and answer.is_success:
            return await undo.undo(answer)
        if not may_be_carried_out(facts_of(request, answer)):
            undo.nothing()
            return None
        told = f"status {answer.status}" if isinstance(answer, Response) else answer.message
        return self._lost(request, told, undo)

    def _lost(self, request: Request, why: str, undo: Undo) -> str:
        left = _unknown(request, why)
        undo.lost()
        self._observers.notify(CreateCancelled(session_id=None, closed=False, detail=left))
        return left

    def _keep(self, coroutine: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        return self._until_done(self._transport.spawn(coroutine))

    def _until_done(self, future: F) -> F:
        self._pending.add(future)
        future.add_done_callback(self._pending.discard)
        return future


async def _never_began(request: Request, sending: asyncio.Task[Response]) -> bool:
    """Give up a request of which nothing was sent yet, for example one that waits for a connection; say whether that is so."""
    if request.progress.begun is not False:
        return False
    request.progress.stopped = True
    sending.cancel()
    await asyncio.wait({sending})
    return True


def _unknown(request: Request, why: str) -> str:
    return request.mask(
        f"{request.operation} was cancelled in flight, and its outcome is unknown: {why}"
    )


def _result_of(sending: asyncio.Task[Response]) -> Response:
    if sending.cancelled():
        raise ConnectionFailed("the request was given up while it was in flight.")
    return sending.result()
