"""What happens between a signal and what it did before."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Callable, Iterator
from functools import partial
from types import FrameType

import pytest

from qsessions.session import signals as signals_module
from qsessions.session.signals import check, hold, release


class Told:
    """A handler of the user's, and what a client does first."""

    def __init__(self) -> None:
        self.order: list[str] = []
        self.resume: Callable[[], None] | None = None

    def handle(self, number: int, frame: FrameType | None) -> None:
        """Stand for what the signal did before."""
        self.order.append("before")

    def on_signal(self, resume: Callable[[], None]) -> None:
        """Stand for what must happen first."""
        self.order.append("react")
        self.resume = resume

    def on_second_signal(self) -> None:
        """Stand for what a second signal makes a client say."""
        self.order.append("insisted")

    def on_signal_done(self) -> None:
        """Stand for what may happen again afterwards."""
        self.order.append("acted")

    def chain(self) -> None:
        """Set a handler that calls the one it found."""
        found = signal.getsignal(signal.SIGTERM)

        def chained(number: int, frame: FrameType | None) -> None:
            self.order.append("chained")
            assert callable(found)
            found(number, frame)

        signal.signal(signal.SIGTERM, chained)


@pytest.fixture
def told() -> Iterator[Told]:
    """Return a handler for SIGTERM that the user has set."""
    told = Told()
    kept = signal.signal(signal.SIGTERM, told.handle)
    yield told
    signal.signal(signal.SIGTERM, kept)


def test_a_second_signal_does_not_wait_and_the_first_one_is_not_done_twice(told: Told) -> None:
    """The second signal does what it did before, at once; when the first has been dealt with,
    nothing more happens.
    """
    signals = told
    hold(signals)
    signal.raise_signal(signal.SIGTERM)
    signal.raise_signal(signal.SIGTERM)
    assert told.order == ["react", "insisted", "before", "acted"]
    assert told.resume is not None
    told.resume()
    release(signals)
    assert told.order == ["react", "insisted", "before", "acted"]


def test_each_hold_wants_its_release(told: Told) -> None:
    """The handlers stay until the last one who holds them lets go."""
    signals = told
    hold(signals)
    hold(signals)
    release(signals)
    assert signal.getsignal(signal.SIGTERM) != told.handle
    release(signals)
    assert signal.getsignal(signal.SIGTERM) == told.handle


def test_clients_that_overlap_give_the_signals_back(told: Told) -> None:
    """Whoever lets go first, both clients react to a signal, once each, and afterwards it does what
    it did before.
    """
    one, two = Told(), Told()
    first, second = one, two
    hold(first)
    hold(second)
    hold(second)
    signal.raise_signal(signal.SIGTERM)
    assert (one.order, two.order, told.order) == (["react"], ["react"], [])
    assert one.resume is not None
    assert two.resume is not None
    one.resume()
    # One is done, and must begin nothing while the other isn't.
    assert (one.order, two.order, told.order) == (["react"], ["react"], [])
    two.resume()
    assert (one.order, two.order, told.order) == (
        ["react", "acted"],
        ["react", "acted"],
        ["before"],
    )
    release(first)
    release(second)
    release(second)
    hold(first)
    hold(second)
    release(first)
    release(second)
    signal.raise_signal(signal.SIGTERM)
    assert (one.order, two.order, told.order) == (
        ["react", "acted"],
        ["react", "acted"],
        ["before", "before"],
    )


def test_who_begins_to_hold_during_a_reaction_is_waited_for(told: Told) -> None:
    """A client that joins while others react reacts too, once, and the signal waits for it."""
    one, two = Told(), Told()
    first, second = one, two
    hold(first)
    signal.raise_signal(signal.SIGTERM)
    hold(second)
    hold(second)
    assert two.order == ["react"]
    assert one.resume is not None
    one.resume()
    assert told.order == []
    assert two.resume is not None
    two.resume()
    assert (two.order, told.order) == (["react", "acted"], ["before"])
    for signals in (first, second, second):
        release(signals)


def test_a_reaction_that_was_overtaken_ends_no_other(told: Told) -> None:
    """When the reaction to a first signal is done late, a third signal still waits for its own."""
    signals = told
    hold(signals)
    signal.raise_signal(signal.SIGTERM)
    first = told.resume
    signal.raise_signal(signal.SIGTERM)
    hold(signals)
    signal.raise_signal(signal.SIGTERM)
    assert first is not None
    first()
    assert told.order == ["react", "insisted", "before", "acted", "react"]
    assert told.resume is not None
    told.resume()
    assert told.order[5:] == ["before", "acted"]
    release(signals)
    release(signals)


def test_a_handler_that_calls_the_one_it_found(told: Told) -> None:
    """A handler set meanwhile that calls ours gets what was there before it, once, after the
    reaction.
    """
    signals = told
    hold(signals)
    told.chain()
    signal.raise_signal(signal.SIGTERM)
    assert told.order == ["chained", "react"]
    assert told.resume is not None
    told.resume()
    assert told.order == ["chained", "react", "chained", "before", "acted"]
    release(signals)


