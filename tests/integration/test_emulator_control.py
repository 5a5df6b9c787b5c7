"""What a test does to a running emulator: move its time, open instances, look inside, rule it over
HTTP.
"""

from __future__ import annotations

import asyncio
import io
import json
import logging
import re
from base64 import b64encode
from collections.abc import AsyncIterator
from typing import Any

import jwt
import pytest
from aiohttp.test_utils import make_mocked_request

from qsessions.emulator import Emulator, Fault
from qsessions.emulator.http import recording
from qsessions.emulator.http.admin import AdminRoutes
from qsessions.emulator.service.bodies import date_time
from qsessions.emulator.service.values import Ttls
from tests.support.caller import GRANT, Caller, Clock, answer_to, calling, first_code, speak
from tests.support.tables import table


@pytest.fixture
async def call() -> AsyncIterator[Caller]:
    """Start an emulator whose time stands still, and a client of it."""
    async with calling(speed=0) as call:
        yield call


async def test_time_moves_by_steps_and_nothing_is_late(call: Caller) -> None:
    """What falls due within a step happens at its exact time, and the steps' size makes no
    difference.
    """
    emulator = call.emulator
    start = emulator.now()
    session = await call.create()
    emulator.submit_job(session, seconds=0.3)
    for _ in range(3):
        await emulator.advance(0.1)
    assert emulator.jobs[next(iter(emulator.jobs))].status == "Completed"
    assert await emulator.advance("1h") == round(start + 3600.3, 6)
    assert [
        (change.state, round(change.at - start, 6)) for change in emulator.sessions[session].changes
    ] == [
        ("open", 0),
        ("active", 0),
        ("inactive", 60.3),
        ("closed", 1800.3),
    ]
    with pytest.raises(ValueError, match="no duration"):
        await emulator.advance("soon")


async def test_a_given_clock_is_not_moved() -> None:
    """Time that belongs to the test's own clock can't be moved here, and this is said."""
    async with calling(clock=Clock()) as call:
        with pytest.raises(RuntimeError, match="move that one"):
            await call.emulator.advance(1)
        assert (await call.command("POST", "advance", {"duration": 1}))[0] == 409
    with pytest.raises(ValueError, match="exclude"):
        Emulator(clock=Clock(), speed=2)


async def test_instances_cannot_see_each_other(call: Caller) -> None:
    """Sessions, jobs and workloads of one instance are unknown in another; plans differ; a
    backend's queue is one.
    """
    emulator = call.emulator
    other = emulator.add_instance(plan="open")
    brisk = emulator.add_instance(interactive_ttl=7)
    assert emulator.crns == (emulator.crn, other, brisk)
    assert len(set(emulator.crns)) == 3
    headers = {**call.good(), "Service-CRN": other}
    mine = await call.create(backend="ibm_fez")
    status, refused = await call("POST", "/v1/sessions", {"mode": "dedicated"}, headers=headers)
    assert (status, first_code(refused)) == (400, 1352)
    theirs = (await call("POST", "/v1/sessions", {"mode": "batch"}, headers=headers))[1]["id"]
    jobs = [emulator.submit_job(mine, seconds=9), emulator.submit_job(theirs, seconds=9)]
    for path in (f"/v1/sessions/{mine}", f"/v1/jobs/{jobs[0]}"):
        assert (await call("GET", path))[0] == 200
        assert (await call("GET", path, headers=headers))[0] == 404
    assert (await call("DELETE", f"/v1/sessions/{theirs}/close"))[0] == 404
    seen = (await call("GET", "/v1/workloads", headers=headers))[1]["workloads"]
    assert [(workload["id"], workload["instance"]) for workload in seen] == [
        (theirs, other),
        (jobs[1], other),
    ]
    assert (await call("GET", "/v1/backends/ibm_fez/status"))[1]["length_queue"] == 2
    made = await call(
        "POST", "/v1/sessions", {"mode": "batch"}, headers={**headers, "Service-CRN": brisk}
    )
    assert made[1]["interactive_ttl"] == 7
    assert [session.instance for session in emulator.sessions.values()] == [
        emulator.crn,
        other,
        brisk,
    ]
    assert list(emulator.jobs) == jobs
    assert {event.session_id for event in emulator.events} == {mine, theirs, made[1]["id"]}
    assert emulator.env()["QISKIT_IBM_INSTANCE_2"] == other
    alone = emulator.submit_job(crn=other)
    assert emulator.jobs[alone].instance == other
    with pytest.raises(ValueError, match="crn names no instance"):
        emulator.submit_job(crn="none")


