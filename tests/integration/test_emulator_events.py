"""What the emulator's page is served, without a browser: the page itself and its stream of events."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import ClientResponse, ClientSession

from qsessions.emulator import Emulator, Fault, server
from qsessions.emulator.page import live_view
from qsessions.emulator.programs.runner import ProgramRunner
from tests.support.caller import Caller, Clock, calling, first_code
from tests.support.tables import table

Event = tuple[str, dict[str, Any]]


@pytest.fixture(autouse=True)
def fast_ticks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look for changes so often that no test waits for the next time."""
    monkeypatch.setattr(live_view, "_TICK_SECONDS", 0.01)


@pytest.fixture
async def call() -> AsyncIterator[Caller]:
    """Start an emulator whose time stands still, and a client of it."""
    async with calling(speed=0, seed=1) as call:
        yield call


class Stream:
    """The events of one watcher."""

    def __init__(self, answer: ClientResponse) -> None:
        self.answer = answer
        self.text = ""

    async def next(self) -> Event:
        """Return the next event's name and data."""
        lines = [(await self.answer.content.readline()).decode() for _ in range(3)]
        self.text += "".join(lines)
        name, data, end = lines
        assert (name[:7], data[:6], end) == ("event: ", "data: ", "\n")
        return name[7:-1], json.loads(data[6:])

    async def news(self) -> dict[str, Any]:
        """Return the next event that tells more than the time."""
        while "shown" not in (told := (await self.next())[1]):
            pass
        return told


@asynccontextmanager
async def watching(call: Caller) -> AsyncIterator[Stream]:
    """Watch an emulator as the page does."""
    async with call.http.get(f"{call.emulator.iam_url}/emulator/events") as answer:
        assert (answer.status, answer.content_type) == (200, "text/event-stream")
        assert answer.headers["Cache-Control"] == "no-store"
        yield Stream(answer)


