"""A session that ends with its block, where the event loop or the client gives way under it."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, cast

import pytest

from qsessions import (
    AsyncSessionClient,
    ClientClosed,
    CreateSession,
    Session,
    SessionClient,
    SessionLeftOpen,
)
from qsessions.events import Observers
from qsessions.session.calls import SessionCalls
from qsessions.session.create import Create
from qsessions.session.open import OpenSessions, SessionContext
from qsessions.session.pending_creates import PendingCreates


class Calls(SessionCalls):
    """Calls that send nothing.

    Attributes:
        ended: What was to be ended.
        cancels: How many of the tasks that it makes are cancelled before their first step.
        is_closed: Whether it makes no tasks any more.
        is_cut_off: Whether each request that ends a session is cancelled.
    """

    def __init__(self, *, cancels: int = 0) -> None:
        client = AsyncSessionClient([], base_url="http://127.0.0.1")
        super().__init__(client._caller, client._recorder, Observers(), client.clock)
        self.spawn = cast("Any", self._spawn)
        self.ended: list[str] = []
        self.cancels = cancels
        self.is_closed = False
        self.is_cut_off = False

    async def drain(self, session_id: str, *_: Any) -> None:
        """Drain it."""
        self._end("drain", session_id)

    async def close(self, session_id: str, *_: Any) -> None:
        """Close it."""
        self._end("close", session_id)

    def _end(self, how: str, session_id: str) -> None:
        self.ended.append(f"{how} {session_id}")
        if self.is_cut_off:
            raise asyncio.CancelledError

    def _spawn(self, coroutine: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Make a task."""
        if self.is_closed:
            coroutine.close()
            raise ClientClosed("the client is closed.")
        task = asyncio.ensure_future(coroutine)
        self.cancels -= 1
        if self.cancels >= 0:
            task.cancel()
        return task


class Created(Create):
    """A create whose session is there at once."""

    async def result(self) -> Session:
        """Return it."""
        self.session_id = "s1"
        return Session(id="s1")


def context(calls: Calls) -> SessionContext:
    """Return a block's session."""
    creates = PendingCreates()
    request = CreateSession("batch", max_ttl=600)
    create = Created(calls, creates, request, labels={}, api_version=None, seconds=None)
    return SessionContext(
        create,
        OpenSessions(calls, creates),
        on_exit="drain",
        on_error="close",
        ending_timeout=30.0,
        handle_signals=False,
        max_usage=None,
    )


async def test_an_ending_that_is_cancelled_before_its_first_step_is_begun_again() -> None:
    """An event loop that shuts down cancels every task once, also one that has run no line yet."""
    calls = Calls(cancels=1)
    async with context(calls):
        pass
    assert calls.ended == ["drain s1"]


async def test_a_client_that_makes_no_tasks_any_more_leaves_the_session_open() -> None:
    """Where nothing can be sent any more, the block says that its session is left open."""
    calls = Calls()
    with pytest.raises(SessionLeftOpen, match="shut down"):
        async with context(calls):
            calls.is_closed = True
    assert calls.ended == []


async def test_a_block_that_was_not_entered_is_no_session() -> None:
    """What `open` returns says how to get the session, in its repr and where it is taken for one."""
    opened: Any = context(Calls())
    assert repr(opened) == "<SessionContext: enter it for its session, `async with … as live:`>"
    with pytest.raises(
        AttributeError, match=r"for its session, `async with … as live:`> has no 'id'"
    ):
        _ = opened.id


def test_a_blocking_one_that_was_not_entered_is_no_session() -> None:
    """The same without await."""
    with SessionClient([], base_url="http://127.0.0.1:9") as client:
        blocking: Any = client.open(mode="batch", max_ttl="1h")
        assert repr(blocking) == "<SyncSessionContext: enter it for its session, `with … as live:`>"
        with pytest.raises(
            AttributeError, match=r"for its session, `with … as live:`> has no 'id'"
        ):
            _ = blocking.id


async def test_what_a_caller_that_leaves_must_know() -> None:
    """Before there is a session the request is named, afterwards the session."""
    opened = context(Calls())
    assert opened.describe().startswith("create(mode=batch, max_ttl=600) was interrupted")
    opened._source.session_id = "s1"
    assert opened.describe() == "create was interrupted; session 's1' was created and may be open"
    async with opened:
        assert opened.describe() == "session 's1' is being ended and may be open"


async def test_a_session_that_its_caller_cannot_use_is_closed() -> None:
    """`close` says nothing where it succeeds, and that the session is left open where it can't."""
    calls = Calls()
    opened = context(calls)
    await opened.__aenter__()
    assert await opened.close() is None
    assert calls.ended == ["close s1"]
    opened = context(calls)
    await opened.__aenter__()
    calls.is_closed = True
    note = await opened.close()
    assert note is not None
    assert note.startswith("session 's1' is left open")


async def test_an_ending_that_is_cancelled_again_and_again_leaves_the_session_open() -> None:
    """A request that is cut off twice is not sent a third time, and the block says that its session
    is left open.
    """
    calls = Calls()
    calls.is_cut_off = True
    with pytest.raises(SessionLeftOpen, match="shut down"):
        async with context(calls):
            pass
    assert calls.ended == ["drain s1", "drain s1"]