async def test_a_deleted_instance(call: Caller) -> None:
    """Every path of an instance that is deleted is a 404 with the code 1279; its sessions live on,
    and so do the other instances.
    """
    emulator = call.emulator
    other = emulator.add_instance()
    session = await call.create()
    emulator.delete_instance(emulator.crn)
    for method, path in (
        ("GET", f"/v1/sessions/{session}"),
        ("DELETE", f"/v1/sessions/{session}/close"),
        ("GET", "/v1/workloads"),
        ("GET", "/v1/jobs/none"),
        ("GET", "/v1/backends/ibm_fez/status"),
    ):
        status, answer = await call(method, path)
        assert (status, first_code(answer)) == (404, 1279)
    assert [left.id for left in emulator.open_sessions] == [session]
    headers = {**call.good(), "Service-CRN": other}
    assert (await call("GET", "/v1/workloads", headers=headers))[0] == 200
    search = f"{emulator.iam_url}/v3/resources/search"
    found = (await call("POST", search, {}, headers=call.good()))[1]["items"]
    assert [instance["crn"] for instance in found] == [other]
    with pytest.raises(ValueError, match="names no instance that is served"):
        emulator.delete_instance(emulator.crn)


@table("terms", [{"plan": "free"}, {"interactive_ttl": 0}])
def test_impossible_terms(terms: dict[str, Any]) -> None:
    """Terms that make no sense are refused, and open no instance."""
    emulator = Emulator()
    with pytest.raises(ValueError, match=r"plan|interactive_ttl"):
        emulator.add_instance(**terms)
    assert len(emulator.crns) == 1


def test_what_is_invented_cannot_be_taken_for_real() -> None:
    """Keys say that they are emulated, and so does the account in a CRN, which has letters that no
    real one has.
    """
    emulator = Emulator()
    assert emulator.api_key.startswith("emulated-")
    assert re.fullmatch(
        r"crn:v1:bluemix:public:quantum-computing:us-east:a/emulated[0-9a-f]{24}:[0-9a-f-]{36}::",
        emulator.crn,
    )


async def test_the_story_of_a_session_that_was_left(call: Caller) -> None:
    """The assertion tells what made the session, what happened to it, what it costs, and what will
    end it.
    """
    emulator = call.emulator
    emulator.assert_no_open_sessions()
    closed = await call.create()
    await call("DELETE", f"/v1/sessions/{closed}/close")
    session = await call.create(backend="ibm_fez", max_ttl=600)
    await emulator.advance(5)
    job = emulator.submit_job(session, seconds=10)
    await emulator.advance(2)
    await call("PATCH", f"/v1/sessions/{session}", {"accepting_jobs": False})
    await call("PATCH", f"/v1/sessions/{session}", {"accepting_jobs": True})
    await emulator.advance("70s")
    assert [open_session.id for open_session in emulator.open_sessions] == [session]
    with pytest.raises(AssertionError) as left:
        emulator.assert_no_open_sessions()
    assert len(emulator.open_sessions) == 1
    sent = '{"mode": "dedicated", "backend": "ibm_fez", "max_ttl": 600}'
    story = re.sub(r"\d{4}-\d\d-\d\dT[\d:.]+Z", "DATE", str(left.value))
    story = re.sub(r"Python/\S+ aiohttp/[^\s,]+", "AGENT", story)
    assert story.splitlines() == [
        "1 session was left open:",
        f"  {session}: dedicated on ibm_fez, inactive, takes jobs; 0 queued and 0 running; usage so far 1m 10s; open for 1m 17s",
        f"    created at DATE by POST /api/v1/sessions from AGENT, with {sent}",
        "    +0s: open",
        f"    +5s: job {job} queued",
        f"    +5s: job {job} started",
        "    +5s: active",
        "    +7s: takes no new jobs",
        "    +7s: takes jobs again",
        f"    +15s: job {job} ended",
        "    +1m 15s: inactive",
        "    left alone it closes in 8m 48s (session_closed_by_max_ttl), at a usage of 1m 10s",
    ]
    await call("POST", "/v1/sessions", {"mode": "batch"})
    with pytest.raises(AssertionError, match="2 sessions were left open"):
        emulator.assert_no_open_sessions()


