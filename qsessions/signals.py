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
    """

    def __init__(self, react: Callable[[Callable[[], None]], None]) -> None:
        self._react = react
        self._holds = 0
        self._is_reacting = False
        self._before: dict[int, Any] = {}

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
        self._holds += 1
        if self._holds == 1:
            for number in _NUMBERS:
                if signal.getsignal(number) is not signal.SIG_IGN:
                    self._before[number] = signal.signal(number, self._handle)

    def release(self) -> None:
        """Listen no longer, once nobody holds it."""
        self._holds -= 1
        if not self._holds:
            self._restore()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._is_reacting:
            self._go_on(number)
        else:
            self._is_reacting = True
            self._react(lambda: self._go_on(number))

    def _go_on(self, number: int) -> None:
        # A second signal may have done so meanwhile.
        if self._is_reacting:
            self._is_reacting = False
            self._restore()
            signal.raise_signal(number)

    def _restore(self) -> None:
        for number, before in self._before.items():
            # Somebody may have set another since, which then is theirs to take back.
            if signal.getsignal(number) == self._handle:
                signal.signal(number, signal.SIG_DFL if before is None else before)
        self._before.clear()
