"""A session that another process created, taken over by a client that ends it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from qsessions import (
    AsyncSessionClient,
    CallTimeout,
    ClientClosed,
    ConfigurationError,
    Conflict,
    IBMCloudAuth,
    InvalidArgument,
    Lease,
    LeaseLost,
    LeaseState,
    LeaseTerms,
    LedgerEntry,
    Liveness,
    Mode,
    NotFound,
    ProtocolError,
    RecordState,
    ServiceCRN,
    SessionClient,
    reap,
)
from qsessions.emulator import Emulator
from qsessions.ledger.verdicts import Verdict
from qsessions.testing import ManualClock, ThreadedEmulator
from tests.support.calls import SESSION
from tests.support.clients import Against, client_of
from tests.support.fault_server import hang, http
from tests.support.given_ledger import GivenLedger, entry
from tests.support.waiting import until

WANTED: dict[str, Any] = {"mode": "dedicated", "backend": "ibm_fez", "max_ttl": "10m"}


@pytest.fixture
async def session(client: AsyncSessionClient) -> str:
    """Return the id of a session that another process created."""
    return (await client.create(**WANTED)).id


@pytest.fixture
def ledger() -> GivenLedger:
    """Return the ledger of the process that takes it over."""
    return GivenLedger()


@pytest.fixture
async def heir(
    emulator: Emulator, time: ManualClock, ledger: GivenLedger
) -> AsyncIterator[AsyncSessionClient]:
    """Return the client that takes it over."""
    async with client_of(emulator, time, ledger=ledger) as heir:
        yield heir


def states(ledger: GivenLedger) -> list[tuple[str | None, RecordState]]:
    """Return what a ledger was to keep, in order."""
    return [(record.session_id, record.state) for record in ledger.calls]


@pytest.mark.smoke
async def test_a_session_that_is_taken_over_ends_with_the_block(
    heir: AsyncSessionClient, emulator: Emulator, session: str
) -> None:
    """The block gets a handle that knows the session; after a clean one it is drained, after an error
    closed, and what else `open` can do it can do, too.
    """
    async with heir.adopt(session) as live:
        assert live.id == session
        assert live.snapshot is not None
        assert live.snapshot.backend_name == "ibm_fez"
        job = emulator.submit_job(session, seconds=30)
    assert emulator.sessions[session].accepting_jobs is False
    assert emulator.jobs[job].status == "Running"
    other = (await heir.create(**WANTED)).id
    with pytest.raises(ZeroDivisionError):
        async with heir.adopt(other, handle_signals=True, max_usage="5m"):
            raise ZeroDivisionError
    assert (await heir.get(other)).is_final


async def test_it_is_recorded_as_the_clients_own(
    heir: AsyncSessionClient, ledger: GivenLedger, emulator: Emulator, session: str
) -> None:
    """The ledger has it, with its labels, before the block begins, and as over once it is."""
    async with heir.adopt(session, labels={"run": "42"}, on_exit="close"):
        (record,) = ledger.kept.values()
        assert (record.session_id, record.state) == (session, RecordState.CREATED)
        assert (record.mode, record.backend, record.max_ttl) == (Mode.DEDICATED, "ibm_fez", 600)
        assert (record.base_url, record.instance) == (emulator.url, emulator.crn)
        assert record.labels == {"run": "42"}
    assert states(ledger) == [(session, RecordState.CREATED), (session, RecordState.ENDED)]


async def test_the_reaper_leaves_it_while_its_new_owner_lives(
    heir: AsyncSessionClient, ledger: GivenLedger, emulator: Emulator, session: str
) -> None:
    """The record of the owner that is gone closes it only where the other one is gone, too."""
    about: dict[str, Any] = {
        "session_id": session,
        "base_url": emulator.url,
        "instance": emulator.crn,
    }
    async with heir.adopt(session):
        (record,) = ledger.kept.values()
        for liveness, verdict in ((Liveness.ALIVE, Verdict.LEAVE), (Liveness.DEAD, Verdict.CLOSE)):
            own = LedgerEntry(record=record, owner=entry(liveness).owner, source="x")
            ledger.given = [entry(key="k", **about), own]
            reaped = await reap(heir, ledger, only="k", dry_run=True)
            assert [each.decision.verdict for each in reaped] == [verdict]


async def test_what_takes_no_jobs_is_not_taken_over(
    heir: AsyncSessionClient, ledger: GivenLedger, emulator: Emulator, session: str
) -> None:
    """A session that is closed, drains or isn't there is an error, and stays as it is."""
    emulator.submit_job(session, seconds=1000)
    await heir.drain(session)
    with pytest.raises(Conflict, match="takes no more jobs"):
        await heir.adopt(session).__aenter__()
    assert not (await heir.get(session)).is_final
    await heir.close(session)
    with pytest.raises(Conflict, match="is closed") as caught:
        await heir.adopt(session).__aenter__()
    assert (caught.value.operation, caught.value.session_id) == ("adopt", session)
    with pytest.raises(NotFound):
        await heir.adopt("00000000-0000-0000-0000-000000000000").__aenter__()
    assert ledger.calls == []


async def test_an_answer_about_another_session_takes_nothing_over(against: Against) -> None:
    """Where a cache in between answers with another session, neither is taken over."""
    ledger = GivenLedger()
    _, client = await against(http(200, SESSION), ledger=ledger)
    with pytest.raises(ProtocolError, match="another session"):
        await client.adopt("s2").__aenter__()
    assert ledger.calls == []