async def test_the_story_foretells_the_bill(call: Caller) -> None:
    """Jobs that wait and run are reckoned to their end, beyond the session's own; looking changes
    nothing.
    """
    emulator = call.emulator
    session = await call.create(max_ttl=100)
    for _ in range(6):
        emulator.submit_job(session, seconds=90)
    emulator.submit_job(session, seconds=95)
    before = emulator.events
    with pytest.raises(
        AssertionError, match=r"closes in 1m 40s \(session_closed_by_max_ttl\), at a usage of 3m 5s"
    ):
        emulator.assert_no_open_sessions()
    assert emulator.events == before
    await emulator.advance("1d")
    assert emulator.sessions[session].usage(emulator.now()) == 185


async def test_a_story_without_its_request(call: Caller) -> None:
    """A session whose creation is no longer kept still has its story."""
    await call.create()
    call.emulator._recorder._requests.clear()
    with pytest.raises(AssertionError, match="no request for it is on record"):
        call.emulator.assert_no_open_sessions()


async def test_a_draining_session_in_a_story(call: Caller) -> None:
    """A session that drains is told as such, and closes with its last job."""
    session = await call.create()
    call.emulator.submit_job(session, seconds=3661.5)
    await call("PATCH", f"/v1/sessions/{session}", {"accepting_jobs": False})
    with pytest.raises(AssertionError, match=r"takes no new jobs; 0 queued and 1 running") as left:
        call.emulator.assert_no_open_sessions()
    assert "left alone it closes in 1h 1m 1.5s (session_closed_by_drain)" in str(left.value)


async def test_faults_over_http(call: Caller) -> None:
    """A plan can be added to, looked at and cleared without Python and without credentials."""
    fault = {"kind": "answer", "status": 503, "operations": ["get"], "headers": {"X": "y"}}
    shown = await call.command("POST", "faults", {"faults": [fault]})
    assert shown == (200, {"faults": [{**fault, "matched": 0, "fired": 0}]})
    assert (await call("GET", "/v1/sessions/none"))[0] == 503
    assert (await call.command("GET", "faults"))[1]["faults"][0]["fired"] == 1
    assert await call.command("DELETE", "faults") == (204, None)
    assert (await call("GET", "/v1/sessions/none"))[0] == 404
    assert [request.path for request in call.emulator.requests] == ["/api/v1/sessions/none"] * 2


@table(
    ("path", "body", "told"),
    [
        ("faults", b"{", "not valid JSON"),
        ("faults", b"[" * 100_000, "not valid JSON"),
        ("faults", b"[]", "faults: must be the only thing"),
        (
            "faults",
            b'{"faults": [{"kind": "reset"}, {"kind": "answer", "status": 99}]}',
            "faults[1].status: must be",
        ),
        ("advance", b'{"duration": "soon"}', "duration: 'soon' is no duration"),
        ("advance", b'{"duration": -1}', "duration: -1 is no duration"),
        ("advance", b'{"duration": {}}', "duration: {} is no duration"),
        ("advance", b"{}", "whose only field is duration"),
        ("advance", b"[]", "whose only field is duration"),
    ],
)
async def test_a_command_that_makes_no_sense(
    call: Caller, path: str, body: bytes, told: str
) -> None:
    """A wrong command is a 400 that says what is wrong, and changes nothing."""
    before = call.emulator.now()
    status, answer = await call.command("POST", path, data=body)
    assert (status, first_code(answer)) == (400, 9400)
    assert told in answer["errors"][0]["message"]
    assert (call.emulator.faults.shown(), call.emulator.now()) == ([], before)


