"""A session that ends with its block: on a clean exit, on an error, on cancellation, and when its
ending itself fails.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from qsessions import (
    AsyncSessionClient,
    ClientClosed,
    Clock,
    ConfigurationError,
    CreateSession,
    EndingFailed,
    Event,
    Forbidden,
    IBMCloudAPIKey,
    IBMCloudAuth,
    InvalidArgument,
    LedgerEntry,
    LedgerFailed,
    LocalLedger,
    QSessionsError,
    RecordState,
    ResponseReceived,
    ServiceCRN,
    SessionLeftOpen,
    Transport,
)
from qsessions.emulator import Emulator
from qsessions.session import signals as signals_module
from qsessions.session.calls import How
from qsessions.testing import ManualClock, ThreadedEmulator
from tests.support.calls import SESSION, fault
from tests.support.clients import CRN, Against, static_auth
from tests.support.fault_server import Connection, FaultServer, hang, held, http
from tests.support.leaks import loop_steps, open_sessions
from tests.support.loop_time import late
from tests.support.waiting import until

CREATED = http(200, SESSION)
DONE = http(204)
posix = pytest.mark.skipif(sys.platform == "win32", reason="the signals are those of POSIX")
WANTED: dict[str, Any] = {"mode": "dedicated", "backend": "ibm_fez", "max_ttl": "10m"}


def calls_of(server: FaultServer) -> list[str]:
    """List what a server was asked."""
    return [f"{request.method} {request.target}" for request in server.received]


DRAINED = ["POST /v1/sessions", "PATCH /v1/sessions/s1"]
CLOSED = ["POST /v1/sessions", "DELETE /v1/sessions/s1/close"]


@pytest.mark.smoke
async def test_a_clean_block_drains_its_session(
    client: AsyncSessionClient, emulator: Emulator
) -> None:
    """The block gets a handle that knows the session; afterwards queued jobs still finish, and the
    session closes.
    """
    async with client.open(**WANTED) as live:
        assert live.snapshot is not None
        assert live.snapshot.backend_name == "ibm_fez"
        job = emulator.submit_job(live.id, seconds=30)
    assert emulator.sessions[live.id].accepting_jobs is False
    assert emulator.jobs[job].status == "Running"
    assert (await live.wait_until("closed")).is_final


@pytest.mark.smoke
async def test_an_error_closes_the_session_and_goes_on(
    client: AsyncSessionClient, emulator: Emulator
) -> None:
    """An error of the block closes the session at once, and is raised unchanged."""
    error = RuntimeError("the block's own")
    with pytest.raises(RuntimeError) as caught:
        async with client.open(CreateSession("batch", max_ttl=600)):
            raise error
    assert caught.value is error
    assert not hasattr(error, "__notes__")
    assert open_sessions(emulator) == []


@pytest.mark.parametrize(
    ("options", "raised", "expected"),
    [
        ({}, None, DRAINED),
        ({"on_exit": "close"}, None, CLOSED),
        ({}, KeyError("x"), CLOSED),
        ({"on_error": "drain"}, KeyError("x"), DRAINED),
        ({}, asyncio.CancelledError(), CLOSED),
    ],
)
async def test_each_way_out_ends_it_as_chosen(
    options: dict[str, Any], raised: BaseException | None, expected: list[str], against: Against
) -> None:
    """`on_exit` chooses what ends the session after a clean block, `on_error` after an error or a
    cancellation.
    """
    server, client = await against(CREATED, DONE)
    with suppress(KeyError, asyncio.CancelledError):
        async with client.open(**WANTED, **options):
            if raised is not None:
                raise raised
    assert calls_of(server) == expected


async def test_a_session_seen_closed_needs_no_ending(
    client: AsyncSessionClient, emulator: Emulator
) -> None:
    """A block that waited for its session's end sends nothing more."""
    async with client.open(**WANTED) as live:
        await live.close()
        await live.refresh()
        before = len(emulator.requests)
    assert len(emulator.requests) == before


