"""Results of jobs over real sockets, and the process that computes them."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import ClientError, ClientSession

from qsessions.emulator import Emulator
from qsessions.emulator.programs.runner import ProgramRunner
from tests.support.caller import Caller, Clock, answer_to, first_code
from tests.support.results import read_results
from tests.support.tables import table
from tests.support.waiting import until

MODULE = "tests.programs.worked"
BELL = "OPENQASM 3.0; qubit[2] q; bit[2] c; h q[0]; cx q[0], q[1]; c = measure q;"


@pytest.fixture
def clock() -> Clock:
    """A clock for the emulator."""
    return Clock()


@pytest.fixture
async def seeded(clock: Clock) -> AsyncIterator[Caller]:
    """A running emulator that has no Qiskit, and a client for it."""
    async with using(ProgramRunner(None), clock) as call:
        yield call


@pytest.fixture
async def worked(clock: Clock) -> AsyncIterator[Caller]:
    """A running emulator whose worker does what it is told, and a client for it."""
    async with using(ProgramRunner(MODULE), clock) as call:
        yield call


@asynccontextmanager
async def using(programs: ProgramRunner, clock: Clock) -> AsyncIterator[Caller]:
    """Start an emulator that runs programs in a certain way, and a client of it.

    Whether Qiskit is installed must make no difference here.
    """
    emulator = Emulator(clock=clock, seed=1)
    emulator._programs = programs
    async with emulator, ClientSession() as http:
        yield Caller(http, emulator)


async def submit(call: Caller, *pubs: object, **fields: Any) -> str:
    """Submit a job for circuits, and return its id."""
    body = {"program_id": "sampler", "backend": "ibm_fez", "params": {"pubs": pubs}} | fields
    status, job = await call("POST", "/v1/jobs", body)
    assert status == 200
    return str(job["id"])


async def results(call: Caller, job_id: str) -> tuple[int, Any]:
    """Ask for a job's results."""
    return await call("GET", f"/v1/jobs/{job_id}/results")


async def outcome(call: Caller, clock: Clock, *pubs: object) -> Any:
    """Submit a job, let it end, and return what its program answered."""
    job_id = await submit(call, *pubs)
    clock.at += 2
    status, answer = await results(call, job_id)
    assert status == 200, answer
    return answer


async def reason(call: Caller, clock: Clock, *pubs: object) -> tuple[str, int]:
    """Submit a job, let it end, and return why it failed: its results say the same."""
    job_id = await submit(call, *pubs)
    clock.at += 2
    status, answer = await results(call, job_id)
    assert status == 400, answer
    job = (await call("GET", f"/v1/jobs/{job_id}"))[1]
    assert job["status"] == job["state"]["status"] == "Failed"
    assert answer["errors"][0]["message"] == f"The job failed: {job['state']['reason']}"
    assert first_code(answer) == job["state"]["reason_code"]
    return job["state"]["reason"], job["state"]["reason_code"]


@pytest.mark.smoke
async def test_results_of_a_job(seeded: Caller, clock: Clock) -> None:
    """A job without `seconds` takes 2 s of the service's time; until then there is no result, and
    then always the same one.
    """
    job_id = await submit(seeded, [BELL, None, 5])
    clock.at += 1.999
    assert await results(seeded, job_id) == (204, None)
    clock.at += 0.001
    status, answer = await results(seeded, job_id)
    assert status == 200
    ((result,), metadata) = read_results(answer)
    assert (result.fields["c"].shape, result.fields["c"].bits) == ((5, 1), 2)
    assert metadata["simulator"] == "seeded"
    assert await results(seeded, job_id) == (200, answer)


async def test_two_emulators_with_one_seed(clock: Clock) -> None:
    """The same seed gives the same results, and each job has its own."""
    seen: list[object] = []
    for _ in range(2):
        async with using(ProgramRunner(None), clock) as call:
            seen.append([await outcome(call, clock, [BELL]) for _ in range(2)])
    assert seen[0] == seen[1]
    assert seen[0][0] != seen[0][1]  # type: ignore[index]


