"""An event loop in a thread of its own, and calls that are made on it from other threads."""

from __future__ import annotations

import asyncio
import os
import selectors
import sys
import threading
import time
import warnings
import weakref
from collections.abc import Callable, Coroutine
from typing import Any, Generic, ParamSpec, TypeVar

from qsessions.errors import ClientClosed, ConfigurationError
from qsessions.events import logger

P = ParamSpec("P")
T = TypeVar("T")

# Seconds that what is under way still gets once somebody insisted on leaving, and that what is cancelled gets to end.
_GRACE_S = 1.0
# How often what is left at the end is cancelled: the close of an unwanted session takes the first time as the cause to try again.
_CANCELLATIONS = 3
# So many seconds the interpreter's end waits for a loop that nobody shut down: a create and its close, 30 s each, and some to spare.
_EXIT_S = 70.0
# So often whoever can take no lock looks whether the loop has ended.
_POLL_S = 0.01
_LOST = "nothing could be done about it, since the client was shut down"
# So many seconds the first interruption of a call that can be undone waits for that.
_ENDING_S = 70.0


class Call(Generic[T]):
    """A call that its caller leaves at once when interrupted (by Ctrl-C, mostly); it is then cancelled in the background.

    `interrupted` and `interrupted_again` run in the caller's thread, the rest in the loop's.
    """

    def __init__(self, thread: LoopThread, start: Callable[[], Coroutine[Any, Any, T]]) -> None:
        self.thread = thread
        self.value: T = None  # type: ignore[assignment]  # until there is one
        self.error: BaseException | None = None
        # Locked until there is an answer: the cheapest way to wait for another thread.
        self.answered = threading.Lock()
        self.answered.acquire()
        self._start = start
        self._task: asyncio.Task[None] | None = None
        self._given_up = False

    def begin(self) -> None:
        """Start the coroutine, in the caller's context, which came along with this callback."""
        self._task = self.thread.loop.create_task(self._carry())

    async def _carry(self) -> None:
        error: BaseException | None = None
        try:
            self.value = await self._start()
        except BaseException as raised:  # noqa: BLE001 - it is the caller's, whatever it is
            error = raised
        self.finish(error)
        # Its traceback holds this frame.
        del error

    def finish(self, error: BaseException | None) -> None:
        """Let the caller go on."""
        if isinstance(error, asyncio.CancelledError) and self.thread.closing and not self._given_up:
            told = ["the client was shut down during the call.", *getattr(error, "__notes__", ())]
            error = _closed(" ".join(told))
        self.error = error
        self.thread.calls.discard(self)
        self.answered.release()

    def give_up(self) -> None:
        """Cancel the call, whose caller has left."""
        self._given_up = True
        # What never came to be posted has no task.
        if self._task is not None:
            self._task.cancel()
        self.thread.calls.discard(self)

    def interrupted(self, interruption: BaseException) -> None:
        """Leave; the interruption goes on afterwards."""
        self.interrupted_again(interruption)

    def interrupted_again(self, interruption: BaseException) -> None:
        """Leave because of another interruption, while leaving."""
        self.thread.post(self.give_up)


class Undoable(Call[T]):
    """A call that must leave nothing behind when it is interrupted.

    The first interruption waits until it has been cancelled and what it did has been undone; a note on the interruption tells what could
    not be. A second one leaves at once with a note, and the undoing goes on in the background.

    Args:
        thread: Where it runs.
        start: Makes the coroutine.
        undo: Undoes what the call did, by its result; gives what is left to tell, or None. It raises nothing and takes a bounded time.
        describe: Says what the call is about, as far as is known, for the notes.
    """

    def __init__(
        self,
        thread: LoopThread,
        start: Callable[[], Coroutine[Any, Any, T]],
        undo: Callable[[T], Coroutine[Any, Any, str | None]],
        describe: Callable[[], str],
    ) -> None:
        super().__init__(thread, start)
        self._undo = undo
        self._describe = describe
        self._undoing: asyncio.Task[None] | None = None
        self._left: str | None = None
        self._over = threading.Event()

    def give_up(self) -> None:
        """Cancel the call and undo what it did."""
        self._given_back()

    def _given_back(self) -> asyncio.Task[None]:
        if self._undoing is None:
            super().give_up()
            self._undoing = self.thread.loop.create_task(self._bring_back())
        return self._undoing

    async def _bring_back(self) -> None:
        if self._task is not None:
            await asyncio.wait({self._task})
        if self.value is not None:
            self._left = await self._undo(self.value)
        elif isinstance(self.error, asyncio.CancelledError):
            self._left = " ".join(getattr(self.error, "__notes__", ())) or None
        elif self.error is not None:
            self._left = str(self.error)
        self.over()

    def over(self) -> None:
        """Let the caller go on, since nothing more is done about the call."""
        self._over.set()
        self.thread.endings.discard(self)
        self.thread.left.discard(self)

    def lost(self) -> None:
        """Let the caller go on, since nothing can be done any more: the loop has ended."""
        self._left = f"{self._describe()}; {_LOST}."
        self.over()

    async def ended(self) -> None:
        """Wait until nothing more is done about it."""
        await asyncio.wait({self._given_back()})

    def interrupted(self, interruption: BaseException) -> None:
        """Wait until nothing is left behind."""
        self.thread.endings.add(self)
        if not self.thread.post(self.give_up):
            self.lost()
        # What a user's auth provider does may take any time.
        self._over.wait(_ENDING_S)
        self.interrupted_again(interruption)

    def interrupted_again(self, interruption: BaseException) -> None:
        """Leave, and tell what was left."""
        # First, so that they let go of it however soon it is over.
        self.thread.left.add(self)
        self.thread.endings.add(self)
        self.thread.post(self.give_up)
        if self._over.is_set():
            self.over()
            left = self._left
        else:
            left = f"{self._describe()}; its ending goes on in the background while this process lives."
        if left is not None:
            interruption.add_note(left)


