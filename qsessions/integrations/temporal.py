"""A session that an activity of Temporal owns, whichever worker its attempts run on.

It needs the extra `temporal`.
"""

# What it imports comes with an extra.
# pyright: reportMissingImports=false

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager, suppress
from datetime import timedelta
from enum import Enum
from types import TracebackType
from typing import Any, NoReturn, cast

from temporalio import activity
from temporalio.client import AsyncActivityCancelledError, Client
from temporalio.exceptions import CancelledError
from temporalio.service import RPCError, RPCStatusCode

from qsessions.client import AsyncSessionClient
from qsessions.errors import (
    ClientClosed,
    ConfigurationError,
    Conflict,
    InvalidArgument,
    NotFound,
    QSessionsError,
)
from qsessions.events import logger
from qsessions.models import CreateSession
from qsessions.session.calls import How
from qsessions.session.create import wait_uncancelled
from qsessions.session.live import AsyncLiveSession
from qsessions.session.open import SessionContext

# How many seconds a question to Temporal may take.
_ANSWER_S = 10.0
# What sees to sessions that were left, so that no task is collected while it runs.
_keepers: set[asyncio.Task[None]] = set()


def owned_session(
    client: AsyncSessionClient,
    request: CreateSession,
    *,
    labels: Mapping[str, str] | None = None,
    on_exit: How = "drain",
    on_error: How = "close",
    ending_timeout: float | timedelta | str = 30.0,
    max_usage: float | timedelta | str | None = None,
) -> AbstractAsyncContextManager[AsyncLiveSession]:
    """Create a session for an activity, or take over that of the attempt before.

    Use it as `async with owned_session(client, CreateSession(...)) as live:` in an `async def`
    activity that a workflow started with a `heartbeat_timeout`. All workers' clients need one
    ledger that they share, such as `PostgresLedger`, with `on_lost="continue"`.

    The session's id is with Temporal before the block begins, and in each heartbeat, which this
    sends: one that you send needs `live.id` as its first detail. If a worker is killed or paused,
    the retry finds the id and takes the session over (`AsyncSessionClient.adopt`) if it still takes
    jobs, else it creates another one.

    - After a clean block the session is drained; after an error, or a cancelled workflow, it is
      closed, and a retry creates another one.
    - When the worker shuts down, the session is left open for the retry if there is a shared
      ledger. Else it is closed.
    - Before it ends the session, each attempt asks Temporal whether it is still the current one. If
      it isn't, or Temporal doesn't say, the session is left alone until the activity is over; then
      what is still open is closed. If this process ends meanwhile, the ledger has it.

    What can't be promised: the service can't tell one attempt's request from another's. A request
    to end the session that an attempt sent while it was the current one may arrive when it no
    longer is. And until an attempt that was paused learns that there is another one, which is with
    its next heartbeat, both run. A worker that is killed between the service's answer to the create
    and the first heartbeat leaves its session to the ledger's `reap`.

    Args:
        client: A client of the worker, on its event loop.
        request: What to create.
        labels: The session's labels in the ledger; see `AsyncSessionClient.create`.
        on_exit: What ends it after a clean block: "drain" or "close".
        on_error: What ends it after an error or a cancellation: "close" or "drain".
        ending_timeout: The ending's timeout: seconds, a `timedelta` or text such as "1m".
        max_usage: Close the session when it has used that much in all; see `open`.

    Raises:
        ConfigurationError: This isn't an activity of a workflow with a `heartbeat_timeout` (on
            entering, as what follows).
        CancelledError: Temporal's: another attempt has begun, or the activity is over.
        QSessionsError: As `AsyncSessionClient.create`.
        SessionLeftOpen: The block was clean and the session could not be ended (on leaving).
    """
    options = {
        "labels": labels,
        "on_exit": on_exit,
        "on_error": on_error,
        "ending_timeout": ending_timeout,
        "max_usage": max_usage,
    }
    return _OwnedSession(client, request, options)


