"""An event loop in a thread of its own, and the calls that other threads make on it."""

from __future__ import annotations

import asyncio
import math
import os
import selectors
import sys
import threading
import time
import warnings
import weakref
from collections.abc import Callable, Coroutine
from enum import Enum, auto
from typing import Any, Generic, TypeVar

from qsessions.clock import SYSTEM_CLOCK, RealTimeLoop
from qsessions.errors import ClientClosed, ConfigurationError
from qsessions.events import logger

T = TypeVar("T")

# Seconds that calls under way get once a caller insisted on leaving, and cancelled ones to end: the
# machine's, like those of all threads, since a process must end whatever a client's clock does.
_GRACE_S = 1.0
# How often the remaining tasks are cancelled at the end: the close of an unwanted session takes the
# first cancellation as the cause to try again.
_CANCELLATIONS = 3
# Seconds that the interpreter's end waits for a loop that was not shut down: a create and its
# close, 30 s each, and some to spare.
_EXIT_S = 70.0
# Seconds between two looks at whether the loop has ended, where no lock may be taken.
_POLL_S = 0.01
# The longest single wait for another thread. A signal that comes just before a wait, or that the
# system gives to another thread, doesn't end the wait: Python acts on it only afterwards.
_WAIT_S = 0.5


class Stage(Enum):
    """How far a call is, seen from the thread that made it."""

    # The caller waits for the answer.
    AWAITED = auto()
    # The caller was interrupted, and waits until nothing is left behind.
    UNDOING = auto()
    # The caller has left, and the call goes on.
    ABANDONED = auto()


class Call(Generic[T]):
    """A coroutine that runs on the loop for a caller in another thread.

    `wait` and `answer` are for the caller's thread, the other methods for the loop's.

    Args:
        thread: The loop's thread.
        start: Makes the coroutine.

    Attributes:
        value: The coroutine's result, once it has returned.
        error: What it raised, or why it could not run.
        done: Whether there is a value or an error.
        answered: Locked until then: the cheapest way to wait for another thread.
        task: The coroutine's task, once it has begun.
    """

    def __init__(self, thread: LoopThread, start: Callable[[], Coroutine[Any, Any, T]]) -> None:
        self.thread = thread
        self.value: T = None  # type: ignore[assignment]  # until there is one
        self.error: BaseException | None = None
        self.done = False
        self.answered = threading.Lock()
        self.answered.acquire()
        self.task: asyncio.Task[None] | None = None
        self._start = start

    def answer(self) -> T:
        """Run the coroutine and return its result.

        Raises:
            ClientClosed: The loop has ended, or ends meanwhile.
        """
        self.wait()
        # From the answer to the caller's own next step no function is called, so that no signal
        # comes between the two.
        if self.error is None:
            return self.value
        raise self.error

    def wait(self, seconds: float = math.inf, stage: Stage = Stage.AWAITED) -> None:
        """Begin the call, unless it has begun, and wait until it is done.

        Args:
            seconds: How long to wait at the most.
            stage: What the caller waits for.
        """
        # First, so that the end of the call or of the loop finds it whenever that comes.
        self.thread.calls[self] = stage
        if not self.thread.post(self.begin):
            self.error = ClientClosed("the client was shut down.")
        elif not self.done:
            while seconds > 0 and not self.answered.acquire(True, _WAIT_S):
                seconds -= _WAIT_S
            return
        self.thread.calls.pop(self, None)

    def begin(self) -> asyncio.Task[None]:
        """Start the coroutine, unless it was, in the context of the caller that posted this."""
        if self.task is None:
            self.task = self.thread.loop.create_task(self._run())
        return self.task

    async def _run(self) -> None:
        try:
            self.value = await self._start()
        except BaseException as error:  # noqa: BLE001 - it is the caller's, whatever it is
            self.finish(error)
        else:
            self.finish(None)

    def finish(self, error: BaseException | None) -> None:
        """Let the caller go on."""
        thread = self.thread
        if self.done:
            # The loop ended first, and then the coroutine was collected.
            return
        if isinstance(error, asyncio.CancelledError) and thread.closing and self in thread.calls:
            error = ClientClosed(
                " ".join(
                    ["the client was shut down during the call.", *getattr(error, "__notes__", ())]
                )
            )
        self.error = error
        self.done = True
        thread.calls.pop(self, None)
        self.answered.release()

    def cancel(self) -> None:
        """Cancel the call, whose caller has left."""
        self.thread.calls.pop(self, None)
        # A call that was interrupted before it was posted has no task.
        if self.task is not None:
            self.task.cancel()


