"""The calls of prefect-qiskit, which runs circuits in workflows, on the emulator.

Its client is repeated here call by call, as of version 0.2, because it comes with the whole of
Prefect: the same requests in the same order, read with the same functions of the official client.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import pytest
from aiohttp import ClientResponseError, ClientSession

from qsessions.emulator import Emulator
from qsessions.testing.clients import sync_client
from qsessions.testing.threaded import ThreadedEmulator
from tests.support.needs import need


@pytest.fixture
def emulator() -> Iterator[ThreadedEmulator]:
    """Run an emulator whose time stands still, in a thread: the token is fetched by a blocking
    call.
    """
    need("qiskit_ibm_runtime")
    with ThreadedEmulator(Emulator(seed=1, speed=0)) as emulator:
        yield emulator


class Client:
    """What prefect-qiskit sends."""

    def __init__(self, emulator: ThreadedEmulator) -> None:
        from ibm_cloud_sdk_core.authenticators import IAMAuthenticator

        self.auth = IAMAuthenticator(apikey=emulator.api_key, url=emulator.iam_url)
        self.emulator = emulator

    def ask(self, method: str, path: str, data: str | None = None) -> str:
        """Return the text of an answer. Each call has an HTTP session of its own."""
        headers = {
            "IBM-API-Version": "2025-01-01",
            "Accept": "application/json",
            "Authorization": f"Bearer {self.auth.token_manager.get_token()}",
            "Service-CRN": self.emulator.crn,
        }
        base = f"{self.emulator.url}/v1/"

        async def answer() -> str:
            async with (
                ClientSession(headers=headers, base_url=base, raise_for_status=True) as session,
                session.request(method, path, data=data) as answer,
            ):
                return await answer.text()

        return asyncio.run(answer())

    def get(self, path: str) -> Any:
        """Return an answer in JSON."""
        return json.loads(self.ask("GET", path))

    def run(self, program: str, pub: list[object], **options: str) -> str:
        """Submit a job, with options as fields of the request, and return its id."""
        from qiskit_ibm_runtime import RuntimeEncoder

        params = {"support_qiskit": True, "version": 2, "pubs": [pub]}
        body = {"program_id": program, "backend": "ibm_fez", "params": params, **options}
        job_id: str = json.loads(self.ask("POST", "jobs", json.dumps(body, cls=RuntimeEncoder)))[
            "id"
        ]
        return job_id


def test_what_it_asks_of_backends(emulator: ThreadedEmulator) -> None:
    """A backend is available, is listed, and has a target to transpile for."""
    from qiskit_ibm_runtime.models import BackendConfiguration, BackendProperties
    from qiskit_ibm_runtime.utils.backend_converter import convert_to_target

    client = Client(emulator)
    assert (client.get("backends/ibm_fez/status"))["state"] is True
    devices = (client.get("backends"))["devices"]
    online = [device["name"] for device in devices if device["status"]["name"] == "online"]
    assert online == ["ibm_fez", "ibm_torino", "ibm_marrakesh"]
    target = convert_to_target(
        configuration=BackendConfiguration.from_dict(client.get("backends/ibm_fez/configuration")),
        properties=BackendProperties.from_dict(client.get("backends/ibm_fez/properties")),
    )
    assert target.num_qubits == 5
    assert {"cz", "measure", "rz", "sx", "x"} <= set(target.operation_names)


def test_its_jobs(emulator: ThreadedEmulator) -> None:
    """A sampler's and an estimator's job run, and their status, results and metrics are what it
    reads.
    """
    from qiskit import QuantumCircuit
    from qiskit.primitives.containers.estimator_pub import EstimatorPub
    from qiskit.primitives.containers.sampler_pub import SamplerPub
    from qiskit_ibm_runtime.decoders.result_decoder import ResultDecoder

    circuit = QuantumCircuit(2)
    circuit.x([0, 1])
    measured = circuit.copy()
    measured.measure_all()
    sampled = SamplerPub.coerce((measured,), 10)
    values = sampled.parameter_values.as_array(measured.parameters)
    estimated = EstimatorPub.coerce((circuit, ["ZI", "ZZ"]), 0.001)
    client = Client(emulator)
    jobs = [
        client.run("sampler", [sampled.circuit, values, sampled.shots]),
        client.run(
            "estimator",
            [estimated.circuit, estimated.observables.tolist(), values, estimated.precision],
        ),
    ]
    assert [(client.get(f"jobs/{job}"))["status"] for job in jobs] == ["Running"] * 2
    emulator.advance(2)
    assert [(client.get(f"jobs/{job}"))["status"] for job in jobs] == ["Completed"] * 2
    samples, estimates = [
        ResultDecoder.decode(client.ask("GET", f"jobs/{job}/results")) for job in jobs
    ]
    assert samples[0].data.meas.get_counts() == {"11": 10}
    assert estimates[0].data.evs.tolist() == pytest.approx([-1, 1], abs=0.01)
    metrics = client.get(f"jobs/{jobs[0]}/metrics")
    assert metrics["usage"]["quantum_seconds"] == 2
    created, running, finished = [
        datetime.fromisoformat(metrics["timestamps"][name])
        for name in ("created", "running", "finished")
    ]
    assert created == running < finished


def test_a_job_in_a_session(emulator: ThreadedEmulator) -> None:
    """A job with a session's id among its options runs in that session."""
    with (
        sync_client(emulator) as client,
        client.open(mode="batch", backend="ibm_fez", max_ttl="1h") as live,
    ):
        job = Client(emulator).run("sampler", ["no circuit", None, 10], session_id=live.id)
        assert emulator.jobs[job].session_id == live.id


def test_a_job_that_fails_and_one_that_is_cancelled(emulator: ThreadedEmulator) -> None:
    """The status of a job that failed has a reason and a code; an unknown job is an error."""
    client = Client(emulator)
    failing = client.run("sampler", ["no circuit", None, 10])
    cancelled = client.run("sampler", ["no circuit", None, 10])
    client.ask("POST", f"jobs/{cancelled}/cancel")
    emulator.advance(2)
    with pytest.raises(ClientResponseError):
        client.ask("GET", f"jobs/{failing}/results")
    failed = client.get(f"jobs/{failing}")
    assert (failed["status"], failed["state"]["reason_code"]) == ("Failed", 9422)
    assert "OpenQASM" in failed["state"]["reason"]
    assert (client.get(f"jobs/{cancelled}"))["status"] == "Cancelled"
    with pytest.raises(ClientResponseError, match="404"):
        client.get("jobs/none")