class Lasting(Call[T]):
    """A call that is not cancelled when its caller is interrupted: the first interruption waits for its end, which takes a bounded time.

    A second one leaves, with a note, and the call goes on in the background.

    Args:
        thread: Where it runs.
        start: Makes the coroutine.
        describe: Says what is under way, for the note.
        patient: Whether the first interruption waits; else it counts as a second one.
    """

    def __init__(
        self,
        thread: LoopThread,
        start: Callable[[], Coroutine[Any, Any, T]],
        describe: Callable[[], str],
        *,
        patient: bool = True,
    ) -> None:
        super().__init__(thread, start)
        self._describe = describe
        self._patient = patient
        self._over = threading.Event()

    def begin(self) -> None:
        """Start the coroutine, unless it was."""
        if self._task is None:
            super().begin()

    def finish(self, error: BaseException | None) -> None:
        """Let the caller go on."""
        super().finish(error)
        self._over.set()
        self.thread.left.discard(self)

    def interrupted(self, interruption: BaseException) -> None:
        """Wait for the end."""
        if not self._patient:
            self.interrupted_again(interruption)
            return
        # The first post may not have come to be.
        if self.thread.post(self.begin):
            self._over.wait()
        if self.error is not None:
            interruption.add_note(str(self.error))

    def interrupted_again(self, interruption: BaseException) -> None:
        """Leave, and tell what is under way."""
        self.thread.left.add(self)
        begun = self.thread.post(self.begin)
        if self._over.is_set() or not begun:
            self.thread.left.discard(self)
        what = "that goes on in the background while this process lives" if begun else _LOST
        interruption.add_note(f"{self._describe()}; {what}.")


