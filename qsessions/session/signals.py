"""SIGTERM and Ctrl-C: what must happen first, then what they did before."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

from attrs import define

from qsessions.errors import ConfigurationError

_NUMBERS = (signal.SIGINT, signal.SIGTERM)


class Signals:
    """Lets something happen when SIGTERM or Ctrl-C comes, and the signal do after that what it did before; a second one does so at once.

    A signal that is ignored goes on being ignored. Handlers that `loop.add_signal_handler` set are called by the event loop at once
    all the same.

    Args:
        react: Called in the main thread, between any two instructions, with what it is to call there when it is done.
        insisted: Called there when a second signal comes before it is done, before that one acts.
        acted: Called there when the signal has done what it did before, unless that ended the process.
    """

    def __init__(
        self,
        react: Callable[[Callable[[], None]], None],
        *,
        insisted: Callable[[], None],
        acted: Callable[[], None],
    ) -> None:
        self.react = react
        self.insisted = insisted
        self.acted = acted

    def hold(self) -> None:
        """Begin to listen; each call wants its `release`.

        Raises:
            ConfigurationError: This isn't the main thread, which alone gets signals.
        """
        if not _is_main_thread():
            raise ConfigurationError(
                "handle_signals=True works in the main thread only.",
                solution="Open the session there, or handle the signals yourself and call aclose() or shutdown().",
            )
        _process.hold(self)

    def release(self) -> None:
        """Listen no longer."""
        _process.release(self)


@define
class _Reaction:
    """What happens between a signal and what it did before.

    Attributes:
        number: The signal.
        holders: Who reacts to it.
        pending: How many of them aren't done yet.
    """

    number: int
    holders: list[Signals]
    pending: int


class _Process:
    """The process's handlers. There is one for all who hold them: two that each put back what they found would not come apart again."""

    def __init__(self) -> None:
        self._holders: list[Signals] = []
        # What was found in place of ours, each time that it was set and not yet taken back, and what was last put back.
        self._found: dict[int, list[Any]] = {number: [] for number in _NUMBERS}
        self._before: dict[int, Any] = {}
        self._reaction: _Reaction | None = None
        self._is_acting = False

    def hold(self, signals: Signals) -> None:
        self._holders.append(signals)
        for number in _NUMBERS:
            found = signal.getsignal(number)
            if found is not signal.SIG_IGN and found != self._handle:
                # First, since a signal may come at once.
                self._found[number].append(found)
                signal.signal(number, self._handle)
        if (reaction := self._reaction) is not None and signals not in reaction.holders:
            # What it is about to open must not be left either.
            reaction.holders.append(signals)
            reaction.pending += 1
            self._ask(reaction, signals)

    def release(self, signals: Signals) -> None:
        self._holders.remove(signals)
        # Elsewhere nobody may change handlers; ours then does what was there before.
        if not self._holders and _is_main_thread():
            self._restore()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._is_acting or not self._holders:
            # Somebody calls this who had found it, or it could not be taken back: nothing comes first any more.
            self._set(number)
            signal.raise_signal(number)
        elif self._reaction is not None:
            for holder in self._reaction.holders:
                holder.insisted()
            self._act(number)
        else:
            holders = list(dict.fromkeys(self._holders))
            reaction = self._reaction = _Reaction(number, holders, len(holders))
            for holder in tuple(holders):
                self._ask(reaction, holder)

    def _ask(self, reaction: _Reaction, holder: Signals) -> None:
        def done() -> None:
            reaction.pending -= 1
            # A second signal may have acted meanwhile.
            if self._reaction is reaction and not reaction.pending:
                self._act(reaction.number)

        holder.react(done)

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
            for holder in reaction.holders:
                holder.acted()

    def _restore(self) -> None:
        for number in _NUMBERS:
            # Somebody may have set another since, which then is theirs to take back.
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
