"""Jobs to their end, and what the emulator says of backends and of an instance's usage."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import quote

import attrs
import pytest
from aiohttp import ClientSession
from yarl import URL

from qsessions.emulator import Emulator, Fault
from qsessions.emulator.fault_kinds import FaultKind
from tests.support.caller import Clock as StandingClock
from tests.support.tables import table

QISKIT = importlib.metadata.version("qiskit") if importlib.util.find_spec("qiskit") else None
JOB = {"program_id": "sampler", "backend": "ibm_fez"}


@attrs.frozen
class Service:
    """An emulator whose clock stands still, spoken to as a program in another language does."""

    emulator: Emulator
    clock: StandingClock
    http: ClientSession

    async def ask(self, method: str, path: str, body: object = None) -> tuple[int, Any]:
        """Return an answer's status and its body, as JSON or text."""
        headers = {
            "Authorization": f"apikey {self.emulator.api_key}",
            "Service-CRN": self.emulator.crn,
        }
        data = None if body is None else json.dumps(body).encode()
        url = f"{self.emulator.url}/v1/{path}"
        async with self.http.request(method, url, data=data, headers=headers) as answer:
            text = await answer.text()
            is_json = answer.content_type == "application/json" and text
            return answer.status, json.loads(text) if is_json else text

    async def get(self, path: str) -> Any:
        """Return the body of an answer that must be a success."""
        status, body = await self.ask("GET", path)
        assert status == 200, body
        return body

    async def submit(self, **fields: object) -> str:
        """Submit a job and return its id."""
        status, body = await self.ask("POST", "jobs", {**JOB, **fields})
        assert status == 200, body
        job_id: str = body["id"]
        return job_id


@pytest.fixture
async def service() -> AsyncIterator[Service]:
    """Serve the paid plan."""
    clock = StandingClock()
    async with Emulator(clock=clock) as emulator, ClientSession() as http:
        yield Service(emulator, clock, http)


async def test_metrics_and_log_follow_a_job(service: Service) -> None:
    """A job's metrics and log have the times that it has come to, and its usage when it ended."""
    job = await service.submit(params={"seconds": 30})
    metrics = await service.get(f"jobs/{job}/metrics")
    assert set(metrics["timestamps"]) == {"created", "running"}
    assert metrics["usage"]["status"] == "pending"
    service.clock.at += 100
    metrics = await service.get(f"jobs/{job}/metrics")
    assert set(metrics["timestamps"]) == {"created", "running", "finished"}
    assert metrics["usage"] == {
        "qpu_charge_time_seconds": 30.0,
        "quantum_seconds": 30.0,
        "seconds": 30.0,
        "status": "complete",
    }
    lines = (await service.get(f"jobs/{job}/logs")).splitlines()
    assert [line.rsplit(" ", 1)[1] for line in lines] == ["queued", "running", "completed"]


@pytest.mark.parametrize("in_session", [False, True])
async def test_tags_of_a_job_are_replaced(service: Service, in_session: bool) -> None:
    """New tags are there at once, and after a job that has waited and run, and are found by."""
    session = {}
    if in_session:
        session = {
            "session_id": (await service.ask("POST", "sessions", {"mode": "batch"}))[1]["id"]
        }
    jobs = [await service.submit(tags=["old"], params={"seconds": 10}, **session) for _ in range(6)]
    for job in (jobs[0], jobs[5]):  # one runs, and one waits
        assert (await service.ask("PUT", f"jobs/{job}/tags", {"tags": ["new", job]}))[0] == 204
        assert (await service.get(f"jobs/{job}"))["tags"] == ["new", job]
    service.clock.at += 60
    listed = await service.get("jobs?tags=new&sort=ASC")
    assert [job["id"] for job in listed["jobs"]] == [jobs[0], jobs[5]]
    assert {job["status"] for job in listed["jobs"]} == {"Completed"}
    found = await service.get(f"workloads?search={jobs[5]}")
    assert [workload["tags"] for workload in found["workloads"]] == [["new", jobs[5]]]


async def test_a_deleted_job_is_gone_and_was_paid_for(service: Service) -> None:
    """A job that has ended can be deleted: nothing shows it any more, and the usage stays. One that
    runs can't, and ids and pages go on as if it were there.
    """
    job = await service.submit(params={"seconds": 20})
    assert (await service.ask("DELETE", f"jobs/{job}"))[0] == 400
    service.clock.at += 30
    assert (await service.ask("DELETE", f"jobs/{job}"))[0] == 204
    for path in (f"jobs/{job}", f"jobs/{job}/metrics", f"jobs/{job}/logs"):
        assert (await service.ask("GET", path))[0] == 404, path
    assert (await service.get("workloads"))["workloads"] == []
    assert (await service.get("instances/usage"))["usage_consumed_seconds"] == 20
    others = [await service.submit() for _ in range(3)]
    first = await service.get("workloads?limit=2")
    rest = await service.get("workloads?" + first["next"]["href"].partition("?")[2])
    listed = [workload["id"] for page in (first, rest) for workload in page["workloads"]]
    assert listed == others