async def test_an_answer_about_another_session_does_not_keep_it_from_being_ended(
    against: Against,
) -> None:
    """That another session is closed, which something in between may answer, says nothing about
    this one.
    """
    server, client = await against(
        CREATED, http(200, SESSION | {"id": "s2", "state": "closed"}), DONE
    )
    async with client.open(**WANTED) as live:
        await live.refresh()
    assert server.received[-1].method == "PATCH"


async def test_a_session_that_closed_by_itself_is_no_error(
    client: AsyncSessionClient, emulator: Emulator
) -> None:
    """A session that was closed behind the block's back ends well."""
    async with client.open(**WANTED) as live:
        await client.close(live.id)
    assert open_sessions(emulator) == []


@pytest.mark.parametrize("how", ["close", "drain"])
async def test_a_session_that_is_gone_counts_as_ended(how: How, against: Against) -> None:
    """404 to the ending is success: the HTTP library may have sent it twice."""
    _, client = await against(CREATED, http(404, fault()))
    async with client.open(**WANTED, on_exit=how):
        pass


@pytest.mark.parametrize(
    "wrong",
    [
        {"on_exit": "leave"},
        {"on_error": "ignore"},
        {"ending_timeout": None},
        {"ending_timeout": 0},
        {"max_ttl": -1},
        {"timeout": -1},
        {"api_version": "new"},
    ],
    ids=str,
)
async def test_arguments_are_checked_at_once(wrong: dict[str, Any], against: Against) -> None:
    """What can't be right is refused before the block, and nothing is sent."""
    server, client = await against(CREATED)
    with pytest.raises(InvalidArgument):
        client.open(**{**WANTED, **wrong})
    assert server.received == []


async def test_it_is_entered_once(against: Against) -> None:
    """What `open` gives can't be used twice, since nobody could tell the two sessions apart."""
    server, client = await against(CREATED, DONE)
    opened = client.open(**WANTED)
    async with opened:
        pass
    with pytest.raises(ConfigurationError, match="once"):
        await opened.__aenter__()
    assert len(server.received) == 2


async def test_a_create_that_fails_leaves_nothing_to_end(against: Against) -> None:
    """When the session can't be created, the block is not entered and nothing is ended."""
    server, client = await against(http(403, fault()))
    with pytest.raises(Forbidden):
        async with client.open(**WANTED):
            raise AssertionError("the block was entered")
    await client.aclose()
    assert len(server.received) == 1


async def test_a_missing_max_ttl_is_told_once(
    against: Against, caplog: pytest.LogCaptureFixture
) -> None:
    """Without `max_ttl` nothing ends the session when the host vanishes, which the log says once
    for each client.
    """
    _, client = await against(CREATED, DONE, CREATED, DONE)
    for _ in range(2):
        async with client.open(mode="batch"):
            pass
    told = [record for record in caplog.records if "max_ttl" in record.message]
    assert [record.levelno for record in told] == [logging.WARNING]


@pytest.mark.smoke
async def test_a_clean_block_whose_ending_fails_says_so(
    against: Against, caplog: pytest.LogCaptureFixture
) -> None:
    """Nobody may believe that the session has ended: the error names it, with the service's facts,
    and so does the log.
    """
    events: list[object] = []
    _, client = await against(
        CREATED, http(403, fault("You may not.", code=1200)), observers=[events.append]
    )
    with pytest.raises(SessionLeftOpen, match="You may not") as caught:
        async with client.open(**WANTED):
            pass
    error = caught.value
    assert (error.session_id, error.operation, error.status, error.code, error.trace_id) == (
        "s1",
        "drain",
        403,
        "1200",
        "trace-1",
    )
    assert isinstance(error.__cause__, Forbidden)
    (failed,) = [event for event in events if isinstance(event, EndingFailed)]
    assert (failed.session_id, failed.operation) == ("s1", "drain")
    assert [record.levelname for record in caplog.records if "left open" in record.message] == [
        "ERROR"
    ]


