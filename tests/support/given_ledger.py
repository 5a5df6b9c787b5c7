"""A ledger whose entries a test gives, of owners on other machines as well."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from qsessions import LedgerEntry, LedgerRecord, Liveness, Mode, Owner


def entry(liveness: Liveness = Liveness.DEAD, **fields: Any) -> LedgerEntry:
    """Give the entry of a session on an owner elsewhere, dead unless told otherwise."""
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
    """Has these entries, remembers what is amended, and raises `failure` if that is set.

    Attributes:
        amended: What was put in place of a record, in order.
        failure: What reading it raises.
        amend_failure: What amending it raises.
    """

    def __init__(self, *entries: LedgerEntry) -> None:
        self.given = list(entries)
        self.amended: list[LedgerRecord] = []
        self.failure: Exception | None = None
        self.amend_failure: Exception | None = None

    async def record(self, record: LedgerRecord) -> None:
        """Take a record of this process, of which nothing is kept."""

    async def entries(self) -> Sequence[LedgerEntry]:
        """Give what was given."""
        if self.failure is not None:
            raise self.failure
        return self.given

    async def amend(self, changes: Sequence[tuple[LedgerEntry, LedgerRecord]]) -> list[bool]:
        """Take note of them."""
        if self.amend_failure is not None:
            raise self.amend_failure
        self.amended += [record for _, record in changes]
        return [entry.owner.liveness is Liveness.DEAD for entry, _ in changes]

    async def aclose(self) -> None:
        """Do nothing."""
