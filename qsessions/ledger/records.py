"""What a ledger keeps, and what a ledger is: the values, the protocol, and calls with a time limit.

A network file system may never answer.
"""

from __future__ import annotations

from collections.abc import Awaitable, Mapping, Sequence
from enum import StrEnum
from typing import Protocol, Self, TypeVar, runtime_checkable
from uuid import uuid4

import attrs
from attrs import field, frozen
from attrs.converters import optional as optional_converter
from attrs.validators import and_, instance_of, min_len, optional

from qsessions.clock import SYSTEM_CLOCK, Clock
from qsessions.errors import InvalidArgument, LedgerUnavailable, QSessionsError
from qsessions.models import CreateSession, Mode, ModeName
from qsessions.values import Value

T = TypeVar("T")

# The seconds that one record, and closing the ledger, may take.
WRITE_TIMEOUT_S = 5.0
# The seconds that reading or amending the records of all owners may take.
READ_TIMEOUT_S = 60.0

_text = and_(instance_of(str), min_len(1))


class RecordState(StrEnum):
    """How far a session had come when its owner last recorded it."""

    INTENT = "intent"
    """The request that creates it was about to be sent. It stays so if the owner died meanwhile."""
    CREATED = "created"
    """It exists."""
    DRAINING = "draining"
    """It was set to accept no more jobs, and was not yet seen closed."""
    ENDED = "ended"
    """It was seen closed, or was never created. The record is no longer listed."""
    UNKNOWN = "unknown"
    """It is unknown whether it was created."""

    @classmethod
    def _missing_(cls, value: object) -> Self | None:
        # A later version's state. There may be a session, which is what matters.
        return cls("unknown") if isinstance(value, str) else None


class Liveness(StrEnum):
    """Whether the process that owns a session lives."""

    ALIVE = "alive"
    DEAD = "dead"
    UNKNOWN = "unknown"
    """It can't be known from here."""