class _Standing(Enum):
    """What Temporal says of an attempt."""

    CURRENT = "current"
    STALE = "stale"
    """There is another one, or the activity is over."""
    UNKNOWN = "unknown"
    """It can't be asked."""


class _Attempt:
    """This attempt of the activity, as Temporal's server sees it.

    Raises:
        ConfigurationError: This isn't an activity of a workflow with a `heartbeat_timeout`.
    """

    def __init__(self) -> None:
        info = activity.info() if activity.in_activity() else None
        if info is None or info.is_local or not info.workflow_id or not info.heartbeat_timeout:
            raise ConfigurationError(
                "a session can be owned only by an activity of a workflow, with a heartbeat "
                "timeout: without one, the retry of a lost attempt would come too late.",
                solution="Give execute_activity a heartbeat_timeout, such as 30 seconds.",
            )
        self._info = info
        self._workflow_id: str = info.workflow_id
        self.interval: float = info.heartbeat_timeout.total_seconds() / 3
        # In a test's ActivityEnvironment there may be none, and no other attempt.
        self._client: Client | None = None
        with suppress(RuntimeError):
            self._client = activity.client()

    @property
    def known_id(self) -> str | None:
        """The id of the session of the attempt before, or None."""
        details = self._info.heartbeat_details
        return details[0] if details and isinstance(details[0], str) else None

    async def standing(self, session_id: str) -> _Standing:
        """Send a heartbeat, and return what the server says to it."""
        if self._client is None:
            return _Standing.CURRENT
        handle = self._client.get_async_activity_handle(task_token=self._info.task_token)
        try:
            async with asyncio.timeout(_ANSWER_S):
                await handle.heartbeat(session_id)
        except AsyncActivityCancelledError:
            # It is asked to stop, and nobody else has begun.
            return _Standing.CURRENT
        except RPCError as error:
            return _Standing.STALE if _is_not_found(error) else _Standing.UNKNOWN
        except TimeoutError:
            return _Standing.UNKNOWN
        return _Standing.CURRENT

    async def is_over(self) -> bool:
        """Return whether the activity has ended, or its workflow.

        Raises:
            RPCError: The server can't say.
            TimeoutError: It doesn't answer.
        """
        if self._client is None:
            return True
        info = self._info
        workflow = self._client.get_workflow_handle(self._workflow_id, run_id=info.workflow_run_id)
        try:
            async with asyncio.timeout(_ANSWER_S):
                described = await workflow.describe()
        except RPCError as error:
            if _is_not_found(error):
                return True
            raise
        pending = described.raw_description.pending_activities
        return described.close_time is not None or info.activity_id not in {
            each.activity_id for each in pending
        }


def _is_not_found(error: RPCError) -> bool:
    return bool(error.status == RPCStatusCode.NOT_FOUND)