async def test_an_error_goes_on_with_a_note_where_the_ending_failed(against: Against) -> None:
    """The block's error is what counts; that the session is left open is a note on it."""
    _, client = await against(CREATED, http(403, fault("You may not.")))
    with pytest.raises(KeyError) as caught:
        async with client.open(**WANTED):
            raise KeyError("x")
    (note,) = caught.value.__notes__
    assert note.startswith("session 's1' is left open: close of session 's1': You may not")


async def test_an_ending_is_bounded_by_its_own_deadline(
    against: Against, time: ManualClock
) -> None:
    """An ending that gets no answer is given up after `ending_timeout`, whatever the client's
    timeout is.
    """
    _, client = await against(CREATED, late(hang, 5, time), DONE, timeout=None)
    with pytest.raises(SessionLeftOpen, match="deadline"):
        async with client.open(**WANTED, ending_timeout=5):
            pass


async def test_a_foreign_error_while_ending_does_not_take_the_place_of_the_blocks(
    time: ManualClock,
) -> None:
    """What a user's auth provider raises during the ending becomes a note."""

    class Once:
        given = 0
        ticket = "planted-ticket"

        async def headers(self, transport: object) -> dict[str, str]:
            self.given += 1
            if self.given > 1:
                raise ValueError(f"{self.ticket} is over")
            return {}

        def invalidate(self, refused: object) -> bool:
            return False

    async with FaultServer(CREATED) as server:
        client = AsyncSessionClient(Once(), base_url=server.url, clock=time)
        with pytest.raises(KeyError) as caught:
            async with client.open(**WANTED):
                raise KeyError("x")
        await client.aclose()
    assert "Once.headers(). ValueError: *** is over" in caught.value.__notes__[0]


async def test_a_foreign_error_while_ending_is_told_by_its_name(
    against: Against, time: ManualClock
) -> None:
    """What a user's own clock raises during the ending becomes a note that doesn't quote it."""

    def no_chance() -> float:
        raise ValueError("planted")

    clock = Clock(time.monotonic, time.wall, time.sleep, no_chance, time.call_later)
    _, client = await against(CREATED, http(503), clock=clock)
    with pytest.raises(KeyError) as caught:
        async with client.open(**WANTED):
            raise KeyError("x")
    assert "ValueError was raised while ending the session" in caught.value.__notes__[0]
    assert "planted" not in caught.value.__notes__[0]


async def test_closing_the_client_tries_a_failed_ending_again(against: Against) -> None:
    """A session whose ending failed still belongs to the client, which tries once more at its own
    end.
    """
    server, client = await against(CREATED, http(403, fault()), DONE)
    with pytest.raises(SessionLeftOpen):
        async with client.open(**WANTED):
            pass
    await client.aclose()
    assert calls_of(server) == [*DRAINED, "PATCH /v1/sessions/s1"]


@pytest.mark.smoke
async def test_closing_the_client_ends_what_is_open(against: Against) -> None:
    """`aclose` first ends the sessions of blocks that are still running, which then have nothing
    left to do.
    """
    server, client = await against(CREATED, DONE)
    async with client.open(**WANTED):
        await client.aclose()
    assert calls_of(server) == DRAINED


async def test_closing_the_client_ends_what_a_create_in_flight_makes(against: Against) -> None:
    """A session that is created while the client is being closed is ended too."""
    released, inside = asyncio.Event(), asyncio.Event()

    server, client = await against(held(released, CREATED), DONE)

    async def work() -> None:
        async with client.open(**WANTED):
            inside.set()

    working = asyncio.ensure_future(work())
    await server.arrival()
    closing = asyncio.ensure_future(client.aclose())
    await loop_steps(20)
    released.set()
    await closing
    await working
    assert calls_of(server) == DRAINED