async def test_a_command_too_long(call: Caller) -> None:
    """A body beyond the limit is refused in the same form, and the next command is served."""
    large = io.BytesIO(b" " * (50 * 2**20 + 1))
    status, answer = await call.command("POST", "faults", data=large)
    assert (status, first_code(answer)) == (413, 9400)
    assert (await call.command("GET", "faults"))[0] == 200


async def test_the_inside_over_http(call: Caller) -> None:
    """Requests, open sessions with their stories, and the time can be had without Python; no secret
    among them. Each time is a date and time.
    """
    session = await call.create(backend="ibm_fez")
    status, moved = await call.command("POST", "advance", {"duration": "1m 30s"})
    assert (status, set(moved)) == (200, {"now"})
    status, shown = await call.command("GET", "sessions")
    (left,) = shown["sessions"]
    assert (left["id"], left["state"], left["instance"]) == (session, "open", call.emulator.crn)
    assert "left alone it closes in 28m 30s (session_closed_by_disuse)" in left["story"]
    status, shown = await call.command("GET", "requests")
    (request,) = shown["requests"]
    assert (request["operation"], request["session_id"], request["status"]) == (
        "create",
        session,
        200,
    )
    assert request["at"] == date_time(call.emulator.requests[0].at)
    assert request["headers"]["authorization"] == "apikey <api_key>"
    assert call.emulator.api_key not in json.dumps(shown)
    assert (await call.command("GET", "nothing"))[0] == 404


async def test_faults_spare_the_way_to_end_them() -> None:
    """A plan that strikes everything can still be cleared over HTTP."""
    async with calling(faults=[Fault(kind="reset")]) as call:
        assert (await call.command("DELETE", "faults"))[0] == 204
        assert (await call("GET", "/v1/versions"))[0] == 200


@table(
    ("peer", "local"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("::ffff:127.0.0.1", True),
        ("192.0.2.1", False),
        ("::ffff:192.0.2.1", False),
        ("fe80::1%eth0", False),
        ("", False),
    ],
)
async def test_only_this_machine_rules_the_emulator(peer: str, local: bool) -> None:
    """A peer with an address that is not loopback gets a 403, and so does one without an address;
    the page is for peers here too.
    """
    emulator = Emulator()
    for path in (
        ("/", "/emulator/faults") if local else ("/", "/emulator/faults", "/emulator/events")
    ):
        answer = await answer_to(emulator, path, peer, {})
        assert answer.status == (200 if local else 403)
        assert "WWW-Authenticate" not in answer.headers


TOKEN = "pLaNtEd-admin-token"


def basic(user: str, password: str) -> str:
    """Return the header that a browser sends once its user has typed these."""
    return f"Basic {b64encode(f'{user}:{password}'.encode()).decode()}"


