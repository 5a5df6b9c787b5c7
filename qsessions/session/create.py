"""One create from its intent to its session, whatever happens to its caller meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, TypeVar
from uuid import uuid4

import attrs

from qsessions.api import operations
from qsessions.api.codec import decode_session_id
from qsessions.api.messages import Progress
from qsessions.caller import Caller
from qsessions.clock import Deadline, TimeoutScope
from qsessions.errors import ClientClosed, CreateOutcomeUnknown, QSessionsError, copy_error
from qsessions.events import CreateCancelled, CreateFailed, SessionCreated
from qsessions.models import CreateSession, Session
from qsessions.session.calls import SessionCalls
from qsessions.session.candidates import add_candidates
from qsessions.session.pending_creates import PendingCreates

ErrorT = TypeVar("ErrorT", bound=QSessionsError)

# How many seconds a create that was cancelled in flight, and closing its session, may each take.
ENDING_TIMEOUT = 30.0

_GIVEN_UP = "the request was given up while it was in flight."
_SHUT_DOWN = "the client or the event loop was shut down meanwhile."


def client_closed() -> ClientClosed:
    """Return the error of a client that creates nothing any more."""
    return ClientClosed("the client was closed.", solution="Make another one.")


def why_closed(caller: Caller) -> ClientClosed | None:
    """Return why nothing is created where the client, or one that it was made from, was closed."""
    is_closed = any(one.is_closed for one in (caller, *caller.ancestors))
    return client_closed() if is_closed else None


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
        calls: Makes the calls.
        request: What to create.
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
        self.calls = calls
        self._creates = creates
        self.request = request
        self._operation = operations.create(request)
        self._labels = labels
        self.api_version = api_version
        self._seconds = seconds
        # The id of its record in the ledger, if there is one, made before there is a session.
        self._key = uuid4().hex if calls.recorder.enabled else ""
        self._progress = Progress()
        self._progress.begun = False
        # The time that it still gets in flight; it runs from when its caller leaves.
        self._grace: TimeoutScope | None = None
        self._refusal: ClientClosed | None = None
        self._is_abandoned = False
        self._task: asyncio.Task[Session | BaseException] | None = None
        # Resolved when the task is done or about to be.
        self._answered: asyncio.Future[None] | None = None

    async def result(self) -> Session:
        """Create the session; once only.

        When this is cancelled before anything was sent, nothing is. When it is cancelled later, the
        request is brought to its end and its session is closed; then the cancellation goes on, with
        a note where something could not be done. A second cancellation ends only that wait.

        Raises:
            CreateOutcomeUnknown: A session may have been created.
            QSessionsError: Nothing was created.
        """
        if known := self.calls.usages.get(self.calls.owner.instance):
            known.warn_if_spent()
        outcome = await self._wait()
        if not isinstance(outcome, BaseException):
            return outcome
        try:
            raise outcome
        finally:
            # Its traceback holds this frame.
            del outcome

    async def _wait(self) -> Session | BaseException:
        """Carry it out in a task, and return what came of it."""
        if (refusal := self._creates.refusal or why_closed(self.calls.caller)) is not None:
            # A caller that tries again at once must not keep the loop from what it waits for.
            await asyncio.sleep(0)
            return self._located(refusal)
        # Made before the task, which an eager task factory runs at once.
        answered = self._answered = asyncio.get_running_loop().create_future()
        task = self._task = self.calls.spawn(self._outcome())
        # One that is cancelled before its first step runs no line.
        task.add_done_callback(self._wake)
        self._creates.add(self, self.stop)
        try:
            # Not the task itself, which a cancellation of this would cancel.
            await answered
        except asyncio.CancelledError as cancelled:
            if note := await self._abandon(task):
                cancelled.add_note(note)
            raise
        else:
            return self._located(ClientClosed(_SHUT_DOWN)) if task.cancelled() else task.result()
        finally:
            self._creates.remove(self)
            # It holds its error, whose traceback holds this object.
            self._task = None

    def _wake(self, _: object = None) -> None:
        """Let the caller go on, unless it does."""
        answered, self._answered = self._answered, None
        if answered is not None and not answered.done():
            answered.set_result(None)

    async def close(self) -> str | None:
        """Close the session, whose caller has left; return what to say of a failure."""
        session_id = self.session_id
        assert session_id is not None  # noqa: S101 - only what was created is closed
        failure = await self.calls.end("close", session_id, self.api_version, ENDING_TIMEOUT)
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
        fields = attrs.asdict(self.request)
        arguments = ", ".join(
            f"{name}={value}" for name, value in fields.items() if value not in (None, {})
        )
        return (
            f"create({arguments}) was interrupted, and its outcome is unknown: "
            "look through workloads()"
        )

    def stop(self, reason: ClientClosed) -> None:
        """Send nothing more of it, for a reason; what was sent already is brought to its end."""
        if self._task is not None:
            self._refusal = reason
            self._progress.stopped = True
            if self._progress.begun is False:
                self._task.cancel()

    async def _outcome(self) -> Session | BaseException:
        """Return what came of it, an error too: its caller may have left."""
        try:
            return await self._run_observed()
        except (Exception, asyncio.CancelledError, KeyboardInterrupt, SystemExit) as error:
            task = asyncio.current_task()
            if isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling():
                raise
            if self._is_abandoned and not isinstance(error, Exception):
                # What ends the interpreter has nobody else to go to.
                raise
            return error
        finally:
            task = None
            self._wake()

    async def _run_observed(self) -> Session:
        """Carry it out, and notify the observers of what came of it."""
        request, observers = self.request, self.calls.observers
        try:
            session = await self._run()
        except BaseException as error:
            if self._progress.attempts:
                reason, may_exist = type(error).__name__, self._progress.begun is not False
                if isinstance(error, QSessionsError):
                    reason = error.message
                    may_exist = isinstance(error, CreateOutcomeUnknown)
                observers.notify(
                    CreateFailed(
                        session_id=self.session_id, outcome_unknown=may_exist, reason=reason
                    )
                )
            raise
        observers.notify(
            SessionCreated(
                session_id=session.id,
                mode=request.mode,
                backend=request.backend,
                max_ttl=request.max_ttl,
                labels=self._labels,
            )
        )
        return session

    async def _run(self) -> Session:
        """Carry it out: record the intent, send the request, record the session."""
        calls, recorder = self.calls, self.calls.recorder
        began, deadline = calls.clock.monotonic(), calls.clock.deadline(self._seconds)
        try:
            session = await self._send(deadline)
        except CreateOutcomeUnknown as error:
            recorder.unknown(self._key, error.session_id)
            if error.session_id is not None:
                self._created(error.session_id)
                await self._written()
            if not self._is_abandoned:
                await add_candidates(
                    error,
                    self.request,
                    began=began,
                    calls=calls,
                    api_version=self.api_version,
                    deadline=deadline,
                )
            raise
        except BaseException as error:
            if isinstance(error, QSessionsError) or self._progress.begun is False:
                recorder.not_created(self._key)
            else:
                answer = self._progress.answer
                self.session_id = None if answer is None else decode_session_id(answer.body)
                recorder.unknown(self._key, self.session_id)
            is_retryable = isinstance(error, QSessionsError) and error.retryable
            if self._refusal is not None and (
                is_retryable or isinstance(error, asyncio.CancelledError)
            ):
                raise self._located(self._refusal) from None
            raise
        self._created(session.id)
        if recorder.enabled:
            recorder.created(self._key, session.id)
            await self._written()
        return session

    async def _send(self, deadline: Deadline) -> Session:
        caller = self.calls.caller
        if self.calls.recorder.enabled:
            # Which instance it is may be known only by then.
            await caller.ensure_configured(self._operation.name, deadline)
            await self.calls.recorder.record_intent(
                self.request,
                self._key,
                base_url=caller.base_url,
                instance=caller.instance,
                labels=self._labels,
                seconds=deadline.remaining(),
            )
        try:
            with self.calls.clock.timeout(None) as self._grace:
                return await caller.call(
                    self._operation, self.api_version, deadline, self._progress
                )
        except (asyncio.CancelledError, TimeoutError) as error:
            if isinstance(error, QSessionsError) or self._progress.begun is False:
                raise
            why = _GIVEN_UP if isinstance(error, TimeoutError) else _SHUT_DOWN
            raise self._located(
                CreateOutcomeUnknown(f"the session may have been created: {why}")
            ) from None
        finally:
            self._grace = None

    async def _abandon(self, task: asyncio.Task[Session | BaseException]) -> str | None:
        """Bring it to its end, since its caller was cancelled; return what to say of a failure."""
        self._progress.stopped = self._is_abandoned = True
        # None unless the request is in flight.
        grace = None if self._progress.begun is False else self._grace
        if grace is not None:
            grace.reschedule(ENDING_TIMEOUT)
        elif self.session_id is None:
            # Else its id is being recorded.
            task.cancel()
        try:
            cleanup = self.calls.spawn(self._clean_up(task))
        except ClientClosed as error:
            is_unknown = grace is not None or self.session_id is not None
            return self._report_unknown(error.message) if is_unknown else None
        self._creates.add(cleanup, self.stop)
        cleanup.add_done_callback(self._creates.remove)
        # Not in the task itself: one that is cancelled before its first step runs no line.
        cleanup.add_done_callback(
            lambda done: self._report_unknown(_SHUT_DOWN) if done.cancelled() else None
        )
        await asyncio.wait({cleanup})
        return _unknown(_SHUT_DOWN) if cleanup.cancelled() else cleanup.result()

    async def _clean_up(self, task: asyncio.Task[Session | BaseException]) -> str | None:
        await wait_uncancelled(task)
        error = None if task.cancelled() else task.exception() or task.result()
        if self.session_id is not None:
            return await self.close()
        if isinstance(error, CreateOutcomeUnknown):
            status = "" if error.status is None else f"status {error.status}: "
            return self._report_unknown(status + error.message)
        if error is None or isinstance(error, QSessionsError) or self._progress.begun is False:
            return None
        return self._report_unknown(type(error).__name__)

    def _created(self, session_id: str) -> None:
        """Keep the session's id."""
        self.session_id = session_id
        self.calls.remember(session_id)

    async def _written(self) -> None:
        """Wait until the session's id is in the ledger."""
        # A caller that hears of the session may be killed at its next instruction.
        with suppress(asyncio.CancelledError):
            await self.calls.recorder.written(self._key)

    def _located(self, error: ErrorT) -> ErrorT:
        """Return an error of this create."""
        return copy_error(error).with_context(
            operation=self._operation.name,
            session_id=None,
            method=self._operation.method,
            path=self._operation.path,
            attempts=self._progress.attempts,
        )

    def _report_unknown(self, reason: str) -> str:
        note = _unknown(reason)
        self._report(note, closed=False)
        return note

    def _report(self, detail: str, *, closed: bool) -> None:
        self.calls.observers.notify(
            CreateCancelled(session_id=self.session_id, closed=closed, detail=detail)
        )


async def wait_uncancelled(task: asyncio.Future[Any]) -> asyncio.CancelledError | None:
    """Wait until a task is done, through every cancellation; return the last one, or None."""
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError as error:
            cancelled = error
    return cancelled


def _unknown(reason: str) -> str:
    return f"create was cancelled, and its outcome is unknown: {reason}"