async def test_jobs_without_a_result(seeded: Caller, clock: Clock) -> None:
    """A job of another program and one that was cancelled have no result; one without circuits has
    a result for none of them; one that is deleted is unknown.
    """
    other = await submit(seeded, [BELL], program_id="executor")
    cancelled, deleted = await submit(seeded, [BELL]), await submit(seeded, [BELL])
    await seeded("POST", f"/v1/jobs/{cancelled}/cancel")
    empty = seeded.emulator.submit_job(seconds=1)
    clock.at += 2
    assert (await seeded("DELETE", f"/v1/jobs/{deleted}"))[0] == 204
    assert await results(seeded, other) == (204, None)
    assert await results(seeded, cancelled) == (204, None)
    assert (await results(seeded, deleted))[0] == 404
    assert read_results((await results(seeded, empty))[1])[0] == []


@table(
    ("params", "expected"),
    [
        ([{"__type__": "QuantumCircuit", "__value__": ""}], ("a value is not base64", 9422)),
        ([BELL, {"__type__": "BindingsArray", "__value__": {"shape": 1}}], ("TypeError: ", 9422)),
    ],
)
async def test_a_job_that_fails_without_a_worker(
    seeded: Caller, clock: Clock, params: list[object], expected: tuple[str, int]
) -> None:
    """A request that can't be read fails its job, whatever is wrong with it."""
    told, code = await reason(seeded, clock, params)
    assert told.startswith(expected[0])
    assert code == expected[1]


async def test_a_job_fails_at_its_end(worked: Caller, clock: Clock) -> None:
    """A job whose program has failed runs to its end and fails there; one that is completed by then
    fails afterwards. Its place goes to the next, and what it cost stays.
    """
    first = await submit(worked, "fail", params={"pubs": ["fail"], "seconds": 100})
    last = await submit(worked, "print")
    clock.at += 2
    assert (await results(worked, last))[0] == 200
    job = (await worked("GET", f"/v1/jobs/{first}"))[1]
    assert (job["status"], job["state"]) == ("Running", {"status": "Running"})
    clock.at += 98
    job = (await worked("GET", f"/v1/jobs/{first}"))[1]
    assert job["state"] == {
        "status": "Failed",
        "reason": "LookupError: no such gate",
        "reason_code": 9422,
    }
    assert job["usage"] == {"qpu_charge_time_seconds": 100.0, "status": "complete"}
    status = (await worked("GET", "/v1/backends/ibm_fez/status"))[1]
    assert status["length_queue"] == 0


async def test_a_worker_that_is_kept(worked: Caller, clock: Clock) -> None:
    """One process runs all programs, also after one that failed, and what a library prints harms
    nothing. It ends with the emulator, and another comes with the next start.
    """
    first = await outcome(worked, clock, "process")
    assert await reason(worked, clock, "fail") == ("LookupError: no such gate", 9422)
    assert isinstance(await outcome(worked, clock, "print"), int)
    assert await outcome(worked, clock, "process") == first
    await worked.emulator.stop()
    with pytest.raises(ProcessLookupError):
        os.kill(first, 0)
    await worked.emulator.start()
    assert await outcome(worked, clock, "process") != first


async def test_programs_that_end_their_process(worked: Caller, clock: Clock) -> None:
    """A program that takes too much memory, or takes its process with it, fails its job, and the
    next one runs.
    """
    if sys.platform == "linux":
        assert await reason(worked, clock, "take memory") == (
            "the program needs more memory than there is",
            9413,
        )
    assert await reason(worked, clock, "end") == (
        "its process ended with status 7, as it does where memory is short",
        9413,
    )
    assert isinstance(await outcome(worked, clock, "process"), int)


async def test_a_program_that_takes_too_long(clock: Clock) -> None:
    """A program that doesn't come to its end in time fails its job, and the next one runs."""
    programs = ProgramRunner(MODULE)
    async with using(programs, clock) as call:
        process = await outcome(call, clock, "process")
        programs._seconds = 0.01
        expected = ("the program took longer than 0.01 s", 1305)
        assert await reason(call, clock, "never end") == expected
        programs._seconds = 30
        assert await outcome(call, clock, "process") != process