@table(
    ("headers", "status"),
    [
        ({"Authorization": f"Bearer {TOKEN}"}, 200),
        ({"Authorization": f"bearer  {TOKEN} "}, 200),
        ({"Authorization": basic("", TOKEN)}, 200),
        ({"Authorization": basic("me", TOKEN)}, 200),
        ({}, 401),
        ({"Authorization": "Bearer"}, 401),
        ({"Authorization": f"Bearer {TOKEN}x"}, 401),
        ({"Authorization": "Bearer é"}, 401),
        ({"Authorization": f"apikey {TOKEN}"}, 401),
        ({"Authorization": basic(TOKEN, "")}, 401),
        ({"Authorization": f"Basic {TOKEN}"}, 401),
        ({"Authorization": "Basic /w=="}, 401),
        ({"Cookie": f"token={TOKEN}"}, 401),
        ({"Authorization": f"Bearer {TOKEN}", "Host": "Emulator:9000"}, 200),
        ({"Authorization": f"Bearer {TOKEN}", "Host": "192.0.2.7:9000"}, 200),
        ({"Authorization": f"Bearer {TOKEN}", "Host": "elsewhere.example:9000"}, 403),
        ({"Authorization": basic("", TOKEN), "Host": "emulator:1", "Origin": "http://emulator:1"}, 200),
        ({"Authorization": basic("", TOKEN), "Host": "emulator:1", "Origin": "http://emulator:2"}, 403),
        ({"Authorization": basic("", TOKEN), "Host": "emulator:1", "Origin": "http://localhost:1"}, 403),
        ({"Authorization": basic("", TOKEN), "Host": "emulator:1", "Origin": "null"}, 403),
        ({"Host": "elsewhere.example"}, 403),
    ],
)  # fmt: skip
async def test_the_token_lets_others_in(headers: dict[str, str], status: int) -> None:
    """From another machine the token opens the control endpoints and the page, as a bearer's or as
    a password, to an address or a name that the emulator was given, and to no other web page. A
    browser is told to ask for it.
    """
    emulator = Emulator(host="0.0.0.0", advertised_host="emulator", admin_token=TOKEN)  # noqa: S104
    for path in ("/emulator/faults", "/"):
        answer = await answer_to(emulator, path, "192.0.2.1", headers)
        assert answer.status == status
        assert answer.headers.get("WWW-Authenticate", "").startswith("Basic") == (status == 401)
    # This machine needs none.
    at_home = {**headers, "Host": "localhost", "Origin": "http://localhost"}
    assert (await answer_to(emulator, "/", "127.0.0.1", at_home)).status == 200


async def test_the_admin_token_is_shown_nowhere(caplog: pytest.LogCaptureFixture) -> None:
    """Wherever a client sends the token, neither the record nor the log, the leak report, the page,
    the exports or a repr has it; the record says which secret it was.
    """
    async with calling(admin_token=TOKEN, speed=0) as call:
        emulator = call.emulator
        with caplog.at_level(logging.DEBUG):
            headers = {**call.good(), "User-Agent": TOKEN, "X-Note": TOKEN}
            await call("POST", "/v1/sessions", {"mode": "batch", "x": TOKEN}, headers=headers)
            await call("POST", "/v1/sessions", {"mode": "batch"}, headers=headers)
            await call(
                "GET",
                f"/v1/sessions/{TOKEN}?a={TOKEN}",
                headers={"Authorization": f"Bearer {TOKEN}"},
            )
            await call("GET", "/v1/workloads", headers={"Authorization": basic("", TOKEN)})
            await call("GET", f"{emulator.iam_url}/emulator?token={TOKEN}")
            asked = f"{emulator.iam_url}/emulator/none?token={TOKEN}"
            await call("GET", asked, headers={"Authorization": f"Bearer {TOKEN}"})
        shown = [
            repr(emulator),
            repr(emulator._access),
            repr(emulator.env()),
            repr(emulator.requests),
            caplog.text,
            await (await call.http.get(emulator.iam_url)).text(),
            repr(await call.command("GET", "requests")),
            repr(await call.command("GET", "sessions")),
        ]
        assert [text for text in shown if TOKEN in text or basic("", TOKEN)[6:] in text] == []
        assert emulator.requests[1].headers["x-note"] == "<admin_token>"
        assert emulator.requests[2].headers["authorization"] == "Bearer <admin_token>"


CRN = "crn:v1:bluemix:public:quantum-computing:eu-de:a/emulated1:my-tests::"


