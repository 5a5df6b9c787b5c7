"""What an interruption of its caller does to a call on the loop of another thread."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest

from qsessions import QSessionsError
from qsessions.sync import calls
from qsessions.sync.calls import leave, run, run_to_end
from qsessions.sync.loop_thread import Call, LoopThread


async def nothing() -> None:
    """End nothing."""


@pytest.fixture
def thread() -> Iterator[LoopThread]:
    """Return a running loop."""
    thread = LoopThread(nothing)
    thread.start()
    yield thread
    thread.shut_down()


class InterruptedLock:
    """Stands for the lock of an answer: the first wait for it is interrupted, once the call has got
    so far.
    """

    def __init__(self, lock: threading.Lock, until: Callable[[], object]) -> None:
        self._lock = lock
        self._until: Callable[[], object] | None = until

    def acquire(self, blocking: bool, timeout: float) -> bool:
        """Wait, and be interrupted the first time."""
        until, self._until = self._until, None
        if until is not None:
            until()
            raise KeyboardInterrupt
        return self._lock.acquire(blocking, timeout)

    def release(self) -> None:
        """Let the caller go on."""
        self._lock.release()


@pytest.fixture
def interrupted(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """Return what makes a call whose caller is interrupted, and returns the notes on that."""
    made: list[Call[Any]] = []

    def make(*arguments: Any) -> Call[Any]:
        call = Call[Any](*arguments)
        if not made:
            call.answered = InterruptedLock(call.answered, waits[0])  # type: ignore[assignment]  # all that is used of a lock
        made.append(call)
        return call

    waits: list[Callable[[], object]] = []

    def interrupt(
        until: Callable[[], object], function: Callable[..., Any], *args: Any
    ) -> list[str]:
        waits.append(until)
        monkeypatch.setattr(calls, "Call", make)
        with pytest.raises(KeyboardInterrupt) as caught:
            function(*args)
        return list(getattr(caught.value, "__notes__", []))

    return interrupt


def strike(monkeypatch: pytest.MonkeyPatch, thread: LoopThread, number: int) -> None:
    """Interrupt the caller as it posts something for this time."""
    post, posted = thread.post, []

    def struck(callback: Callable[[], object]) -> bool:
        posted.append(callback)
        if len(posted) == number:
            raise KeyboardInterrupt
        return post(callback)

    monkeypatch.setattr(thread, "post", struck)


def describe() -> str:
    """Return what a call is about."""
    return "the call made what"


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


class Held:
    """A coroutine that goes on when its caller waits; the caller is interrupted when it is done."""

    def __init__(self, *, ending: BaseException | None = None) -> None:
        self._released = threading.Event()
        self._answered = threading.Event()
        self._ending = ending

    async def __call__(self) -> str:
        """Wait to be released, then end as told."""
        await asyncio.to_thread(self._released.wait)
        asyncio.get_running_loop().call_later(0, self._answered.set)
        if self._ending is not None:
            raise self._ending
        return "what"

    def release(self) -> None:
        """Let it go on."""
        self._released.set()

    def end(self) -> None:
        """Let it go on, and wait for its end."""
        self._released.set()
        self._answered.wait()


async def undo(value: str) -> str | None:
    """Undo what was done, and have something left to tell."""
    return f"{value} was undone in part"


def test_an_interrupted_call_is_cancelled_in_the_background(
    thread: LoopThread, interrupted: Callable[..., list[str]]
) -> None:
    """The caller leaves at once, and the coroutine ends."""
    work = Work()
    assert interrupted(work.begun.wait, run, thread, work) == []
    work.cancelled.wait()


def test_a_call_interrupted_while_leaving_is_cancelled_all_the_same(
    thread: LoopThread,
    interrupted: Callable[..., list[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A second interruption before the first could say anything to the loop changes nothing."""
    work = Work()
    strike(monkeypatch, thread, 2)
    assert interrupted(work.begun.wait, run, thread, work) == []
    work.cancelled.wait()


@pytest.mark.parametrize("way", ["run", "compensated", "to the end"])
def test_an_error_of_the_call_is_its_callers(way: str, thread: LoopThread) -> None:
    """What the coroutine raises is raised as it is, and nothing is undone or noted."""
    failure = QSessionsError("it failed.")

    async def fail() -> None:
        raise failure

    ways: dict[str, Callable[[], None]] = {
        "run": lambda: run(thread, fail),
        "compensated": lambda: run_to_end(thread, fail, describe, lambda _: undo("")),
        "to the end": lambda: run_to_end(thread, fail, describe),
    }
    with pytest.raises(QSessionsError) as caught:
        ways[way]()
    assert caught.value is failure
    assert not hasattr(failure, "__notes__")


@pytest.mark.parametrize(
    ("ending", "notes"),
    [
        (None, []),
        (asyncio.CancelledError(), []),
        (QSessionsError("it failed while ending."), ["it failed while ending."]),
    ],
)
def test_what_is_left_of_a_compensated_call(
    ending: BaseException | None,
    notes: list[str],
    thread: LoopThread,
    interrupted: Callable[..., list[str]],
) -> None:
    """A call that was cancelled leaves nothing to tell; one that failed while it was being ended
    does.
    """
    work = Work(ending=ending)
    assert interrupted(work.begun.wait, run_to_end, thread, work, describe, undo) == notes


