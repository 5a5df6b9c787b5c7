"""An event loop in a thread of its own: its start, its end, and the calls that the end overtakes."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress

import pytest

from qsessions import ClientClosed
from qsessions.sync import loop_thread
from qsessions.sync.calls import leave, run
from qsessions.sync.loop_thread import Call, LoopThread, Stage


async def nothing() -> None:
    """End nothing."""


@pytest.fixture
def thread() -> Iterator[LoopThread]:
    """Return a running loop."""
    thread = LoopThread(nothing)
    thread.start()
    yield thread
    thread.shut_down()


async def done() -> str:
    """Be done at once."""
    return "what"


def test_shutdown_finishes_what_is_being_undone() -> None:
    """An undoing that began, or was only asked for, is brought to its end before the loop ends."""
    undone = threading.Event()

    async def slowly() -> None:
        for _ in range(10):
            await asyncio.sleep(0)
        undone.set()

    thread = LoopThread(nothing)
    thread.start()
    thread.calls[Call(thread, slowly)] = Stage.UNDOING
    thread.shut_down()
    assert undone.is_set()


def test_a_call_on_a_loop_that_has_ended_is_refused(thread: LoopThread) -> None:
    """When the loop ends of itself, who waits and who comes later are told."""

    async def end() -> None:
        asyncio.get_running_loop().stop()
        await asyncio.get_running_loop().create_future()

    with pytest.raises(ClientClosed, match="shut down"):
        run(thread, end)
    with pytest.raises(ClientClosed, match="shut down"):
        run(thread, done)


def test_a_call_has_one_answer(thread: LoopThread) -> None:
    """A coroutine that is collected after the loop's end changes nothing about its call."""
    call = Call(thread, done)
    assert call.answer() == "what"
    call.finish(GeneratorExit())
    assert call.error is None


def test_a_call_that_was_never_begun_can_be_cancelled(thread: LoopThread) -> None:
    """A call whose caller was interrupted before it was posted has no task, and is forgotten."""
    call = Call(thread, done)
    thread.calls[call] = Stage.AWAITED
    call.cancel()
    assert thread.calls == {}


def test_a_loop_is_not_ended_while_the_interpreter_ends(
    thread: LoopThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When threads are gone already, there is nothing to end and nothing to warn of."""
    with monkeypatch.context() as patched:
        patched.setattr(sys, "is_finalizing", lambda: True)
        thread.finalize()
    assert run(thread, done) == "what"


def test_the_end_waits_a_moment_only_for_what_somebody_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Once a second interruption left a call, the end of the loop doesn't wait until that is done,
    nor for the closing.
    """
    monkeypatch.setattr(loop_thread, "_GRACE_S", 0.01)
    never = asyncio.Event()
    thread = LoopThread(lambda: _suppressing(never))
    thread.start()
    leave(Call(thread, lambda: _suppressing(never)), lambda: "the call", KeyboardInterrupt())
    assert thread.is_abandoned
    thread.shut_down()
    assert thread.loop.is_closed()
    # Else the collector would write of those that still wait.
    for task in asyncio.all_tasks(thread.loop):
        task._log_destroy_pending = False  # type: ignore[attr-defined]


async def _suppressing(never: asyncio.Event) -> None:
    """Wait for ever, however often somebody cancels that, but for the last time."""
    for _ in range(2):
        with suppress(asyncio.CancelledError):
            await never.wait()
    await never.wait()


def test_a_signals_handler_waits_for_an_end_that_has_begun() -> None:
    """Where the end was meant to begin, the wait for it begins it, and lasts until the loop has
    ended; else there is no wait.
    """
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
        run(thread, done)