async def test_a_key_and_a_crn_of_ones_own() -> None:
    """The emulator takes the key and the CRN that it is given; further instances, and tokens, are of
    that CRN's account.
    """
    async with calling(api_key="my-own-key", crn=CRN, speed=0) as call:
        emulator = call.emulator
        assert (emulator.api_key, emulator.crn) == ("my-own-key", CRN)
        assert (emulator.env()["QISKIT_IBM_TOKEN"], call.good()["Service-CRN"]) == (
            "my-own-key",
            CRN,
        )
        await call.create()
        claims = jwt.decode(await call.token(), options={"verify_signature": False})
        assert claims["account"]["bss"] == "emulated1"
        assert ":a/emulated1:" in emulator.add_instance()
        assert (await call.exchange(grant_type=GRANT, apikey="another-key"))[0] == 400


@table(
    ("options", "told"),
    [
        ({"crn": "crn:v1:bluemix:public:quantum-computing:us-east:a/0123456789abcdef0123456789abcdef:guid::"}, "account begins with emulated"),
        ({"crn": CRN.replace("quantum-computing", "cloud-object-storage")}, "crn must be"),
        ({"crn": CRN.replace("eu-de", "")}, "crn must be"),
        ({"crn": CRN.replace("my-tests", "")}, "crn must be"),
        ({"crn": "emulated"}, "crn must be"),
        ({"crn": f"{CRN}\n"}, "crn must be"),
        ({"api_key": "short"}, "api_key must be 8"),
        ({"api_key": "with a space"}, "api_key must be 8"),
        ({"admin_token": ""}, "admin_token must be 8"),
        ({"admin_token": "not-ascii-\xe9"}, "admin_token must be 8"),
        ({"admin_token": 'in-json-"another'}, "admin_token must be 8"),
        ({"advertised_host": ""}, "advertised_host must be"),
        ({"advertised_host": "emulator:9000"}, "advertised_host must be"),
        ({"advertised_host": "cafe:9000"}, "advertised_host must be"),
        ({"advertised_host": "http://emulator"}, "advertised_host must be"),
    ],
)  # fmt: skip
def test_what_cannot_be_chosen(options: dict[str, Any], told: str) -> None:
    """A real CRN, a secret that is too short or can't be sent, and a host with more than its name
    are refused; the error names the argument and repeats no secret.
    """
    with pytest.raises(ValueError, match=told) as refused:
        Emulator(**options)
    secret = options.get("api_key") or options.get("admin_token") or "none"
    assert secret not in str(refused.value)


@table(
    ("host", "url"),
    [
        ("emulator", "http://emulator:7"),
        ("192.0.2.7", "http://192.0.2.7:7"),
        ("fd00::7", "http://[fd00::7]:7"),
    ],
)
def test_what_the_exports_name(host: str, url: str) -> None:
    """The exports name the host that others use, and a listener on every address is exported as one
    that a client here can use; in this process the emulator is reached where it listens.
    """
    emulator = Emulator(host="0.0.0.0", port=7)  # noqa: S104
    assert emulator.env()["IAM_URL"] == emulator.iam_url == "http://127.0.0.1:7"
    assert Emulator(host=host, port=7).env()["IAM_URL"] == url
    emulator = Emulator(host="0.0.0.0", port=7, advertised_host=host)  # noqa: S104
    assert emulator.iam_url == "http://127.0.0.1:7"
    assert (emulator.env()["IAM_URL"], emulator.env()["QSESSIONS_BASE_URL"]) == (url, f"{url}/api")


TARGETS = [
    "http://emulator.test/api/v1/workloads?limit=1",
    "HTTP://emulator.test//api/v1/workloads?limit=1",
    "//api//v1///workloads?limit=1",
    "/api/v1//workloads?limit=1",
]


