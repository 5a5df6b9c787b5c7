"""Leases: which owner in a shared ledger lives, and who may act for one that doesn't.

The rules, as pure state machines that read no clock: `Holding` is an owner's side, `Sightings` that
of a reaper. docs/fleet.md has the whole, with what is trusted for what.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from enum import StrEnum
from typing import Protocol, runtime_checkable

import attrs
from attrs import frozen

from qsessions.clock import SYSTEM_CLOCK, Clock
from qsessions.errors import ConfigurationError
from qsessions.ledger.records import READ_TIMEOUT_S, Ledger, LedgerEntry, answer
from qsessions.values import Value

# A lease that isn't renewed by then is renewed too late: beats get lost.
_BEATS_A_TTL = 3
# An outage shorter than a lease may pass between two looks of a reaper. Then the owner, which tried
# in vain just before its end, must have the time to try again.
_BEATS_A_DELAY = 2
# A whole fleet may begin while the database is away, each to take its share of the poll rate.
_LIVING_UNTIL_TOLD = 10


@frozen(kw_only=True, eq=False, repr=False)
class LeaseTerms(Value):
    """How long an owner's lease holds, in seconds.

    Attributes:
        heartbeat: How often the owner renews its lease.
        ttl: How long a lease holds that isn't renewed.
        delay: How long after that its sessions are left alone. The service can't tell a request of
            an owner whose lease is gone from another, so this must be longer than the owner's
            longest request and ending.

    Raises:
        ConfigurationError: They are not numbers above 0, `ttl` is shorter than three heartbeats, or
            `delay` than two.
    """

    heartbeat: float = 10.0
    ttl: float = 45.0
    delay: float = 60.0

    def __attrs_post_init__(self) -> None:
        """Check them."""
        for name in ("heartbeat", "ttl", "delay"):
            value: object = getattr(self, name)
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            if not is_number or not 0 < value < math.inf:  # type: ignore[operator]
                raise ConfigurationError(
                    f"{name} of a lease must be seconds above 0, not {value!r}."
                )
        if self.ttl < _BEATS_A_TTL * self.heartbeat:
            raise ConfigurationError(
                f"a lease of {self.ttl:g} s is too short for a heartbeat of {self.heartbeat:g} s: "
                "one lost heartbeat must not end it.",
                solution=f"Make ttl at least {_BEATS_A_TTL} heartbeats.",
            )
        if self.delay < _BEATS_A_DELAY * self.heartbeat:
            raise ConfigurationError(
                f"a delay of {self.delay:g} s is too short for a heartbeat of "
                f"{self.heartbeat:g} s: after an outage an owner must have the time to renew its "
                "lease.",
                solution=f"Make delay at least {_BEATS_A_DELAY} heartbeats.",
            )

    @property
    def patience(self) -> float:
        """How many seconds a reaper must see a lease unrenewed before it acts."""
        return self.ttl + self.delay


class LeaseState(StrEnum):
    """What an owner knows of its own lease."""

    HELD = "held"
    """It was renewed within its time, or nothing was recorded yet."""
    UNRENEWED = "unrenewed"
    """It could not be renewed in time. A reaper that reaches the database may take it over."""
    TAKEN = "taken"
    """Another process has taken it over, and ends the sessions.

    When none of them is open any more, this process begins as a new owner.
    """


@frozen(kw_only=True, eq=False, repr=False)
class Lease(Value):
    """A process's own lease.

    Attributes:
        state: Whether it is held.
        reason: Why it isn't, for people.
        living: How many owners' leases were good when it was last renewed, this one included.
    """

    state: LeaseState = LeaseState.HELD
    reason: str = ""
    living: int = 1


@frozen(kw_only=True, eq=False, repr=False)
class OwnerRow(Value):
    """An owner as a shared ledger has it.

    Attributes:
        id: Its id: one for each ledger in each process.
        host: The name of its machine.
        pid: Its process id, for people.
        since: When it began, in seconds since 1970 by its own clock.
        terms: The terms of its lease.
        epoch: How many have owned its sessions: 1 until they are taken over.
        beat: How often its lease was renewed.
        age: How many seconds ago that was, by the database's clock.
        is_over: Whether it has given its lease back, or it was taken over.
    """

    id: str
    host: str
    pid: int
    since: float
    terms: LeaseTerms = LeaseTerms()
    epoch: int = 1
    beat: int = 0
    age: float = 0.0
    is_over: bool = False


class Holding:
    """An owner's side of its lease.

    What counts is the time at which a renewal was sent: its answer may have taken long.

    Args:
        terms: The lease's.
        now: The time at which it begins, on the monotonic clock.

    Attributes:
        lease: What is known of it.
    """

    def __init__(self, terms: LeaseTerms, now: float) -> None:
        self._terms = terms
        self._renewed_at = now
        self.lease = Lease(living=_LIVING_UNTIL_TOLD)

    def renewed(self, sent_at: float, living: int) -> None:
        """Keep that a renewal which was sent at a time was carried out."""
        self._renewed_at = sent_at
        self.lease = Lease(living=living)

    def failed(self, reason: str, now: float) -> None:
        """Keep that a renewal has failed."""
        if self.lease.state is LeaseState.HELD and now >= self.over_at:
            self.lease = attrs.evolve(
                self.lease,
                state=LeaseState.UNRENEWED,
                reason=f"its lease of {self._terms.ttl:g} s could not be renewed: {reason}",
            )

    def taken(self) -> None:
        """Keep that a renewal found another epoch."""
        self.lease = attrs.evolve(
            self.lease,
            state=LeaseState.TAKEN,
            reason="another process has taken over its sessions, since its lease was not renewed",
        )

    @property
    def over_at(self) -> float:
        """When the lease ends if it isn't renewed before, on the monotonic clock."""
        return self._renewed_at + self._terms.ttl


