"""Tests that anybody's ledger can run: what a `Ledger`, and one with leases, must do."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from functools import wraps
from typing import Any, TypeVar

import attrs

from qsessions.clock import SYSTEM_CLOCK
from qsessions.errors import LedgerUnavailable
from qsessions.ledger.lease import Lease, LeasedLedger, LeaseState
from qsessions.ledger.records import Ledger, LedgerEntry, LedgerRecord, Liveness, RecordState
from qsessions.models import CreateSession

S = TypeVar("S")

_NOW = 1.78e9
# How many heartbeats the tests wait for what must come: a bound, not a wait.
_ROUNDS = 200


def _sync(test: Callable[[S], Coroutine[Any, Any, None]]) -> Callable[[S], None]:
    """Have a test run an event loop of its own, whatever plugins there are."""

    @wraps(test)
    def run(self: S) -> None:
        asyncio.run(test(self))

    # A plugin must not take it for a coroutine function.
    del run.__wrapped__
    return run


def _intent() -> LedgerRecord:
    return LedgerRecord.intent(
        CreateSession("batch", backend="ibm_fez", max_ttl=600),
        base_url="https://quantum.example/api",
        instance="crn:v1:bluemix:public:quantum-computing:us-east:a/1:2::",
        now=_NOW,
        labels={"run": "42", "who": "Zoë"},
    )


def _created(intent: LedgerRecord | None = None) -> LedgerRecord:
    record = intent or _intent()
    session_id = f"session of {record.key}"
    return record.becomes(RecordState.CREATED, now=_NOW + 1, session_id=session_id)


def _ended(record: LedgerRecord) -> LedgerRecord:
    return record.becomes(RecordState.ENDED, now=_NOW)


class LedgerConformance:
    """Tests of a ledger. Subclass it, with a name that begins with Test, and run pytest.

    Each test runs an event loop of its own, and opens ledgers that share one place as processes do.
    What a test leaves in that place must not show in the next one, unless it is ended.
    """

    async def open_ledger(self) -> Ledger:
        """Return a new ledger, as another process would have it."""
        raise NotImplementedError

    async def kill(self, ledger: Any) -> None:
        """Have the ledger's process be gone at once, for all that other ledgers can see."""
        raise NotImplementedError

    async def find_dead(self, ledger: Any, record: LedgerRecord) -> None:
        """Have a ledger find out that the owner of a record is gone; by default it knows."""

    @_sync
    async def test_lists_what_is_recorded(self) -> None:
        """A record is listed as it is, by its own ledger and by others; its owner isn't dead."""
        ledger, other = await self.open_ledger(), await self.open_ledger()
        record = _created()
        await ledger.record(record)
        assert isinstance(ledger, Ledger)
        for reader in (ledger, other):
            (entry,) = await self._about(reader, record)
            assert entry.record == record
            assert entry.record.labels == record.labels
            assert entry.owner.liveness is not Liveness.DEAD
        await self._close([record], ledger, other)

    @_sync
    async def test_newest_record_counts(self) -> None:
        """A record takes the place of an earlier one of its key; an ended one is not listed."""
        ledger = await self.open_ledger()
        intent = _intent()
        await ledger.record(intent)
        created = _created(intent)
        await ledger.record(created)
        assert [entry.record for entry in await self._about(ledger, created)] == [created]
        await ledger.record(_ended(created))
        assert await self._about(ledger, created) == []
        await ledger.aclose()

    @_sync
    async def test_records_come_at_once(self) -> None:
        """Many records that are written at the same time are all there."""
        ledger = await self.open_ledger()
        records = [_created() for _ in range(100)]
        await asyncio.gather(*(ledger.record(record) for record in records))
        listed = {entry.record.key for entry in await ledger.entries()}
        assert {record.key for record in records} <= listed
        await asyncio.gather(*(ledger.record(_ended(record)) for record in records))
        assert await self._about(ledger, *records) == []
        await ledger.aclose()

    @_sync
    async def test_living_owners_are_left_alone(self) -> None:
        """No other ledger changes the record of an owner that lives."""
        ledger, other = await self.open_ledger(), await self.open_ledger()
        record = _created()
        await ledger.record(record)
        entries = await self._about(other, record)
        assert await other.amend([(entry, _ended(record)) for entry in entries]) == [False]
        assert len(await self._about(other, record)) == 1
        await self._close([record], ledger, other)

    @_sync
    async def test_dead_owners_are_amended(self) -> None:
        """Records of an owner that is gone are replaced or ended, once, and the others are not."""
        ledger, other = await self.open_ledger(), await self.open_ledger()
        mine, first, second = _created(), _created(), _created()
        await other.record(mine)
        await asyncio.gather(ledger.record(first), ledger.record(second))
        await self.kill(ledger)
        await self.find_dead(other, second)
        (of_living,) = await self._about(other, mine)
        (of_first,) = await self._about(other, first)
        (of_second,) = await self._about(other, second)
        assert of_first.owner.liveness is Liveness.DEAD
        draining = first.becomes(RecordState.DRAINING, now=_NOW + 2)
        end = (of_second, _ended(second))
        changes = [(of_living, _ended(mine)), (of_first, draining), end]
        assert list(await other.amend(changes)) == [False, True, True]
        assert list(await other.amend([end])) == [False]
        left = [entry.record for entry in await self._about(other, mine, first, second)]
        assert sorted(left, key=lambda record: record.key == first.key) == [mine, draining]
        (of_first,) = await self._about(other, first)
        assert list(await other.amend([(of_first, _ended(draining))])) == [True]
        await self._close([mine], other)

    @_sync
    async def test_two_that_amend_make_a_change_once(self) -> None:
        """Where two ledgers end the same record at the same time, one of them does it."""
        ledger, other, third = [await self.open_ledger() for _ in range(3)]
        record = _created()
        await ledger.record(record)
        await self.kill(ledger)
        await asyncio.gather(self.find_dead(other, record), self.find_dead(third, record))
        (entry,) = await self._about(other, record)
        change = (entry, _ended(record))
        first, second = await asyncio.gather(other.amend([change]), third.amend([change]))
        assert sorted([*first, *second]) == [False, True]
        await self._close([], other, third)

    @_sync
    async def test_closes_twice(self) -> None:
        """Closing a second time does nothing."""
        ledger = await self.open_ledger()
        record = _created()
        await ledger.record(record)
        await ledger.record(_ended(record))
        await ledger.aclose()
        await ledger.aclose()

    async def _about(self, ledger: Ledger, *records: LedgerRecord) -> list[LedgerEntry]:
        keys = {record.key for record in records}
        return [entry for entry in await ledger.entries() if entry.record.key in keys]

    async def _close(self, records: Sequence[LedgerRecord], *ledgers: Ledger) -> None:
        """End records of the first ledger, and close all."""
        await asyncio.gather(*(ledgers[0].record(_ended(record)) for record in records))
        await asyncio.gather(*(ledger.aclose() for ledger in ledgers))


