"""The recorder, which keeps the client from its ledger's failures."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import threading
from collections.abc import Callable, Coroutine, Iterable
from pathlib import Path
from typing import Any, TypeAlias

import pytest

from qsessions import (
    ClientClosed,
    Clock,
    ConfigurationError,
    CreateSession,
    Ledger,
    LedgerFailed,
    LedgerRecord,
    LedgerUnavailable,
    Liveness,
    LocalLedger,
    RecordState,
)
from qsessions.events import Event, Observers
from qsessions.ledger import files
from qsessions.ledger.choice import chosen_ledger
from qsessions.ledger.recorder import SessionRecorder
from qsessions.ledger.records import WRITE_TIMEOUT_S, close_ledger
from qsessions.testing import ManualClock
from tests.support.event_loop import past_deadline
from tests.support.given_ledger import GivenLedger
from tests.support.ledger_files import (
    CREATED,
    DRAINING,
    EMULATED,
    ENDED,
    NOW,
    REAL,
    entries_of,
    names,
)
from tests.support.manual_clock import settled

Recording: TypeAlias = Callable[..., SessionRecorder]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Return a directory that doesn't exist yet."""
    return tmp_path / "state" / "ledger"


@pytest.fixture
def told() -> list[Event]:
    """Return the events that were emitted."""
    return []


@pytest.fixture
def recording(told: list[Event]) -> Recording:
    """Return a function that makes a recorder with a ledger."""

    def make(
        ledger: Ledger | str | None,
        spawn: Any = asyncio.create_task,
        clock: Clock | None = None,
    ) -> SessionRecorder:
        clock = clock or Clock(wall=lambda: NOW)
        return SessionRecorder(
            chosen_ledger(ledger, None, clock),
            spawn,
            Observers([told.append]),
            clock,
            is_ours=isinstance(ledger, str),
        )

    return make


async def ask(
    recorder: SessionRecorder,
    key: str,
    *,
    instance: str | None = None,
    seconds: float | None = None,
) -> None:
    """Record that a request is about to go out."""
    await recorder.record_intent(
        CreateSession("batch"),
        key,
        base_url="https://x",
        instance=instance,
        labels={},
        seconds=seconds,
    )


def steps(records: Iterable[LedgerRecord]) -> list[tuple[str, RecordState]]:
    """Return the keys and states of records."""
    return [(record.key, record.state) for record in records]


def test_no_such_ledger(recording: Recording) -> None:
    """What is no ledger is refused when the client is made."""
    for wrong in ("lokal", 5, object(), "", "postgres:secret@host"):
        with pytest.raises(
            ConfigurationError, match='ledger= must be "local" or the URL'
        ) as caught:
            recording(wrong)
        assert "secret" not in str(caught.value)


async def test_the_local_one(recording: Recording, home: Path, told: list[Event]) -> None:
    """The word "local" is the platform's own place, and closed with the recorder."""
    recorder = recording("local")
    await ask(recorder, "k")
    reader = LocalLedger()
    assert await entries_of(reader) == [("k", "intent", Liveness.ALIVE)]
    await recorder.aclose()
    with pytest.raises(LedgerUnavailable, match="was closed"):
        await recorder.entries(None)
    await reader.aclose()
    assert told == []


async def test_a_ledger_that_is_lent_stays_open(recording: Recording) -> None:
    """A ledger that the caller made is the caller's to close."""
    ledger = GivenLedger()
    recorder = recording(ledger)
    await ask(recorder, "k")
    await recorder.aclose()
    assert not ledger.closed


