"""Jobs to their end, and what the emulator says of backends and of an instance's usage."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import quote

import pytest

from qsessions.emulator import Emulator, Fault
from qsessions.emulator.fault_kinds import FaultKind
from tests.support.caller import Caller, Clock, calling, first_code
from tests.support.tables import table

QISKIT = importlib.metadata.version("qiskit") if importlib.util.find_spec("qiskit") else None
JOB = {"program_id": "sampler", "backend": "ibm_fez"}


@pytest.fixture
def clock() -> Clock:
    """A clock for the emulator."""
    return Clock()


@pytest.fixture
async def call(clock: Clock) -> AsyncIterator[Caller]:
    """Serve the paid plan."""
    async with calling(clock=clock) as call:
        yield call


async def get(call: Caller, path: str) -> Any:
    """Return the body of an answer that must be a success."""
    status, body = await call("GET", f"/v1/{path}")
    assert status == 200, body
    return body


async def submit(call: Caller, **fields: object) -> str:
    """Submit a job and return its id."""
    status, body = await call("POST", "/v1/jobs", {**JOB, **fields})
    assert status == 200, body
    return str(body["id"])


async def test_metrics_and_log_follow_a_job(call: Caller, clock: Clock) -> None:
    """A job's metrics and log have the times that it has come to, and its usage when it ended."""
    job = await submit(call, params={"seconds": 30})
    metrics = await get(call, f"jobs/{job}/metrics")
    assert set(metrics["timestamps"]) == {"created", "running"}
    assert metrics["usage"]["status"] == "pending"
    clock.at += 100
    metrics = await get(call, f"jobs/{job}/metrics")
    assert set(metrics["timestamps"]) == {"created", "running", "finished"}
    assert metrics["usage"] == {
        "qpu_charge_time_seconds": 30.0,
        "quantum_seconds": 30.0,
        "seconds": 30.0,
        "status": "complete",
    }
    lines = (await call.full("GET", f"/v1/jobs/{job}/logs"))[2].splitlines()
    assert [line.rsplit(" ", 1)[1] for line in lines] == ["queued", "running", "completed"]


@pytest.mark.parametrize("in_session", [False, True])
async def test_tags_of_a_job_are_replaced(call: Caller, clock: Clock, in_session: bool) -> None:
    """New tags are there at once, and after a job that has waited and run, and are found by."""
    session = {"session_id": await call.create(mode="batch")} if in_session else {}
    jobs = [await submit(call, tags=["old"], params={"seconds": 10}, **session) for _ in range(6)]
    for job in (jobs[0], jobs[5]):  # one runs, and one waits
        assert (await call("PUT", f"/v1/jobs/{job}/tags", {"tags": ["new", job]}))[0] == 204
        assert (await get(call, f"jobs/{job}"))["tags"] == ["new", job]
    clock.at += 60
    listed = await get(call, "jobs?tags=new&sort=ASC")
    assert [job["id"] for job in listed["jobs"]] == [jobs[0], jobs[5]]
    assert {job["status"] for job in listed["jobs"]} == {"Completed"}
    found = await get(call, f"workloads?search={jobs[5]}")
    assert [workload["tags"] for workload in found["workloads"]] == [["new", jobs[5]]]


async def test_a_deleted_job_is_gone_and_was_paid_for(call: Caller, clock: Clock) -> None:
    """A job that has ended can be deleted: nothing shows it any more, and the usage stays. One that
    runs can't, and ids and pages go on as if it were there.
    """
    job = await submit(call, params={"seconds": 20})
    assert (await call("DELETE", f"/v1/jobs/{job}"))[0] == 400
    clock.at += 30
    assert (await call("DELETE", f"/v1/jobs/{job}"))[0] == 204
    for path in (f"jobs/{job}", f"jobs/{job}/metrics", f"jobs/{job}/logs"):
        assert (await call("GET", f"/v1/{path}"))[0] == 404, path
    assert (await get(call, "workloads"))["workloads"] == []
    assert (await get(call, "instances/usage"))["usage_consumed_seconds"] == 20
    others = [await submit(call) for _ in range(3)]
    first = await get(call, "workloads?limit=2")
    rest = await get(call, "workloads?" + first["next"]["href"].partition("?")[2])
    listed = [workload["id"] for page in (first, rest) for workload in page["workloads"]]
    assert listed == others


