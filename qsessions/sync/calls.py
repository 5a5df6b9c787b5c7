"""What an interruption of the caller, by Ctrl-C mostly, does to a call on the client's loop.

The same `try` blocks are in each function, and no helper has them: an interruption at the beginning
of a helper would be outside of its `try`.
"""

from __future__ import annotations

import asyncio
import math
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


def run_to_end(
    thread: LoopThread,
    start: Callable[[], Coroutine[Any, Any, T]],
    describe: Callable[[], str],
    compensate: Callable[[T], Coroutine[Any, Any, str | None]] | None = None,
    *,
    is_interrupted: bool = False,
) -> T:
    """Run a coroutine that must leave nothing behind when its caller is interrupted.

    The first interruption waits for the end: without `compensate` that of the coroutine, which must
    take a bounded time; else the coroutine is cancelled, and its result, if there is one,
    compensated. A note on the interruption says what remains. A second interruption leaves at once
    with a note, and the end continues in the background.

    Args:
        thread: Where it runs.
        start: Makes the coroutine.
        describe: Says what the call is about, as far as is known, for the notes.
        compensate: Undoes the result; returns what remains to be said, or None. It raises nothing.
        is_interrupted: Whether the first interruption has been, so that the next one leaves.

    Raises:
        ClientClosed, ConfigurationError: As `run`.
    """
    thread.check()
    call = Call(thread, start)
    end: Call[Any] = call if compensate is None else Call(thread, partial(_undo, call, compensate))
    try:
        return call.answer()
    except BaseException as interruption:
        if interruption is call.error:
            call.error = None
            raise
        try:
            if not is_interrupted:
                end.wait(math.inf if end is call else _COMPENSATION_S, Stage.UNDOING)
            leave(end, describe, interruption)
        except BaseException as another:
            leave(end, describe, another)
            raise
        raise


def leave(call: Call[Any], describe: Callable[[], str], interruption: BaseException) -> None:
    """Leave a call that continues in the background, begun here where it wasn't before.

    A note on the interruption says so. Where the call is done, the note is its error or its result.
    """
    # First, so that its end finds it whenever that comes.
    call.thread.calls[call] = Stage.ABANDONED
    is_alive = call.thread.post(call.begin)
    if call.done or not is_alive:
        call.thread.calls.pop(call, None)
    if isinstance(call.error, ClientClosed) or not (call.done or is_alive):
        note: str | None = (
            f"{describe()}; nothing could be done about it, since the client was shut down."
        )
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