class _OwnedSession(AbstractAsyncContextManager[AsyncLiveSession]):
    """The session of one attempt; see `owned_session`."""

    def __init__(
        self, client: AsyncSessionClient, request: CreateSession, options: dict[str, Any]
    ) -> None:
        self._client = client
        self._options = options
        # Its arguments are checked at once.
        self._context = cast("SessionContext", client.open(request, **options))
        self._id: str | None = None
        self._attempt: _Attempt
        self._beating: asyncio.Task[None]

    async def __aenter__(self) -> AsyncLiveSession:
        """Take the session over, or create it, and tell Temporal its id."""
        self._attempt = _Attempt()
        self._id = self._attempt.known_id
        self._beating = asyncio.create_task(self._beat())
        try:
            taken_over = await self._take_over()
            is_new = taken_over is None
            live = taken_over or await self._context.__aenter__()
        except BaseException:
            self._beating.cancel()
            raise
        self._id = live.id
        # Temporal's library may still send what it was given last.
        activity.heartbeat(live.id)
        try:
            standing = await self._attempt.standing(live.id)
        except BaseException as error:
            await self.__aexit__(type(error), error, error.__traceback__)
            raise
        if standing is _Standing.STALE:
            await self._refuse(is_new=is_new)
        return live

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End the session, if this attempt is still the current one."""
        standing, cancelled = await self._standing()
        try:
            if standing is _Standing.CURRENT and not self._is_for_retry(error):
                await self._context.__aexit__(kind, error, traceback)
            else:
                self._leave(standing, self._options["on_error" if error else "on_exit"])
        finally:
            self._beating.cancel()
        if cancelled is not None:
            raise cancelled

    async def _refuse(self, *, is_new: bool) -> NoReturn:
        """End a session that nobody knows of, or leave that of another attempt."""
        self._beating.cancel()
        stale = CancelledError("the activity is over, or another attempt of it has begun")
        if is_new:
            await self._context.__aexit__(type(stale), stale, None)
        else:
            self._leave(_Standing.STALE, self._options["on_error"])
        raise stale

    async def _take_over(self) -> AsyncLiveSession | None:
        """Return the session of the attempt before, or None where it takes no more jobs."""
        if self._id is None:
            return None
        try:
            context = cast("SessionContext", self._client.adopt(self._id, **self._options))
            live = await context.__aenter__()
        except (Conflict, InvalidArgument, NotFound) as error:
            logger.info("session %r is not taken over: %s", self._id, error.message)
            return None
        self._context = context
        logger.info("session %r is taken over from the attempt before", live.id)
        return live

    async def _beat(self) -> None:
        """Send heartbeats, also while the session is being created and ended."""
        while True:
            # Later than what tells the id at once, which it must not overtake.
            await asyncio.sleep(self._attempt.interval)
            activity.heartbeat(*([] if self._id is None else [self._id]))

    async def _standing(self) -> tuple[_Standing, asyncio.CancelledError | None]:
        """Ask Temporal, through every cancellation; return the last one, too."""
        assert self._id is not None  # noqa: S101 - there is a session
        cancelled = None
        # An event loop that shuts down cancels every task once.
        for _ in range(2):
            asking = asyncio.ensure_future(self._attempt.standing(self._id))
            cancelled = await wait_uncancelled(asking) or cancelled
            if not asking.cancelled():
                return asking.result(), cancelled
        return _Standing.UNKNOWN, cancelled

    def _is_for_retry(self, error: BaseException | None) -> bool:
        """Return whether the worker shuts down, and a retry or a reaper sees to the session."""
        details = activity.cancellation_details()
        return (
            isinstance(error, asyncio.CancelledError)
            and details is not None
            and details.worker_shutdown
            and self._context.calls.recorder.ownership is not None
        )

    def _leave(self, standing: _Standing, how: How) -> None:
        """Leave the session to the attempt that is the current one, or to the activity's end."""
        why = {
            _Standing.CURRENT: "the worker shuts down",
            _Standing.STALE: "the activity is over, or another attempt of it has begun",
            _Standing.UNKNOWN: "Temporal doesn't say whether this attempt is the current one",
        }[standing]
        logger.warning("session %r is left until the activity is over: %s", self._id, why)
        self._context.release()
        keeper = asyncio.create_task(self._keep(how))
        _keepers.add(keeper)
        keeper.add_done_callback(_keepers.discard)

    async def _keep(self, how: How) -> None:
        """End the session when the activity is over, if it is still open then."""
        while True:
            if await self._is_ended(how):
                return
            await asyncio.sleep(self._attempt.interval)

    async def _is_ended(self, how: How) -> bool:
        """End the session if it is time; return whether there is no more to do."""
        client, session_id = self._client, self._id
        assert session_id is not None  # noqa: S101 - there is a session
        try:
            # In this order: whoever ends the activity ends the session before.
            is_over = await self._attempt.is_over()
            session = await client.get(session_id)
            if session.is_draining:
                # That is recorded then.
                await client.drain(session_id)
            elif not is_over:
                return session.is_final
            elif not session.is_final:
                await (client.drain if how == "drain" else client.close)(session_id)
        except (ClientClosed, NotFound):
            return True
        except (RPCError, TimeoutError, QSessionsError):
            return False
        return True