@pytest.mark.parametrize("in_session", [False, True])
async def test_a_deleted_job_that_waited_never_runs(
    call: Caller, clock: Clock, in_session: bool
) -> None:
    """A job that waits can be deleted: nothing shows it, it never runs and costs nothing, and the
    others go on.
    """
    session = {"session_id": await call.create(mode="batch")} if in_session else {}
    jobs = [await submit(call, params={"seconds": 10}, **session) for _ in range(7)]
    assert (await get(call, f"jobs/{jobs[5]}"))["status"] == "Queued"
    assert (await call("DELETE", f"/v1/jobs/{jobs[5]}"))[0] == 204
    assert (await call("GET", f"/v1/jobs/{jobs[5]}"))[0] == 404
    clock.at += 20
    assert [job.id for job in call.emulator.jobs.values()] == jobs[:5] + jobs[6:]
    assert {job.status for job in call.emulator.jobs.values()} == {"Completed"}
    started = [event.job_id for event in call.emulator.events if event.what == "job_started"]
    assert jobs[5] not in started


async def test_a_private_job(call: Caller, clock: Clock) -> None:
    """A private job never shows its parameters, and its results can be read once."""
    job = await submit(call, params={"seconds": 10}, private=True)
    open_job = await submit(call, params={"seconds": 10})
    for each, shown in ((job, False), (open_job, True)):
        assert ("params" in await get(call, f"jobs/{each}?exclude_params=false")) is shown
    listed = (await get(call, "jobs?exclude_params=false&sort=ASC"))["jobs"]
    assert ["params" in each for each in listed] == [False, True]
    clock.at += 10
    for each, statuses in ((job, [200, 204, 204]), (open_job, [200, 200, 200])):
        reads = [(await call("GET", f"/v1/jobs/{each}/results"))[0] for _ in range(3)]
        assert reads == statuses


async def test_a_jobs_metrics_name_qiskit(call: Caller) -> None:
    """A job's metrics name the version of Qiskit where one runs its circuits."""
    metrics = await get(call, f"jobs/{await submit(call)}/metrics")
    assert metrics.get("qiskit_version") == QISKIT


async def test_usage_is_in_whole_seconds(call: Caller, clock: Clock) -> None:
    """Usage is a whole number, as clients that subtract it from a limit expect."""
    await submit(call, params={"seconds": 2.4})
    clock.at += 10
    used = (await get(call, "instances/usage"))["usage_consumed_seconds"]
    assert (used, type(used)) == (2, int)


async def test_usage_of_an_instance(clock: Clock) -> None:
    """Usage is the sum of what sessions and other jobs are billed, and the open plan has a limit
    that is reached.
    """
    async with calling(clock=clock, plan="open") as call:
        _, session = await call("POST", "/v1/sessions", {"mode": "batch"})
        await submit(call, session_id=session["id"], params={"seconds": 100})
        await submit(call, params={"seconds": 400})
        clock.at += 500
        usage = await get(call, "instances/usage")
        assert usage["usage_consumed_seconds"] == 500
        assert (usage["usage_allocation_seconds"], usage["usage_limit_reached"]) == (600, False)
        await submit(call, params={"seconds": 100})
        clock.at += 500
        assert (await get(call, "instances/usage"))["usage_limit_reached"] is True
        assert (await get(call, "instance"))["usage_allocation_seconds"] == "600"
        assert await get(call, "instances/configuration") == {"instance_limit": 600}


async def test_an_instance_without_a_limit(call: Caller) -> None:
    """The paid plan has no limit, and nothing says that one is reached."""
    assert "usage_limit_reached" not in await get(call, "instances/usage")
    assert await get(call, "instances/configuration") == {}
    instance = await get(call, "instance")
    assert instance == {
        "backends": ["ibm_fez", "ibm_torino", "ibm_marrakesh"],
        "plan_id": "emulated-plan-paid",
    }


@table(
    ("kind", "status", "reason_code"),
    [("job_failure", "Failed", 9500), ("job_cancellation", "Cancelled", None)],
)
async def test_a_job_that_a_fault_ends(
    clock: Clock, kind: FaultKind, status: str, reason_code: int | None
) -> None:
    """A fault makes a job that is submitted run its time, and end failed or cancelled."""
    fault = Fault(kind=kind, times=1)
    async with calling(clock=clock, faults=[fault]) as call:
        job, other = [await submit(call, params={"seconds": 5}) for _ in range(2)]
        assert (await get(call, f"jobs/{job}"))["status"] == "Running"
        clock.at += 10
        ended = await get(call, f"jobs/{job}")
        assert (ended["status"], ended["state"].get("reason_code")) == (status, reason_code)
        assert "fault plan" in ended["state"]["reason"]
        assert "fault plan" in (await call.full("GET", f"/v1/jobs/{job}/logs"))[2]
        assert (await get(call, f"jobs/{other}"))["status"] == "Completed"