def test_a_compensated_call_that_was_not_begun_leaves_nothing(
    thread: LoopThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Interrupted before it could be handed over, the call is not made."""
    work = Work()
    strike(monkeypatch, thread, 1)
    with pytest.raises(KeyboardInterrupt) as caught:
        run_to_end(thread, work, describe, undo)
    assert not hasattr(caught.value, "__notes__")
    assert not work.begun.is_set()


def test_a_result_that_nobody_took_is_undone(
    thread: LoopThread, interrupted: Callable[..., list[str]]
) -> None:
    """When the interruption strikes between answer and return, the result is undone, and a note
    tells what was left.
    """
    work = Held()
    assert interrupted(work.end, run_to_end, thread, work, describe, undo) == [
        "what was undone in part"
    ]


def test_a_second_interruption_after_the_end_tells_what_was_left(thread: LoopThread) -> None:
    """Interrupted again when everything is over, the caller is told what the end left, not that it
    goes on.
    """
    for undone, notes in ((nothing, []), (lambda: undo("what"), ["what was undone in part"])):
        call = Call[Any](thread, undone)
        call.wait()
        for interruption in (KeyboardInterrupt(), KeyboardInterrupt()):
            leave(call, describe, interruption)
            assert getattr(interruption, "__notes__", []) == notes
    assert thread.calls == {}


def test_a_result_is_told_that_the_loop_can_not_undo_any_more(
    thread: LoopThread, interrupted: Callable[..., list[str]]
) -> None:
    """When the loop has ended before the interruption, a note tells what may be left."""
    work = Held()

    def end() -> None:
        work.end()
        thread.shut_down()

    (note,) = interrupted(end, run_to_end, thread, work, describe, undo)
    assert note.startswith("the call made what; nothing could be done about it")


def test_a_loop_that_ends_tells_those_who_wait_for_an_undoing(
    thread: LoopThread, interrupted: Callable[..., list[str]]
) -> None:
    """When the loop ends of itself while something is being undone, the interrupted caller is told."""
    work = Held()

    async def end(value: str) -> str | None:
        asyncio.get_running_loop().stop()
        await asyncio.get_running_loop().create_future()
        return None

    (note,) = interrupted(work.end, run_to_end, thread, work, describe, end)
    assert "nothing could be done about it" in note


@pytest.mark.parametrize(
    ("error", "notes"),
    [(None, []), (QSessionsError("it failed."), ["it failed."])],
    ids=["well", "failed"],
)
def test_a_lasting_call_is_waited_for_when_interrupted(
    error: QSessionsError | None,
    notes: list[str],
    thread: LoopThread,
    interrupted: Callable[..., list[str]],
) -> None:
    """The interruption goes on once the call has come to its end, with a note where that was an
    error.
    """
    held = Held(ending=error)

    async def work() -> None:
        await held()

    assert interrupted(held.release, run_to_end, thread, work, describe) == notes
    assert thread.calls == {}


def test_a_lasting_call_that_was_not_begun_is_begun_when_interrupted(
    thread: LoopThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Interrupted before it could be handed over, the call is made all the same, once, and waited
    for.
    """
    made: list[int] = []

    async def work() -> None:
        made.append(1)

    strike(monkeypatch, thread, 1)
    with pytest.raises(KeyboardInterrupt) as caught:
        run_to_end(thread, work, describe)
    assert made == [1]
    assert not hasattr(caught.value, "__notes__")


def test_a_lasting_call_is_left_at_the_second_interruption(
    thread: LoopThread,
    interrupted: Callable[..., list[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Interrupted again before it could be handed over, the call goes on in the background."""
    released = threading.Event()

    async def work() -> None:
        await asyncio.to_thread(released.wait)

    strike(monkeypatch, thread, 2)
    assert interrupted(lambda: None, run_to_end, thread, work, describe) == [
        "the call made what; that goes on in the background while this process lives."
    ]
    assert thread.is_abandoned
    released.set()


def test_a_lasting_call_on_a_loop_that_has_ended_is_not_waited_for(
    thread: LoopThread, interrupted: Callable[..., list[str]]
) -> None:
    """Where nothing runs any more, the interruption goes on at once."""
    (note,) = interrupted(thread.shut_down, run_to_end, thread, Work(), describe)
    assert note.startswith("the call made what; nothing could be done about it")


def test_a_call_that_goes_on_too_long_is_left_with_a_note(
    thread: LoopThread,
    interrupted: Callable[..., list[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The first interruption waits a bounded time only, whatever a user's provider does with a
    cancellation.
    """
    monkeypatch.setattr(calls, "_COMPENSATION_S", 0.01)
    released = asyncio.Event()

    async def stubborn() -> str:
        begun.set()
        while not released.is_set():
            with suppress(asyncio.CancelledError):
                await released.wait()
        return "what"

    begun = threading.Event()
    (note,) = interrupted(begun.wait, run_to_end, thread, stubborn, describe, undo)
    assert note.startswith("the call made what; that goes on in the background")
    thread.post(released.set)
