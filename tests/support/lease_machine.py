"""The actions of the model of leases on the real ledger, in any order, and the same invariants."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from qsessions.ledger.database import Database
from tests.support.lease_world import ROUND_S, TERMS, Process, Session, World

OWNERS, REAPERS = 3, 2
HOUR_S = 3600.0
# An orphan's longest time: see docs/fleet.md.
ORPHAN_S = ROUND_S + TERMS.patience + ROUND_S

numbers = st.integers(0, OWNERS - 1)
which_reaper = st.integers(0, REAPERS - 1)


class LeaseMachine(RuleBasedStateMachine):
    """Owners that create sessions, and reapers, on one database."""

    def database(self, world: World) -> Database:
        """Return the database."""
        raise NotImplementedError

    def __init__(self) -> None:
        super().__init__()
        self.world = World(self.database)
        self.is_calm = True
        self.rounds: dict[Process, Any] = {}
        self.next_round = self.world.now

    @initialize(is_calm=st.booleans())
    def begin(self, is_calm: bool) -> None:
        """Start the processes; the clocks of some are an hour off. Where it is calm, only the database
        fails.
        """
        self.is_calm = is_calm
        for ahead_s in (0.0, HOUR_S, -HOUR_S):
            self.world.process(ahead_s)
        for ahead_s in (HOUR_S, 0.0):
            self.rounds[self.world.process(ahead_s)] = None
        for owner in self.owners[1:]:
            self.world.create(owner)
        self.world.turns()

    @property
    def owners(self) -> list[Process]:
        """The processes that create sessions."""
        return self.world.processes[:OWNERS]

    @property
    def reapers(self) -> list[Process]:
        """The processes that reap."""
        return self.world.processes[OWNERS:]

    @rule(number=numbers, steps=st.integers(0, 12))
    def create(self, number: int, steps: int) -> None:
        """An owner begins to create a session."""
        if not self.owners[number].is_dead and len(self.world.sessions) < 6:
            self.world.create(self.owners[number])
            self.owners[number].turn(steps)

    @rule(number=st.integers(0, 5))
    def close(self, number: int) -> None:
        """An owner closes a session that it knows to be open."""
        for session in self.world.sessions[number : number + 1]:
            if session.state == "open" and not session.process.is_dead and session.is_recorded:
                self.world.close(session)

    @rule(number=st.integers(0, OWNERS + REAPERS - 1), steps=st.integers(1, 9))
    def turn(self, number: int, steps: int) -> None:
        """One process makes some steps, and no other."""
        self.world.processes[number].turn(steps)

    @rule(number=which_reaper)
    def reap(self, number: int) -> None:
        """A reaper begins a round, unless one is under way."""
        self._reap(self.reapers[number])

    def _reap(self, reaper: Process) -> None:
        if self.rounds[reaper] is None or self.rounds[reaper].done():
            self.rounds[reaper] = reaper.begin(self.world.reap(reaper))

    @rule(rounds=st.integers(1, 13))
    def advance(self, rounds: int) -> None:
        """Time goes on, and reapers make their rounds."""
        self._advance(rounds * ROUND_S)

    def _advance(self, seconds: float) -> None:
        until = self.world.now + seconds
        while self.next_round <= until:
            self.world.advance(max(0.0, self.next_round - self.world.now))
            for reaper in self.reapers:
                self._reap(reaper)
            self.next_round += ROUND_S
        self.world.advance(until - self.world.now)

    @precondition(lambda self: not self.is_calm)
    @rule(number=numbers)
    def kill(self, number: int) -> None:
        """An owner dies."""
        owner = self.owners[number]
        if not owner.is_dead:
            owner.end()
            owner.did_all = False

    @precondition(lambda self: not self.is_calm)
    @rule(number=st.integers(0, OWNERS + REAPERS - 2), rounds=st.sampled_from([0, 2, 5, 11, 13]))
    def pause(self, number: int, rounds: int) -> None:
        """A process is paused, for so many rounds at least; the last reaper never is."""
        process = self.world.processes[number]
        process.is_running = process.did_all = False
        self._advance(rounds * ROUND_S)

    @rule(number=st.integers(0, OWNERS + REAPERS - 2))
    def wake(self, number: int) -> None:
        """A process goes on."""
        process = self.world.processes[number]
        process.is_running = not process.is_dead

    @precondition(lambda self: not self.is_calm)
    @rule(number=st.integers(0, OWNERS + REAPERS - 2), rounds=st.sampled_from([0, 2, 5, 11, 13]))
    def cut(self, number: int, rounds: int) -> None:
        """A process loses its way to the database for so many rounds."""
        process = self.world.processes[number]
        process.link.is_cut, process.did_all = True, False
        self._advance(rounds * ROUND_S)
        process.link.is_cut = False

    @precondition(lambda self: not self.is_calm)
    @rule(number=st.integers(0, OWNERS + REAPERS - 2), fault=st.sampled_from(["lost", "held"]))
    def lose(self, number: int, fault: Any) -> None:
        """An answer gets lost, or a statement is held up, of a session that is created if it can be."""
        process = self.world.processes[number]
        process.link.fault = fault
        process.did_all = False
        if number < OWNERS:
            self.create(number, 0)

    @precondition(lambda self: self.world.held)
    @rule()
    def deliver(self) -> None:
        """What was held up arrives."""
        self.world.deliver()

    @rule(rounds=st.integers(1, 12), state=st.sampled_from(["reads", "away"]))
    def outage(self, rounds: int, state: Any) -> None:
        """The database is away for everybody, then back for a heartbeat at least."""
        self.world.state = state
        self._advance(rounds * ROUND_S)
        self.world.state = "answers"
        self._advance(TERMS.heartbeat)

    @invariant()
    def nobodys_session_is_ended(self) -> None:
        """No session is ended of an owner whose lease is good, or who did all it could."""
        assert self.world.broken == []

    @invariant()
    def nothing_is_lost(self) -> None:
        """What was recorded is there while its session is open."""
        recorded = self.world.recorded()
        for session in self.world.sessions:
            if session.is_recorded and session.state == "open":
                assert recorded[session.key].session_id == session.id

    def teardown(self) -> None:
        """When all is well again for as long as an orphan has, only sessions of good leases are open."""
        try:
            while self.world.held:
                self.world.deliver()
            self.world.turns()
            self._advance(ORPHAN_S + 1)
            for session in self.world.sessions:
                if session.is_recorded:
                    self._check(session)
            assert self.world.broken == []
        finally:
            self.world.end()

    def _check(self, session: Session) -> None:
        is_open = session.state == "open"
        assert not is_open or self.world.is_good(session.process), f"{session.id} is an orphan"