class LoopThread:
    """Runs an event loop in a daemon thread.

    Args:
        aclose: Ends what lives on the loop; awaited there when the loop ends.

    Attributes:
        calls: The calls that wait for an answer.
        endings: The calls whose callers were interrupted and that are being undone.
        left: The calls under way on whose end somebody insisted not to wait.
        closing: Whether the end has begun.
        is_forked: Whether this is a child of the process that the thread is in.
    """

    def __init__(self, aclose: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self.calls: set[Call[Any]] = set()
        self.endings: set[Undoable[Any]] = set()
        self.left: set[Call[Any]] = set()
        self.closing = False
        self._aclose = aclose
        self._selector = selectors.DefaultSelector()
        self.loop = asyncio.SelectorEventLoop(self._selector)
        self._winding_up: asyncio.Task[None] | None = None
        self._left_early = False
        self.is_forked = False
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._main, name="qsessions", daemon=True)

    def start(self) -> None:
        """Start the thread.

        Raises:
            ConfigurationError: There can be no new thread: the interpreter is shutting down, or the system has no room for one.
        """
        try:
            if sys.is_finalizing():
                # Python 3.11 would wait for ever.
                raise RuntimeError("the interpreter is shutting down")
            _THREADS.add(self)
            self._thread.start()
        except BaseException as error:
            # Where this is an interruption, nobody knows whether the thread has begun.
            self.closing = True
            self.post(self._wind_up)
            if isinstance(error, RuntimeError) or not self._ended.wait(_GRACE_S):
                self.loop.close()
                self._ended.set()
            if isinstance(error, RuntimeError):
                raise ConfigurationError(
                    f"the client's thread can't be started: {error}."
                ) from None
            raise

    def run(
        self, function: Callable[P, Coroutine[Any, Any, T]], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run a coroutine on the loop and give its result."""
        return self.carry(Call(self, lambda: function(*args, **kwargs)))

    def carry(self, call: Call[T]) -> T:
        """Make a call, and wait for its answer.

        Raises:
            ClientClosed: The loop has ended or ends during the call, or the interpreter does.
            ConfigurationError: This is the loop's own thread, or a child of the process that the loop is in.
        """
        self._check()
        error: BaseException | None
        try:
            self.calls.add(call)
            if self.post(call.begin):
                call.answered.acquire()
                # From here to the caller's own next step no function is called, so no signal comes between an answer and its return.
                error = call.error
            else:
                error = _closed("the client was shut down.")
            if error is None:
                return call.value
        except BaseException as interruption:
            try:
                call.interrupted(interruption)
            except BaseException as another:
                call.interrupted_again(another)
                raise
            raise
        try:
            raise error
        finally:
            # Its traceback holds this frame.
            call.error = None
            del error

    def post(self, callback: Callable[[], object]) -> bool:
        """Let the loop's thread run a callback in this thread's context; False when the loop has ended."""
        try:
            self.loop.call_soon_threadsafe(callback)
        except RuntimeError:
            return False
        return True

    def shut_down(self) -> None:
        """End what lives on the loop, the loop and its thread, and wait for that; the first interruption waits too, a second one leaves."""
        if self.is_forked or sys.is_finalizing():
            # There is no thread any more.
            return
        self._check_thread()
        try:
            self._await_end()
        except BaseException:
            try:
                self._await_end()
            finally:
                self._left_early = not self._ended.is_set()
            raise
        self._thread.join()

    def abandon(self) -> None:
        """End it unasked: its owner was collected, or the interpreter shuts down, which waits for it."""
        if self.is_forked or sys.is_finalizing():
            return
        asked, self.closing = self.closing, True
        self.post(self._wind_up)
        try:
            if not asked:
                warnings.warn(
                    "a SessionClient was not shut down; use `with` or call shutdown().",
                    ResourceWarning,
                    stacklevel=3,
                )
        finally:
            # Else it is the collector's call, which may come in the middle of anything and must not wait.
            if not (threading.main_thread().is_alive() or self._is_own_thread() or self.is_left):
                self._ended.wait(_EXIT_S)

    def await_end(self) -> None:
        """Where the end has begun, wait for it; from a signal's handler, whose thread may hold any lock, so that none is taken."""
        if not self.closing or self.is_forked:
            return
        # The signal may have come before that was asked for.
        self.post(self._wind_up)
        while not self.loop.is_closed():
            time.sleep(_POLL_S)

    def _await_end(self) -> None:
        self.closing = True
        self.post(self._wind_up)
        self._ended.wait()

    @property
    def is_left(self) -> bool:
        """Whether somebody insisted on not waiting for what is still under way."""
        return self._left_early or bool(self.left)

    def _main(self) -> None:
        try:
            self._run()
        finally:
            self.loop.close()
            # Those whose callback came too late.
            for call in tuple(self.calls):
                call.finish(_closed("the client was shut down."))
            for ending in tuple(self.endings):
                ending.lost()
            self._ended.set()

    def _run(self) -> None:
        while True:
            try:
                self.loop.run_forever()
            except BaseException as error:  # noqa: BLE001 - SystemExit in a task that nobody awaits must not end everybody's calls
                logger.error("%s on the client's own event loop is ignored", type(error).__name__)
            else:
                return

    def _wind_up(self) -> None:
        if self._winding_up is None:
            self._winding_up = self.loop.create_task(self._end())

    async def _end(self) -> None:
        try:
            patience = _GRACE_S if self.is_left else None
            await asyncio.wait({self.loop.create_task(self._close())}, timeout=patience)
            for _ in range(_CANCELLATIONS):
                await _cancelled(asyncio.all_tasks() - {asyncio.current_task()})
            await asyncio.wait({self.loop.create_task(self._aclose())}, timeout=patience)
            await self.loop.shutdown_asyncgens()
        finally:
            self.loop.stop()

    async def _close(self) -> None:
        for ending in tuple(self.endings):
            await ending.ended()
        await self._aclose()

    def _check(self) -> None:
        if self.is_forked:
            raise ConfigurationError(
                "this client belongs to the process that this one was forked from.",
                solution="Make a client after the fork.",
            )
        if sys.is_finalizing():
            raise _closed("the interpreter is shutting down.")
        self._check_thread()
        if self.closing:
            raise _closed("the client was shut down.")

    def _check_thread(self) -> None:
        if self._is_own_thread():
            raise ConfigurationError(
                "a synchronous call from the client's own thread, for example from an observer, would wait for itself.",
                solution="Hand it to another thread, or use AsyncSessionClient.",
            )

    def _is_own_thread(self) -> bool:
        return threading.get_ident() == self._thread.ident

    def forget(self) -> None:
        """Part with the parent's sockets, after a fork in the child, where there is no thread to serve them.

        Their descriptors are pointed at nothing: whatever the child's collector does to them would else reach the parent's
        connections, or its loop, whose selector the two share.
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
        thread.forget()


if sys.platform != "win32":  # pragma: no branch - there is no fork there
    os.register_at_fork(after_in_child=_after_fork)


async def _cancelled(tasks: set[asyncio.Task[Any]]) -> None:
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks, timeout=_GRACE_S)


def _closed(why: str) -> ClientClosed:
    return ClientClosed(why)
