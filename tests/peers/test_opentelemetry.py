"""`qsessions.integrations.opentelemetry` with the SDK: spans, metrics, and their export."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from qsessions import (
    AsyncSessionClient,
    CreateOutcomeUnknown,
    IBMCloudAuth,
    NotFound,
    RetryPolicy,
    ServiceCRN,
    SessionClient,
    SessionLeftOpen,
)
from qsessions.emulator import Emulator, Fault
from qsessions.testing import ManualClock
from qsessions.testing.threaded import ThreadedEmulator
from tests.support.calls import CREATE, NO_WORKLOADS, SESSION, fault
from tests.support.clients import Against
from tests.support.fault_server import Answer, hang, http, reset
from tests.support.needs import need
from tests.support.pages import snippets

if TYPE_CHECKING:
    from tests.support.telemetry import Telemetry

CLOSED = SESSION | {"state": "closed", "elapsed_time": 42}


@pytest.fixture
def telemetry() -> Telemetry:
    """Return the SDK with exporters in memory."""
    need("opentelemetry")
    from tests.support.telemetry import Telemetry

    return Telemetry()


async def test_a_session_is_the_parent_of_its_requests(
    against: Against, time: ManualClock, telemetry: Telemetry
) -> None:
    """A session's span holds those of its requests, retries and the ending included, within the
    caller's; a request within a further span of the caller's links to it.
    """
    script = [CREATE.success, http(503), http(200, SESSION), http(200, SESSION), http(204)]
    server, client = await against(*script, observers=[telemetry.observer()])
    with telemetry.tracer.start_as_current_span("experiment"):
        async with client.open(mode="dedicated", backend="ibm_fez", max_ttl=600) as live:
            await live.refresh()
            with telemetry.tracer.start_as_current_span("measure"):
                await live.refresh()
    assert telemetry.tree() == [
        "experiment",
        "  session",
        "    POST /v1/sessions 200",
        "    GET /v1/sessions/{id} 503",
        "    GET /v1/sessions/{id} 200",
        "  measure",
        "    GET /v1/sessions/{id} 200",
        "    PATCH /v1/sessions/{id} 204",
    ]
    _, session, create, failed, again, _, inner, _ = telemetry.spans
    assert dict(session.attributes) == {
        "qsessions.session.id": "s1",
        "qsessions.session.mode": "dedicated",
        "qsessions.session.backend": "ibm_fez",
        "qsessions.session.max_ttl": 600,
    }
    host, port = server.url.removeprefix("http://").split(":")
    assert dict(failed.attributes) == {
        "http.request.method": "GET",
        "server.address": host,
        "server.port": int(port),
        "url.full": f"{server.url}/v1/sessions/s1",
        "url.template": "/v1/sessions/{id}",
        "qsessions.operation": "get",
        "qsessions.session.id": "s1",
        "http.response.status_code": 503,
        "error.type": "503",
    }
    assert (failed.status.status_code.name, again.status.status_code.name) == ("ERROR", "UNSET")
    assert again.attributes["http.request.resend_count"] == 1
    assert (create.kind.name, create.links) == ("CLIENT", ())
    assert [link.context.span_id for link in inner.links] == [session.context.span_id]
    assert telemetry.unended == 0


async def test_metrics(against: Against, telemetry: Telemetry) -> None:
    """Open sessions go up and down once each, and usage counts once; retries, creates of unknown
    outcome and failed endings are counted.
    """
    once = RetryPolicy(max_attempts=1)
    script = [CREATE.success, http(503), http(204), *[http(200, CLOSED)] * 2]
    _, client = await against(*script, observers=[telemetry.observer()])
    session = await client.create(mode="dedicated", backend="ibm_fez", max_ttl=600)
    which = ("dedicated", "ibm_fez")
    assert telemetry.values("qsessions.session.open") == {which: 1}
    await client.close(session.id)
    assert telemetry.values("qsessions.session.open") == {which: 0}
    for _ in range(2):
        await client.get(session.id)
    assert telemetry.values("qsessions.session.open") == {which: 0}
    assert telemetry.values("qsessions.session.usage") == {which: (1, 42)}
    assert telemetry.values("qsessions.request.retries") == {("close", "status 503"): 1}

    more: list[Answer] = [reset, http(200, NO_WORKLOADS), CREATE.success, *[http(403)] * 2]
    _, client = await against(*more, observers=[telemetry.observer()], retry=once)
    with pytest.raises(CreateOutcomeUnknown):
        await CREATE(client)
    with pytest.raises(SessionLeftOpen):
        async with client.open(mode="dedicated", backend="ibm_fez", max_ttl=600):
            pass
    await client.aclose()
    assert telemetry.values("qsessions.create.unknown") == {(): 1}
    assert telemetry.values("qsessions.session.endings_failed") == {("drain",): 1}
    assert telemetry.values("qsessions.session.open") == {which: 0}
    failed = [span.status.description for span in telemetry.spans if span.name == "session"]
    assert failed[0] is None
    assert "may have been created" in failed[1]
    assert "403" in failed[2]
    durations = telemetry.values("http.client.request.duration")
    assert sum(count for count, _ in durations.values()) == 10
    assert telemetry.unended == 0


async def test_what_is_cancelled_has_ended_spans(against: Against, telemetry: Telemetry) -> None:
    """Requests and creates that are refused or cancelled, and sessions that nobody ends, leave no
    span without an end once the client is closed.
    """
    script: list[Answer] = [hang, CREATE.success, http(204), CREATE.success, http(400, fault())]
    server, client = await against(*script, observers=[telemetry.observer()])
    reading = asyncio.create_task(client.get("s1"))
    await server.arrival()
    reading.cancel()
    await asyncio.wait({reading})
    creating = asyncio.create_task(CREATE(client))
    await server.arrival(2)
    creating.cancel()
    await asyncio.wait({creating})
    await CREATE(client)
    with pytest.raises(Exception, match="It went wrong"):
        await CREATE(client)
    assert telemetry.unended == 1
    await client.aclose()
    assert telemetry.unended == 0
    assert telemetry.tree() == [
        "GET /v1/sessions/{id} CancelledError",
        "session",
        "  POST /v1/sessions 200",
        "  DELETE /v1/sessions/{id}/close 204",
        "session",
        "  POST /v1/sessions 200",
        "session",
        "  POST /v1/sessions 400",
    ]


async def test_concurrent_callers_have_their_own_spans(
    emulator: Emulator, time: ManualClock, telemetry: Telemetry
) -> None:
    """Of many concurrent callers each has the spans of its own session and requests."""
    auth = [IBMCloudAuth(emulator.api_key, emulator.iam_url, clock=time), ServiceCRN(emulator.crn)]

    async def caller(number: int) -> str:
        with telemetry.tracer.start_as_current_span(f"caller {number}"):
            async with client.open(mode="batch", backend="ibm_fez", max_ttl=600) as live:
                await asyncio.gather(live.refresh(), live.refresh())
                return live.id

    async with AsyncSessionClient(
        auth, base_url=emulator.url, clock=time, observers=[telemetry.observer()]
    ) as client:
        ids = await asyncio.gather(*map(caller, range(20)))
    traces: dict[int, list[Any]] = {}
    for span in telemetry.spans:
        if span.attributes.get("qsessions.operation") != "token_exchange":
            traces.setdefault(span.context.trace_id, []).append(span)
    assert len(traces) == len(ids)
    found = {}
    for spans in traces.values():
        caller_span, session, *requests = spans
        assert session.parent.span_id == caller_span.context.span_id
        assert {span.parent.span_id for span in requests} == {session.context.span_id}
        assert len(requests) == 4
        (session_id,) = {
            span.attributes["qsessions.session.id"] for span in (session, *requests[1:])
        }
        found[caller_span.name] = session_id
    assert found == {f"caller {number}": session_id for number, session_id in enumerate(ids)}
    assert telemetry.unended == 0


async def test_the_trace_goes_on_with_the_service_only(
    emulator: Emulator, time: ManualClock, telemetry: Telemetry
) -> None:
    """With `propagate` each request to the service names its own span, retries too, and none to IAM
    does; by default none does.
    """

    async def create(**options: Any) -> list[str | None]:
        auth = [
            IBMCloudAuth(emulator.api_key, emulator.iam_url, clock=time),
            ServiceCRN(emulator.crn),
        ]
        emulator.faults.add(Fault(kind="answer", operations=["create"], status=503, times=1))
        before = len(emulator.requests)
        async with AsyncSessionClient(
            auth, base_url=emulator.url, clock=time, observers=[telemetry.observer(**options)]
        ) as client:
            await client.create(mode="batch")
        return [request.headers.get("traceparent") for request in emulator.requests[before:]]

    assert await create() == [None, None, None]
    token, *creates = await create(propagate=True)
    assert token is None
    assert creates == [
        f"00-{span.context.trace_id:032x}-{span.context.span_id:016x}-{int(span.context.trace_flags):02x}"
        for span in telemetry.spans[-2:]
    ]


async def test_without_the_sdk_nothing_is_recorded(against: Against) -> None:
    """Where a program has set up no SDK, the observer changes nothing for it."""
    need("opentelemetry")
    from opentelemetry.metrics import NoOpMeterProvider
    from opentelemetry.trace import NoOpTracerProvider

    from qsessions.integrations.opentelemetry import OpenTelemetry

    observer = OpenTelemetry(
        tracer_provider=NoOpTracerProvider(), meter_provider=NoOpMeterProvider(), propagate=True
    )
    server, client = await against(
        CREATE.success, http(404, fault()), http(404, fault()), observers=[observer]
    )
    await CREATE(client)
    with pytest.raises(NotFound):
        await client.get("s2")
    assert not any("traceparent" in request.headers for request in server.received)


def test_export_from_the_synchronous_client() -> None:
    """The facade's spans are within the caller's, of another thread, with labels; the protocol's
    exporters bring spans and metrics to a receiver.
    """
    need("opentelemetry")
    from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    from qsessions.integrations.opentelemetry import OpenTelemetry
    from tests.support.telemetry import otlp_receiver

    with otlp_receiver() as (address, received), ThreadedEmulator(Emulator()) as emulator:
        tracers = TracerProvider()
        tracers.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(f"{address}/v1/traces")))
        exporter = OTLPMetricExporter(f"{address}/v1/metrics")
        meters = MeterProvider([PeriodicExportingMetricReader(exporter)])
        auth = [IBMCloudAuth(emulator.api_key, iam_url=emulator.iam_url), ServiceCRN(emulator.crn)]
        with (
            SessionClient(
                auth,
                base_url=emulator.url,
                ledger="local",
                observers=[OpenTelemetry(tracer_provider=tracers, meter_provider=meters)],
            ) as client,
            tracers.get_tracer("caller").start_as_current_span("experiment"),
            client.open(mode="batch", max_ttl=600, labels={"run": "42"}),
        ):
            pass
        tracers.shutdown()
        meters.shutdown()
    spans = {
        span.name: span
        for request in received
        if hasattr(request, "resource_spans")
        for scope in request.resource_spans[0].scope_spans
        for span in scope.spans
    }
    assert set(spans) == {
        "experiment",
        "POST /identity/token",
        "session",
        "POST /api/v1/sessions",
        "PATCH /api/v1/sessions/{id}",
        # Whether the drained session is over, for the ledger.
        "GET /api/v1/workloads",
    }
    assert spans["session"].parent_span_id == spans["experiment"].span_id
    assert spans["PATCH /api/v1/sessions/{id}"].parent_span_id == spans["session"].span_id
    labels = {
        attribute.key: attribute.value.string_value for attribute in spans["session"].attributes
    }
    assert labels["qsessions.label.run"] == "42"
    names = {
        metric.name
        for request in received
        if hasattr(request, "resource_metrics")
        for scope in request.resource_metrics[0].scope_metrics
        for metric in scope.metrics
    }
    assert {"http.client.request.duration", "qsessions.session.open"} <= names


def test_the_program_of_the_page_about_traces() -> None:
    """The program of docs/observability.md prints the spans that the page shows."""
    need("opentelemetry")
    (program,) = snippets("docs/observability.md", "python")
    with ThreadedEmulator(Emulator()) as emulator:
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", program],
            env=os.environ | emulator.env(),
            capture_output=True,
            text=True,
            check=False,
        )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        "POST /identity/token UNSET",
        "POST /api/v1/sessions UNSET",
        "GET /api/v1/sessions/{id} UNSET",
        "PATCH /api/v1/sessions/{id} UNSET",
        "session UNSET",
        "experiment UNSET",
    ]