@pytest.mark.parametrize("in_session", [False, True])
async def test_a_deleted_job_that_waited_never_runs(service: Service, in_session: bool) -> None:
    """A job that waits can be deleted: nothing shows it, it never runs and costs nothing, and the
    others go on.
    """
    session = {}
    if in_session:
        session = {
            "session_id": (await service.ask("POST", "sessions", {"mode": "batch"}))[1]["id"]
        }
    jobs = [await service.submit(params={"seconds": 10}, **session) for _ in range(7)]
    assert (await service.get(f"jobs/{jobs[5]}"))["status"] == "Queued"
    assert (await service.ask("DELETE", f"jobs/{jobs[5]}"))[0] == 204
    assert (await service.ask("GET", f"jobs/{jobs[5]}"))[0] == 404
    service.clock.at += 20
    assert [job.id for job in service.emulator.jobs.values()] == jobs[:5] + jobs[6:]
    assert {job.status for job in service.emulator.jobs.values()} == {"Completed"}
    started = [event.job_id for event in service.emulator.events if event.what == "job_started"]
    assert jobs[5] not in started


async def test_a_private_job(service: Service) -> None:
    """A private job never shows its parameters, and its results can be read once."""
    job = await service.submit(params={"seconds": 10}, private=True)
    open_job = await service.submit(params={"seconds": 10})
    for each, shown in ((job, False), (open_job, True)):
        assert ("params" in await service.get(f"jobs/{each}?exclude_params=false")) is shown
    listed = (await service.get("jobs?exclude_params=false&sort=ASC"))["jobs"]
    assert ["params" in each for each in listed] == [False, True]
    service.clock.at += 10
    for each, statuses in ((job, [200, 204, 204]), (open_job, [200, 200, 200])):
        reads = [(await service.ask("GET", f"jobs/{each}/results"))[0] for _ in range(3)]
        assert reads == statuses


async def test_a_jobs_metrics_name_qiskit(service: Service) -> None:
    """A job's metrics name the version of Qiskit where one runs its circuits."""
    metrics = await service.get(f"jobs/{await service.submit()}/metrics")
    assert metrics.get("qiskit_version") == QISKIT


async def test_usage_is_in_whole_seconds(service: Service) -> None:
    """Usage is a whole number, as clients that subtract it from a limit expect."""
    await service.submit(params={"seconds": 2.4})
    service.clock.at += 10
    used = (await service.get("instances/usage"))["usage_consumed_seconds"]
    assert (used, type(used)) == (2, int)


async def test_usage_of_an_instance() -> None:
    """Usage is the sum of what sessions and other jobs are billed, and the open plan has a limit
    that is reached.
    """
    clock = StandingClock()
    async with Emulator(clock=clock, plan="open") as emulator, ClientSession() as http:
        service = Service(emulator, clock, http)
        _, session = await service.ask("POST", "sessions", {"mode": "batch"})
        await service.submit(session_id=session["id"], params={"seconds": 100})
        await service.submit(params={"seconds": 400})
        clock.at += 500
        usage = await service.get("instances/usage")
        assert usage["usage_consumed_seconds"] == 500
        assert (usage["usage_allocation_seconds"], usage["usage_limit_reached"]) == (600, False)
        await service.submit(params={"seconds": 100})
        clock.at += 500
        assert (await service.get("instances/usage"))["usage_limit_reached"] is True
        assert (await service.get("instance"))["usage_allocation_seconds"] == "600"
        assert await service.get("instances/configuration") == {"instance_limit": 600}


async def test_an_instance_without_a_limit(service: Service) -> None:
    """The paid plan has no limit, and nothing says that one is reached."""
    assert "usage_limit_reached" not in await service.get("instances/usage")
    assert await service.get("instances/configuration") == {}
    instance = await service.get("instance")
    assert instance == {
        "backends": ["ibm_fez", "ibm_torino", "ibm_marrakesh"],
        "plan_id": "emulated-plan-paid",
    }


@table(
    ("kind", "status", "reason_code"),
    [("job_failure", "Failed", 9500), ("job_cancellation", "Cancelled", None)],
)
async def test_a_job_that_a_fault_ends(
    kind: FaultKind, status: str, reason_code: int | None
) -> None:
    """A fault makes a job that is submitted run its time, and end failed or cancelled."""
    clock = StandingClock()
    fault = Fault(kind=kind, times=1)
    async with Emulator(clock=clock, faults=[fault]) as emulator, ClientSession() as http:
        service = Service(emulator, clock, http)
        job, other = [await service.submit(params={"seconds": 5}) for _ in range(2)]
        assert (await service.get(f"jobs/{job}"))["status"] == "Running"
        clock.at += 10
        ended = await service.get(f"jobs/{job}")
        assert (ended["status"], ended["state"].get("reason_code")) == (status, reason_code)
        assert "fault plan" in ended["state"]["reason"]
        assert "fault plan" in await service.get(f"jobs/{job}/logs")
        assert (await service.get(f"jobs/{other}"))["status"] == "Completed"


