"""An event loop in a thread of its own: what becomes of calls whose callers are interrupted, and of those that the loop's end overtakes."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest

from qsessions import ClientClosed, QSessionsError
from qsessions.sync import loop_thread
from qsessions.sync.loop_thread import Call, Lasting, LoopThread, Undoable


async def nothing() -> None:
    """End nothing."""


@pytest.fixture
def thread() -> Iterator[LoopThread]:
    """Give a running loop."""
    thread = LoopThread(nothing)
    thread.start()
    yield thread
    thread.shut_down()


class Interrupting:
    """Stands for the lock of an answer: the wait for it is interrupted, at once or when the call has got so far."""

    def __init__(self, after: threading.Event | None = None) -> None:
        self._after = after

    def acquire(self) -> None:
        """Wait, and be interrupted."""
        if self._after is not None:
            self._after.wait()
        raise KeyboardInterrupt

    def release(self) -> None:
        """Do nothing."""


def describe() -> str:
    """Say what a call is about."""
    return "the call made what"


def interrupted(call: Call[Any], after: threading.Event | None = None) -> list[str]:
    """Make a call whose caller is interrupted; give the notes on the interruption."""
    call.answered = Interrupting(after)  # type: ignore[assignment]  # all that is used of a lock
    with pytest.raises(KeyboardInterrupt) as caught:
        call.thread.carry(call)
    return list(getattr(caught.value, "__notes__", []))


class Work:
    """A coroutine that says how far it has come."""

    def __init__(self, *, ending: BaseException | None = None) -> None:
        self.begun = threading.Event()
        self.cancelled = threading.Event()
        self._ending = ending

    async def __call__(self) -> str:
        """Wait to be cancelled, then end as told."""
        self.begun.set()
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            self.cancelled.set()
            if self._ending is not None:
                raise self._ending from None
            raise
        return "what"


def test_an_interrupted_call_is_cancelled_in_the_background(thread: LoopThread) -> None:
    """The caller leaves at once, and the coroutine ends."""
    work = Work()
    assert interrupted(Call(thread, work), work.begun) == []
    work.cancelled.wait()


def test_a_call_interrupted_while_leaving_is_cancelled_all_the_same(thread: LoopThread) -> None:
    """A second interruption before the first could say anything to the loop changes nothing."""

    class Again(Call[str]):
        def interrupted(self, interruption: BaseException) -> None:
            raise KeyboardInterrupt

    work = Work()
    assert interrupted(Again(thread, work), work.begun) == []
    work.cancelled.wait()


async def undo(value: str) -> str | None:
    """Undo what was done, and have something left to tell."""
    return f"{value} was undone in part"


async def done() -> str:
    """Be done at once."""
    return "what"


@pytest.mark.parametrize(
    ("ending", "notes"),
    [
        (None, []),
        (asyncio.CancelledError(), []),
        (QSessionsError("it failed while ending."), ["it failed while ending."]),
    ],
)
def test_what_is_left_of_an_undoable_call(
    ending: BaseException | None, notes: list[str], thread: LoopThread
) -> None:
    """A call that was cancelled leaves nothing to tell; one that failed while it was being ended does."""
    work = Work(ending=ending)
    assert interrupted(Undoable(thread, work, undo, describe), work.begun) == notes


def test_a_result_that_nobody_took_is_undone(thread: LoopThread) -> None:
    """When the interruption strikes between answer and return, the result is undone, and a note tells what was left."""
    answered = threading.Event()

    async def work() -> str:
        asyncio.get_running_loop().call_later(0, answered.set)
        return "what"

    assert interrupted(Undoable(thread, work, undo, describe), answered) == [
        "what was undone in part"
    ]


def test_a_second_interruption_after_the_end_tells_what_was_left(thread: LoopThread) -> None:
    """Interrupted again when everything is over, the caller is told what the end left, not that it goes on."""
    call = Undoable(thread, done, undo, describe)
    call.interrupted(first := KeyboardInterrupt())
    call.interrupted_again(again := KeyboardInterrupt())
    assert getattr(first, "__notes__", None) is None
    assert getattr(again, "__notes__", None) is None
    told = Undoable(thread, done, undo, describe)
    assert thread.carry(told) == "what"
    told.interrupted(KeyboardInterrupt())
    told.interrupted_again(again)
    assert again.__notes__ == ["what was undone in part"]


def test_a_result_is_told_that_the_loop_can_not_undo_any_more(thread: LoopThread) -> None:
    """When the loop has ended before the interruption, a note tells what may be left."""
    call = Undoable(thread, done, undo, describe)
    thread.carry(call)
    thread.shut_down()
    call.interrupted(interruption := KeyboardInterrupt())
    (note,) = interruption.__notes__
    assert note.startswith("the call made what; nothing could be done about it")


def test_a_loop_that_ends_tells_those_who_wait_for_an_undoing(thread: LoopThread) -> None:
    """When the loop ends of itself while something is being undone, the interrupted caller is told."""

    async def end(value: str) -> str | None:
        asyncio.get_running_loop().stop()
        await asyncio.get_running_loop().create_future()
        return None

    call = Undoable(thread, done, end, describe)
    thread.carry(call)
    call.interrupted(interruption := KeyboardInterrupt())
    assert "nothing could be done about it" in interruption.__notes__[0]


def test_shutdown_finishes_what_is_being_undone() -> None:
    """An undoing that began, or was only asked for, is brought to its end before the loop ends."""
    undone = threading.Event()

    async def slowly(value: str) -> str | None:
        for _ in range(10):
            await asyncio.sleep(0)
        undone.set()
        return None

    thread = LoopThread(nothing)
    thread.start()
    call = Undoable(thread, done, slowly, describe)
    thread.carry(call)
    thread.endings.add(call)
    thread.shut_down()
    assert undone.is_set()


def test_a_call_on_a_loop_that_has_ended_is_refused(thread: LoopThread) -> None:
    """When the loop ends of itself, who waits and who comes later are told."""

    async def end() -> None:
        asyncio.get_running_loop().stop()
        await asyncio.get_running_loop().create_future()

    with pytest.raises(ClientClosed, match="shut down"):
        thread.run(end)
    with pytest.raises(ClientClosed, match="shut down"):
        thread.run(done)


def test_a_loop_is_not_ended_while_the_interpreter_ends(
    thread: LoopThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When threads are gone already, there is nothing to end and nothing to warn of."""
    with monkeypatch.context() as patched:
        patched.setattr(sys, "is_finalizing", lambda: True)
        thread.abandon()
    assert thread.run(done) == "what"