class Sightings:
    """A reaper's side: which leases it has itself seen unrenewed for long enough.

    A look counts only if the database took a write with it. After one that failed, or after a pause
    as long as a lease, all begins anew: while the database is away nobody can renew, and then every
    lease looks as if it were over.
    """

    def __init__(self) -> None:
        self._looked_at = -math.inf
        # By owner: its epoch and beat, and since when they are seen.
        self._seen: dict[str, tuple[tuple[int, int], float]] = {}

    def look(self, owners: Iterable[OwnerRow], asked_at: float, now: float) -> None:
        """Keep what a look shows that was asked for and answered at times on the monotonic clock.

        What it shows was so at some time in between.
        """
        pause, self._looked_at = now - self._looked_at, asked_at
        before, self._seen = self._seen, {}
        for row in owners:
            mark = (row.epoch, row.beat)
            seen = before.get(row.id)
            goes_on = seen is not None and seen[0] == mark and pause < row.terms.ttl
            self._seen[row.id] = seen if seen is not None and goes_on else (mark, now)

    def failed(self) -> None:
        """Keep that the database didn't answer."""
        self._seen.clear()
        self._looked_at = -math.inf

    def remaining(self, owner: OwnerRow) -> float:
        """Return for how many seconds more an owner must be seen as it is before it is dead."""
        mark, since = self._seen.get(owner.id, (None, self._looked_at))
        seen_for = self._looked_at - since if mark == (owner.epoch, owner.beat) else 0.0
        # The database's clock and this machine's: either may have jumped.
        return max(0.0, owner.terms.patience - min(seen_for, owner.age))


@runtime_checkable
class LeasedLedger(Ledger, Protocol):
    """A ledger that many machines share, whose owners hold leases: `PostgresLedger`, or your own.

    It renews its lease by itself, and writes what it could not write when that is possible again;
    no event loop that is blocked must keep it from that. `qsessions.testing.ledger` has tests for
    it.
    """

    @property
    def terms(self) -> LeaseTerms:
        """The terms of this process's lease."""
        ...

    @property
    def lease(self) -> Lease:
        """What this process knows of its lease."""
        ...

    async def renew(self) -> None:
        """Renew the lease now, and from now on by itself."""
        ...

    async def next_lease(self, lease: Lease) -> Lease:
        """Wait until there is another state, or another number of owners, and return it."""
        ...

    async def take_over(self) -> float:
        """Take over what this process has seen unrenewed for long enough, from now on.

        An owner that renews its lease at the same time keeps it. What is taken over is listed by
        `entries` as of a dead owner, whoever took it over.

        Returns:
            For how many seconds more an owner must be seen, the one that is due next, or 0.0 where
            no lease is over. Call it at least every heartbeat, else it begins anew.
        """
        ...

    async def orphans(self) -> Sequence[LedgerEntry]:
        """Return the records of dead owners, and those of others about the same sessions."""
        ...


async def take_over(ledger: LeasedLedger, clock: Clock = SYSTEM_CLOCK) -> float:
    """Take over what is due in a ledger; see `LeasedLedger.take_over`.

    Raises:
        LedgerUnavailable: It did not answer within 60 s, or raised something.
    """
    return await answer(ledger.take_over(), READ_TIMEOUT_S, clock)


async def orphans(ledger: LeasedLedger, clock: Clock = SYSTEM_CLOCK) -> Sequence[LedgerEntry]:
    """Return the records of dead owners; see `LeasedLedger.orphans`.

    Raises:
        LedgerUnavailable: It did not answer within 60 s, or raised something.
    """
    return await answer(ledger.orphans(), READ_TIMEOUT_S, clock)
