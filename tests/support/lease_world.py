"""Processes that share a ledger, each with an event loop of its own, in virtual time.

Nothing runs by itself: a process makes a step when it is its turn, and one whose turn doesn't come
is one that the system doesn't run. So a test decides in which order all of it comes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Literal, TypeVar

from qsessions import LeaseTerms, LedgerRecord, LedgerUnavailable, Liveness, Mode, RecordState
from qsessions.ledger.database import Database, DatabaseLedger
from qsessions.ledger.lease import LeaseState, OwnerRow
from tests.support.manual_clock import Stepped

T = TypeVar("T")

TERMS = LeaseTerms()
ROUND_S = 10.0
Fault = Literal["none", "lost", "held"]


class Link:
    """A process's way to the database, which may be cut or lose answers.

    Attributes:
        fault: What becomes of the next write: "lost" carries it out and loses its answer, "held"
            carries it out when `World.deliver` is called.
        is_cut: Whether nothing gets through.
    """

    def __init__(self, world: World) -> None:
        self._world = world
        self._database = world.database
        self.fault: Fault = "none"
        self.is_cut = False

    async def renew(
        self, owner: OwnerRow, records: Sequence[LedgerRecord], *, begins: bool, regardless: bool
    ) -> int | None:
        """Pass it on."""
        call = partial(self._database.renew, owner, records, begins=begins, regardless=regardless)
        return await self._write(call)

    async def release(self, owner: OwnerRow) -> None:
        """Pass it on."""
        await self._write(partial(self._database.release, owner))

    async def owners(self) -> Sequence[OwnerRow]:
        """Pass it on."""
        return await self._read(self._database.owners)

    async def take_over(self, owners: Sequence[OwnerRow]) -> None:
        """Pass it on, and see what it did."""
        await self._write(partial(self._world.take_over, owners))

    async def entries(self, *, only_orphans: bool) -> Sequence[tuple[LedgerRecord, OwnerRow]]:
        """Pass it on."""
        return await self._read(partial(self._database.entries, only_orphans=only_orphans))

    async def amend(
        self, changes: Sequence[tuple[str, LedgerRecord, LedgerRecord]]
    ) -> Sequence[bool]:
        """Pass it on."""
        return await self._write(partial(self._database.amend, changes))

    async def aclose(self) -> None:
        """Do nothing."""

    async def _read(self, call: Callable[[], Awaitable[T]]) -> T:
        # Others may come in between.
        await asyncio.sleep(0)
        if self.is_cut or self._world.state == "away":
            raise ConnectionError("the database is away")
        answer = await call()
        await asyncio.sleep(0)
        return answer

    async def _write(self, call: Callable[[], Awaitable[T]]) -> T:
        await asyncio.sleep(0)
        if self.is_cut or self._world.state != "answers":
            raise ConnectionError("the database is away")
        fault, self.fault = self.fault, "none"
        if fault == "held":
            self._world.held.append(call)
            await asyncio.Event().wait()
        answer = await call()
        await asyncio.sleep(0)
        if fault == "lost":
            raise ConnectionError("the connection is lost")
        return answer


class Process:
    """A process with a ledger.

    Attributes:
        ledger: Its ledger.
        link: Its way to the database.
        is_running: Whether it has turns.
        is_dead: Whether it has none any more.
        did_all: Whether it has always run and reached the database, when that was there.
    """

    def __init__(self, world: World, ahead_s: float) -> None:
        self.link = Link(world)
        self.clock = Stepped(chance=len(world.processes) / 8)
        self.clock.now = world.now
        object.__setattr__(self.clock, "wall", lambda: world.now + ahead_s)
        self.loop = asyncio.new_event_loop()
        self.ledger = DatabaseLedger(self.link, TERMS, self.clock)
        self.is_running = True
        self.is_dead = False
        self.did_all = True
        self._tasks: set[asyncio.Task[Any]] = set()

    def begin(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Begin something, which goes on at its turns."""
        task = self.loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def turn(self, steps: int = 1) -> bool:
        """Let it make so many steps, and return whether there was something to do."""
        if not self.is_running:
            return False
        for timer in self.clock.due(self.clock.now):
            timer.fire()
        for _ in range(steps):
            if not self.loop._ready:  # type: ignore[attr-defined]
                return False
            self.loop.call_soon(self.loop.stop)
            self.loop.run_forever()
        return True

    def end(self) -> None:
        """End it at once."""
        self.is_dead, self.is_running = True, False
        for task in asyncio.all_tasks(self.loop):
            task.cancel()
        self.loop.run_until_complete(asyncio.sleep(0))
        self.loop.run_until_complete(asyncio.sleep(0))
        self.loop.close()


class Session:
    """A session that a process creates.

    Attributes:
        key: The key of its record.
        process: Its owner.
        state: As the service has it.
        is_recorded: Whether the ledger has said that it has its id.
    """

    def __init__(self, number: int, process: Process) -> None:
        self.key = f"key {number}"
        self.id = f"session {number}"
        self.process = process
        self.state: Literal["none", "open", "closed"] = "none"
        self.is_recorded = False
        self.is_ended_by_owner = False

    def record(self, state: RecordState, now: float) -> LedgerRecord:
        """Return its record."""
        return LedgerRecord(
            key=self.key,
            base_url="https://quantum.example/api",
            mode=Mode.DEDICATED,
            asked_at=now,
            changed_at=now,
            state=state,
            session_id=None if state is RecordState.INTENT else self.id,
        )


