"""SIGTERM, SIGHUP and Ctrl-C: what must happen first, then what they did before."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any, Protocol

from attrs import define

from qsessions.errors import ConfigurationError
from qsessions.events import logger

# Windows has no SIGHUP, which says that the terminal is gone, for example the connection by ssh.
_NAMES = ("SIGINT", "SIGTERM", "SIGHUP")
_NUMBERS = tuple(getattr(signal, name) for name in _NAMES if hasattr(signal, name))
# What a signal does in a program that sets no handler.
_DEFAULTS = (signal.SIG_DFL, signal.default_int_handler)


class SignalListener(Protocol):
    """What does something first when a signal comes, before that does what it did.

    All three are called in the main thread, between any two instructions.
    """

    def on_signal(self, resume: Callable[[], None]) -> None:
        """React to a signal, and call `resume` there when that is done."""
        ...

    def on_second_signal(self) -> None:
        """React to a second signal, which comes before that is done and goes on at once."""
        ...

    def on_signal_done(self) -> None:
        """Go on after the signal did what it did before, unless that ended the process."""
        ...


@define(eq=False, repr=False)
class _Reaction:
    """What happens between a signal and what it did before.

    Attributes:
        number: The signal.
        listeners: What reacts to it.
        pending: How many of them aren't done yet.
    """

    number: int
    listeners: list[SignalListener]
    pending: int


class _Process:
    """The process's handlers, one set for all listeners.

    Two that each put back what they found would not come apart again.
    """

    def __init__(self) -> None:
        self._listeners: list[SignalListener] = []
        # What was found in place of ours, each time that it was set and not yet taken back, and
        # what was last put back.
        self._found: dict[int, list[Any]] = {number: [] for number in _NUMBERS}
        self._before: dict[int, Any] = {}
        self._reaction: _Reaction | None = None
        self._is_acting = False
        self._has_warned = False

    def hold(self, listener: SignalListener) -> None:
        """Begin to listen; each call needs its `release`.

        A signal that is ignored goes on being ignored. Handlers that `loop.add_signal_handler` set
        are called by the event loop at once all the same.

        Raises:
            ConfigurationError: This isn't the main thread, which alone gets signals.
        """
        if not _is_main_thread():
            raise ConfigurationError(
                "handle_signals=True works in the main thread only.",
                solution="Open the session there, or handle the signals yourself and call aclose() "
                "or shutdown().",
            )
        self._listeners.append(listener)
        for number in _NUMBERS:
            found = signal.getsignal(number)
            if found is not signal.SIG_IGN and found != self._handle:
                # First, since a signal may come at once.
                self._found[number].append(found)
                signal.signal(number, self._handle)
        if (reaction := self._reaction) is not None and listener not in reaction.listeners:
            # What it is about to open must not be left either.
            reaction.listeners.append(listener)
            reaction.pending += 1
            self._ask(reaction, listener)

    def release(self, listener: SignalListener) -> None:
        """Listen no longer."""
        self._listeners.remove(listener)
        # Only the main thread can change handlers; ours then does what was there before.
        if not self._listeners and _is_main_thread():
            self._restore()

    def check(self) -> None:
        """Warn, once, if a signal has Python's own handler again, which another one has set.

        A handler of the user's own may call ours, and is left to them.
        """
        if self._has_warned or not self._listeners or not _is_main_thread():
            return
        for number in _NUMBERS:
            if self._found[number] and signal.getsignal(number) in _DEFAULTS:
                self._has_warned = True
                logger.warning(
                    "%s no longer closes the open sessions first: since open(handle_signals=True) "
                    "its handler was reset, as a notebook does it for each cell. Enter and leave "
                    "the block in one cell, or close the session yourself when you interrupt one",
                    signal.Signals(number).name,
                )

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._is_acting or not self._listeners:
            # It was found and called by another handler, or could not be taken back: go on at once.
            self._set(number)
            signal.raise_signal(number)
        elif self._reaction is not None:
            for listener in self._reaction.listeners:
                listener.on_second_signal()
            self._act(number)
        else:
            listeners = list(dict.fromkeys(self._listeners))
            reaction = self._reaction = _Reaction(number, listeners, len(listeners))
            for listener in tuple(listeners):
                self._ask(reaction, listener)

    def _ask(self, reaction: _Reaction, listener: SignalListener) -> None:
        def done() -> None:
            reaction.pending -= 1
            # A second signal may have acted meanwhile.
            if self._reaction is reaction and not reaction.pending:
                self._act(reaction.number)

        listener.on_signal(done)

    def _act(self, number: int) -> None:
        """Let a signal do what it did before."""
        reaction, self._reaction = self._reaction, None
        if reaction is None:
            # A second signal came just now, and has acted.
            return
        self._restore()
        self._is_acting = True
        try:
            signal.raise_signal(number)
        finally:
            self._is_acting = False
            for listener in reaction.listeners:
                listener.on_signal_done()

    def _restore(self) -> None:
        for number in _NUMBERS:
            # Another may have been set since, which then is not ours to take back.
            if signal.getsignal(number) == self._handle:
                self._set(number)

    def _set(self, number: int) -> None:
        if found := self._found[number]:
            self._before[number] = found.pop()
        before = self._before[number]
        signal.signal(number, signal.SIG_DFL if before is None else before)


def _is_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


_process = _Process()
hold, release, check = _process.hold, _process.release, _process.check
