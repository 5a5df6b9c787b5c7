"""A process that is killed at any moment leaves nothing open that the reaper doesn't find, and the reaper touches nobody who lives."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, suppress
from pathlib import Path

import pytest

from qsessions import AsyncSessionClient, IBMCloudAPIKey, LedgerRecord, LocalLedger, RecordState, ServiceCRN
from qsessions.emulator import Emulator, Fault
from qsessions.emulator.values import Session
from qsessions.ledger.lines import parse_line
from qsessions.reaper import reap
from qsessions.reaping import Verdict

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="kills and forks are those of POSIX")

# The callbacks of its event loop after which a process is killed, counted from when its first record was kept. A life takes about 75.
MOMENTS = range(0, 400, 2)
FIRST_CREATE = range(60)

# What a killed process leaves at least five times: the state of its newest record, and what there is of that session at the service. The
# second is a create that was carried out and whose answer was not recorded.
STATES = (
    ("intent", "nothing"),
    ("intent", "open"),
    ("created", "open"),
    ("draining", "draining"),
    ("unknown", "open"),
    ("ended", "closed"),
)

# Lives with a session in each state but the last: one created, one draining (when its line is answered), one whose answer was lost, and
# one, on the backend that is given, whose create is in flight for ever. The service sees to the last two.
LIVING = """
import asyncio, sys
from qsessions import AsyncSessionClient, CreateOutcomeUnknown, LocalLedger

async def main(path, backend):
    wanted = {"mode": "batch", "backend": "ibm_torino", "max_ttl": "10m"}
    async with AsyncSessionClient(ledger=LocalLedger(path)) as client:
        created, draining = await client.create(**wanted), await client.create(**wanted)
        print(created.id, draining.id, flush=True)
        sys.stdin.readline()
        await client.drain(draining.id)
        try:
            await client.create(**wanted)
        except CreateOutcomeUnknown:
            print("unknown", flush=True)
        await client.create(**wanted | {"backend": backend}, timeout=None)

asyncio.run(main(*sys.argv[1:]))
"""

# Forks a child for each number that it reads, and answers how it ended. A child has one life after the other: it creates a session, works,
# drains, and sees it closed. In every second of three the answer to the create is lost. In every first of three it waits for each record
# to be kept, so that it has been in each state however slow the disk is. It kills itself after so many callbacks.
DYING = """
import asyncio, itertools, os, signal, sys
import aiohttp
from qsessions import AsyncSessionClient, CreateOutcomeUnknown, LocalLedger


class Told(LocalLedger):
    newest = None
    changed = asyncio.Event()

    async def record(self, record):
        await super().record(record)
        Told.newest = record.state
        self.changed.set()


async def kept(state):
    while Told.newest != state:
        Told.changed.clear()
        await Told.changed.wait()


def die_after(count):
    run = asyncio.Handle._run
    left = itertools.count(count, -1)

    def counted(handle):
        run(handle)
        if Told.newest is not None and next(left) == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    asyncio.Handle._run = counted


async def live(life, client, http):
    is_patient, is_lost = life % 3 == 0, life % 3 == 1
    if is_lost:
        lost = {"kind": "reset", "operations": ["create"], "after": True, "times": 1}
        await http.post(f"{os.environ['IAM_URL']}/emulator/faults", json={"faults": [lost]})
    jobs = f"{os.environ['QSESSIONS_BASE_URL']}/v1/jobs"
    try:
        async with client.open(mode="batch", backend="ibm_fez", max_ttl="10m") as session:
            if is_patient:
                await kept("created")
            wanted = {"program_id": "p", "backend": "ibm_fez", "session_id": session.id, "params": {"seconds": 600}}
            job = await (await http.post(jobs, json=wanted)).json()
    except CreateOutcomeUnknown:
        await kept("unknown")
    else:
        if is_patient:
            await kept("draining")
        # It drains until its job has come to an end.
        await session.refresh()
        await http.post(f"{jobs}/{job['id']}/cancel")
        assert (await session.refresh()).is_final
        if is_patient:
            await kept("ended")
    await client.versions()


async def main():
    headers = {"Authorization": f"apikey {os.environ['QISKIT_IBM_TOKEN']}", "Service-CRN": os.environ["QISKIT_IBM_INSTANCE"]}
    async with (
        aiohttp.ClientSession(headers=headers, raise_for_status=True) as http,
        AsyncSessionClient(ledger=Told(sys.argv[1])) as client,
    ):
        for life in itertools.count():
            await live(life, client, http)


for line in sys.stdin:
    child = os.fork()
    if child == 0:
        die_after(int(line))
        asyncio.run(main())
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


class Program:
    """A process that is told things line by line."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    async def told(self) -> str:
        """Read a line."""
        assert self.process.stdout is not None
        return (await self.process.stdout.readline()).decode().strip()

    def tell(self, line: object) -> None:
        """Write a line."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{line}\n".encode())

    async def kill(self) -> None:
        """Kill it, if it still lives."""
        with suppress(ProcessLookupError):
            self.process.kill()
        await self.process.communicate()


@asynccontextmanager
async def program(text: str, *arguments: object, env: dict[str, str]) -> AsyncIterator[Program]:
    """Run a program until the end of the test."""
    # What is killed in the middle of writing leaves coverage data that can't be read.
    quiet = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        text,
        *map(str, arguments),
        env=quiet | env,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    one = Program(process)
    try:
        yield one
    finally:
        await one.kill()


