"""What a ledger keeps, and what a ledger is: the values and the protocol."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Protocol, Self, runtime_checkable
from uuid import uuid4

import attrs
from attrs import field, frozen
from attrs.converters import optional as optional_converter
from attrs.validators import and_, instance_of, min_len, optional

from qsessions.errors import InvalidArgument
from qsessions.models import CreateSession, Mode

_text = and_(instance_of(str), min_len(1))


class RecordState(StrEnum):
    """How far a session had come when its owner last recorded it."""

    INTENT = "intent"
    """The request that creates it was about to go out. The owner's last word when it died in the middle of that request."""
    CREATED = "created"
    """It exists."""
    DRAINING = "draining"
    """It was told to take no more jobs; it was not yet seen closed."""
    ENDED = "ended"
    """It was seen closed, or it was never created. Nothing is left to do, and it is no longer listed."""
    UNKNOWN = "unknown"
    """Nobody can tell whether it was created."""

    @classmethod
    def _missing_(cls, value: object) -> Self | None:
        # A later version's word: there may be a session, which is what matters.
        return cls("unknown") if isinstance(value, str) else None


class Liveness(StrEnum):
    """Whether the process that owns a session is there."""

    ALIVE = "alive"
    DEAD = "dead"
    UNKNOWN = "unknown"
    """It can't be told from here."""


def _moment(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e12:
        raise TypeError(f"a time must be in seconds since 1970, not {type(value).__name__}")
    return float(value)


def checked_labels(value: object) -> Mapping[str, str]:
    """Return a copy of labels; None is none.

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
            f"a label's name must have no =, as {wrong[0]!r} has: name=value is how it is written elsewhere."
        )
    return dict(value)


@frozen(kw_only=True)
class LedgerRecord:
    """What the ledger knows of one session. It holds no credential.

    Attributes:
        key: The record's own id, made before there is a session.
        base_url: The service that was asked.
        instance: The CRN of the instance, or None.
        mode: What was asked for: dedicated or batch.
        backend: The backend that was asked for, or None.
        max_ttl: The longest life that was asked for, in seconds, or None.
        asked_at: When the request was about to go out, in seconds since 1970, by this machine's clock.
        changed_at: When `state` was recorded, in seconds since 1970.
        state: How far it had come.
        session_id: The session's id, once it is known.
        idle_since: Since when `reap` has found it to drain without jobs, in seconds since 1970, or None.
        detached: Whether it was made to outlive its maker, as `qsessions create` does: it belongs to nobody.
        labels: What its maker calls it, for people: names and values of printable text.
    """

    key: str = field(validator=_text)
    base_url: str = field(validator=_text)
    instance: str | None = field(default=None, validator=optional(instance_of(str)))
    mode: Mode = field(converter=Mode)
    backend: str | None = field(default=None, validator=optional(instance_of(str)))
    max_ttl: int | None = field(default=None, validator=optional(instance_of(int)))
    asked_at: float = field(converter=_moment)
    changed_at: float = field(converter=_moment)
    state: RecordState = field(default=RecordState.INTENT, converter=RecordState)
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
        """Make the record of a request that is about to go out.

        Args:
            request: What is asked for.
            base_url: Of whom.
            instance: The CRN of the instance, or None.
            now: Seconds since 1970.
            key: The record's own id; None makes one.
            detached: Whether the session is to outlive this process.
            labels: What to call it.
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
        """Give this record in another state, as of `now` (seconds since 1970); a session id that is known stays."""
        return attrs.evolve(
            self, state=state, changed_at=now, session_id=session_id or self.session_id
        )


def has_labels(record: LedgerRecord, labels: Mapping[str, str]) -> bool:
    """Return whether a record has all of some labels."""
    return labels.items() <= record.labels.items()


@frozen(kw_only=True)
class Owner:
    """The process that a record belongs to. What its file doesn't tell is None.

    Attributes:
        host: The name of its machine.
        pid: Its process id, for people: whether it lives is never told by it.
        since: When it began to record, in seconds since 1970.
        liveness: Whether it is there.
    """

    host: str | None
    pid: int | None
    since: float | None
    liveness: Liveness


@frozen(kw_only=True)
class LedgerEntry:
    """A record with its owner. `source` says where the ledger keeps it; it means something to that ledger only."""

    record: LedgerRecord
    owner: Owner
    source: str


@runtime_checkable
class Ledger(Protocol):
    """A place to keep records that outlives the process: `LocalLedger`, or one of your own, such as a shared database.

    A method may raise what it likes: the client warns and goes on. None may block the event loop.
    """

    async def record(self, record: LedgerRecord) -> None:
        """Keep a record, in place of an earlier one of the same key. It has returned only when the record would survive a crash."""
        ...

    async def entries(self) -> Sequence[LedgerEntry]:
        """Give every record that isn't ended, whoever owns it."""
        ...

    async def amend(self, changes: Sequence[tuple[LedgerEntry, LedgerRecord]]) -> Sequence[bool]:
        """Put each record in place of the one in its entry, whose owner is dead. Many at once should cost little more than one.

        Returns:
            For each of them whether it was done; False, and nothing is changed, where the owner lives, where that can't be told, or where
            the record is no longer open.
        """
        ...

    async def aclose(self) -> None:
        """Give up the records that are still open: their owner counts as dead from now on."""
        ...