@table("target", TARGETS)
async def test_targets_as_proxies_make_them(call: Caller, target: str) -> None:
    """Absolute targets and doubled slashes are served like the plain path, and recorded as it."""
    for _ in range(2):
        await call.create()
    head = "".join(f"{name.lower()}: {value}\r\n" for name, value in call.good().items())
    request = f"GET {target} HTTP/1.1\r\nhost: emulator.test\r\nconnection: close\r\naccept-encoding: identity\r\n{head}\r\n"
    answer = await speak(call.emulator, request)
    head, _, body = answer.partition("\r\n\r\n")
    assert head.startswith("HTTP/1.1 200 ")
    assert "content-encoding" not in head.lower()
    page = json.loads(body)
    assert len(page["workloads"]) == 1
    assert page["next"]["href"].startswith("http://emulator.test/api/v1/workloads?limit=1&next=")
    received = call.emulator.requests[-1]
    assert (received.path, received.query, received.operation) == (
        "/api/v1/workloads",
        "limit=1",
        "workloads",
    )


async def test_a_doubled_slash_with_a_body_and_an_unknown_one(call: Caller) -> None:
    """The body reaches a tidied path too, and what is unknown stays unknown."""
    url = call.emulator.url
    assert (await call("POST", f"{url}//v1/sessions", {"mode": "batch"}))[0] == 200
    assert (await call("GET", f"{url}//v1/none"))[0] == 404
    assert (await call("PUT", f"{url}//v1/sessions"))[0] == 405


@table("target", ["//emulator/faults", "/emulator//requests", "//emulator//sessions", "//"])
async def test_a_doubled_slash_on_the_way_to_the_inside(call: Caller, target: str) -> None:
    """What rules the emulator, and its page, are served under doubled slashes too, to this machine
    alone, and are no record.
    """
    url = call.emulator.iam_url + target
    assert (await call.full("GET", url, headers={}))[0] == 200
    assert (await call.full("GET", url, headers={"Host": "elsewhere.example"}))[0] == 403
    assert call.emulator.requests == []


async def test_time_ends_with_the_year_9999(call: Caller) -> None:
    """A step past the year 9999 is a refusal, and everything is served afterwards, in that year
    too.
    """
    step = {"duration": 1e9}
    statuses = [(await call.command("POST", "advance", step))[0] for _ in range(260)]
    assert set(statuses) == {200, 400}
    assert statuses == sorted(statuses)
    refused = (await call.command("POST", "advance", step))[1]
    assert "year 9999" in refused["errors"][0]["message"]
    await call.create(backend="ibm_fez")
    assert (await call("GET", "/v1/workloads"))[0] == 200
    assert (await call.command("GET", "sessions"))[0] == 200


@pytest.mark.parametrize("part", ["body", "query", "header"])
def test_the_record_is_bounded_in_bytes(monkeypatch: pytest.MonkeyPatch, part: str) -> None:
    """However large requests are, and whatever in them is, the record holds the newest that there
    is room for; all of them are counted.
    """
    monkeypatch.setattr(recording, "MOST_BYTES", 2**20)
    recorder = recording.Recorder({})

    def receive(number: int) -> None:
        large = f"{number}" + "\U0001f600" * 60_000
        recorder.record(
            at=0,
            method="GET",
            raw_path=f"/{number}?{large if part == 'query' else ''}",
            headers=[("X-Large", large)] if part == "header" else [],
            body=large.encode() if part == "body" else b"",
            status=200,
            operation=None,
            session_id=None,
            faults=(),
        )

    for number in range(10):
        receive(number)
    assert [request.path for request in recorder.requests] == ["/6", "/7", "/8", "/9"]
    assert [request.path for request in recorder.latest(2)] == ["/9", "/8"]
    assert recorder.received == 10
    monkeypatch.setattr(recording, "MOST_REQUESTS", 2)
    receive(10)
    assert [request.path for request in recorder.requests] == ["/9", "/10"]