class Scene:
    """A service, a ledger, a process that lives and one that dies again and again.

    Attributes:
        kept: The sessions of the one that lives: their ids, and whether they take jobs.
        states: How often a killed process had left its newest record in a state, with what at the service.
        lives: How often a process was killed in its first life, its second and so on.
    """

    def __init__(
        self, emulator: Emulator, directory: Path, client: AsyncSessionClient, dying: Program
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

    async def settle(self, living: Program) -> None:
        """Wait until the living process has its four sessions."""
        self.emulator.faults.add(
            Fault(kind="reset", operations=("create",), after=True, nth=3),
            Fault(kind="latency", operations=("create",), after=True, nth=4, seconds=3600),
        )
        _, draining = (await living.told()).split()
        self.emulator.submit_job(draining, seconds=600)
        living.tell("go on")
        assert await living.told() == "unknown"
        while len(self.emulator.sessions) < 4:
            await self.client.versions()
        self.emulator.faults.clear()
        self.kept = self.accepting()
        assert sorted(self.kept.values()) == [False, True, True, True]
        states = {entry.record.state for entry in await self.ledger.entries()}
        assert states == set(RecordState) - {RecordState.ENDED}
        self._seen = set(await self._files())

    def accepting(self) -> dict[str, bool]:
        """Give the sessions that are open, and whether each takes jobs and so goes on by itself."""
        return {session.id: session.accepting_jobs for session in self.emulator.open_sessions}

    async def kill(self, count: int) -> None:
        """Let a process live for so many callbacks, and look at what it left."""
        before = set(self.emulator.sessions)
        self._dying.tell(count)
        assert await self._dying.told() == "-9"
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
        """Reap, and see that nothing of the living was touched; give what goes on of the dead, all of it listed, and end that."""
        # Long enough ago for a session that was asked for to be listed, were it there.
        reaped = await reap(self.client, self.ledger, close_unique=True, wall=lambda: time.time() + 1000)
        assert [one.error for one in reaped if one.error] == []
        listed = {
            workload.id
            for one in reaped
            if one.decision.verdict is Verdict.UNDECIDED
            for workload in one.decision.candidates
        }
        still = self.accepting()
        assert self.kept.items() <= still.items()
        left = {name for name, goes_on in still.items() if goes_on and name not in self.kept}
        assert left <= listed
        for session_id in left:
            await self.client.close(session_id)
        return left

    async def _files(self) -> list[Path]:
        return await asyncio.to_thread(lambda: list(self._directory.glob("*.jsonl")))


def records_in(file: Path) -> list[LedgerRecord]:
    """Read all that a process has recorded, oldest first."""
    lines = (parse_line(line) for line in file.read_bytes().split(b"\n"))
    return [line for line in lines if isinstance(line, LedgerRecord)]


def left_by(records: Sequence[LedgerRecord], made: Sequence[Session]) -> tuple[str, str]:
    """Say what a killed process left: the state of its newest record, and what there is of that session at the service."""
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
    """Say whether a session goes on, ends when its jobs are done, or has ended."""
    if session.state == "closed":
        return "closed"
    return "open" if session.accepting_jobs else "draining"


@asynccontextmanager
async def scene(directory: Path, *, backend: str) -> AsyncIterator[tuple[Scene, Program]]:
    """Give a scene whose living process is creating a session on that backend; those that die ask for ibm_fez."""
    async with AsyncExitStack() as stack:
        emulator = await stack.enter_async_context(Emulator())
        env = emulator.env()
        living = await stack.enter_async_context(program(LIVING, directory, backend, env=env))
        dying = await stack.enter_async_context(program(DYING, directory, env=env))
        auth = [IBMCloudAPIKey(emulator.api_key), ServiceCRN(emulator.crn)]
        client = await stack.enter_async_context(AsyncSessionClient(auth, base_url=emulator.url))
        one = Scene(emulator, directory, client, dying)
        await stack.enter_async_context(aclosing(one.ledger))
        await one.settle(living)
        yield one, living


@pytest.mark.timeout(300)
async def test_whatever_a_killed_process_left_is_reaped_and_nothing_else(tmp_path: Path) -> None:
    """After SIGKILL at 200 moments of a loop nothing of the dead goes on unlisted, and all of the living does, until it dies too."""
    async with scene(tmp_path, backend="ibm_torino") as (place, living):
        for count in MOMENTS:
            await place.kill(count)
            # A single session can be decided about; of several nobody can tell which is which.
            assert len(await place.reap()) != 1, count
        assert place.states.total() == len(MOMENTS)
        assert min(place.states[state] for state in STATES) >= 5, place.states
        assert min(place.lives[life] for life in (1, 2, 3)) >= 5, place.lives

        await living.kill()
        place.kept = {}
        assert len(await place.reap()) == 2
        # Those that drain end by themselves.
        await place.emulator.advance("2h")
        assert await place.reap() == set()
        assert place.emulator.open_sessions == []
        assert await place.ledger.entries() == []


async def test_what_may_be_a_session_of_the_living_is_left_to_it(tmp_path: Path) -> None:
    """Where a living process is creating just such a session, those that the dead may have created are listed, and none is closed."""
    async with scene(tmp_path, backend="ibm_fez") as (place, _):
        listed = 0
        for count in FIRST_CREATE:
            await place.kill(count)
            listed += len(await place.reap())
        assert listed == place.states["intent", "open"] >= 5, place.states
