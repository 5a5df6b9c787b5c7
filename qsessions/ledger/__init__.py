"""The ledger: a durable record of the sessions that this user's processes opened, for when one of them is killed."""

from qsessions.ledger.book import Book
from qsessions.ledger.guard import Guard, amend_in, answer_of, entries_of
from qsessions.ledger.local import LocalLedger, place_of
from qsessions.ledger.records import (
    Ledger,
    LedgerEntry,
    LedgerRecord,
    Liveness,
    Owner,
    RecordState,
    checked_labels,
    has_labels,
)

__all__ = [
    "Book",
    "Guard",
    "Ledger",
    "LedgerEntry",
    "LedgerRecord",
    "Liveness",
    "LocalLedger",
    "Owner",
    "RecordState",
    "amend_in",
    "answer_of",
    "checked_labels",
    "entries_of",
    "has_labels",
    "place_of",
]
