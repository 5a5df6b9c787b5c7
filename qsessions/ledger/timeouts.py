"""Calls to a ledger with a time limit: a network file system may never answer."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from typing import TypeVar

from qsessions.errors import LedgerUnavailable, QSessionsError
from qsessions.ledger.records import Ledger, LedgerEntry, LedgerRecord

T = TypeVar("T")

# The seconds that one record, and closing the ledger, may take.
WRITE_TIMEOUT_S = 5.0
# The seconds that reading or amending the records of all owners may take.
READ_TIMEOUT_S = 60.0


async def read_entries(ledger: Ledger) -> Sequence[LedgerEntry]:
    """Return every record in a ledger that isn't ended.

    Raises:
        LedgerUnavailable: It did not answer within 60 s, or raised something.
    """
    return await _answer(ledger.entries(), READ_TIMEOUT_S)


async def amend_entries(
    ledger: Ledger, changes: Sequence[tuple[LedgerEntry, LedgerRecord]]
) -> Sequence[bool]:
    """Replace the records in a ledger's entries; see `Ledger.amend`.

    Raises:
        LedgerUnavailable: It did not answer within 60 s, or raised something.
    """
    return await _answer(ledger.amend(changes), READ_TIMEOUT_S)


async def close_ledger(ledger: Ledger) -> None:
    """Close a ledger.

    Raises:
        LedgerUnavailable: It did not answer within 5 s, or raised something.
    """
    await _answer(ledger.aclose(), WRITE_TIMEOUT_S)


def reason(error: Exception) -> str:
    """Return why a ledger failed, as a message."""
    return (
        error.message if isinstance(error, QSessionsError) else f"{type(error).__name__}: {error}"
    )


async def _answer(call: Awaitable[T], seconds: float) -> T:
    scope = asyncio.timeout(seconds)
    try:
        async with scope:
            return await call
    except LedgerUnavailable:
        raise
    except Exception as error:  # noqa: BLE001 - a ledger of the user's own may raise anything
        why = f"it did not answer within {seconds:g} s" if scope.expired() else reason(error)
    raise LedgerUnavailable(f"the ledger can't be used: {why}.")