@table(("kind", "word"), [("backend_offline", "offline"), ("backend_paused", "paused")])
async def test_a_backend_that_a_fault_keeps_from_work(kind: FaultKind, word: str) -> None:
    """A fault makes a backend offline or paused in its status and in the list, and a job that is
    submitted waits for it.
    """
    clock = StandingClock()
    fault = Fault(kind=kind, seconds=60)
    async with Emulator(clock=clock, faults=[fault]) as emulator, ClientSession() as http:
        service = Service(emulator, clock, http)
        status = await service.get("backends/ibm_fez/status")
        assert (status["state"], status["status"]) == (False, word)
        devices = (await service.get("backends"))["devices"]
        assert {device["status"]["name"] for device in devices} == {word}
        job = await service.submit()
        clock.at += 59
        assert (await service.get(f"jobs/{job}"))["status"] == "Queued"
        emulator.faults.clear()
        assert (await service.get("backends/ibm_fez/status"))["state"] is True
        clock.at += 1
        assert (await service.get(f"jobs/{job}"))["status"] == "Running"


async def test_a_usage_limit_that_a_fault_says_is_reached(service: Service) -> None:
    """A fault makes the usage say that its limit is reached, and refuses jobs with a 409."""
    service.emulator.faults.add(Fault(kind="usage_limit"))
    usage = await service.get("instances/usage")
    assert usage["usage_limit_reached"] is True
    assert usage["usage_limit_seconds"] == usage["usage_consumed_seconds"]
    status, body = await service.ask("POST", "jobs", JOB)
    assert (status, body["errors"][0]["code"]) == (409, 9410)
    assert service.emulator.jobs == {}


async def test_so_many_jobs_a_minute() -> None:
    """Where it is asked for, an instance takes so many jobs in any minute; the refusal says when to
    come again.
    """
    clock = StandingClock()
    async with Emulator(clock=clock, jobs_per_minute=2) as emulator, ClientSession() as http:
        service = Service(emulator, clock, http)
        await service.submit()
        clock.at += 40
        await service.submit()
        headers = {"Authorization": f"apikey {emulator.api_key}", "Service-CRN": emulator.crn}
        url, data = f"{emulator.url}/v1/jobs", json.dumps(JOB)
        async with http.post(url, data=data, headers=headers) as answer:
            assert (answer.status, answer.headers["Retry-After"]) == (429, "20")
        clock.at += 20
        await service.submit()
        assert (await service.ask("POST", "jobs", JOB))[0] == 429
    with pytest.raises(ValueError, match="jobs_per_minute must be at least 1"):
        Emulator(jobs_per_minute=0)


@table("qubits", [1, 2, 5, 6, 7, 27, 156])
async def test_backends_of_any_size(qubits: int) -> None:
    """A backend has the number of qubits that follows its name, all of them connected."""
    names = [f"ibm_sized:{qubits}", "ibm_other"]
    async with Emulator(backends=names) as emulator, ClientSession() as http:
        service = Service(emulator, StandingClock(), http)
        devices = (await service.get("backends"))["devices"]
        sizes = {device["name"]: device["qubits"] for device in devices}
        assert sizes == {"ibm_sized": qubits, "ibm_other": 5}
        configuration = await service.get("backends/ibm_sized/configuration")
        properties = await service.get("backends/ibm_sized/properties")
        assert configuration["n_qubits"] == len(properties["qubits"]) == qubits
        assert await service.get("backends/ibm_sized/defaults") is None
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


async def test_the_resource_controller_finds_instances_by_name(service: Service) -> None:
    """The account's instances are listed, those of one name where it is given; another filter is
    refused.
    """
    other = service.emulator.add_instance(name="other")
    headers = {"Authorization": f"apikey {service.emulator.api_key}"}
    url = f"{service.emulator.iam_url}/v2/resource_instances"
    for query, crns in (
        ("", [service.emulator.crn, other]),
        ("?name=other", [other]),
        ("?name=none", []),
    ):
        async with service.http.get(url + query, headers=headers) as answer:
            found = await answer.json()
            assert [item["crn"] for item in found["resources"]] == crns, query
            assert found["rows_count"] == len(crns)
    async with service.http.get(f"{url}?type=x", headers=headers) as answer:
        assert answer.status == 400
    async with service.http.get(url) as answer:
        assert answer.status == 401


async def test_the_resource_controller_knows_an_instance_by_its_crn(service: Service) -> None:
    """An instance is found by its CRN, quoted as clients quote it; none is a 404, and without a
    credential it is a 401.
    """
    other = service.emulator.add_instance(name="other")
    headers = {"Authorization": f"apikey {service.emulator.api_key}"}
    url = f"{service.emulator.iam_url}/v2/resource_instances"
    for crn, credential, status in (
        (other, headers, 200),
        ("none", headers, 404),
        (other, {}, 401),
    ):
        address = URL(f"{url}/{quote(crn, safe='')}", encoded=True)
        async with service.http.get(address, headers=credential) as answer:
            assert answer.status == status
            if status == 200:
                found = await answer.json()
                assert (found["crn"], found["name"]) == (other, "other")