class LeasedLedgerConformance(LedgerConformance):
    """Tests of a ledger whose owners hold leases, beside those of every ledger.

    `wait` and `now` are real time unless you replace them, so the terms should be short; but long
    beside what a busy machine keeps a thread waiting, such as `LeaseTerms(heartbeat=0.3, ttl=2,
    delay=2)`.
    """

    async def open_ledger(self) -> LeasedLedger:
        """Return a new ledger, as another process would have it."""
        raise NotImplementedError

    async def cut(self, ledger: Any) -> None:
        """Keep a ledger from what it shares with others."""
        raise NotImplementedError

    async def mend(self, ledger: Any) -> None:
        """Let it get there again."""
        raise NotImplementedError

    async def wait(self, seconds: float) -> None:
        """Wait, by the ledgers' time."""
        await asyncio.sleep(seconds)

    def now(self) -> float:
        """Return the ledgers' time in seconds that only go forward."""
        return SYSTEM_CLOCK.monotonic()

    async def find_dead(self, ledger: LeasedLedger, record: LedgerRecord) -> None:
        """Look at the leases every heartbeat until the owner of a record is dead."""
        for _ in range(_ROUNDS):
            await ledger.take_over()
            entries = await self._about(ledger, record)
            if [entry.owner.liveness for entry in entries] == [Liveness.DEAD]:
                return
            await self.wait(ledger.terms.heartbeat)
        raise AssertionError("the owner was never taken over")

    @_sync
    async def test_living_owners_are_counted(self) -> None:
        """A heartbeat tells how many leases are good; one that is given back counts no more."""
        ledger, other = await self.open_ledger(), await self.open_ledger()
        assert isinstance(ledger, LeasedLedger)
        assert ledger.lease.state is LeaseState.HELD
        await ledger.renew()
        await other.renew()
        await self._until(ledger, lambda lease: lease.living == 2)
        await other.aclose()
        await self._until(ledger, lambda lease: lease.living == 1)
        await ledger.aclose()

    @_sync
    async def test_a_lease_that_is_renewed_is_never_taken_over(self) -> None:
        """However long another looks, who renews its lease keeps its sessions."""
        ledger, other = await self.open_ledger(), await self.open_ledger()
        record = _created()
        await ledger.record(record)
        until = self.now() + ledger.terms.patience + ledger.terms.ttl
        while self.now() < until:
            await other.take_over()
            await self.wait(ledger.terms.heartbeat)
        (entry,) = await self._about(other, record)
        assert entry.owner.liveness is not Liveness.DEAD
        assert await other.orphans() == []
        assert ledger.lease.state is not LeaseState.TAKEN
        await self._close([record], ledger, other)

    @_sync
    async def test_an_orphan_is_not_taken_over_early(self) -> None:
        """An owner is dead only when its lease is over and the delay has passed, too."""
        ledger, other = await self.open_ledger(), await self.open_ledger()
        record, shared = _created(), _created()
        same = attrs.evolve(_created(), session_id=shared.session_id)
        await ledger.record(record)
        renewed_at = self.now()
        await asyncio.gather(ledger.record(shared), other.record(same))
        await self.kill(ledger)
        await self.find_dead(other, record)
        assert self.now() - renewed_at >= ledger.terms.patience
        # Whoever ends the session must know of the other.
        orphans = {entry.record.key: entry.owner.liveness for entry in await other.orphans()}
        assert orphans.keys() == {record.key, shared.key, same.key}
        assert orphans[same.key] is not Liveness.DEAD
        found = await self._about(other, record, shared)
        assert all(await other.amend([(entry, _ended(entry.record)) for entry in found]))
        await self._close([same], other)

    @_sync
    async def test_an_owner_that_is_cut_off_is_told_and_goes_on(self) -> None:
        """It learns that its lease is over, and holds it again when it can renew it."""
        ledger = await self.open_ledger()
        record = _created()
        await ledger.record(record)
        await self.cut(ledger)
        await self._until(ledger, lambda lease: lease.state is LeaseState.UNRENEWED)
        assert ledger.lease.reason
        await self.mend(ledger)
        await self._until(ledger, lambda lease: lease.state is LeaseState.HELD)
        await self._close([record], ledger)

    @_sync
    async def test_what_an_owner_says_too_late_is_kept(self) -> None:
        """One that was taken over learns that it was, and what it then says of its sessions is kept
        and listed; what others read before replaces nothing.
        """
        ledger, other = await self.open_ledger(), await self.open_ledger()
        intent = _intent()
        await ledger.record(intent)
        await self.cut(ledger)
        await self.find_dead(other, intent)
        read = await self._about(other, intent)
        await self.mend(ledger)
        created = _created(intent)
        await ledger.record(created)
        assert ledger.lease.state is LeaseState.TAKEN
        for _ in range(2):
            assert [entry.record for entry in await other.orphans()] == [created]
            assert list(await other.amend([(entry, _ended(intent)) for entry in read])) == [False]
        await self._close([created], ledger, other)

    @_sync
    async def test_a_look_that_fails_begins_anew(self) -> None:
        """What a reaper saw before it lost its way to the others counts no more."""
        ledger, other = await self.open_ledger(), await self.open_ledger()
        record = _created()
        await asyncio.gather(ledger.record(record), other.renew())
        await self.kill(ledger)
        for _ in range(int(ledger.terms.delay / ledger.terms.heartbeat)):
            await other.take_over()
            await self.wait(ledger.terms.heartbeat)
        await self.cut(other)
        with suppress(LedgerUnavailable, OSError, TimeoutError):
            await other.take_over()
        await self.mend(other)
        mended_at = self.now()
        await self.find_dead(other, record)
        assert self.now() - mended_at >= ledger.terms.patience
        (entry,) = await other.orphans()
        assert await other.amend([(entry, _ended(record))]) == [True]
        await other.aclose()

    async def _until(self, ledger: LeasedLedger, is_so: Callable[[Lease], bool]) -> None:
        """Follow a ledger's lease until it is so."""

        async def follow() -> None:
            while not is_so(lease := ledger.lease):
                await ledger.next_lease(lease)

        following = asyncio.ensure_future(follow())
        for _ in range(_ROUNDS):
            if following.done():
                break
            await self.wait(ledger.terms.heartbeat)
        assert following.done(), "its lease never came to that"
        await following
