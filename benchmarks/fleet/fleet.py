"""What a fleet is, and what comes of it: simulated, or as real processes."""

from __future__ import annotations

import math
from collections import Counter
from statistics import fmean
from typing import Any

from attrs import Factory, define, frozen

from qsessions import LeaseTerms


@frozen
class Outage:
    """When the database answers nothing, in seconds since the fleet has begun."""

    begins: float
    ends: float


@frozen(kw_only=True)
class Fleet:
    """A fleet.

    Attributes:
        workers: How many processes there are; one that dies is replaced.
        sessions: How many sessions each has.
        deaths: Which share of the workers dies in a minute.
        reapers: How many reapers there are.
        every: The time between two of their rounds, in seconds.
        terms: The terms of the leases.
        rate: How many requests a second those that watch may begin, all together.
        answer: What the service takes to answer, in seconds, in the median.
        seconds: How long workers die, once all have begun.
        starts_within: In how many seconds they begin, one after another.
        outage: When the database is away, or None.
    """

    workers: int
    sessions: int = 10
    deaths: float = 0.01
    reapers: int = 1
    every: float = 10.0
    terms: LeaseTerms = Factory(LeaseTerms)
    rate: float = 20.0
    answer: float = 0.15
    seconds: float = 1800.0
    starts_within: float = 60.0
    outage: Outage | None = None

    @property
    def bound(self) -> float:
        """In how many seconds an orphan must have ended, as docs/fleet.md has it."""
        return self.terms.patience + 2 * self.every + 25


@define
class Orphan:
    """A session whose owner died.

    Attributes:
        died_at: When that was, in seconds since the fleet had begun.
        after: How many seconds later the session was closed, or None if it wasn't.
        is_recorded: Whether the ledger has its id, or had it.
    """

    died_at: float
    after: float | None
    is_recorded: bool = True


@define
class Result:
    """What came of a fleet.

    Attributes:
        orphans: The sessions whose owners died.
        living_ended: How many sessions were closed whose owners lived.
        statements: The statements on the database, by kind.
        rows: The rows that they returned, by their kind.
        by_second: How many statements there were in each second.
        worker_requests: The requests of workers to the service and IAM, by operation.
        reaper_requests: Those of reapers.
    """

    orphans: list[Orphan] = Factory(list)
    living_ended: int = 0
    statements: Counter[str] = Factory(Counter)
    rows: Counter[str] = Factory(Counter)
    by_second: Counter[int] = Factory(Counter)
    worker_requests: Counter[str] = Factory(Counter)
    reaper_requests: Counter[str] = Factory(Counter)

    def counts(self) -> tuple[Counter[Any], ...]:
        """Return what is counted."""
        return (
            self.statements,
            self.rows,
            self.by_second,
            self.worker_requests,
            self.reaper_requests,
        )

    def add(self, other: Result) -> None:
        """Add what came of another run."""
        self.orphans += other.orphans
        self.living_ended += other.living_ended
        for counts, more in zip(self.counts(), other.counts(), strict=True):
            counts.update(more)

    @property
    def times(self) -> list[float]:
        """The seconds until orphans were ended, sorted."""
        return sorted(orphan.after for orphan in self.orphans if orphan.after is not None)

    @property
    def mean(self) -> float:
        """Their mean."""
        return fmean(self.times)

    @property
    def p99(self) -> float:
        """What 99 of 100 of them reach at most."""
        return self.times[math.ceil(0.99 * len(self.times)) - 1]

    @property
    def unrecorded(self) -> int:
        """How many orphans the ledger never had the id of."""
        return sum(not orphan.is_recorded for orphan in self.orphans)

    def overdue(self, fleet: Fleet) -> int:
        """Return how many orphans that were recorded were ended too late, or not at all."""
        late = 0
        for orphan in self.orphans:
            since, outage = orphan.died_at, fleet.outage
            if outage and outage.begins - fleet.bound < since < outage.ends:
                # The promise is for as long as the database answers.
                since = outage.ends
            ended_at = math.inf if orphan.after is None else orphan.died_at + orphan.after
            late += orphan.is_recorded and ended_at > since + fleet.bound
        return late
