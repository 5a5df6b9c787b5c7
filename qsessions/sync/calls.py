"""What an interruption of the caller, by Ctrl-C mostly, does to a call on the client's loop.

The same `try` blocks are in each function, and no helper has them: an interruption at the beginning
of a helper would be outside of its `try`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, ParamSpec, TypeVar

from qsessions.errors import ClientClosed
from qsessions.sync.loop_thread import Call, LoopThread, Stage

P = ParamSpec("P")
T = TypeVar("T")

# Seconds that the first interruption of a call waits for its compensation: what a user's auth
# provider does may take any time.
_COMPENSATION_S = 70.0


def run(
    thread: LoopThread,
    function: Callable[P, Coroutine[Any, Any, T]],
    *args: P.args,
    **kwargs: P.kwargs,
) -> T:
    """Run a coroutine and return its result; an interrupted caller leaves at once.

    The coroutine is then cancelled in the background.

    Raises:
        ClientClosed: The loop has ended or ends during the call, or the interpreter does.
        ConfigurationError: This is the loop's own thread, or a child of the loop's process.
    """
    thread.check()
    call = Call(thread, partial(function, *args, **kwargs))
    try:
        return call.answer()
    except BaseException as interruption:
        if interruption is call.error:
            # Its traceback holds this frame.
            call.error = None
            raise
        try:
            thread.post(call.cancel)
        except BaseException:
            thread.post(call.cancel)
            raise
        raise


def run_compensated(
    thread: LoopThread,
    start: Callable[[], Coroutine[Any, Any, T]],
    compensate: Callable[[T], Coroutine[Any, Any, str | None]],
    describe: Callable[[], str],
) -> T:
    """Run a coroutine that must leave nothing behind when its caller is interrupted.

    The first interruption waits until the coroutine has been cancelled and its result, if there is
    one, compensated; a note on the interruption says what remains. A second one leaves at once with
    a note, and the compensation continues in the background.

    Args:
        thread: Where it runs.
        start: Makes the coroutine.
        compensate: Undoes the result; returns what remains to be said, or None. It raises nothing.
        describe: Says what the call is about, as far as is known, for the notes.

    Raises:
        ClientClosed, ConfigurationError: As `run`.
    """
    thread.check()
    call = Call(thread, start)
    undoing = Call(thread, partial(_undo, call, compensate))
    try:
        return call.answer()
    except BaseException as interruption:
        if interruption is call.error:
            call.error = None
            raise
        try:
            undoing.wait(_COMPENSATION_S, Stage.UNDOING)
            leave(undoing, describe, interruption)
        except BaseException as another:
            leave(undoing, describe, another)
            raise
        raise


def run_to_end(
    thread: LoopThread,
    start: Callable[[], Coroutine[Any, Any, None]],
    describe: Callable[[], str],
    *,
    is_interrupted: bool = False,
) -> None:
    """Run a coroutine that an interruption of its caller doesn't cancel.

    The first interruption waits for its end, which must take a bounded time. A second one leaves
    with a note, and the coroutine continues in the background.

    Args:
        thread: Where it runs.
        start: Makes the coroutine.
        describe: Says what is under way, for the note.
        is_interrupted: Whether the first interruption has been, so that the next one leaves.

    Raises:
        ClientClosed, ConfigurationError: As `run`.
    """
    thread.check()
    call = Call(thread, start)
    try:
        call.answer()
    except BaseException as interruption:
        if interruption is call.error:
            call.error = None
            raise
        try:
            if not is_interrupted:
                call.wait()
            leave(call, describe, interruption)
        except BaseException as another:
            leave(call, describe, another)
            raise
        raise


def leave(
    call: Call[str | None] | Call[None], describe: Callable[[], str], interruption: BaseException
) -> None:
    """Leave a call that continues in the background, begun here where it wasn't before.

    A note on the interruption says so. Where the call is done, the note is its error or its result.
    """
    # First, so that its end finds it whenever that comes.
    call.thread.calls[call] = Stage.ABANDONED
    is_alive = call.thread.post(call.begin)
    if call.done or not is_alive:
        call.thread.calls.pop(call, None)
    if isinstance(call.error, ClientClosed) or not (call.done or is_alive):
        lost = "nothing could be done about it, since the client was shut down"
        note: str | None = f"{describe()}; {lost}."
    elif call.done:
        note = call.value if call.error is None else str(call.error)
    else:
        note = f"{describe()}; that goes on in the background while this process lives."
    if note is not None:
        interruption.add_note(note)


async def _undo(
    call: Call[T], compensate: Callable[[T], Coroutine[Any, Any, str | None]]
) -> str | None:
    """Cancel a call and compensate its result; return what remains to be said, or None."""
    call.cancel()
    if call.task is not None:
        await asyncio.wait({call.task})
    if call.value is not None:
        return await compensate(call.value)
    if isinstance(call.error, asyncio.CancelledError):
        return " ".join(getattr(call.error, "__notes__", ())) or None
    return None if call.error is None else str(call.error)
