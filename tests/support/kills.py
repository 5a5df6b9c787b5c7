"""Processes that die at the very return of `create`, and what they leave: looked at from outside,
and reaped.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

from attrs import Factory, define, frozen

from qsessions import (
    AsyncSessionClient,
    IBMCloudAPIKey,
    LedgerEntry,
    LocalLedger,
    ServiceCRN,
)
from qsessions.emulator import Emulator
from qsessions.ledger.verdicts import Verdict
from qsessions.reaper import Reaped, reap
from tests.programs import killed
from tests.programs.killed import WAYS, Death, line_of
from tests.support.stage import Played, Stage
from tests.support.waiting import until


def listed(reaped: Iterable[Reaped]) -> set[str]:
    """Return the sessions that `reap` named and could not decide about."""
    return {
        workload.id
        for one in reaped
        if one.decision.verdict is Verdict.UNDECIDED
        for workload in one.decision.candidates
    }


def files_in(directory: Path) -> list[Path]:
    """List a ledger's files."""
    return list(directory.glob("*.jsonl"))


def client_of(emulator: Emulator) -> AsyncSessionClient:
    """Make a client of an emulator on its own time."""
    return AsyncSessionClient(
        [IBMCloudAPIKey(emulator.api_key), ServiceCRN(emulator.crn)], base_url=emulator.url
    )


@frozen(kw_only=True)
class Left:
    """What one process left that died.

    Attributes:
        death: How it died.
        exit: What its parent heard of that.
        made: How many sessions the service created for it.
        given: How many of them it had been given: its `create` had returned.
        unrecorded: Those that it had been given and whose ids aren't in the ledger. There must be
            none.
        in_flight: How many sessions are in no record by their ids: their requests were in flight.
            They stay open.
        intents: How many records have no id.
        unclosed: The sessions whose ids are in a record and that are open after `reap`. There must
            be none.
        unnamed: The sessions that `reap` neither closed nor named. There must be none.
    """

    death: Death
    exit: int
    made: int
    given: int
    unrecorded: tuple[str, ...]
    in_flight: int
    intents: int
    unclosed: tuple[str, ...]
    unnamed: tuple[str, ...]

    def problems(self) -> list[str]:
        """Return what must not be."""
        told = {
            "it died otherwise": self.exit != WAYS[self.death.way][1],
            "it was not given that many": self.given < self.death.nth,
            "a session that it had been given isn't in the ledger": self.unrecorded,
            "a session is in no record": self.in_flight > self.intents,
            "a session was neither closed nor named": self.unnamed,
            "a session whose id is known was left open": self.unclosed,
        }
        return [f"{what}: {self}" for what, is_so in told.items() if is_so]


@define
class Figures:
    """What became of many deaths: how many there were of each kind, and the sums of what `Left`
    says.
    """

    deaths: Counter[tuple[str, int]] = Factory(Counter)
    made: int = 0
    given: int = 0
    in_flight: int = 0
    intents: int = 0
    problems: list[str] = Factory(list)

    def add(self, left: Left) -> None:
        """Count what one left."""
        self.deaths[left.death.way, left.death.under_way] += 1
        self.made += left.made
        self.given += left.given
        self.in_flight += left.in_flight
        self.intents += left.intents
        self.problems += left.problems()


class Kills:
    """A service, a ledger, and the programs whose children die.

    Args:
        emulator: The service.
        directory: The ledger's.
        parent: Has the children, and no session.
        owner: Has the children, and a session of its own.
        owned: That session.
    """

    def __init__(
        self, emulator: Emulator, directory: Path, parent: Played, owner: Played, owned: str
    ) -> None:
        self._emulator = emulator
        self._directory = directory
        self._parents = {False: parent, True: owner}
        self._owned = owned
        self._files: set[Path] = set()

    async def see(self, death: Death, *, by_owner: bool = False) -> Left:
        """Have a process die, look at what it left, reap that, and tidy up."""
        kept = await asyncio.to_thread(files_in, self._directory)
        before = set(self._emulator.sessions)
        parent = self._parents[by_owner]
        parent.tell(line_of(death))
        told = json.loads(await parent.line())
        async with client_of(self._emulator) as client:
            # Over a connection of its own, which is accepted after all those of the dead.
            await client.versions()
        await self._at_rest()
        made = set(self._emulator.sessions) - before
        async with (
            client_of(self._emulator) as client,
            aclosing(LocalLedger(self._directory)) as ledger,
        ):
            records = [entry.record for entry in await ledger.entries() if self._is_of_dead(entry)]
            recorded = {record.session_id for record in records}
            reaped = await reap(client, ledger, wall=lambda: time.time() + 1000)
            still = {session.id for session in self._emulator.open_sessions}
            assert self._owned in still
            still.remove(self._owned)
            left = Left(
                death=death,
                exit=told["exit"],
                made=len(made),
                given=len(told["given"]),
                unrecorded=tuple(sorted(set(told["given"]) - recorded)),
                in_flight=len(made - recorded),
                intents=sum(record.session_id is None for record in records),
                unclosed=tuple(sorted(still - (made - recorded))),
                unnamed=tuple(sorted(still - listed(reaped))),
            )
            await asyncio.gather(*(client.close(session_id) for session_id in still))
        await asyncio.to_thread(forget_but, kept, self._directory)
        await self._at_rest()
        return left

    def _is_of_dead(self, entry: LedgerEntry) -> bool:
        return entry.record.session_id != self._owned

    async def _at_rest(self) -> None:
        """Wait until the service has nothing to do and nobody is connected to it: what was sent has
        come to its end.
        """
        assert self._emulator._runner is not None
        server = self._emulator._runner.server
        assert server is not None
        await until(
            lambda: not server.connections and not any(map(is_serving, asyncio.all_tasks()))
        )


def is_serving(task: asyncio.Task[object]) -> bool:
    """Return whether a task is the emulator's work on a connection."""
    return getattr(task.get_coro(), "__qualname__", "").startswith("RequestHandler.")


def forget_but(kept: Iterable[Path], directory: Path) -> None:
    """Delete what was added to a ledger, so that records without an id are not in the way of the
    next death.
    """
    for file in set(files_in(directory)).difference(kept):
        file.unlink()


@asynccontextmanager
async def kills(stage: Stage, directory: Path) -> AsyncIterator[Kills]:
    """Return what sees processes die."""
    async with (
        Emulator() as emulator,
        stage.playing(killed.main, str(directory), False, env=emulator.env()) as parent,
        stage.playing(killed.main, str(directory), True, env=emulator.env()) as owner,
    ):
        yield Kills(emulator, directory, parent, owner, await owner.line())


async def see_gaps(stage: Stage, directory: Path, *, under_way: int) -> None:
    """Check that each way of dying shows an id that is written one turn of the event loop late."""
    async with kills(stage, directory) as place:
        for way in WAYS:
            left = await place.see(Death(way=way, under_way=under_way, is_late=True))
            assert len(left.unrecorded) == 1, way
            assert left.problems(), way