async def test_no_session_is_created_while_the_client_is_being_closed(against: Against) -> None:
    """A create that begins while others are being ended is refused, since nobody would be there to
    end what came of it.
    """
    released = asyncio.Event()

    server, client = await against(CREATED, held(released, DONE))
    inside = asyncio.Event()

    async def work() -> None:
        async with client.open(**WANTED):
            inside.set()
            await released.wait()

    working = asyncio.ensure_future(work())
    await inside.wait()
    closing = asyncio.ensure_future(client.aclose())
    await server.arrival(2)
    with pytest.raises(ClientClosed, match="being closed"):
        await client.create(**WANTED)
    released.set()
    await closing
    await working
    assert calls_of(server) == DRAINED


async def test_a_404_that_is_not_the_services_is_no_end(
    against: Against, ledger: LocalLedger
) -> None:
    """Where a proxy answers 404 in the service's place, the session counts as left open, and its
    record stays.
    """
    _, client = await against(
        CREATED, http(404, "<html>default backend - 404</html>"), DONE, ledger=ledger
    )
    with pytest.raises(SessionLeftOpen, match="status 404"):
        async with client.open(**WANTED, on_exit="close"):
            pass
    assert await states(ledger) == [(RecordState.CREATED, "s1")]
    await client.aclose()
    assert await states(ledger) == []


@pytest.fixture
def signalled() -> Iterator[asyncio.Event]:
    """Return what is set when SIGTERM is handled, as a program's own handler would."""
    happened = asyncio.Event()
    kept = signal.signal(signal.SIGTERM, lambda *_: happened.set())
    yield happened
    signal.signal(signal.SIGTERM, kept)