class World:
    """Processes, a database and a service.

    Args:
        database: The database, by this world's time.

    Attributes:
        now: The time.
        state: Whether the database answers, only reads or is away.
        held: Statements that were given up and may still arrive.
        broken: What must not have happened.
    """

    def __init__(self, database: Callable[[World], Database]) -> None:
        self.now = 1000.0
        self.database = database(self)
        self.state: Literal["answers", "reads", "away"] = "answers"
        self.held: list[Callable[[], Awaitable[Any]]] = []
        self.processes: list[Process] = []
        self.sessions: list[Session] = []
        self.broken: list[str] = []

    def process(self, ahead_s: float = 0.0) -> Process:
        """Start a process whose wall clock is so many seconds ahead."""
        process = Process(self, ahead_s)
        self.processes.append(process)
        return process

    def create(self, process: Process) -> Session:
        """Have a process create a session."""
        session = Session(len(self.sessions), process)
        self.sessions.append(session)
        process.begin(self._create(session))
        return session

    async def _create(self, session: Session) -> None:
        ledger = session.process.ledger
        with suppress(LedgerUnavailable):
            await ledger.record(session.record(RecordState.INTENT, self.now))
        if ledger.lease.state is LeaseState.TAKEN:
            return
        await asyncio.sleep(0)
        session.state = "open"
        await asyncio.sleep(0)
        with suppress(LedgerUnavailable):
            await ledger.record(session.record(RecordState.CREATED, self.now))
            session.is_recorded = True

    def close(self, session: Session) -> None:
        """Have its owner end a session."""
        session.process.begin(self._close(session))

    async def _close(self, session: Session) -> None:
        session.state = "closed"
        with suppress(LedgerUnavailable):
            await session.process.ledger.record(session.record(RecordState.ENDED, self.now))

    async def reap(self, process: Process) -> None:
        """Do what `qsessions.reap` does, in a process."""
        ledger = process.ledger
        with suppress(LedgerUnavailable):
            await ledger.take_over()
            entries = await ledger.orphans()
            may_live = {
                entry.record.session_id
                for entry in entries
                if entry.owner.liveness is not Liveness.DEAD
            }
            changes = []
            for entry in entries:
                dead = entry.owner.liveness is Liveness.DEAD
                if dead and entry.record.session_id not in may_live | {None}:
                    await asyncio.sleep(0)
                    self._end(entry.record.key)
                    await asyncio.sleep(0)
                    ended = entry.record.becomes(RecordState.ENDED, now=self.now)
                    changes.append((entry, ended))
            if changes:
                await ledger.amend(changes)

    def _end(self, key: str) -> None:
        (session,) = (each for each in self.sessions if each.key == key)
        if session.state != "open":
            return
        session.state = "closed"
        if self.is_good(session.process):
            self.broken.append(f"{session.id} was ended, and its owner's lease is good")

    async def take_over(self, owners: Sequence[OwnerRow]) -> None:
        """Have the database take over owners; check that it may."""
        before = {row.id: row for row in self.ask(self.database.owners())}
        await self.database.take_over(owners)
        after = {row.id for row in self.ask(self.database.owners())}
        for process in self.processes:
            row = before.get(process.ledger.owner.id)
            if row is None or row.id in after:
                continue
            if row.age < row.terms.ttl:
                self.broken.append("a lease was taken over that is good")
            if process.did_all:
                self.broken.append("a lease was taken over of a process that did all it could")

    def is_good(self, process: Process) -> bool:
        """Return whether the lease of a process is good, by the database's clock."""
        rows = [
            row for row in self.ask(self.database.owners()) if row.id == process.ledger.owner.id
        ]
        return any(row.age < row.terms.ttl for row in rows)

    def recorded(self) -> dict[str, LedgerRecord]:
        """Return what the database has, by key."""
        rows = self.ask(self.database.entries(only_orphans=False))
        return {record.key: record for record, _ in rows}

    def deliver(self) -> None:
        """Carry out the oldest statement that was held up."""
        self.ask(self.held.pop(0)())

    def ask(self, call: Awaitable[T]) -> T:
        """Return what a call of the database gives, which waits for nothing."""

        async def answered() -> T:
            return await call

        # It may be asked from a step of a process.
        work = answered()
        try:
            work.send(None)
        except StopIteration as done:
            value: T = done.value
            return value
        raise AssertionError("the database waits")

    def turns(self) -> None:
        """Let the processes make their steps, one after the other, while there is something to do."""
        is_busy = True
        while is_busy:
            is_busy = False
            for process in self.processes:
                is_busy |= process.turn()

    def advance(self, seconds: float) -> None:
        """Let time go on, with every timer that is due on the way, and all that follows."""
        until = self.now + seconds
        self.turns()
        while True:
            due = [
                timer.at
                for process in self.processes
                if process.is_running
                for timer in process.clock.timers
                if timer.at <= until
            ]
            if not due:
                break
            self._set(max(self.now, min(due)))
            self.turns()
        self._set(until)
        self.turns()

    def _set(self, now: float) -> None:
        self.now = now
        for process in self.processes:
            process.clock.now = now

    def end(self) -> None:
        """End all."""
        for process in self.processes:
            if not process.is_dead:
                process.end()