@table(("kind", "word"), [("backend_offline", "offline"), ("backend_paused", "paused")])
async def test_a_backend_that_a_fault_keeps_from_work(
    clock: Clock, kind: FaultKind, word: str
) -> None:
    """A fault makes a backend offline or paused in its status and in the list, and a job that is
    submitted waits for it.
    """
    fault = Fault(kind=kind, seconds=60)
    async with calling(clock=clock, faults=[fault]) as call:
        status = await get(call, "backends/ibm_fez/status")
        assert (status["state"], status["status"]) == (False, word)
        devices = (await get(call, "backends"))["devices"]
        assert {device["status"]["name"] for device in devices} == {word}
        job = await submit(call)
        clock.at += 59
        assert (await get(call, f"jobs/{job}"))["status"] == "Queued"
        call.emulator.faults.clear()
        assert (await get(call, "backends/ibm_fez/status"))["state"] is True
        clock.at += 1
        assert (await get(call, f"jobs/{job}"))["status"] == "Running"


async def test_a_usage_limit_that_a_fault_says_is_reached(call: Caller) -> None:
    """A fault makes the usage say that its limit is reached, and refuses jobs with a 409."""
    call.emulator.faults.add(Fault(kind="usage_limit"))
    usage = await get(call, "instances/usage")
    assert usage["usage_limit_reached"] is True
    assert usage["usage_limit_seconds"] == usage["usage_consumed_seconds"]
    status, body = await call("POST", "/v1/jobs", JOB)
    assert (status, first_code(body)) == (409, 9410)
    assert call.emulator.jobs == {}


async def test_so_many_jobs_a_minute(clock: Clock) -> None:
    """Where it is asked for, an instance takes so many jobs in any minute; the refusal says when to
    come again.
    """
    async with calling(clock=clock, jobs_per_minute=2) as call:
        await submit(call)
        clock.at += 40
        await submit(call)
        status, headers, _ = await call.full("POST", "/v1/jobs", JOB)
        assert (status, headers["Retry-After"]) == (429, "20")
        clock.at += 20
        await submit(call)
        assert (await call("POST", "/v1/jobs", JOB))[0] == 429
    with pytest.raises(ValueError, match="jobs_per_minute must be at least 1"):
        Emulator(jobs_per_minute=0)


@table("qubits", [1, 2, 5, 6, 7, 27, 156])
async def test_backends_of_any_size(qubits: int) -> None:
    """A backend has the number of qubits that follows its name, all of them connected."""
    names = [f"ibm_sized:{qubits}", "ibm_other"]
    async with calling(backends=names) as call:
        devices = (await get(call, "backends"))["devices"]
        sizes = {device["name"]: device["qubits"] for device in devices}
        assert sizes == {"ibm_sized": qubits, "ibm_other": 5}
        configuration = await get(call, "backends/ibm_sized/configuration")
        properties = await get(call, "backends/ibm_sized/properties")
        assert configuration["n_qubits"] == len(properties["qubits"]) == qubits
        assert await get(call, "backends/ibm_sized/defaults") is None
        pairs = {tuple(pair) for pair in configuration["coupling_map"]}
        assert {(b, a) for a, b in pairs} == pairs
        reached, border = {0}, {0}
        while border:
            border = {b for a, b in pairs if a in border} - reached
            reached |= border
        assert reached == set(range(qubits))


@table("name", ["", ":5", "ibm_fez:", "ibm_fez:0", "ibm_fez:1001", "ibm_fez:many", "ibm_fez:-1"])
def test_a_backend_that_can_not_be(name: str) -> None:
    """A backend without a name, or with a number of qubits that none has, is refused."""
    with pytest.raises(ValueError, match="a backend must"):
        Emulator(backends=[name])


async def test_the_resource_controller_finds_instances_by_name(call: Caller) -> None:
    """The account's instances are listed, those of one name where it is given; another filter is
    refused.
    """
    other = call.emulator.add_instance(name="other")
    headers = {"Authorization": f"apikey {call.emulator.api_key}"}
    url = f"{call.emulator.iam_url}/v2/resource_instances"
    for query, crns in (
        ("", [call.emulator.crn, other]),
        ("?name=other", [other]),
        ("?name=none", []),
    ):
        _, found = await call("GET", url + query, headers=headers)
        assert [item["crn"] for item in found["resources"]] == crns, query
        assert found["rows_count"] == len(crns)
    assert (await call("GET", f"{url}?type=x", headers=headers))[0] == 400
    assert (await call("GET", url, headers={}))[0] == 401


async def test_the_resource_controller_knows_an_instance_by_its_crn(call: Caller) -> None:
    """An instance is found by its CRN, quoted as clients quote it; none is a 404, and without a
    credential it is a 401.
    """
    other = call.emulator.add_instance(name="other")
    headers = {"Authorization": f"apikey {call.emulator.api_key}"}
    url = f"{call.emulator.iam_url}/v2/resource_instances"
    for crn, credential, status in (
        (other, headers, 200),
        ("none", headers, 404),
        (other, {}, 401),
    ):
        address = f"{url}/{quote(crn, safe='')}"
        answered, found = await call("GET", address, headers=credential)
        assert answered == status
        if status == 200:
            assert (found["crn"], found["name"]) == (other, "other")