@posix
async def test_a_call_tells_that_a_handler_was_reset(
    against: Against, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Where the handler of Ctrl-C was reset within a block with `handle_signals`, as a notebook does
    it, the client's next call logs a warning, once.
    """
    monkeypatch.setattr(signals_module._process, "_has_warned", False)
    _, client = await against(CREATED, http(200, SESSION), http(200, SESSION), DONE)
    async with client.open(**WANTED, handle_signals=True):
        kept = signal.signal(signal.SIGINT, signal.default_int_handler)
        for _ in range(2):
            await client.get("s1")
            warnings = [one for one in caplog.records if "no longer closes" in one.message]
            assert len(warnings) == 1
        signal.signal(signal.SIGINT, kept)


@posix
async def test_no_session_is_created_while_a_signal_ends_others(
    against: Against, signalled: asyncio.Event
) -> None:
    """While a signal waits for the end of open sessions, nobody creates another; when it has acted,
    everybody may.
    """
    released = asyncio.Event()

    server, client = await against(CREATED, held(released, DONE), CREATED)
    async with client.open(**WANTED, handle_signals=True):
        signal.raise_signal(signal.SIGTERM)
        await server.arrival(2)
        with pytest.raises(
            ClientClosed, match="a signal is ending the client's sessions"
        ) as caught:
            await client.create(**WANTED)
        assert "when the signal has been handled" in str(caught.value)
        released.set()
        await signalled.wait()
        await client.create(**WANTED)
    assert calls_of(server) == [*CLOSED, "POST /v1/sessions"]


@posix
async def test_refused_creates_leave_no_record(
    against: Against, ledger: LocalLedger, signalled: asyncio.Event
) -> None:
    """A create that is refused because of a signal is in no ledger, nor is one that had not gone
    out; one that goes out later is.
    """
    released, token = asyncio.Event(), asyncio.Event()

    class Slow(IBMCloudAPIKey):
        async def headers(self, transport: Transport) -> Mapping[str, str]:
            if len(server.received) > 0:
                await token.wait()
            return await super().headers(transport)

    answers = [CREATED, held(released, DONE), http(200, SESSION | {"id": "s2"})]
    server, client = await against(
        *answers, ledger=ledger, auth=[Slow("the-api-key"), ServiceCRN(CRN)]
    )
    live = client.open(**WANTED, handle_signals=True)
    await live.__aenter__()
    waiting = asyncio.ensure_future(client.create(**WANTED))
    recorder = client._recorder
    await until(lambda: len(recorder._open) == 2 and not recorder._writers)
    assert await states(ledger) == [(RecordState.CREATED, "s1"), (RecordState.INTENT, None)]
    signal.raise_signal(signal.SIGTERM)
    await until(lambda: client._creates.refusal)
    with pytest.raises(ClientClosed):
        await client.create(**WANTED)
    with pytest.raises(ClientClosed):
        await waiting
    await client._recorder.flush()
    assert await states(ledger) == [(RecordState.CREATED, "s1")]
    released.set()
    token.set()
    await signalled.wait()
    assert await states(ledger) == []
    await live.__aexit__(None, None, None)


@posix
async def test_whoever_goes_on_creating_keeps_no_signal_waiting(
    against: Against, signalled: asyncio.Event
) -> None:
    """A task that tries again at once, and awaits nothing else, doesn't keep the event loop from
    ending the sessions.
    """
    released = asyncio.Event()

    server, client = await against(CREATED, held(released, DONE))
    async with client.open(**WANTED, handle_signals=True):
        signal.raise_signal(signal.SIGTERM)
        await server.arrival(2)
        released.set()
        while not signalled.is_set():
            with suppress(ClientClosed):
                await client.create(**WANTED)


@posix
async def test_a_signal_while_the_client_is_being_closed(
    against: Against, signalled: asyncio.Event
) -> None:
    """A signal waits for the sessions that are being ended anyway, and the client creates none
    afterwards.
    """
    released = asyncio.Event()

    server, client = await against(CREATED, held(released, DONE))
    async with client.open(**WANTED, handle_signals=True):
        closing = asyncio.ensure_future(client.aclose())
        await server.arrival(2)
        signal.raise_signal(signal.SIGTERM)
        await loop_steps(20)
        assert not signalled.is_set()
        released.set()
        await signalled.wait()
        with pytest.raises(ClientClosed, match="being closed"):
            await client.create(**WANTED)
        await closing
    assert calls_of(server) == DRAINED


async def test_a_session_that_the_closing_could_not_end_is_told_by_its_block(
    against: Against,
) -> None:
    """When `aclose` failed to end it, the clean block that ends later says so."""
    _, client = await against(CREATED, http(403, fault("You may not.")))
    with pytest.raises(SessionLeftOpen, match="You may not"):
        async with client.open(**WANTED):
            await client.aclose()


@pytest.mark.parametrize("times", [1, 3])
async def test_an_ending_is_not_cut_short_by_cancellation(times: int, against: Against) -> None:
    """Cancelled while its session is being ended, the block first sees to that, then the
    cancellation goes on.
    """
    released = asyncio.Event()

    server, client = await against(CREATED, held(released, DONE))

    async def work() -> None:
        async with client.open(**WANTED):
            pass

    task = asyncio.ensure_future(work())
    await server.arrival(2)
    for _ in range(times):
        task.cancel()
        await loop_steps(5)
    assert not task.done()
    released.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert calls_of(server) == DRAINED


async def test_a_cancellation_is_told_of_an_ending_that_failed(against: Against) -> None:
    """When a cancelled block's session can't be closed, the cancellation goes on with a note."""
    server, client = await against(CREATED, http(403, fault("You may not.")))
    inside = asyncio.Event()

    async def work() -> None:
        async with client.open(**WANTED):
            inside.set()
            await asyncio.get_running_loop().create_future()

    task = asyncio.ensure_future(work())
    await inside.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError) as caught:
        await task
    assert "is left open" in caught.value.__notes__[0]
    assert calls_of(server) == CLOSED


def test_an_event_loop_that_shuts_down_closes_the_session() -> None:
    """A block that `asyncio.run` cancels at its end, or while it is being ended, has its session
    closed.
    """
    with ThreadedEmulator(Emulator()) as emulator:
        auth = [IBMCloudAPIKey(emulator.api_key), ServiceCRN(emulator.crn)]

        async def main(*, leave: bool) -> None:
            inside = asyncio.Event()

            async def work() -> None:
                async with (
                    AsyncSessionClient(auth, base_url=emulator.url) as client,
                    client.open(**WANTED),
                ):
                    inside.set()
                    await asyncio.get_running_loop().create_future()

            working = asyncio.ensure_future(work())
            await inside.wait()
            if leave:
                # Its ending has begun, and is cancelled too when the loop shuts down.
                working.cancel()
                await loop_steps(2)

        for leave in (False, True):
            asyncio.run(main(leave=leave))
        states = [session.state for session in emulator.sessions.values()]
    assert states == ["closed", "closed"]


@pytest.fixture
async def ledger(tmp_path: Path) -> AsyncIterator[LocalLedger]:
    """Return a ledger."""
    ledger = LocalLedger(tmp_path / "ledger")
    yield ledger
    await ledger.aclose()


async def states(ledger: LocalLedger) -> list[tuple[RecordState, str | None]]:
    """List what the ledger has open."""
    entries: list[LedgerEntry] = list(await ledger.entries())
    return [(entry.record.state, entry.record.session_id) for entry in entries]


async def settled(client: AsyncSessionClient) -> None:
    """Wait until everything is written."""
    await until(lambda: not client._recorder._writers)


@pytest.mark.smoke
async def test_the_ledger_follows_a_session(against: Against, ledger: LocalLedger) -> None:
    """Intent is on the disk before the POST goes out, then the id, then that it drains, and nothing
    once it was seen closed.
    """
    seen: list[list[tuple[RecordState, str | None]]] = []

    async def look(connection: Connection) -> None:
        seen.append(await states(ledger))
        await connection.write(CREATED)

    _, client = await against(
        look, DONE, http(200, SESSION | {"state": "closed"}), ledger=ledger, timeout=None
    )
    async with client.open(**WANTED) as live:
        await settled(client)
        assert await states(ledger) == [(RecordState.CREATED, "s1")]
    await settled(client)
    assert seen == [[(RecordState.INTENT, None)]]
    assert await states(ledger) == [(RecordState.DRAINING, "s1")]
    (entry,) = await ledger.entries()
    assert (entry.record.base_url, entry.record.backend, entry.record.max_ttl) == (
        client._caller.base_url,
        "ibm_fez",
        600,
    )
    await live.refresh()
    await settled(client)
    assert await states(ledger) == []


@pytest.mark.parametrize(
    ("answers", "call", "expected"),
    [
        ((http(403, fault()),), "create", []),
        ((http(504),), "create", [(RecordState.UNKNOWN, None)]),
        (
            (http(200, {"id": "s1", "mode": 5, "state": 5}),),
            "create",
            [(RecordState.UNKNOWN, "s1")],
        ),
        ((CREATED, DONE), "close", []),
        ((CREATED, http(404, fault())), "close", []),
        ((CREATED, http(403, fault())), "close", [(RecordState.CREATED, "s1")]),
        ((CREATED, DONE, DONE, http(200, SESSION)), "reopen", [(RecordState.CREATED, "s1")]),
        ((CREATED, DONE, DONE, http(403, fault())), "reopen", [(RecordState.CREATED, "s1")]),
        ((CREATED, DONE, DONE, http(200, SESSION | {"state": "closed"})), "reopen", []),
        ((CREATED, http(409, fault()), http(200, SESSION | {"state": "closed"})), "drain", []),
    ],
)
async def test_the_ledger_has_what_may_be_open(
    answers: tuple[bytes, ...],
    call: str,
    expected: list[tuple[RecordState, str | None]],
    against: Against,
    ledger: LocalLedger,
) -> None:
    """Whatever a call comes to, the ledger has the session as long as it may be open, and no
    longer.
    """
    _, client = await against(*answers, ledger=ledger)
    # What the calls raise belongs to other tests.
    with suppress(QSessionsError):
        session = await client.create(mode="dedicated", max_ttl=600)
        if call == "reopen":
            await client.drain(session.id)
            await client.update(session.id, accepting_jobs=True)
        else:
            await getattr(client, call)(session.id)
    await settled(client)
    assert await states(ledger) == expected


@pytest.mark.parametrize(
    ("ending", "expected"),
    [
        ([http(200, SESSION), DONE], []),
        ([http(200, SESSION), http(403, fault())], [(RecordState.CREATED, "s1")]),
        ([http(200, {"no": "id"})], [(RecordState.UNKNOWN, None)]),
        ([http(504)], [(RecordState.UNKNOWN, None)]),
        ([http(403, fault())], []),
    ],
    ids=["closed", "not closed", "no id", "unknown", "refused"],
)
async def test_the_ledger_has_what_is_left_of_a_cancelled_create(
    ending: list[bytes],
    expected: list[tuple[RecordState, str | None]],
    against: Against,
    ledger: LocalLedger,
) -> None:
    """A create that is cancelled in flight is recorded by what came of it."""
    released = asyncio.Event()

    server, client = await against(held(released, ending[0]), *ending[1:] or [DONE], ledger=ledger)
    task = asyncio.ensure_future(client.create(mode="dedicated", max_ttl=600))
    await server.arrival()
    task.cancel()
    await loop_steps(3)
    released.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    await settled(client)
    assert await states(ledger) == expected


async def test_a_create_that_was_never_sent_is_not_in_the_ledger(
    against: Against, ledger: LocalLedger
) -> None:
    """Cancelled before anything was sent, a create leaves no record that somebody would look into."""
    server, client = await against(CREATED, ledger=ledger)
    task = asyncio.ensure_future(client.create(mode="dedicated", max_ttl=600))
    await until(lambda: client._recorder._writers)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await settled(client)
    assert server.received == []
    assert await states(ledger) == []


async def test_a_ledger_that_fails_stops_nothing(
    against: Against, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """With a ledger that can't be written, sessions are created and ended all the same, and the log
    says so once.
    """
    file = tmp_path / "file"
    await asyncio.to_thread(file.touch)
    ledger = LocalLedger(file / "ledger")
    server, client = await against(CREATED, DONE, ledger=ledger)
    async with client.open(**WANTED):
        pass
    await client.aclose()
    await ledger.aclose()
    assert calls_of(server)[:2] == DRAINED
    assert len([record for record in caplog.records if "the ledger doesn't" in record.message]) == 1


async def test_closing_a_client_twice_says_nothing_of_its_ledger(
    against: Against, ledger: LocalLedger
) -> None:
    """A second `aclose` has nothing to write, so it can't fail to."""
    events: list[object] = []
    _, client = await against(CREATED, DONE, ledger=ledger, observers=[events.append])
    async with client.open(**WANTED):
        pass
    await client.aclose()
    await client.aclose()
    assert [event for event in events if isinstance(event, LedgerFailed)] == []


async def test_a_wrong_ledger_is_refused() -> None:
    """What is no ledger is told when the client is made."""
    with pytest.raises(ConfigurationError, match="ledger="):
        AsyncSessionClient(static_auth(), ledger="elsewhere")


async def test_a_signal_after_the_client_was_closed_goes_on_at_once(against: Against) -> None:
    """Where nothing is open any more, the signal does what it did before."""
    _, client = await against(CREATED, DONE)
    await client.aclose()
    went_on = asyncio.Event()
    client._open_sessions.on_signal(went_on.set)
    await went_on.wait()


def test_a_signal_while_the_event_loop_stands_still_goes_on_at_once() -> None:
    """Between two runs of the event loop nothing can be closed, so the signal isn't held back."""
    went_on: list[int] = []
    client = AsyncSessionClient(static_auth(), base_url="https://service.invalid")
    client._open_sessions.on_signal(lambda: went_on.append(1))
    assert went_on == [1]


async def test_leaving_ends_it_as_its_block_meant_to(against: Against) -> None:
    """A session that an error was to close, and could not, is closed when the client tries once
    more, not drained.
    """
    server, client = await against(http(200, SESSION), http(403), http(204))
    with pytest.raises(ValueError, match="of the block"):
        async with client.open(mode="batch", max_ttl="1h"):
            raise ValueError("of the block")
    await client.aclose()
    assert [request.method for request in server.received] == ["POST", "DELETE", "DELETE"]


async def test_closing_twice_with_a_ledger_says_nothing(
    against: Against, ledger: LocalLedger
) -> None:
    """A client that is closed a second time has nothing more to record, and no failure to tell."""
    events: list[Event] = []
    _, client = await against(CREATED, ledger=ledger, observers=[events.append])
    await client.create(**WANTED)
    await client.aclose()
    await client.aclose()
    assert [event for event in events if isinstance(event, LedgerFailed)] == []


def test_an_interruption_after_the_answer_keeps_the_record(tmp_path: Path) -> None:
    """What ends the interpreter once the answer to a create is there leaves the session recorded by
    its id.
    """
    ledger = LocalLedger(tmp_path)

    def leave(event: object) -> None:
        if isinstance(event, ResponseReceived) and event.operation == "create":
            raise SystemExit(3)

    async def create() -> None:
        async with Emulator() as emulator:
            auth = [IBMCloudAuth(emulator.api_key, emulator.iam_url), ServiceCRN(emulator.crn)]
            async with AsyncSessionClient(
                auth, base_url=emulator.url, ledger=ledger, observers=[leave]
            ) as client:
                await client.create(mode="batch", max_ttl=600)

    async def recorded() -> list[str | None]:
        return [entry.record.session_id for entry in await ledger.entries()]

    with pytest.raises(SystemExit):
        asyncio.run(create())
    (session_id,) = asyncio.run(recorded())
    assert session_id is not None


@pytest.mark.parametrize(
    "labels", [{"a=b": "c"}, {"run": ""}, {"": "7"}, {"run": 7}, ["run"], {"run": "a\nb"}]
)
async def test_labels_that_cannot_be(against: Against, ledger: LocalLedger, labels: Any) -> None:
    """A label is printable text with a name that holds no =, as it is written elsewhere; anything
    else is refused before it is sent.
    """
    server, client = await against(CREATED, ledger=ledger)
    with pytest.raises(InvalidArgument, match="label"):
        await client.create(mode="batch", labels=labels)
    with pytest.raises(InvalidArgument, match="label"):
        client.open(mode="batch", max_ttl=600, labels=labels)
    assert server.received == []


async def test_labels_without_a_ledger(against: Against) -> None:
    """Labels are kept in the ledger, so a client without one refuses them: they would be lost."""
    server, client = await against(CREATED)
    with pytest.raises(InvalidArgument, match="labels= needs a ledger"):
        await client.create(mode="batch", labels={"run": "7"})
    with pytest.raises(InvalidArgument, match="labels= needs a ledger"):
        await client.close_all(labels={"run": "7"})
    assert server.received == []


async def test_labels_are_recorded(against: Against, ledger: LocalLedger) -> None:
    """The ledger has the labels of a session; the service hears nothing of them."""
    server, client = await against(CREATED, ledger=ledger)
    await client.create(mode="batch", max_ttl=600, labels={"run": "7"})
    (entry,) = await ledger.entries()
    assert entry.record.labels == {"run": "7"}
    assert b"run" not in server.received[0].body