class LoopThread:
    """Runs an event loop in a daemon thread.

    Args:
        aclose: Ends what lives on the loop; awaited there when the loop ends.

    Attributes:
        calls: The calls that go on, and how far each is.
        closing: Whether the end has begun.
        before_call: Called before each call, in the caller's thread, if it is set.
        is_forked: Whether this is a child of the process that the thread is in.
    """

    def __init__(self, aclose: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self.calls: dict[Call[Any], Stage] = {}
        self.closing = False
        self.before_call: Callable[[], None] | None = None
        self._aclose = aclose
        self._selector = selectors.DefaultSelector()
        self.loop = RealTimeLoop(self._selector)
        self._shutdown = Call(self, self._end)
        self._is_impatient = False
        self.is_forked = False
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._main, name="qsessions", daemon=True)

    def start(self) -> None:
        """Start the thread.

        Raises:
            ConfigurationError: There can be no new thread: the interpreter is shutting down, or the
                system has no room for one.
        """
        try:
            if sys.is_finalizing():
                # Python 3.11 would wait for ever.
                raise RuntimeError("the interpreter is shutting down")
            _THREADS.add(self)
            self._thread.start()
        except BaseException as error:
            # After an interruption it can't be known whether the thread has begun.
            if not self._end_within(0 if isinstance(error, RuntimeError) else _GRACE_S):
                self.loop.close()
                self._ended.set()
            if isinstance(error, RuntimeError):
                raise ConfigurationError(
                    f"the client's thread can't be started: {error}."
                ) from None
            raise

    def post(self, callback: Callable[[], object]) -> bool:
        """Have the loop's thread run a callback, in this thread's context.

        Returns:
            False where the loop has ended.
        """
        try:
            self.loop.call_soon_threadsafe(callback)
        except RuntimeError:
            return False
        return True

    def shut_down(self) -> None:
        """End what lives on the loop, the loop and its thread, and wait for that.

        The first interruption waits too, a second one leaves.
        """
        if self.is_forked or sys.is_finalizing():
            # There is no thread any more.
            return
        self._check_thread()
        try:
            self._end_within()
        except BaseException:
            try:
                self._end_within()
            finally:
                self._is_impatient = not self._ended.is_set()
            raise
        self._thread.join()

    def finalize(self) -> None:
        """End the loop because its owner was collected, or because the interpreter shuts down.

        The interpreter waits for it.
        """
        if self.is_forked or sys.is_finalizing():
            return
        asked, self.closing = self.closing, True
        self.post(self._shutdown.begin)
        try:
            if not asked:
                warnings.warn(
                    "a SessionClient was not shut down: use `with SessionClient() as client:`, or "
                    "call `client.shutdown()` at the end.",
                    ResourceWarning,
                    stacklevel=3,
                )
        finally:
            # Else it is the collector's call, which may come in the middle of anything and must not
            # wait.
            if not (
                threading.main_thread().is_alive()
                or threading.get_ident() == self._thread.ident
                or self.is_abandoned
            ):
                self._ended.wait(_EXIT_S)

    def await_end(self) -> None:
        """Wait for the end, where that has begun.

        It takes no lock: it is for a signal's handler, whose thread may hold any.
        """
        if not self.closing or self.is_forked:
            return
        # The signal may have come before that was asked for.
        self.post(self._shutdown.begin)
        while not self.loop.is_closed():
            time.sleep(_POLL_S)

    def _end_within(self, seconds: float = math.inf) -> bool:
        """Begin the end; return whether it has come within so many seconds."""
        self.closing = True
        self.post(self._shutdown.begin)
        while not self._ended.wait(min(seconds, _WAIT_S)):
            seconds -= _WAIT_S
            if seconds <= 0:
                return False
        return True

    @property
    def is_abandoned(self) -> bool:
        """Whether a caller insisted on leaving what is still under way."""
        return self._is_impatient or Stage.ABANDONED in tuple(self.calls.values())

    def _main(self) -> None:
        try:
            while True:
                try:
                    self.loop.run_forever()
                    break
                except BaseException as error:  # noqa: BLE001 - others' calls go on
                    # It was raised in a task that is not awaited.
                    logger.error(
                        "%s on the client's own event loop is ignored", type(error).__name__
                    )
        finally:
            self.loop.close()
            # Those whose callback came too late.
            for call in tuple(self.calls):
                call.finish(ClientClosed("the client was shut down."))
            self._ended.set()

    async def _end(self) -> None:
        try:
            patience = _GRACE_S if self.is_abandoned else None
            await SYSTEM_CLOCK.deadline(patience).wait({self.loop.create_task(self._close())})
            for _ in range(_CANCELLATIONS):
                tasks = asyncio.all_tasks() - {asyncio.current_task()}
                for task in tasks:
                    task.cancel()
                if tasks:
                    await SYSTEM_CLOCK.deadline(_GRACE_S).wait(tasks)
            await SYSTEM_CLOCK.deadline(patience).wait({self.loop.create_task(self._aclose())})
            await self.loop.shutdown_asyncgens()
        finally:
            self.loop.stop()

    async def _close(self) -> None:
        """Wait for what callers left behind, then end the rest."""
        for call, stage in tuple(self.calls.items()):
            if stage is not Stage.AWAITED:
                await asyncio.wait({call.begin()})
        await self._aclose()

    def check(self) -> None:
        """Check that calls can be made from here.

        Raises:
            ClientClosed: The end has begun, or the interpreter's.
            ConfigurationError: This is the loop's own thread, or a child of the loop's process.
        """
        if self.is_forked:
            raise ConfigurationError(
                "this client belongs to the process that this one was forked from.",
                solution="Make a client after the fork.",
            )
        if sys.is_finalizing():
            raise ClientClosed("the interpreter is shutting down.")
        self._check_thread()
        if self.closing:
            raise ClientClosed("the client was shut down.")
        if self.before_call is not None:
            self.before_call()

    def _check_thread(self) -> None:
        if threading.get_ident() == self._thread.ident:
            raise ConfigurationError(
                "a synchronous call from the client's own thread, for example from an observer, "
                "would wait for itself.",
                solution="Hand it to another thread, or use AsyncSessionClient.",
            )

    def after_fork(self) -> None:
        """Part with the parent's sockets, in the child after a fork, which has no thread for them.

        Their descriptors are pointed at nothing: what the child's collector does to them would else
        reach the parent's connections, or its loop, whose selector the two share.
        """
        self.is_forked = True
        if not self.loop.is_closed():
            nothing = os.open(os.devnull, os.O_RDWR)
            for descriptor in [key.fd for key in self._selector.get_map().values()]:
                os.dup2(nothing, descriptor)
            os.dup2(nothing, self._selector.fileno())
            os.close(nothing)


_THREADS: weakref.WeakSet[LoopThread] = weakref.WeakSet()


def _after_fork() -> None:
    for thread in tuple(_THREADS):
        thread.after_fork()


if sys.platform != "win32":  # pragma: no branch - there is no fork there
    os.register_at_fork(after_in_child=_after_fork)