@pytest.mark.smoke
async def test_the_page_may_load_nothing_but_itself(call: Caller) -> None:
    """The page is part of the package; its policy names its own style and script by hash and allows
    no other source.
    """
    status, headers, text = await call.full("GET", f"{call.emulator.iam_url}/")
    assert (status, headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    policy = dict(part.split(" ", 1) for part in headers["Content-Security-Policy"].split("; "))
    for kind in ("style", "script"):
        (inline,) = re.findall(rf"<{kind}>(.*?)</{kind}>", text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(inline.encode()).digest()).decode()
        assert policy.pop(f"{kind}-src") == f"'sha256-{digest}'"
    assert policy.pop("connect-src") == "'self'"
    assert policy.pop("img-src") == "data:"
    assert set(policy.values()) == {"'none'"}
    assert (headers["X-Content-Type-Options"], headers["Cache-Control"]) == ("nosniff", "no-store")
    assert (await call.full("HEAD", f"{call.emulator.iam_url}/"))[0] == 200


async def test_the_page_is_no_part_of_the_service(call: Caller) -> None:
    """Faults don't strike the page and its events, and no record is kept of them."""
    call.emulator.faults.add(Fault(kind="answer", status=500))
    assert (await call.full("GET", f"{call.emulator.iam_url}/"))[0] == 200
    async with watching(call) as stream:
        assert (await stream.next())[0] == "all"
    assert call.emulator.requests == []
    assert (await call("POST", f"{call.emulator.iam_url}/"))[0] == 405


async def test_the_program_of_a_job_and_what_its_results_hold() -> None:
    """A watcher is told each job's program, and once it is completed what its results hold, also
    where they are computed only later; of a program without results nothing.
    """
    emulator = Emulator(speed=0)
    emulator._programs = ProgramRunner(None)
    async with emulator, ClientSession() as http:
        call = Caller(http, emulator)
        session = await call.create(backend="ibm_fez")
        job = {"backend": "ibm_fez", "session_id": session, "program_id": "sampler"}
        pub = ["bit[2] c;", None, 7]
        await call("POST", "/v1/jobs", {**job, "params": {"pubs": [pub, pub]}})
        await call("POST", "/v1/jobs", {**job, "params": {"pubs": [1]}})
        await call("POST", "/v1/jobs", {**job, "program_id": "other"})
        emulator.submit_job(session, seconds=60)
        expected = {
            ("sampler", "Completed", "2 times (c 2 bits, 7 shots)"),
            ("sampler", "Failed", None),
            ("other", "Completed", None),
            ("sampler", "Running", None),
        }
        async with watching(call) as stream:
            _, told = await stream.next()
            assert {shown["results"] for shown in told["lanes"][0]["jobs"]} == {None}
            await emulator.advance(10)
            jobs: set[tuple[object, ...]] = set()
            while jobs != expected:
                for lane in (await stream.news())["lanes"]:
                    jobs = {(job["program"], job["status"], job["results"]) for job in lane["jobs"]}


async def test_all_at_first_and_then_what_changes(call: Caller) -> None:
    """A watcher gets all there is, then the time and only the sessions and requests that are new or
    have changed.
    """
    emulator = call.emulator
    first = await call.create(backend="ibm_fez")
    second = await call.create()
    async with watching(call) as stream:
        name, told = await stream.next()
        assert (name, told["now"], told["speed"]) == ("all", emulator.now(), 0)
        assert told["shown"] == [second, first]
        assert [(lane["id"], lane["state"], lane["backend"]) for lane in told["lanes"]] == [
            (second, "open", None),
            (first, "open", "ibm_fez"),
        ]
        assert [(request["method"], request["session"]) for request in told["requests"]] == [
            ("POST", second),
            ("POST", first),
        ]
        assert told["states"] == {"open": 2}
        assert await stream.next() == ("change", {"now": emulator.now()})
        job = emulator.submit_job(first, seconds=30)
        told = await stream.news()
        (lane,) = told["lanes"]
        assert (lane["id"], lane["state"], lane["running"]) == (first, "active", 1)
        assert [(shown["id"], shown["status"], shown["ended"]) for shown in lane["jobs"]] == [
            (job, "Running", None)
        ]
        assert told["states"] == {"open": 1, "active": 1}
        assert told["queues"][0] == {"backend": "ibm_fez", "jobs": 1}
        assert told["requests"] == []
        start = emulator.now()
        await emulator.advance(10)
        while (event := await stream.next())[1]["now"] == start:
            pass
        assert event == ("change", {"now": start + 10})  # a meter runs without being told again
        assert lane["usage"] == [0, start, 1]
        await call("DELETE", f"/v1/sessions/{first}/close")
        told = await stream.news()
        (lane,) = told["lanes"]
        assert (lane["state"], lane["closed"], lane["reason"]) == (
            "closed",
            start + 10,
            "session_closed_early",
        )
        assert [state for state, _ in lane["changes"]] == ["open", "active", "closed"]
        (request,) = told["requests"]
        assert (request["number"], request["operation"], request["status"]) == (3, "close", 204)


async def test_no_secret_is_told(call: Caller) -> None:
    """Keys and tokens stand nowhere in what the page is sent, wherever a client put them."""
    emulator = call.emulator
    token = await call.token()
    for secret in (emulator.api_key, emulator.backend_token, emulator.service_token, token):
        await call(
            "GET", f"/v1/sessions/{secret}?search={secret}", headers={"Authorization": secret}
        )
    async with watching(call) as stream:
        await stream.next()
    assert stream.text.count("<api_key>") == 2  # the path and the query
    for secret in (emulator.api_key, emulator.backend_token, emulator.service_token, token):
        assert secret not in stream.text


async def test_however_many_sessions_there_are(call: Caller) -> None:
    """With ten thousand sessions the forty that matter most are told, open ones first; the rest is
    counted.
    """
    emulator = call.emulator
    machine = emulator._states()[0]
    ids = [await call.create()]
    ttls = emulator.sessions[ids[0]].ttls
    ids += [
        machine.create_session(emulator.now(), mode="batch", backend=None, ttls=ttls).id
        for _ in range(9_999)
    ]
    await emulator.advance(1)
    old = ids[3]
    emulator.submit_job(old, seconds=0)
    for session_id in ids[-30:]:
        machine.close_session(emulator.now(), session_id)
    async with watching(call) as stream:
        _, told = await stream.next()
        assert len(told["lanes"]) == 40
        assert told["shown"][-1] == old
        assert told["states"] == {"open": 9_969, "active": 1, "closed": 30}
        assert {lane["state"] for lane in told["lanes"]} == {"open", "active"}
        assert len(stream.text) < 50_000


async def test_however_many_jobs_a_session_has(call: Caller) -> None:
    """A session's jobs are told in part: the last that ended, all that run, the first in line; the
    line has its length.
    """
    emulator = call.emulator
    session = await call.create(backend="ibm_fez")
    long = emulator.submit_job(session, seconds=1000)
    done = [emulator.submit_job(session, seconds=1) for _ in range(100)]
    await emulator.advance(30)
    running = [emulator.submit_job(session, seconds=900) for _ in range(4)]
    queued = [emulator.submit_job(session, seconds=1) for _ in range(100)]
    async with watching(call) as stream:
        (lane,) = (await stream.next())[1]["lanes"]
    assert [job["id"] for job in lane["jobs"]] == [*done[40:], long, *running, *queued[:12]]
    assert (lane["running"], lane["queued"]) == (5, 100)


async def test_a_long_path_is_cut(call: Caller) -> None:
    """What a client sends doesn't make an event large."""
    await call("GET", "/v1/sessions/" + "x" * 5000)
    async with watching(call) as stream:
        (request,) = (await stream.next())[1]["requests"]
    assert len(request["path"]) == 200
    assert request["status"] == 400


async def test_instances_are_told_apart(call: Caller) -> None:
    """Each session names its instance's number; one that is opened later is told of."""
    emulator = call.emulator
    async with watching(call) as stream:
        assert [instance["crn"] for instance in (await stream.next())[1]["instances"]] == [
            emulator.crn
        ]
        other = emulator.add_instance(plan="open", partner=True)
        told = await stream.news()
        assert told["instances"][1] == {"crn": other, "plan": "open", "partner": True}
        headers = {**call.good(), "Service-CRN": other}
        await call(
            "POST", "/v1/sessions", {"mode": "batch", "interactive_ttl": 60}, headers=headers
        )
        (lane,) = (await stream.news())["lanes"]
        assert (lane["instance"], lane["mode"]) == (2, "batch")


@table("options", [{"speed": 60.0}, {"clock": Clock()}])
async def test_the_pace_of_time_is_told(options: dict[str, Any]) -> None:
    """The page learns how fast time runs, and that a test's own clock sets it."""
    async with calling(**options) as call, watching(call) as stream:
        assert (await stream.next())[1]["speed"] == options.get("speed")


async def test_a_stop_ends_the_events(call: Caller, monkeypatch: pytest.MonkeyPatch) -> None:
    """Watchers don't hold up a stop: their streams end whole, and a started emulator serves them
    again.
    """
    # Neither the next look nor the end of the server's patience can be what ends the streams.
    monkeypatch.setattr(live_view, "_TICK_SECONDS", 600)
    monkeypatch.setattr(server, "_SHUTDOWN_SECONDS", 600)
    emulator = call.emulator
    session = await call.create()
    async with watching(call) as one, watching(call) as two:
        for stream in (one, two):
            assert (await stream.next())[1]["shown"] == [session]
        async with asyncio.timeout(30):
            await emulator.stop()
        for stream in (one, two):
            await stream.answer.read()  # raises for a stream that breaks off
    await emulator.start()
    async with watching(call) as stream:
        assert (await stream.next())[1]["shown"] == [session]


async def test_nothing_is_reckoned_while_nobody_watches() -> None:
    """When the last watcher has left, the emulator stops looking at the time."""
    looks = 0

    def clock() -> float:
        nonlocal looks
        looks += 1
        return 1_800_000_000.0

    async with calling(clock=clock) as call:
        async with watching(call) as stream:
            await stream.next()
            await stream.next()
            stream.answer.close()
        async with asyncio.timeout(30):
            while len(asyncio.all_tasks()) > 1:  # noqa: ASYNC110 - a stream that ends calls nobody
                await asyncio.sleep(0)
        seen = looks
        await asyncio.sleep(0.05)  # five times the pause between two looks
        assert looks == seen


async def test_a_clock_that_fails(caplog: pytest.LogCaptureFixture) -> None:
    """A clock that fails at first is a 500; one that fails later ends the stream, and only its
    error's type is logged.
    """
    now = [1_800_000_000.0]
    async with calling(clock=lambda: now[0]) as call:
        async with watching(call) as stream:
            await stream.next()
            now.clear()
            while not stream.answer.content.at_eof():
                await stream.answer.content.readany()
        status, answer = await call("GET", f"{call.emulator.iam_url}/emulator/events")
        assert (status, first_code(answer)) == (500, 1000)
    assert "the page's events failed: IndexError" in caplog.text
