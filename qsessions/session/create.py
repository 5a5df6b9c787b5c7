"""One create from its intent to its session, whatever happens to its caller meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any
from uuid import uuid4

import attrs

from qsessions.api import operations
from qsessions.api.codec import decode_session_id
from qsessions.api.messages import Progress
from qsessions.api.outcome import CreateOutcomeUnknown
from qsessions.clock import Deadline
from qsessions.errors import ClientClosed, QSessionsError, copy_error
from qsessions.events import CreateCancelled, SessionCreated
from qsessions.models import CreateSession, Session
from qsessions.session.calls import SessionCalls
from qsessions.session.candidates import Moment, add_candidates
from qsessions.tasks import wait_uncancelled

# How many seconds a create that was cancelled in flight, and closing its session, may each take.
ENDING_TIMEOUT = 30.0

_SHUT_DOWN = "the client or the event loop was shut down meanwhile."


class PendingCreates:
    """The creates of one client that are under way.

    Attributes:
        refusal: Why none may begin just now, or None.
    """

    def __init__(self) -> None:
        self.refusal: ClientClosed | None = None
        self._is_closed = False
        self._creates: set[Create] = set()
        # Done when nobody has to wait for them any more.
        self._pending: set[asyncio.Future[Any]] = set()

    def refuse(self, reason: ClientClosed | None) -> None:
        """Let no create begin; None lets them begin again. It may be called in any thread."""
        if not self._is_closed:
            self.refusal = reason

    def stop_unsent(self) -> None:
        """Stop the creates of which nothing was sent, if they are refused."""
        if (refusal := self.refusal) is not None:
            for create in tuple(self._creates):
                create.stop(refusal)

    def close(self) -> None:
        """Let no create begin any more."""
        self.refuse(ClientClosed("the client is being closed."))
        self._is_closed = True
        self.stop_unsent()

    async def wait_idle(self, seconds: float) -> None:
        """Wait until every create has ended and its caller has the answer, `seconds` at most."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self._pending:
                    await asyncio.wait(self._pending)

    def track(self, pending: asyncio.Future[Any]) -> None:
        """Keep `wait_idle` waiting for something."""
        self._pending.add(pending)
        pending.add_done_callback(self._pending.discard)

    @contextmanager
    def under_way(self, create: Create) -> Iterator[None]:
        """Count a create as under way until its caller has the answer."""
        answered = asyncio.get_running_loop().create_future()
        self.track(answered)
        self._creates.add(create)
        try:
            yield
        finally:
            self._creates.discard(create)
            answered.set_result(None)