@pytest.mark.parametrize(
    ("error", "notes"),
    [(None, []), (QSessionsError("it failed."), ["it failed."])],
    ids=["well", "failed"],
)
def test_a_lasting_call_is_waited_for_when_interrupted(
    error: QSessionsError | None, notes: list[str], thread: LoopThread
) -> None:
    """The interruption goes on once the call has come to its end, with a note where that was an error."""
    begun, ended = threading.Event(), threading.Event()

    async def work() -> None:
        begun.set()
        for _ in range(10):
            await asyncio.sleep(0)
        ended.set()
        if error is not None:
            raise error

    assert interrupted(Lasting(thread, work, describe), begun) == notes
    assert ended.is_set()


def test_a_lasting_call_that_was_not_begun_is_begun_when_interrupted(thread: LoopThread) -> None:
    """Interrupted before it could be handed over, the call is made all the same, once."""
    made: list[int] = []

    async def work() -> None:
        made.append(1)

    call = Lasting(thread, work, describe)
    call.interrupted(KeyboardInterrupt())
    call.interrupted_again(again := KeyboardInterrupt())
    assert made == [1]
    assert again.__notes__ == [
        "the call made what; that goes on in the background while this process lives."
    ]


def test_the_end_waits_a_moment_only_for_what_somebody_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Once a second interruption left a call, the end of the loop doesn't wait until that is done, nor for the closing."""
    monkeypatch.setattr(loop_thread, "_GRACE_S", 0.01)
    never = asyncio.Event()
    thread = LoopThread(lambda: _suppressing(never))
    thread.start()
    call = Lasting(thread, lambda: _suppressing(never), describe)
    call.interrupted_again(KeyboardInterrupt())
    assert thread.is_left
    thread.shut_down()
    assert thread.loop.is_closed()


async def _suppressing(never: asyncio.Event) -> None:
    """Wait for ever, however often somebody cancels that, but for the last time."""
    for _ in range(2):
        with suppress(asyncio.CancelledError):
            await never.wait()
    await never.wait()


def test_a_signals_handler_waits_for_an_end_that_has_begun() -> None:
    """Where the end was meant to begin, the wait for it begins it, and lasts until the loop has ended; else there is no wait."""
    released, begun = threading.Event(), threading.Event()

    async def closing() -> None:
        begun.set()
        await asyncio.to_thread(released.wait)

    thread = LoopThread(closing)
    thread.start()
    thread.await_end()
    assert not begun.is_set()
    thread.closing = True
    waiting = threading.Thread(target=thread.await_end)
    waiting.start()
    begun.wait()
    assert waiting.is_alive()
    released.set()
    waiting.join()
    assert thread.loop.is_closed()
    thread.shut_down()


def test_a_lasting_call_on_a_loop_that_has_ended_is_not_waited_for(thread: LoopThread) -> None:
    """Where nothing runs any more, the interruption goes on at once."""
    thread.shut_down()
    Lasting(thread, done, describe).interrupted(KeyboardInterrupt())


def test_a_call_that_goes_on_too_long_is_left_with_a_note(
    thread: LoopThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first interruption waits a bounded time only, whatever a user's provider does with a cancellation."""
    monkeypatch.setattr(loop_thread, "_ENDING_S", 0.01)
    released = asyncio.Event()

    async def stubborn() -> str:
        begun.set()
        while not released.is_set():
            with suppress(asyncio.CancelledError):
                await released.wait()
        return "what"

    begun = threading.Event()
    (note,) = interrupted(Undoable(thread, stubborn, undo, describe), begun)
    assert note.startswith("the call made what; its ending goes on in the background")
    thread.post(released.set)


@pytest.mark.parametrize("begun", [True, False])
def test_a_thread_whose_start_is_interrupted_ends(
    begun: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An interruption while the thread starts ends it where it has begun, and its loop in any case."""
    thread = LoopThread(nothing)
    start = thread._thread.start

    def interrupted_start() -> None:
        if begun:
            start()
        raise KeyboardInterrupt

    monkeypatch.setattr(loop_thread, "_GRACE_S", 5.0 if begun else 0.01)
    monkeypatch.setattr(thread._thread, "start", interrupted_start)
    with pytest.raises(KeyboardInterrupt):
        thread.start()
    assert thread.loop.is_closed()
    with pytest.raises(ClientClosed):
        thread.run(done)
