"""SIGTERM and Ctrl-C: what must happen first, then what they did before."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

from qsessions.errors import ConfigurationError

_NUMBERS = (signal.SIGINT, signal.SIGTERM)


class Signals:
    """Lets something happen when SIGTERM or Ctrl-C comes, and the signal do after that what it did before; a second one does so at once.

    A signal that is ignored goes on being ignored. Handlers that `loop.add_signal_handler` set are called by the event loop at once
    all the same.

    Args:
        react: Called in the main thread, between any two instructions, with what it is to call there when it is done.
        acted: Called there when the signal has done what it did before, unless that ended the process.
    """

    def __init__(self, react: Callable[[Callable[[], None]], None], acted: Callable[[], None]) -> None:
        self.react = react
        self.acted = acted

    def hold(self) -> None:
        """Begin to listen; each call wants its `release`.

        Raises:
            ConfigurationError: This isn't the main thread, which alone gets signals.
        """
        if threading.current_thread() is not threading.main_thread():
            raise ConfigurationError(
                "handle_signals=True works in the main thread only.",
                solution="Open the session there, or handle the signals yourself and call aclose() or shutdown().",
            )
        _process.hold(self)

    def release(self) -> None:
        """Listen no longer."""
        _process.release(self)


class _Process:
    """The process's handlers. There is one for all who hold them: two that each put back what they found would not come apart again."""

    def __init__(self) -> None:
        self._holders: list[Signals] = []
        self._before: dict[int, Any] = {}
        # Those who react to a signal now.
        self._reacting: list[Signals] = []

    def hold(self, signals: Signals) -> None:
        self._holders.append(signals)
        if not self._before:
            for number in _NUMBERS:
                if signal.getsignal(number) is not signal.SIG_IGN:
                    self._before[number] = signal.signal(number, self._handle)

    def release(self, signals: Signals) -> None:
        self._holders.remove(signals)
        if not self._holders:
            self._restore()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if not self._holders:
            # Somebody put this back who had found it: by now nothing comes before what the signal does by itself.
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
            signal.raise_signal(number)
        elif self._reacting:
            self._go_on(number)
        else:
            self._react(number)

    def _react(self, number: int) -> None:
        holders = self._reacting = list(dict.fromkeys(self._holders))
        left = len(holders)

        def done() -> None:
            nonlocal left
            left -= 1
            if not left:
                self._go_on(number)

        for holder in holders:
            holder.react(done)

    def _go_on(self, number: int) -> None:
        # A second signal may have done so meanwhile.
        if self._reacting:
            reacting, self._reacting = self._reacting, []
            self._restore()
            try:
                signal.raise_signal(number)
            finally:
                for holder in reacting:
                    holder.acted()

    def _restore(self) -> None:
        for number, before in self._before.items():
            # Somebody may have set another since, which then is theirs to take back.
            if signal.getsignal(number) == self._handle:
                signal.signal(number, signal.SIG_DFL if before is None else before)
        self._before.clear()


_process = _Process()