@pytest.mark.parametrize("eager", [False, True])
async def test_failures_are_told_once_and_nothing_is_lost(
    recording: Recording, told: list[Event], eager: bool
) -> None:
    """A ledger that fails is told once; what it didn't take is given to it again after the next
    record that it does take.
    """
    ledger = GivenLedger()
    spawn: Any = asyncio.create_task
    if eager and sys.version_info >= (3, 12):

        def spawn(coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
            return asyncio.Task(coroutine, eager_start=True, loop=asyncio.get_running_loop())

    recorder = recording(ledger, spawn)
    ledger.record_failure = RuntimeError("the database is away")
    await ask(recorder, "first")
    await ask(recorder, "second")
    assert told == [LedgerFailed(reason="RuntimeError: the database is away")]
    ledger.record_failure = None
    await ask(recorder, "third")
    await recorder.flush()
    assert set(ledger.kept) == {"first", "second", "third"}
    await recorder.aclose()
    assert len(told) == 1


async def test_the_log_hears_of_it(recording: Recording, caplog: pytest.LogCaptureFixture) -> None:
    """A failing ledger is a warning in the log."""
    ledger = GivenLedger()
    ledger.record_failure = LedgerUnavailable("the disk is full")
    await ask(recording(ledger), "k")
    assert [(one.levelno, one.message) for one in caplog.records] == [
        (logging.WARNING, "the ledger doesn't record sessions: the disk is full")
    ]


async def test_what_is_never_taken_is_told_at_the_end(
    recording: Recording, told: list[Event]
) -> None:
    """Closing tries once more, and then names the sessions that may be open and stand nowhere."""
    ledger = GivenLedger()
    ledger.record_failure = OSError("no")
    recorder = recording(ledger)
    for key in ("asked", "made", "drained", "over"):
        await ask(recorder, key)
    recorder.created("made", "s-1")
    recorder.created("drained", "s-2")
    recorder.updated("s-2", accepting_jobs=False)
    recorder.not_created("over")
    await recorder.flush()
    tried = len(ledger.calls)
    await recorder.aclose()
    assert len(ledger.calls) == tried + 3
    (_, last) = told
    assert isinstance(last, LedgerFailed)
    assert last.unrecorded == ("asked", "s-1")


async def test_an_end_that_was_not_taken_is_kept_if_the_rest_was(recording: Recording) -> None:
    """That a session ended is given again to a ledger that has it as open, and not to one that
    never heard of it.
    """
    ledger = GivenLedger()
    recorder = recording(ledger)
    await ask(recorder, "known")
    ledger.record_failure = OSError("no")
    await ask(recorder, "unheard")
    recorder.not_created("known")
    recorder.not_created("unheard")
    await recorder.flush()
    ledger.record_failure = None
    await ask(recorder, "other")
    await recorder.aclose()
    assert dict(steps(ledger.kept.values())) == {"known": ENDED, "other": RecordState.INTENT}


async def test_steps_of_one_session_keep_their_order(recording: Recording) -> None:
    """While a step is being written, later ones wait, and only the newest of them is written."""
    ledger = GivenLedger()
    recorder = recording(ledger)
    ledger.gate.clear()
    waiting = asyncio.create_task(ask(recorder, "k"))
    await ledger.called.wait()
    recorder.created("k", "s-1")
    await asyncio.sleep(0)
    recorder.updated("s-1", accepting_jobs=False)
    await asyncio.sleep(0)
    asked = ("k", RecordState.INTENT)
    assert steps(ledger.calls) == [asked]
    ledger.gate.set()
    await waiting
    assert steps(ledger.calls) == [asked, ("k", DRAINING)]


async def test_a_step_that_comes_while_one_fails(recording: Recording) -> None:
    """A step that came while the one before it failed is tried for itself."""
    ledger = GivenLedger()
    recorder = recording(ledger)
    ledger.gate.clear()
    ledger.record_failure = OSError("no")
    waiting = asyncio.create_task(ask(recorder, "k"))
    await ledger.called.wait()
    recorder.created("k", "s-1")
    ledger.gate.set()
    await waiting
    assert steps(ledger.calls) == [("k", RecordState.INTENT), ("k", CREATED)]
    await recorder.aclose()


async def test_cancelling_doesnt_tear_a_record(recording: Recording) -> None:
    """Cancelling the call that records goes on at once, and the record is written all the same."""
    ledger = GivenLedger()
    recorder = recording(ledger)
    ledger.gate.clear()
    task = asyncio.create_task(ask(recorder, "k"))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    ledger.gate.set()
    await recorder.aclose()
    assert steps(ledger.kept.values()) == [("k", RecordState.INTENT)]


async def test_a_ledger_that_hangs(
    recording: Recording, time: ManualClock, told: list[Event]
) -> None:
    """A hanging ledger holds up one call for as long as patience lasts, and none after it until it
    answers.
    """
    ledger = GivenLedger()
    recorder = recording(ledger, clock=time)
    ledger.gate.clear()
    await past_deadline(ask(recorder, "first"), settled(), time, WRITE_TIMEOUT_S)
    assert told == [LedgerFailed(reason="it did not answer within 5 s")]
    await ask(recorder, "second")
    ledger.gate.set()
    await recorder.aclose()
    assert set(ledger.kept) == {"first", "second"}
    await ask(recorder, "third")
    assert "third" in ledger.kept
    assert len(told) == 1


async def test_settling(recording: Recording, time: ManualClock, told: list[Event]) -> None:
    """Whoever settles waits for what was noted; with a ledger that hangs, as long as patience
    lasts, and then no more.
    """
    ledger = GivenLedger()
    recorder = recording(ledger, clock=time)
    await recorder.flush()
    await ask(recorder, "k")
    recorder.created("k", "s-1")
    await recorder.flush()
    assert steps(ledger.kept.values()) == [("k", CREATED)]
    ledger.gate.clear()
    recorder.updated("s-1", accepting_jobs=False)
    await past_deadline(recorder.flush(), settled(), time, WRITE_TIMEOUT_S)
    assert len(told) == 1
    await recorder.flush()
    ledger.gate.set()
    await recorder.aclose()


async def test_a_ledger_leaves_a_create_half_of_its_time(
    recording: Recording, time: ManualClock, told: list[Event]
) -> None:
    """A create whose deadline is short waits for a hanging ledger no longer than half of it, then
    its request goes out.
    """
    ledger = GivenLedger()
    ledger.gate.clear()
    recorder = recording(ledger, clock=time)
    await past_deadline(ask(recorder, "k", seconds=4), settled(), time, 2)
    # Others with more time still count on it.
    assert told == []
    ledger.gate.set()
    await recorder.aclose()
    assert set(ledger.kept) == {"k"}


async def test_closing_a_ledger_takes_no_longer_than_a_record(time: ManualClock) -> None:
    """Who closes a ledger waits 5 s at the most, and gets one error whatever goes wrong."""
    ledger = GivenLedger()
    await close_ledger(ledger)
    assert ledger.closed

    class Hanging(GivenLedger):
        async def aclose(self) -> None:
            await asyncio.Event().wait()

    with pytest.raises(LedgerUnavailable, match="did not answer within 5 s"):
        await past_deadline(close_ledger(Hanging(), time), settled(), time, WRITE_TIMEOUT_S)


async def test_a_file_system_that_hangs(
    recording: Recording,
    time: ManualClock,
    told: list[Event],
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """While the file system answers nothing, the loop runs, recording and closing end in time, and
    what stands nowhere is named.
    """
    hangs = threading.Event()
    fsync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: (hangs.wait(60), fsync(fd)))
    recorder = recording("local", clock=time)
    await past_deadline(ask(recorder, "k"), settled(), time, WRITE_TIMEOUT_S)
    await past_deadline(recorder.aclose(), settled(), time, WRITE_TIMEOUT_S)
    assert [one.unrecorded for one in told if isinstance(one, LedgerFailed)] == [(), ("k",)]
    hangs.set()
    others = asyncio.all_tasks() - {asyncio.current_task()}
    await asyncio.gather(*others, return_exceptions=True)


async def test_a_ledger_that_cant_be_closed(
    recording: Recording, told: list[Event], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A ledger of ours that fails at its end is told like any failure."""

    async def fails(_: LocalLedger) -> None:
        raise LedgerUnavailable("it broke")

    monkeypatch.setattr(LocalLedger, "aclose", fails)
    await recording("local").aclose()
    assert told == [LedgerFailed(reason="it broke")]


async def test_after_the_transport(recording: Recording, told: list[Event]) -> None:
    """When no task can be had any more, the record is told as not kept, and nothing is raised. The
    reason ends without a full stop, as each does.
    """

    def spawn(coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        coroutine.close()
        raise ClientClosed("the client is closed.")

    recorder = recording(GivenLedger(), spawn)
    await ask(recorder, "k")
    await recorder.aclose()
    assert told == [
        LedgerFailed(reason="the client is closed"),
        LedgerFailed(reason="it never took these records", unrecorded=("k",)),
    ]


async def test_a_note_between_the_end_of_a_writer_and_its_callback(
    recording: Recording,
) -> None:
    """A step that comes when the writer of the one before is just done gets a writer of its own."""
    ledger = GivenLedger()
    recorder = recording(ledger)
    asking = asyncio.create_task(ask(recorder, "k"))
    await asyncio.sleep(0)
    (writer,) = recorder._writers
    while not writer.done():
        await asyncio.sleep(0)
        if writer.done():
            recorder.created("k", "s-1")
    await asking
    await recorder.aclose()
    assert steps(ledger.kept.values()) == [("k", CREATED)]


async def test_what_is_over_takes_no_room(
    place: Path, monkeypatch: pytest.MonkeyPatch, recording: Recording
) -> None:
    """However many sessions a process has had, nothing in its memory is about those that are over,
    and its file stays small.
    """
    monkeypatch.setattr(files, "_LARGE_BYTES", 20_000)
    ledger = LocalLedger(place)
    recorder = recording(ledger)

    async def life(number: int) -> None:
        key, session_id = f"k-{number}", f"s-{number}"
        await ask(recorder, key)
        if number % 3 == 0:
            recorder.not_created(key)
            return
        if number % 3 == 1:
            recorder.created(key, session_id)
        else:
            recorder.unknown(key, session_id)
        recorder.updated(session_id, accepting_jobs=False)
        recorder.ended(session_id)

    def size() -> int:
        return max((path.stat().st_size for path in place.iterdir()), default=0)

    largest = 0
    for _ in range(10):
        await asyncio.gather(*map(life, range(100)))
        await recorder.flush()
        largest = max(largest, await asyncio.to_thread(size))
    # Nothing makes it anew in the midst of what comes together.
    assert largest < 20_000 + 100 * 4 * 300
    held = (
        recorder._open,
        recorder._by_session,
        recorder._failed,
        recorder._writers,
        recorder.draining,
    )
    assert [len(one) for one in held] == [0] * 5
    (engine,) = ledger._places
    assert engine._open == {}
    assert engine._records.empty()
    assert engine._file is None or engine._file.records == {}
    await recorder.aclose()
    await ledger.aclose()
    assert await asyncio.to_thread(names, place) == []


async def test_without_a_ledger_nothing_is_held(recording: Recording) -> None:
    """Where nothing is recorded, nothing is remembered of any session either."""
    recorder = recording(None)
    await ask(recorder, "k")
    recorder.created("k", "s-1")
    recorder.not_created("k")
    await recorder.written("k")
    assert not recorder.enabled
    assert not recorder._open
    assert not recorder._by_session
    await recorder.aclose()


async def test_who_reads_for_the_service_needs_no_emulators(
    recording: Recording, home: Path
) -> None:
    """What can't be read in an emulator's place is no matter of whoever asks for the service's
    sessions.
    """
    recorder = recording("local")
    await ask(recorder, "k", instance=REAL)
    await asyncio.to_thread((home / ".local/state/qsessions/ledger-emulated").touch)
    assert len(await recorder.entries(REAL)) == 1
    with pytest.raises(LedgerUnavailable, match="ledger-emulated can't be used"):
        await recorder.entries(EMULATED)
    await recorder.aclose()