async def test_many_open_sessions_hold_nobody() -> None:
    """While many open sessions are told, others are served in between; each is told once, and a
    loop is never held for all of them.
    """
    emulator = Emulator(speed=0)
    (machine,) = emulator._states()
    ids = [
        machine.create_session(
            emulator.now(), mode="batch", backend=None, ttls=Ttls(600, 60, 600)
        ).id
        for _ in range(500)
    ]
    admin = AdminRoutes(
        instances=emulator._instances,
        clock=emulator._clock,
        recorder=emulator._recorder,
        faults=emulator.faults,
    )
    telling = admin.list_open_sessions(make_mocked_request("GET", "/emulator/sessions"))
    for _ in range(10):
        telling.send(None)
        # It may be closed meanwhile.
        machine.close_session(emulator.now(), ids[-1])
    with pytest.raises(StopIteration) as end:
        telling.send(None)
    assert [one["id"] for one in json.loads(end.value.value.text)["sessions"]] == ids


async def test_the_request_log(call: Caller, caplog: pytest.LogCaptureFixture) -> None:
    """Each request is one line of JSON with what was asked and what came of it, and no secret."""
    call.emulator.faults.add(Fault(kind="reset", operations=["get"], nth=1))
    with caplog.at_level(logging.INFO, "qsessions.emulator.requests"):
        session = await call.create()
        reading = await asyncio.gather(
            call("GET", f"/v1/sessions/{session}"), return_exceptions=True
        )
        assert reading
        await call("GET", f"/v1/sessions/{call.emulator.api_key}")
    lines = [
        json.loads(record.getMessage()) for record in caplog.records if "requests" in record.name
    ]
    assert [line.pop("at")[-1] for line in lines] == ["Z"] * len(lines)
    assert lines[0] == {
        "method": "POST",
        "path": "/api/v1/sessions",
        "status": 200,
        "operation": "create",
        "session_id": session,
        "faults": [],
    }
    assert (lines[1]["status"], lines[1]["faults"], lines[1]["operation"]) == (
        None,
        ["reset"],
        "get",
    )
    assert lines[-1]["session_id"] == "<api_key>"
    assert call.emulator.api_key not in caplog.text


@table(
    ("origin", "status"),
    [
        ("http://127.0.0.1:1", 204),
        ("http://localhost", 204),
        ("https://elsewhere.example", 403),
        ("null", 403),
        ("http://[", 403),
    ],
)
async def test_a_page_from_elsewhere_rules_nothing(call: Caller, origin: str, status: int) -> None:
    """A web page that a browser on this machine shows can't move the time or the faults, unless it
    is of this machine.
    """
    url = f"{call.emulator.iam_url}/emulator/faults"
    answered, _ = await call("DELETE", url, headers={"Origin": origin})
    assert answered == status


@table(
    ("host", "status"),
    [
        ("127.0.0.1", 200),
        ("LOCALHOST:1", 200),
        ("[::1]:1", 200),
        ("192.0.2.1:1", 200),
        ("elsewhere.example:1", 403),
        ("localhost.elsewhere.example", 403),
        ("127.1:1", 403),
        ("", 403),
        ("[", 403),
    ],
)
async def test_a_name_that_was_led_here_rules_nothing(call: Caller, host: str, status: int) -> None:
    """A page whose own name was made to lead to this machine sees nothing: an address does, and
    localhost.
    """
    for path in ("/emulator/requests", "/"):
        url = call.emulator.iam_url + path
        assert (await call.full("GET", url, headers={"Host": host}))[0] == status
    assert (await call("GET", "/v1/workloads", headers=call.good() | {"Host": host}))[0] == 200


async def test_the_name_that_it_listens_on_rules_it() -> None:
    """Who told the emulator to listen on a name can use that name."""
    # To the system an address, and to us a name like any other.
    async with calling(host="127.1") as call:
        url = f"http://127.0.0.1:{call.emulator.iam_url.rpartition(':')[2]}/emulator/requests"
        assert (await call("GET", url, headers={"Host": "127.1"}))[0] == 200
