"""A ledger whose entries a test gives, of owners on other machines as well."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from qsessions import LedgerEntry, LedgerRecord, Liveness, Mode, Owner


def entry(liveness: Liveness = Liveness.DEAD, **fields: Any) -> LedgerEntry:
    """Return the entry of a session on an owner elsewhere, dead unless told otherwise."""
    about: dict[str, Any] = {
        "key": f"key of {fields.get('session_id')}",
        "base_url": "https://quantum.example/api",
        "mode": Mode.DEDICATED,
        "asked_at": 1.78e9,
        "changed_at": 1.78e9,
        "state": "created" if fields.get("session_id") else "intent",
    }
    owner = Owner(host="node7", pid=42, since=1.78e9, liveness=liveness)
    return LedgerEntry(record=LedgerRecord(**about | fields), owner=owner, source="node7")


class GivenLedger:
    """Has these entries, keeps what is recorded, remembers what is amended, and fails if it is to.

    Attributes:
        amended: What was put in place of a record, in order.
        calls: Each record that it was to keep, in order.
        kept: The newest one of each key that it kept.
        called: Set at the first.
        gate: Waited for before a record is kept.
        closed: Whether it was closed.
        failure: What reading it raises.
        amend_failure: What amending it raises.
        record_failure: What recording raises.
    """

    def __init__(self, *entries: LedgerEntry) -> None:
        self.given = list(entries)
        self.amended: list[LedgerRecord] = []
        self.calls: list[LedgerRecord] = []
        self.kept: dict[str, LedgerRecord] = {}
        self.called = asyncio.Event()
        self.gate = asyncio.Event()
        self.gate.set()
        self.closed = False
        self.failure: Exception | None = None
        self.amend_failure: Exception | None = None
        self.record_failure: Exception | None = None

    async def record(self, record: LedgerRecord) -> None:
        """Keep a record of this process, which is in no entry, when the gate is open."""
        self.calls.append(record)
        self.called.set()
        await self.gate.wait()
        if self.record_failure is not None:
            raise self.record_failure
        self.kept[record.key] = record

    async def entries(self) -> Sequence[LedgerEntry]:
        """Return what it was made with."""
        if self.failure is not None:
            raise self.failure
        return self.given

    async def amend(self, changes: Sequence[tuple[LedgerEntry, LedgerRecord]]) -> list[bool]:
        """Remember the changes."""
        if self.amend_failure is not None:
            raise self.amend_failure
        self.amended += [record for _, record in changes]
        return [entry.owner.liveness is Liveness.DEAD for entry, _ in changes]

    async def aclose(self) -> None:
        """Remember it."""
        self.closed = True