def test_a_handler_that_calls_the_one_it_found_while_another_holds(told: Told) -> None:
    """Also where ours was set again on top of it, the chain ends at what was there first."""
    signals = told
    hold(signals)
    told.chain()
    hold(signals)
    signal.raise_signal(signal.SIGTERM)
    assert told.order == ["react"]
    assert told.resume is not None
    told.resume()
    assert told.order == ["react", "chained", "before", "acted"]
    release(signals)
    release(signals)


def test_a_signal_that_comes_as_the_reaction_ends(told: Told) -> None:
    """A second signal within the last instructions of a reaction acts, and the first one no more."""
    signals = told
    hold(signals)
    signal.raise_signal(signal.SIGTERM)
    process = signals_module._process
    reaction = process._reaction
    assert told.resume is not None
    assert reaction is not None
    # Where the reaction is done and about to act, as when the next one comes.
    signal.raise_signal(signal.SIGTERM)
    process._act(signal.SIGTERM)
    assert told.order == ["react", "insisted", "before", "acted"]
    release(signals)


def test_released_in_another_thread(told: Told) -> None:
    """Where handlers can't be taken back, since it isn't the main thread, a signal does what it did
    before, and the next hold works.
    """
    signals = told
    hold(signals)
    releasing = threading.Thread(target=partial(release, signals))
    releasing.start()
    releasing.join()
    signal.raise_signal(signal.SIGTERM)
    assert told.order == ["before"]
    hold(signals)
    signal.raise_signal(signal.SIGTERM)
    assert told.order == ["before", "react"]
    assert told.resume is not None
    told.resume()
    assert told.order == ["before", "react", "before", "acted"]
    release(signals)
    assert signal.getsignal(signal.SIGTERM) == told.handle


def test_a_handler_that_was_set_since_is_left_alone(told: Told) -> None:
    """Who sets a handler while signals are held keeps it."""
    signals = told
    hold(signals)
    other = Told()
    signal.signal(signal.SIGTERM, other.handle)
    release(signals)
    assert signal.getsignal(signal.SIGTERM) == other.handle


def test_a_handler_that_is_put_back_too_late_swallows_nothing() -> None:
    """Who saved our handler and puts it back when nobody holds signals any more still gets what
    Ctrl-C does by itself.
    """
    kept = signal.getsignal(signal.SIGINT)
    signals = Told()
    hold(signals)
    found = signal.getsignal(signal.SIGINT)
    release(signals)
    signal.signal(signal.SIGINT, found)
    try:
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, kept)


NUMBERS = signals_module._NUMBERS


def test_each_signal_that_ends_a_program_is_held(told: Told) -> None:
    """SIGINT, SIGTERM and, where there is one, SIGHUP wait for the reaction, unless they are ignored
    as under nohup.
    """
    assert {signal.Signals(number).name for number in NUMBERS} >= (
        {"SIGINT", "SIGTERM"} | ({"SIGHUP"} if hasattr(signal, "SIGHUP") else set())
    )
    for ignored in NUMBERS:
        kept = signal.signal(ignored, signal.SIG_IGN)
        hold(told)
        held = {number for number in NUMBERS if signal.getsignal(number) == OURS}
        release(told)
        signal.signal(ignored, kept)
        assert held == set(NUMBERS) - {ignored}


OURS = signals_module._process._handle


@pytest.fixture
def warned(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Callable[[], str]:
    """Return what returns the warnings since the last time, where none has been logged before."""
    monkeypatch.setattr(signals_module._process, "_has_warned", False)
    caplog.set_level(logging.WARNING, "qsessions")

    def text() -> str:
        written = caplog.text
        caplog.clear()
        return written

    return text


def test_a_handler_that_was_reset_is_told_once(told: Told, warned: Callable[[], str]) -> None:
    """Where a signal has Python's own handler again, the next call warns of it, and later ones don't."""
    hold(told)
    check()
    assert warned() == ""
    found = signal.signal(signal.SIGINT, signal.default_int_handler)
    check()
    assert "SIGINT no longer closes the open sessions first" in warned()
    check()
    assert warned() == ""
    signal.signal(signal.SIGINT, found)
    release(told)


def test_a_handler_that_is_no_default_is_not_told(told: Told, warned: Callable[[], str]) -> None:
    """A user's own handler may call ours and isn't warned of; nor is anything in another thread, where
    handlers may change at any moment, or once nobody holds signals.
    """
    hold(told)
    told.chain()
    check()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    checking = threading.Thread(target=check)
    checking.start()
    checking.join()
    release(told)
    check()
    assert warned() == ""
    signal.signal(signal.SIGTERM, told.handle)


def test_a_signal_that_has_acted_is_not_told(told: Told, warned: Callable[[], str]) -> None:
    """After a signal did what it did before, and that ended nothing, there is nothing to warn of."""
    kept = signal.signal(signal.SIGINT, signal.default_int_handler)
    hold(told)
    signal.raise_signal(signal.SIGINT)
    assert told.resume is not None
    with pytest.raises(KeyboardInterrupt):
        told.resume()
    check()
    assert warned() == ""
    release(told)
    signal.signal(signal.SIGINT, kept)