async def test_wrong_arguments_are_told_at_once(heir: AsyncSessionClient, session: str) -> None:
    """Nothing is sent where an argument can't be right."""
    wrong: list[dict[str, Any]] = [
        {"session_id": ""},
        {"on_exit": "leave"},
        {"ending_timeout": None},
        {"labels": {"a=b": "c"}},
        {"api_version": "new"},
    ]
    for fields in wrong:
        with pytest.raises(InvalidArgument):
            heir.adopt(**({"session_id": session} | fields))
    context = heir.adopt(session)
    async with context:
        pass
    with pytest.raises(ConfigurationError, match="entered once"):
        await context.__aenter__()


async def test_one_that_the_client_has_recorded_has_one_record(
    heir: AsyncSessionClient, ledger: GivenLedger
) -> None:
    """Of a session that this client created it takes the ending, and the record stays."""
    async with heir.open(**WANTED) as live:
        before = dict(ledger.kept)
        async with heir.adopt(live.id, on_exit="close"):
            assert ledger.kept == before
    assert [record.state for record in ledger.kept.values()] == [RecordState.ENDED]


async def test_a_cancelled_adoption_changes_nothing(
    heir: AsyncSessionClient, ledger: GivenLedger, session: str, emulator: Emulator
) -> None:
    """Cancelled while its record is being written, it leaves the session open and no record."""
    ledger.gate.clear()
    context = heir.adopt(session)
    entering = asyncio.ensure_future(context.__aenter__())
    await ledger.called.wait()
    assert "is as it was" in context.describe()  # type: ignore[attr-defined]
    entering.cancel()
    with pytest.raises(asyncio.CancelledError):
        await entering
    ledger.gate.set()
    await until(lambda: [each.state for each in ledger.kept.values()] == [RecordState.ENDED])
    assert [each.id for each in emulator.open_sessions] == [session]


class Leased(GivenLedger):
    """A ledger whose owners hold leases.

    Attributes:
        lease: This process's.
    """

    terms = LeaseTerms()

    def __init__(self, lease: Lease) -> None:
        super().__init__()
        self.lease = lease

    async def renew(self) -> None:
        """Do nothing."""

    async def next_lease(self, _: Lease) -> Lease:
        """Wait for ever."""
        await asyncio.Event().wait()
        raise AssertionError

    async def take_over(self) -> float:
        """Take over nothing."""
        return 0.0

    async def orphans(self) -> Sequence[LedgerEntry]:
        """Return none."""
        return ()


async def test_a_process_whose_lease_was_taken_over_takes_over_nothing(
    emulator: Emulator, time: ManualClock, session: str
) -> None:
    """As it creates nothing any more."""
    ledger = Leased(Lease(state=LeaseState.TAKEN, reason="it was not renewed"))
    async with client_of(emulator, time, ledger=ledger) as heir:
        with pytest.raises(LeaseLost, match=r"^nothing was taken over: it was not renewed\."):
            await heir.adopt(session).__aenter__()
    assert ledger.calls == []
    assert [each.id for each in emulator.open_sessions] == [session]


async def test_a_client_that_is_closed_meanwhile_ends_it(against: Against) -> None:
    """Closing a client waits for what is being taken over, and then ends it."""
    entered = asyncio.Event()
    ledger = GivenLedger()
    ledger.gate.clear()
    server, client = await against(http(200, SESSION), http(204), ledger=ledger)

    async def block() -> None:
        async with client.adopt("s1"):
            entered.set()
            await asyncio.Event().wait()

    blocked = asyncio.ensure_future(block())
    await ledger.called.wait()
    closing = asyncio.ensure_future(client.aclose())
    await asyncio.sleep(0)
    ledger.gate.set()
    await closing
    # Then come the workloads, for the ledger.
    assert [request.method for request in server.received[:2]] == ["GET", "PATCH"]
    await entered.wait()
    blocked.cancel()
    with pytest.raises(asyncio.CancelledError):
        await blocked
    with pytest.raises(ClientClosed):
        await client.adopt("s1").__aenter__()


async def test_a_closed_client_with_options_takes_over_nothing(heir: AsyncSessionClient) -> None:
    """It says so at once, as `open`."""
    tenant = heir.with_options()
    await tenant.aclose()
    with pytest.raises(ClientClosed):
        tenant.adopt("s1")


async def test_nothing_is_taken_over_while_a_signal_ends_the_sessions(
    heir: AsyncSessionClient, session: str
) -> None:
    """It would be left open."""
    heir._open_sessions.refuse_creates()
    with pytest.raises(ClientClosed, match="a signal is ending"):
        await heir.adopt(session).__aenter__()


async def test_a_read_that_takes_too_long(against: Against, time: ManualClock) -> None:
    """The timeout is that of the reading, and the session is as it was."""
    server, client = await against(hang)
    entering = asyncio.ensure_future(client.adopt("s1", timeout=5).__aenter__())
    await until(lambda: server.received)
    time.advance(5)
    with pytest.raises(CallTimeout):
        await entering


async def test_what_is_released_is_left_open(
    heir: AsyncSessionClient, emulator: Emulator, session: str
) -> None:
    """A session that was left to another owner isn't ended with the client, nor by its limit."""
    context: Any = heir.adopt(session, handle_signals=True, max_usage="5m")
    await context.__aenter__()
    context.release()
    await heir.aclose()
    assert [each.id for each in emulator.open_sessions] == [session]


def test_the_synchronous_client_takes_over_too(time: ManualClock) -> None:
    """Its block ends the session as with `open`."""
    with ThreadedEmulator(Emulator(clock=time.wall, seed=1)) as emulator:
        auth = [IBMCloudAuth(emulator.api_key, emulator.iam_url), ServiceCRN(emulator.crn)]
        with SessionClient(auth, base_url=emulator.url, clock=time) as client:
            created = client.create(**WANTED)
            with client.adopt(created.id, on_exit="close") as live:
                assert live.id == created.id
            assert client.get(created.id).is_final
