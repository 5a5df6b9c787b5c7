"""Calls that would block the event loop, in threads of our own."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

from qsessions.errors import ConnectionFailed

T = TypeVar("T")


def run_in_thread(call: Callable[[], T], name: str) -> asyncio.Future[T]:
    """Start a call in a daemon thread of this name; return a future of its result.

    The event loop's own threads won't do: other calls may hold all of them, and the ends of
    `asyncio.run` and of the interpreter wait for them.

    Raises:
        ConnectionFailed: There can be no new thread: the interpreter is shutting down, or the
            system has no room for one.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def run() -> None:
        try:
            result = call()
        except BaseException as error:  # noqa: BLE001 - it belongs to the caller that waits
            post(future.set_exception, error)
        else:
            post(future.set_result, result)

    def post(settle: Callable[[Any], object], outcome: object) -> None:
        # Where the loop is closed, nobody waits.
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(finish, settle, outcome)

    def finish(settle: Callable[[Any], object], outcome: object) -> None:
        if not future.done():
            settle(outcome)
            # Whoever waited may have left, and then its error is nobody's.
            future.exception()

    # The main thread ends before the interpreter counts as finalizing.
    is_late = sys.is_finalizing() or not threading.main_thread().is_alive()
    try:
        if sys.is_finalizing():
            # Python 3.11 would wait for ever.
            raise RuntimeError("the interpreter is shutting down")
        threading.Thread(target=run, name=name, daemon=True).start()
    except RuntimeError as error:
        raise ConnectionFailed(
            f"a thread that the call needs can't be started: {error}.",
            sent=False,
            retryable=not is_late,
            solution="Make the call earlier, or with fewer threads in this process.",
        ) from None
    return future