class Create:
    """One create. It runs in a task of its own, so that cancelling its caller doesn't tear it.

    Args:
        calls: Makes the calls.
        creates: The creates that are under way.
        request: What to create.
        labels: What to call the session in the ledger.
        api_version: The API version, or None for the client's.
        seconds: The timeout, or None for none.

    Attributes:
        session_id: The session's id, once it is known.
        api_version: The API version of all calls about it.
    """

    def __init__(
        self,
        calls: SessionCalls,
        creates: PendingCreates,
        request: CreateSession,
        *,
        labels: Mapping[str, str],
        api_version: str | None,
        seconds: float | None,
    ) -> None:
        self.session_id: str | None = None
        self._calls = calls
        self._creates = creates
        self._request = request
        self._operation = operations.create(request)
        self._labels = labels
        self.api_version = api_version
        self._seconds = seconds
        # The id of its record in the ledger, made before there is a session.
        self._key = uuid4().hex
        self._progress = Progress(begun=False)
        # The time that it still gets in flight; its deadline is set when its caller leaves.
        self._grace: asyncio.Timeout | None = None
        self._refusal: ClientClosed | None = None
        self._task: asyncio.Task[Session] | None = None

    async def result(self) -> Session:
        """Create the session; once only.

        When this is cancelled before anything was sent, nothing is. When it is cancelled later, the
        request is brought to its end and its session is closed; then the cancellation goes on, with
        a note where something could not be done. A second cancellation ends only that wait.

        Raises:
            CreateOutcomeUnknown: A session may have been created.
            QSessionsError: Nothing was created.
        """
        if (refusal := self._creates.refusal) is not None:
            # A caller that tries again at once must not keep the loop from what it waits for.
            await asyncio.sleep(0)
            raise self._located(refusal)
        with self._creates.under_way(self):
            task = self._task = self._calls.spawn(self._run())
            # It may be that nobody asks for its error any more.
            task.add_done_callback(lambda done: done.cancelled() or done.exception())
            try:
                await asyncio.wait({task})
            except asyncio.CancelledError as cancelled:
                if note := await self._abandon(task):
                    cancelled.add_note(note)
                raise
            if task.cancelled():
                raise ClientClosed(_SHUT_DOWN, operation=self._operation.name)
            return task.result()

    async def close(self) -> str | None:
        """Close the session, whose caller has left; return what to say of a failure."""
        session_id = self.session_id
        assert session_id is not None  # noqa: S101 - there is one
        failure = await self._calls.end("close", session_id, self.api_version, ENDING_TIMEOUT)
        if failure is None:
            self._report("closed after a cancelled create", closed=True)
            return None
        note = (
            f"create was cancelled in flight; session {session_id!r} was created "
            f"and could not be closed: {failure}"
        )
        self._report(note, closed=False)
        return note

    def describe(self) -> str:
        """Return what a caller that leaves now must know."""
        if self.session_id is not None:
            return (
                f"create was interrupted; session {self.session_id!r} was created and may be open"
            )
        fields = attrs.asdict(self._request).items()
        arguments = ", ".join(f"{name}={value}" for name, value in fields if value is not None)
        return (
            f"create({arguments}) was interrupted, and its outcome is unknown: "
            "look through workloads()"
        )

    def stop(self, reason: ClientClosed) -> None:
        """Stop it for a reason, unless something of it was sent."""
        if self._task is not None and self._progress.begun is False:
            self._refusal = reason
            self._progress.stopped = True
            self._task.cancel()

    async def _run(self) -> Session:
        """Carry it out: record the intent, send the request, record the session."""
        calls, recorder = self._calls, self._calls.recorder
        asked, deadline = Moment(calls.clock), calls.clock.deadline(self._seconds)
        try:
            session = await self._send(deadline)
        except CreateOutcomeUnknown as error:
            recorder.unknown(self._key, error.session_id)
            if error.session_id is not None:
                self._created(error.session_id)
            if not self._progress.stopped:
                await add_candidates(
                    error,
                    self._request,
                    asked,
                    calls=calls,
                    api_version=self.api_version,
                    deadline=deadline,
                )
            raise
        except BaseException as error:
            if isinstance(error, QSessionsError) or self._progress.begun is False:
                recorder.not_created(self._key)
            else:
                recorder.unknown(self._key, self._answered_id())
            if isinstance(error, asyncio.CancelledError) and self._refusal is not None:
                raise self._located(self._refusal) from None
            raise
        self._created(session.id)
        recorder.created(self._key, session.id)
        # A caller that hears of the session may be killed at its next instruction.
        with suppress(asyncio.CancelledError):
            await recorder.written(self._key)
        calls.observers.notify(
            SessionCreated(
                session_id=session.id,
                mode=self._request.mode,
                backend=self._request.backend,
                max_ttl=self._request.max_ttl,
            )
        )
        return session

    async def _send(self, deadline: Deadline) -> Session:
        caller = self._calls.caller
        await caller.ensure_configured(self._operation.name, deadline)
        await self._calls.recorder.record_intent(
            self._request,
            self._key,
            base_url=caller.base_url,
            instance=caller.instance,
            labels=self._labels,
            seconds=deadline.remaining(),
        )
        try:
            async with asyncio.timeout(None) as self._grace:
                return await caller.call(
                    self._operation, self.api_version, deadline, self._progress
                )
        except (asyncio.CancelledError, TimeoutError) as error:
            if isinstance(error, QSessionsError) or self._progress.begun is False:
                raise
            is_late = isinstance(error, TimeoutError)
            raise CreateOutcomeUnknown(
                "the request was given up while it was in flight." if is_late else _SHUT_DOWN,
                operation=self._operation.name,
            ) from None
        finally:
            self._grace = None

    async def _abandon(self, task: asyncio.Task[Session]) -> str | None:
        """Bring it to its end, since its caller was cancelled; return what to say of a failure."""
        self._progress.stopped = True
        is_in_flight = self._grace is not None and self._progress.begun is not False
        if self._grace is not None and is_in_flight:
            self._grace.reschedule(asyncio.get_running_loop().time() + ENDING_TIMEOUT)
        elif self.session_id is None:
            # Else its id is being recorded.
            task.cancel()
        try:
            cleanup = self._calls.spawn(self._clean_up(task))
        except ClientClosed as error:
            return self._report_unknown(error.message) if is_in_flight else None
        self._creates.track(cleanup)
        # Not in the task itself: one that is cancelled before its first step runs no line.
        cleanup.add_done_callback(
            lambda done: self._report_unknown(_SHUT_DOWN) if done.cancelled() else None
        )
        await asyncio.wait({cleanup})
        return _unknown(_SHUT_DOWN) if cleanup.cancelled() else cleanup.result()

    async def _clean_up(self, task: asyncio.Task[Session]) -> str | None:
        await wait_uncancelled(task)
        error = None if task.cancelled() else task.exception()
        if self.session_id is not None:
            return await self.close()
        if isinstance(error, CreateOutcomeUnknown):
            status = "" if error.status is None else f"status {error.status}: "
            return self._report_unknown(status + error.message)
        if error is None or isinstance(error, QSessionsError) or self._progress.begun is False:
            return None
        return self._report_unknown(type(error).__name__)

    def _created(self, session_id: str) -> None:
        self.session_id = session_id
        self._calls.remember(session_id)

    def _answered_id(self) -> str | None:
        """Return the id in an answer that came just before an interruption, or None."""
        answer = self._progress.answer
        return None if answer is None else decode_session_id(answer.body)

    def _located(self, error: ClientClosed) -> ClientClosed:
        """Return an error of this create."""
        return copy_error(error).with_context(
            operation=self._operation.name,
            session_id=None,
            method=self._operation.method,
            path=self._operation.path,
            attempts=0,
        )

    def _report_unknown(self, reason: str) -> str:
        note = _unknown(reason)
        self._report(note, closed=False)
        return note

    def _report(self, detail: str, *, closed: bool) -> None:
        self._calls.observers.notify(
            CreateCancelled(session_id=self.session_id, closed=closed, detail=detail)
        )


def _unknown(reason: str) -> str:
    return f"create was cancelled, and its outcome is unknown: {reason}"
