"""The ledger: a durable record of the sessions that this user's processes created.

When one of them is killed, `reap` finds there what it left open.
"""

from qsessions.ledger.local import LocalLedger, place_of
from qsessions.ledger.recorder import SessionRecorder
from qsessions.ledger.records import (
    Ledger,
    LedgerEntry,
    LedgerRecord,
    Liveness,
    Owner,
    RecordState,
    amend_entries,
    checked_labels,
    close_ledger,
    has_labels,
    read_entries,
)

__all__ = [
    "Ledger",
    "LedgerEntry",
    "LedgerRecord",
    "Liveness",
    "LocalLedger",
    "Owner",
    "RecordState",
    "SessionRecorder",
    "amend_entries",
    "checked_labels",
    "close_ledger",
    "has_labels",
    "place_of",
    "read_entries",
]
