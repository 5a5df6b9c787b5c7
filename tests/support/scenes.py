"""A process that lives with its sessions, and one that is killed at any moment of its life, again
and again.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

from qsessions import AsyncSessionClient, LedgerRecord, LocalLedger, RecordState
from qsessions.emulator import Emulator, Fault
from qsessions.emulator.service.values import Session
from qsessions.ledger.lines import parse_line
from qsessions.reaper import reap
from tests.programs import dying as dying_program, living as living_program
from tests.support.kills import client_of, files_in, listed
from tests.support.stage import Played, Stage

# What a killed process leaves: the state of its newest record, and what there is of that session at
# the service. The second is a create that was carried out and whose answer was not recorded.
STATES = (
    ("intent", "nothing"),
    ("intent", "open"),
    ("created", "open"),
    ("draining", "draining"),
    ("unknown", "open"),
    ("ended", "closed"),
)


class Scene:
    """A service, a ledger, a process that lives and one that dies again and again.

    Attributes:
        kept: The sessions of the one that lives: their ids, and whether they take jobs.
        states: How often a killed process had left its newest record in a state, with what at the
            service.
        lives: How often a process was killed in its first life, its second and so on.
    """

    def __init__(
        self, emulator: Emulator, directory: Path, client: AsyncSessionClient, dying: Played
    ) -> None:
        self.emulator = emulator
        self.client = client
        self.ledger = LocalLedger(directory)
        self.kept: dict[str, bool] = {}
        self.states: Counter[tuple[str, str]] = Counter()
        self.lives: Counter[int] = Counter()
        self._directory = directory
        self._dying = dying
        self._seen: set[Path] = set()

    async def settle(self, living: Played) -> None:
        """Wait until the living process has its four sessions."""
        _, draining = (await living.line()).split()
        self.emulator.submit_job(draining, seconds=600)
        living.tell("go on")
        assert await living.line() == "unknown"
        while len(self.emulator.sessions) < 4:
            await self.client.versions()
        self.emulator.faults.clear()
        self.kept = self.accepting()
        assert sorted(self.kept.values()) == [False, True, True, True]
        states = {entry.record.state for entry in await self.ledger.entries()}
        assert states == set(RecordState) - {RecordState.ENDED}
        self._seen = set(await self._files())

    def accepting(self) -> dict[str, bool]:
        """Return the sessions that are open, and whether each takes jobs and so goes on by itself."""
        return {session.id: session.accepting_jobs for session in self.emulator.open_sessions}

    async def kill(self, count: int) -> None:
        """Let a process live for so many callbacks, and look at what it left."""
        before = set(self.emulator.sessions)
        self._dying.tell(count)
        assert await self._dying.line() == "-9"
        # What it had sent comes to its end.
        for _ in range(3):
            await self.client.versions()
        self.emulator.faults.clear()
        (file,) = set(await self._files()) - self._seen
        self._seen.add(file)
        records = await asyncio.to_thread(records_in, file)
        made = [session for session in self.emulator.sessions.values() if session.id not in before]
        self.states[left_by(records, made)] += 1
        self.lives[len({record.key for record in records})] += 1

    async def reap(self) -> set[str]:
        """Reap, and see that nothing of the living was touched; give what goes on of the dead, all
        of it listed, and end that.
        """
        # Long enough ago for a session that was asked for to be listed, were it there.
        reaped = await reap(
            self.client, self.ledger, close_unique=True, wall=lambda: time.time() + 1000
        )
        assert [one.error for one in reaped if one.error] == []
        still = self.accepting()
        assert self.kept.items() <= still.items()
        left = {name for name, goes_on in still.items() if goes_on and name not in self.kept}
        assert left <= listed(reaped)
        for session_id in left:
            await self.client.close(session_id)
        return left

    async def _files(self) -> list[Path]:
        return await asyncio.to_thread(files_in, self._directory)


def records_in(file: Path) -> list[LedgerRecord]:
    """Read all that a process has recorded, oldest first."""
    lines = (parse_line(line) for line in file.read_bytes().split(b"\n"))
    return [line for line in lines if isinstance(line, LedgerRecord)]


def left_by(records: Sequence[LedgerRecord], made: Sequence[Session]) -> tuple[str, str]:
    """Return what a killed process left: the state of its newest record, and what there is of that
    session at the service.
    """
    newest = records[-1]
    if newest.session_id is not None:
        (session,) = [session for session in made if session.id == newest.session_id]
        return newest.state.value, state_of(session)
    known = {record.session_id for record in records}
    nameless = [session for session in made if session.id not in known]
    # One for each answer that was lost before.
    lost = {record.key for record in records if record.state is RecordState.UNKNOWN} - {newest.key}
    return newest.state.value, state_of(nameless[-1]) if len(nameless) > len(lost) else "nothing"


def state_of(session: Session) -> str:
    """Return whether a session goes on, ends when its jobs are done, or has ended."""
    if session.state == "closed":
        return "closed"
    return "open" if session.accepting_jobs else "draining"


@asynccontextmanager
async def scene(
    stage: Stage, directory: Path, *, backend: str
) -> AsyncIterator[tuple[Scene, Played]]:
    """Return a scene whose living process is creating a session on that backend; those that die ask
    for ibm_fez.
    """
    # Of the creates of the living, from its first one on.
    faults = [
        Fault(kind="reset", operations=("create",), after=True, nth=3),
        Fault(kind="latency", operations=("create",), after=True, nth=4, seconds=3600),
    ]
    async with (
        Emulator(faults=faults) as emulator,
        stage.playing(living_program.main, str(directory), backend, env=emulator.env()) as living,
        stage.playing(dying_program.main, str(directory), env=emulator.env()) as dying,
        client_of(emulator) as client,
    ):
        one = Scene(emulator, directory, client, dying)
        async with aclosing(one.ledger):
            await one.settle(living)
            yield one, living


async def kill_beside_the_living(
    stage: Stage, directory: Path, moments: Iterable[int]
) -> tuple[int, Counter[tuple[str, str]]]:
    """Kill at each moment, while a living process is creating just such a session.

    Return how many sessions were listed, and in which states the dead left their records.
    """
    async with scene(stage, directory, backend="ibm_fez") as (place, _):
        seen = 0
        for moment in moments:
            await place.kill(moment)
            seen += len(await place.reap())
        return seen, place.states