def _moment(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e12:
        raise TypeError(f"a time must be in seconds since 1970, not {type(value).__name__}")
    return float(value)


# For type checkers, to which an enum takes any object.
def _mode(value: Mode | ModeName) -> Mode:
    return Mode(value)


def _record_state(value: RecordState) -> RecordState:
    return RecordState(value)


def checked_labels(value: object) -> Mapping[str, str]:
    """Return a copy of labels; None means no labels.

    Raises:
        InvalidArgument: They are not a mapping of printable text to printable text.
    """
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise InvalidArgument(
            f'labels must be a mapping such as {{"run": "42"}}, not {type(value).__name__}.'
        )
    for text in (*value.keys(), *value.values()):
        if not isinstance(text, str) or not text or not text.isprintable():
            raise InvalidArgument(f"a label's name and value must be printable text, not {text!r}.")
    if wrong := [name for name in value if "=" in name]:
        raise InvalidArgument(
            f"a label's name must have no =, as {wrong[0]!r} has: "
            "name=value is how it is written elsewhere."
        )
    return dict(value)


@frozen(kw_only=True, eq=False, repr=False)
class LedgerRecord(Value):
    """A session in the ledger. It holds no credentials.

    Attributes:
        key: The record's own id, made before there is a session.
        base_url: The base URL of the service.
        instance: The CRN of the instance, or None.
        mode: The requested mode: dedicated or batch.
        backend: The requested backend, or None.
        max_ttl: The requested maximal lifetime in seconds, or None.
        asked_at: When the request was about to be sent, in seconds since 1970 (local clock).
        changed_at: When `state` was recorded, in seconds since 1970.
        state: How far it had come.
        session_id: The session's id, once it is known.
        idle_since: Since when `reap` sees it drain without jobs, in seconds since 1970, or None.
        detached: Whether it is meant to outlive its creator, as with `qsessions create`. Then no
            process owns it.
        labels: Labels for people: names and values of printable text.
    """

    key: str = field(validator=_text)
    base_url: str = field(validator=_text)
    instance: str | None = field(default=None, validator=optional(instance_of(str)))
    mode: Mode = field(converter=_mode)
    backend: str | None = field(default=None, validator=optional(instance_of(str)))
    max_ttl: int | None = field(default=None, validator=optional(instance_of(int)))
    asked_at: float = field(converter=_moment)
    changed_at: float = field(converter=_moment)
    state: RecordState = field(default=RecordState.INTENT, converter=_record_state)
    session_id: str | None = field(default=None, validator=optional(_text))
    idle_since: float | None = field(default=None, converter=optional_converter(_moment))
    detached: bool = field(default=False, validator=instance_of(bool))
    labels: Mapping[str, str] = field(factory=dict, converter=checked_labels, hash=False)

    @classmethod
    def intent(
        cls,
        request: CreateSession,
        *,
        base_url: str,
        instance: str | None,
        now: float,
        key: str | None = None,
        detached: bool = False,
        labels: Mapping[str, str] | None = None,
    ) -> Self:
        """Return the record of a request that is about to be sent.

        Args:
            request: The request.
            base_url: The base URL of the service.
            instance: The CRN of the instance, or None.
            now: Seconds since 1970.
            key: The record's own id; None makes one.
            detached: Whether the session is meant to outlive this process.
            labels: Labels for people.
        """
        return cls(
            key=key or uuid4().hex,
            base_url=base_url,
            instance=instance,
            mode=request.mode,
            backend=request.backend,
            max_ttl=request.max_ttl,
            asked_at=now,
            changed_at=now,
            detached=detached,
            labels=labels or {},
        )

    def becomes(self, state: RecordState, *, now: float, session_id: str | None = None) -> Self:
        """Return this record in another state, as of `now` (seconds since 1970).

        A session id replaces the one there was; None keeps it.
        """
        return attrs.evolve(
            self, state=state, changed_at=now, session_id=session_id or self.session_id
        )


def has_labels(record: LedgerRecord, labels: Mapping[str, str]) -> bool:
    """Return whether a record has all of some labels."""
    return labels.items() <= record.labels.items()


def put(records: dict[str, LedgerRecord], record: LedgerRecord) -> None:
    """Replace a record among the open ones, by its key. An ended one is removed."""
    if record.state is RecordState.ENDED:
        records.pop(record.key, None)
    else:
        records[record.key] = record


@frozen(kw_only=True, eq=False, repr=False)
class Owner(Value):
    """The process that a record belongs to. Attributes that its file doesn't have are None.

    Attributes:
        host: The name of its machine.
        pid: Its process id, for people. It is not used to find out whether the process lives.
        since: When it began to record, in seconds since 1970.
        liveness: Whether it lives.
        lease_age: How many seconds ago its lease was renewed, or None where owners hold none.
    """

    host: str | None
    pid: int | None
    since: float | None
    liveness: Liveness
    lease_age: float | None = None


@frozen(kw_only=True, eq=False, repr=False)
class LedgerEntry(Value):
    """A record with its owner.

    Attributes:
        record: The record.
        owner: The process that it belongs to.
        source: Where the ledger keeps it, in a form of that ledger's own.
    """

    record: LedgerRecord
    owner: Owner
    source: str


@runtime_checkable
class Ledger(Protocol):
    """Keeps records beyond the life of a process: `LocalLedger`, or your own, such as a database.

    A method may raise anything: the client warns and goes on. No method may block the event loop.
    """

    async def record(self, record: LedgerRecord) -> None:
        """Write a record, in place of an earlier one of the same key.

        Return only when the record would survive a crash.
        """
        ...

    async def entries(self) -> Sequence[LedgerEntry]:
        """Return every record that isn't ended, of all owners."""
        ...

    async def amend(self, changes: Sequence[tuple[LedgerEntry, LedgerRecord]]) -> Sequence[bool]:
        """Replace the record in each entry of a dead owner. Many should cost little more than one.

        Returns:
            For each change whether it was made. It was not if the owner lives, if that is unknown,
            or if the record is no longer open.
        """
        ...

    async def aclose(self) -> None:
        """Release the records that are still open: their owner counts as dead from now on."""
        ...


async def read_entries(ledger: Ledger, clock: Clock = SYSTEM_CLOCK) -> Sequence[LedgerEntry]:
    """Return every record in a ledger that isn't ended.

    Raises:
        LedgerUnavailable: It did not answer within 60 s, or raised something.
    """
    return await answer(ledger.entries(), READ_TIMEOUT_S, clock)


async def amend_entries(
    ledger: Ledger,
    changes: Sequence[tuple[LedgerEntry, LedgerRecord]],
    clock: Clock = SYSTEM_CLOCK,
) -> Sequence[bool]:
    """Replace the records in a ledger's entries; see `Ledger.amend`.

    Raises:
        LedgerUnavailable: It did not answer within 60 s, or raised something.
    """
    return await answer(ledger.amend(changes), READ_TIMEOUT_S, clock)


async def close_ledger(ledger: Ledger, clock: Clock = SYSTEM_CLOCK) -> None:
    """Close a ledger.

    Raises:
        LedgerUnavailable: It did not answer within 5 s, or raised something.
    """
    await answer(ledger.aclose(), WRITE_TIMEOUT_S, clock)


def reason(error: Exception) -> str:
    """Return why a ledger failed, for the end of a sentence, so without a full stop."""
    text = (
        error.message if isinstance(error, QSessionsError) else f"{type(error).__name__}: {error}"
    )
    return text.removesuffix(".")


async def answer(call: Awaitable[T], seconds: float, clock: Clock) -> T:
    """Return a ledger's answer.

    Raises:
        LedgerUnavailable: It did not answer within so many seconds, or raised something.
    """
    scope = clock.timeout(seconds)
    try:
        with scope:
            return await call
    except LedgerUnavailable:
        raise
    except Exception as error:  # noqa: BLE001 - a ledger of the user's own may raise anything
        why = f"it did not answer within {seconds:g} s" if scope.expired else reason(error)
    raise LedgerUnavailable(f"the ledger can't be used: {why}.")
