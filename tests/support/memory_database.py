"""The database of a shared ledger, in memory: what the statements for PostgreSQL do, without it.

Its indexes keep ten thousand owners from costing more than they must.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence

import attrs
from attrs import define, field

from qsessions.ledger.lease import OwnerRow
from qsessions.ledger.records import LedgerRecord, RecordState

# How long an owner that is over is kept without records.
_KEPT_S = 3600.0


@define
class _Owner:
    row: OwnerRow
    renewed_at: float
    over_at: float | None = None


@define
class _Record:
    owner: str
    beat: int
    record: LedgerRecord


@define
class MemoryDatabase:
    """A `Database`, for any number of ledgers at a time.

    Args:
        now: The time by its clock, in seconds.

    Attributes:
        statements: How many of each kind were carried out, by the method.
    """

    now: Callable[[], float]
    statements: Counter[str] = field(factory=Counter, init=False)
    _owners: dict[str, _Owner] = field(factory=dict, init=False)
    _records: dict[str, _Record] = field(factory=dict, init=False)
    # The keys of an owner's records, and those of records about a session.
    _keys: defaultdict[str, set[str]] = field(factory=lambda: defaultdict(set), init=False)
    _about: defaultdict[str | None, set[str]] = field(factory=lambda: defaultdict(set), init=False)
    _living: int = field(default=1, init=False)
    _counted_at: float = field(default=-math.inf, init=False)

    async def renew(
        self, owner: OwnerRow, records: Sequence[LedgerRecord], *, begins: bool, regardless: bool
    ) -> int | None:
        """Write an owner's records, and renew its lease: see `Database`."""
        self.statements["renew"] += 1
        there = self._owners.get(owner.id)
        is_stale = there is not None and there.row.beat >= owner.beat
        is_renewed = begins
        if there is None:
            if begins:
                self._owners[owner.id] = _Owner(owner, self.now())
            elif regardless and records:
                self._owners[owner.id] = _Owner(owner, self.now(), over_at=self.now())
        else:
            is_renewed = there.row.epoch == owner.epoch and there.over_at is None and not is_stale
            if is_renewed:
                there.row, there.renewed_at = owner, self.now()
            elif regardless and records and not is_stale:
                there.row = attrs.evolve(there.row, beat=owner.beat)
        if is_renewed or (regardless and not is_stale):
            self._write(owner, records)
        if self.now() - self._counted_at > owner.terms.heartbeat:
            self._counted_at = self.now()
            self._living = sum(
                each.over_at is None and self.now() - each.renewed_at < each.row.terms.ttl
                for each in self._owners.values()
            )
        return max(self._living, 1) if is_renewed else None

    async def release(self, owner: OwnerRow) -> None:
        """Set an owner to be over: see `Database`."""
        self.statements["release"] += 1
        there = self._owners.get(owner.id)
        if there is not None and there.row.epoch == owner.epoch:
            if not self._keys[owner.id]:
                del self._owners[owner.id]
            elif there.over_at is None:
                there.over_at = self.now()

    async def owners(self) -> Sequence[OwnerRow]:
        """Return the owners that are not over."""
        self.statements["owners"] += 1
        return [self.owner(name) for name, each in self._owners.items() if each.over_at is None]

    async def take_over(self, owners: Sequence[OwnerRow]) -> None:
        """Set owners to be over, with the next epoch: see `Database`."""
        self.statements["take_over"] += 1
        for seen in owners:
            there = self._owners.get(seen.id)
            if (
                there is not None
                and there.over_at is None
                and (there.row.epoch, there.row.beat) == (seen.epoch, seen.beat)
                and there.renewed_at + there.row.terms.patience <= self.now()
            ):
                there.row = attrs.evolve(there.row, epoch=there.row.epoch + 1)
                there.over_at = self.now()

    async def entries(self, *, only_orphans: bool) -> Sequence[tuple[LedgerRecord, OwnerRow]]:
        """Return records with their owners: see `Database`."""
        self.statements["entries"] += 1
        keys = set(self._records)
        if only_orphans:
            owners = [name for name in self._keys if self._is_over(name)]
            keys = {key for name in owners for key in self._keys[name]}
            sessions = {self._records[key].record.session_id for key in keys} - {None}
            keys |= {key for session_id in sessions for key in self._about[session_id]}
        chosen = [self._records[key] for key in keys]
        chosen.sort(key=lambda each: (each.record.asked_at, each.record.key))
        return [(each.record, self.owner(each.owner)) for each in chosen]

    async def amend(
        self, changes: Sequence[tuple[str, LedgerRecord, LedgerRecord]]
    ) -> Sequence[bool]:
        """Replace records of owners that are over: see `Database`."""
        self.statements["amend"] += 1
        done = []
        for owner, seen, record in changes:
            there = self._records.get(record.key)
            is_same = (
                there is not None
                and there.owner == owner
                and there.record.session_id == seen.session_id
                and self._is_over(owner)
            )
            done.append(is_same)
            if there is not None and is_same:
                self._put(record.key, attrs.evolve(there, record=record))
        self._tidy()
        return done

    async def aclose(self) -> None:
        """Do nothing: there is no connection."""

    def owner(self, name: str) -> OwnerRow:
        """Return an owner as it is."""
        there = self._owners[name]
        age = self.now() - there.renewed_at
        return attrs.evolve(there.row, age=age, is_over=there.over_at is not None)

    def record(self, key: str) -> LedgerRecord | None:
        """Return a record, if it is there."""
        there = self._records.get(key)
        return None if there is None else there.record

    def _is_over(self, name: str) -> bool:
        return name in self._owners and self._owners[name].over_at is not None

    def _write(self, owner: OwnerRow, records: Sequence[LedgerRecord]) -> None:
        for record in records:
            there = self._records.get(record.key)
            is_newer = there is None or there.owner != owner.id or there.beat < owner.beat
            if is_newer or record.state is RecordState.ENDED:
                self._put(record.key, _Record(owner.id, owner.beat, record))

    def _put(self, key: str, new: _Record) -> None:
        if (old := self._records.pop(key, None)) is not None:
            self._keys[old.owner].discard(key)
            self._about[old.record.session_id].discard(key)
        if new.record.state is not RecordState.ENDED:
            self._records[key] = new
            self._keys[new.owner].add(key)
            self._about[new.record.session_id].add(key)

    def _tidy(self) -> None:
        for name, each in list(self._owners.items()):
            is_old = each.over_at is not None and each.over_at < self.now() - _KEPT_S
            if is_old and not self._keys[name]:
                del self._owners[name], self._keys[name]