async def test_results_that_take_longer_than_the_wait(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever asks for results waits for them, but not for ever."""
    monkeypatch.setattr("qsessions.emulator.programs.runner._RESULT_SECONDS", 0.01)
    async with using(ProgramRunner(MODULE), clock) as call:
        job_id = await submit(call, "never end")
        clock.at += 2
        assert await results(call, job_id) == (204, None)
        assert (await call("GET", f"/v1/jobs/{job_id}"))[1]["status"] == "Completed"


async def test_a_stop_in_the_middle(worked: Caller, clock: Clock) -> None:
    """A program that a stop interrupts runs after the next start, and a deleted job's never does."""
    stuck, waiting = await submit(worked, "never end"), await submit(worked, "print")
    clock.at += 2
    await until(lambda: worked.emulator._programs._worker is not None)
    asked = asyncio.create_task(results(worked, waiting))
    await worked.emulator.stop()
    with pytest.raises(ClientError):
        await asked
    await worked.emulator.start()
    assert (await worked("DELETE", f"/v1/jobs/{stuck}"))[0] == 204
    await worked.emulator.stop()
    await worked.emulator.start()
    assert (await results(worked, waiting))[0] == 200
    assert (await results(worked, stuck))[0] == 404


async def test_a_worker_that_does_not_start(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the worker's module can't be imported, or no process started, the job's reason says
    why.
    """
    async with using(ProgramRunner("tests.programs.none"), clock) as call:
        told, code = await reason(call, clock, "process")
        assert told.startswith("tests.programs.none can't be imported: ModuleNotFoundError: ")
        monkeypatch.setattr(sys, "executable", "/none")
        told, code = await reason(call, clock, "process")
        assert told == "no process can be started for it: No such file or directory"
        assert code == 1000


async def test_what_a_worker_has(
    worked: Caller, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker's environment has no credentials nor anything else of the user's, and its program
    can open no sockets, start no processes and change no files.
    """
    for name in ("QISKIT_IBM_TOKEN", "AWS_SECRET_ACCESS_KEY", "PYTHONSTARTUP"):
        monkeypatch.setenv(name, "secret")
    environment = await outcome(worked, clock, "environment")
    assert set(environment) <= {
        "DYLD_LIBRARY_PATH",
        "HOME",
        "LC_CTYPE",
        "LD_LIBRARY_PATH",
        "OMP_NUM_THREADS",
        "OPENBLAS_NUM_THREADS",
        "QISKIT_PARALLEL",
        "RAYON_NUM_THREADS",
        "SYSTEMROOT",
        "USERPROFILE",
    }
    assert "secret" not in environment.values()
    attempts = ("socket", "name", "process", "shell", "file", "folder")
    assert await outcome(worked, clock, "break out") == dict.fromkeys(attempts, "PermissionError")


@table(
    ("module", "allow_remote", "pubs", "is_refused"),
    [
        (MODULE, False, ["process"], True),
        (MODULE, False, None, False),
        (MODULE, True, ["process"], False),
        (None, False, [BELL], False),
    ],
)
async def test_circuits_from_other_machines(
    module: str | None, allow_remote: bool, pubs: list[object] | None, is_refused: bool
) -> None:
    """A job with circuits from another machine is refused where they would be run, unless that is
    allowed.
    """
    emulator = Emulator()
    emulator._programs = ProgramRunner(module, allow_remote=allow_remote)
    params = {} if pubs is None else {"pubs": pubs}
    body = {"program_id": "sampler", "backend": "ibm_fez", "params": params}
    headers = {"Authorization": f"apikey {emulator.api_key}", "Service-CRN": emulator.crn}
    answer = await answer_to(
        emulator, "/api/v1/jobs", "192.0.2.1", headers, json.dumps(body).encode()
    )
    assert answer.status == (403 if is_refused else 200)
    assert not is_refused or first_code(json.loads(answer.text or "")) == 1200
    assert len(emulator.jobs) == (not is_refused)
