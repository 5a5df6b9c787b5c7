"""A session that ends with its block, where the event loop or the client gives way under it."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, cast

import pytest

from qsessions import AsyncLiveSession, ClientClosed, Clock, CreateSession, SessionLeftOpen
from qsessions.events import Observers
from qsessions.ledger import Book, Guard
from qsessions.session.close_all import How
from qsessions.session.create import Creation
from qsessions.session.live import Poll
from qsessions.session.open import Opened, Owned


class Client:
    """What a block needs of its client.

    Attributes:
        ended: What it was told to end.
        cancels: How many of the tasks that it makes are cancelled before their first step.
        is_closed: Whether it makes no tasks any more.
    """

    def __init__(self, *, cancels: int = 0, is_closed: bool = False) -> None:
        self.ended: list[str] = []
        self.cancels = cancels
        self.is_closed = is_closed

    async def begin(self) -> AsyncLiveSession:
        """Create a session."""
        return AsyncLiveSession(Poll("s1", cast("Any", self), cast("Any", self.spawn), Clock()))

    async def end(self, how: How, session_id: str, /, *, timeout: float) -> None:
        """End it."""
        self.ended.append(f"{how} {session_id}")

    def spawn(self, coroutine: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Make a task."""
        if self.is_closed:
            coroutine.close()
            raise ClientClosed("the client is closed.")
        task = asyncio.ensure_future(coroutine)
        self.cancels -= 1
        if self.cancels >= 0:
            task.cancel()
        return task

    def open(self) -> Opened:
        """Give a block's session."""
        observers = Observers()
        book = Book(Guard(None, cast("Any", self.spawn), observers), lambda: 0.0)

        async def close(session_id: str) -> str | None:
            return None

        return Opened(
            self.begin,
            self.end,
            creation=Creation(book, close, observers, {}),
            request=CreateSession("batch", max_ttl=600),
            owned=Owned(),
            spawn=self.spawn,
            observers=observers,
            clock=Clock(),
            on_exit="drain",
            on_error="close",
            ending_timeout=30.0,
        )


async def test_an_ending_that_is_cancelled_before_its_first_step_is_begun_again() -> None:
    """An event loop that shuts down cancels every task once, also one that has run no line yet."""
    client = Client(cancels=1)
    async with client.open():
        pass
    assert client.ended == ["drain s1"]


async def test_a_client_that_makes_no_tasks_any_more_leaves_the_session_open() -> None:
    """Where nothing can be sent any more, the block says that its session is left open."""
    client = Client()
    with pytest.raises(SessionLeftOpen, match="shut down"):
        async with client.open():
            client.is_closed = True
    assert client.ended == []


async def test_what_somebody_who_leaves_must_know() -> None:
    """Before there is a session the request is named, afterwards the session."""
    opened = Client().open()
    assert opened.interrupted().startswith("create(mode=batch, max_ttl=600) was interrupted")
    opened.creation.session_id = "s1"
    assert (
        opened.interrupted() == "create was interrupted; session 's1' was created and may be open"
    )
    async with opened:
        assert opened.interrupted() == "session 's1' is being ended and may be open"


async def test_taking_it_back_closes_it() -> None:
    """Whoever can't use the session any more has it closed, with nothing left to tell."""
    client = Client()
    opened = client.open()
    await opened.__aenter__()
    assert await opened.take_back() is None
    assert client.ended == ["close s1"]
    opened = client.open()
    await opened.__aenter__()
    client.is_closed = True
    told = await opened.take_back()
    assert told is not None
    assert told.startswith("session 's1' is left open")


async def test_an_ending_that_is_cancelled_again_and_again_leaves_the_session_open() -> None:
    """A request that is cut off twice is not sent a third time, and the block says that its session is left open."""

    class CutOff(Client):
        async def end(self, how: How, session_id: str, /, *, timeout: float) -> None:
            await super().end(how, session_id, timeout=timeout)
            raise asyncio.CancelledError

    client = CutOff()
    with pytest.raises(SessionLeftOpen, match="shut down"):
        async with client.open():
            pass
    assert client.ended == ["drain s1", "drain s1"]
