"""The emulator over real sockets, by a plain HTTP client; its clock moves only when a test moves
it.
"""

import asyncio
import io
import json
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any
from urllib.parse import quote, urlencode

import jwt
import pytest
from aiohttp import ClientSession
from yarl import URL

from qsessions.emulator import Emulator, Refusal, ServiceError
from tests.support.caller import GRANT, START, Caller, Clock, calling, connect, first_code, speak
from tests.support.tables import table
from tests.support.waiting import until


@pytest.fixture
def clock() -> Clock:
    """A clock for the emulator."""
    return Clock()


@pytest.fixture
async def call(clock: Clock) -> AsyncIterator[Caller]:
    """A running emulator and a client for it."""
    async with calling(clock=clock) as call:
        yield call


async def test_life_of_a_session(call: Caller, clock: Clock) -> None:
    """Create, run a job, look, drain and close do over HTTP what the contract says."""
    headers = {"Authorization": f"Bearer {await call.token()}", "Service-CRN": call.emulator.crn}
    status, made = await call(
        "POST", "/v1/sessions", {"mode": "dedicated", "backend": "ibm_torino"}, headers=headers
    )
    assert status == 200
    assert made == {
        "id": made["id"],
        "backend_name": "ibm_torino",
        "mode": "dedicated",
        "state": "open",
        "state_reason": "session_created",
        "accepting_jobs": True,
        "interactive_ttl": 60,
        "max_ttl": 28800,
        "active_ttl": 28800,
        "timestamps": [{"status": "open", "timestamp": "2027-01-15T08:00:00.000Z"}],
        "user_id": made["user_id"],
        "elapsed_time": 0,
    }
    path = f"/v1/sessions/{made['id']}"
    job = {
        "program_id": "sampler",
        "backend": "ibm_torino",
        "session_id": made["id"],
        "params": {"seconds": 9},
    }
    assert (await call("POST", "/v1/jobs", job, headers=headers))[0] == 200
    clock.at += 12.25
    session = (await call("GET", path, headers=headers))[1]
    assert (session["state"], session["elapsed_time"], session["active_ttl"]) == (
        "active",
        12.25,
        28788,
    )
    assert session["last_job_completed"] == "2027-01-15T08:00:09.000Z"
    assert await call("PATCH", path, {"accepting_jobs": False}, headers=headers) == (204, None)
    assert (await call("GET", path, headers=headers))[1]["closed_at"] == "2027-01-15T08:00:12.250Z"
    assert await call("DELETE", f"{path}/close", headers=headers) == (204, None)
    assert await call("PATCH", path, {"accepting_jobs": True}, headers=headers) == (204, None)
    session = (await call("GET", path, headers=headers))[1]
    assert (session["state"], session["accepting_jobs"]) == ("closed", True)
    status, refused = await call("POST", "/v1/jobs", job, headers=headers)
    assert (status, first_code(refused)) == (409, 4001)


async def test_each_credential_opens(call: Caller) -> None:
    """Each of the four credentials lets a request in, together with the CRN, whatever the headers'
    case.
    """
    emulator = call.emulator
    for credential in (
        {"authorization": f"bearer {await call.token()}"},
        {"Authorization": f"apikey {emulator.api_key}"},
        {"BACKEND-AUTHENTICATION": emulator.backend_token},
        {"External-Service-Token": emulator.service_token},
    ):
        headers = {**credential, "service-crn": emulator.crn}
        assert (await call("GET", "/v1/workloads", headers=headers))[0] == 200


KEY = "apikey {key}"
# (headers, status, code)
BAD_CREDENTIALS: list[tuple[dict[str, str], int, int]] = [
    ({}, 401, 1200),
    ({"Service-CRN": "{crn}"}, 401, 1200),
    ({"Authorization": KEY}, 401, 1200),
    # CRNs: of a foreign instance, with a wrong key, half of one, two, and the key in its place.
    ({"Authorization": KEY, "Service-CRN": "{crn}x"}, 404, 1279),
    ({"Authorization": "apikey wrong", "Service-CRN": "{crn}x"}, 401, 1201),
    ({"Authorization": KEY, "Service-CRN": "{half_crn}"}, 403, 1200),
    ({"Authorization": KEY, "Service-CRN": "{crn}", "service-crn": "{crn}"}, 400, 9400),
    ({"Authorization": KEY, "Service-CRN": "{key}"}, 403, 1200),
    # Credentials: of another scheme, wrong, not text, or in the wrong header.
    ({"Authorization": "{key}", "Service-CRN": "{crn}"}, 401, 1201),
    ({"Authorization": "apikey wrong", "Service-CRN": "{crn}"}, 401, 1201),
    ({"Authorization": "Bearer {key}", "Service-CRN": "{crn}"}, 401, 1201),
    ({"Authorization": "Bearer \udcff", "Service-CRN": "{crn}"}, 401, 1201),
    ({"Authorization": "Bearer {foreign_token}", "Service-CRN": "{crn}"}, 401, 1201),
    ({"Backend-Authentication": "{key}", "Service-CRN": "{crn}"}, 401, 1201),
    ({"external-service-token": "{key}", "Service-CRN": "{crn}"}, 401, 1201),
    # One is good, and one is bad.
    (
        {"Authorization": KEY, "external-service-token": "{key}", "Service-CRN": "{crn}"},
        401,
        1201,
    ),
]


@table(("headers", "status", "code"), BAD_CREDENTIALS)
async def test_bad_credentials(
    call: Caller, headers: dict[str, str], status: int, code: int
) -> None:
    """Whoever does not show the right credential in the right header is kept out, with the
    service's codes.
    """
    words = {
        "key": call.emulator.api_key,
        "crn": call.emulator.crn,
        "half_crn": call.emulator.crn.removesuffix(":"),
        "foreign_token": jwt.encode({"exp": START + 99}, b"k" * 32, algorithm="HS256"),
    }
    raw = "".join(f"{name}: {value.format(**words)}\r\n" for name, value in headers.items())
    answer = await speak(
        call.emulator,
        f"GET /api/v1/workloads HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{raw}\r\n",
    )
    head, _, body = answer.partition("\r\n\r\n")
    assert int(head.split()[1]) == status
    assert first_code(json.loads(body)) == code


async def test_a_token_is_a_jwt_with_the_emulators_times(call: Caller, clock: Clock) -> None:
    """The exchange answers as IAM does, and its token tells when it was issued and when it ends."""
    clock.at += 0.75
    status, answer = await call.exchange(
        grant_type=GRANT, apikey=call.emulator.api_key, response_type="cloud_iam"
    )
    assert status == 200
    token = answer.pop("access_token")
    assert answer == {
        "refresh_token": "not_supported",
        "token_type": "Bearer",
        "expires_in": 3600,
        "expiration": 1_800_003_600,
        "scope": "ibm openid",
    }
    claims = jwt.decode(token, options={"verify_signature": False})
    assert (claims["iat"], claims["exp"]) == (1_800_000_000, 1_800_003_600)


async def test_a_token_ends(call: Caller, clock: Clock) -> None:
    """A token is good until the emulator's clock reaches its end, and not a moment longer."""
    headers = {"Authorization": f"Bearer {await call.token()}", "Service-CRN": call.emulator.crn}
    clock.at += 3599.5
    assert (await call("GET", "/v1/workloads", headers=headers))[0] == 200
    clock.at += 0.5
    status, answer = await call("GET", "/v1/workloads", headers=headers)
    assert (status, first_code(answer)) == (401, 1201)


async def test_revoked_tokens(call: Caller) -> None:
    """After revoke_tokens every earlier token is refused, and a new one is good."""
    old = {"Authorization": f"Bearer {await call.token()}", "Service-CRN": call.emulator.crn}
    call.emulator.revoke_tokens()
    assert (await call("GET", "/v1/workloads", headers=old))[0] == 401
    new = {**old, "Authorization": f"Bearer {await call.token()}"}
    assert (await call("GET", "/v1/workloads", headers=new))[0] == 200


BAD_EXCHANGES = [
    ({"grant_type": GRANT, "apikey": "wrong"}, "BXNIM0415E"),
    ({"grant_type": "password", "apikey": "wrong"}, "BXNIM0106E"),
    ({"grant_type": GRANT, "apikey": "wrong", "response_type": "uaa"}, "BXNIM0106E"),
    ({"apikey": "wrong"}, "BXNIM0109E"),
    ({"grant_type": GRANT}, "BXNIM0109E"),
    ({f"field{number}": "x" for number in range(30)}, "BXNIM0109E"),
]


@table(("form", "code"), BAD_EXCHANGES)
async def test_bad_exchange(call: Caller, form: dict[str, str], code: str) -> None:
    """A wrong token request is answered in IAM's own error form, which repeats nothing of it."""
    status, answer = await call.exchange(**form)
    assert (status, answer["errorCode"]) == (400, code)
    assert answer["errorMessage"]
    assert answer["context"]["requestId"]
    assert "wrong" not in json.dumps(answer)


GOOD_SESSIONS: list[tuple[dict[str, Any], dict[str, object], tuple[int, int, int]]] = [
    ({}, {}, (28800, 60, 28800)),
    ({}, {"max_ttl": 600}, (600, 60, 600)),
    ({}, {"max_ttl": 600.0}, (600, 60, 600)),
    ({}, {"max_ttl": 10}, (10, 10, 10)),
    ({}, {"max_ttl": 28800}, (28800, 60, 28800)),
    ({}, {"backend": "", "instance": "crn", "unknown": [None]}, (28800, 60, 28800)),
    ({"interactive_ttl": 7}, {}, (28800, 7, 28800)),
    ({"plan": "open"}, {}, (900, 2, 900)),
    ({"plan": "open"}, {"max_ttl": 900}, (900, 2, 900)),
    ({"plan": "open", "interactive_ttl": 7}, {"max_ttl": 5}, (5, 5, 5)),
    ({"partner": True}, {"interactive_ttl": 30}, (28800, 30, 28800)),
    ({"partner": True}, {"interactive_ttl": 5, "active_ttl": 5, "max_ttl": 5}, (5, 5, 5)),
    ({"partner": True}, {"interactive_ttl": 600, "active_ttl": 28800}, (28800, 600, 28800)),
]


@table(("terms", "fields", "ttls"), GOOD_SESSIONS)
async def test_ttls_of_a_new_session(
    clock: Clock, terms: dict[str, Any], fields: dict[str, object], ttls: tuple[int, ...]
) -> None:
    """Limits that are not asked for take their plan's defaults, and give way to a shorter one that
    is.
    """
    async with calling(clock=clock, **terms) as call:
        status, session = await call("POST", "/v1/sessions", {"mode": "batch", **fields})
    assert status == 200
    assert (session["max_ttl"], session["interactive_ttl"], session["active_ttl"]) == ttls
    assert session["backend_name"] is None


BAD_SESSIONS: list[object] = [
    [],
    {},
    {"mode": "fast"},
    {"mode": None},
    {"mode": ["batch"]},
    {"mode": "batch", "max_ttl": 0},
    {"mode": "batch", "max_ttl": 28801},
    {"mode": "batch", "max_ttl": 2147483648},
    {"mode": "batch", "max_ttl": True},
    {"mode": "batch", "max_ttl": "600"},
    {"mode": "batch", "max_ttl": 1.5},
    {"mode": "batch", "max_ttl": None},
    {"mode": "batch", "max_ttl": 50, "interactive_ttl": 51},
    {"mode": "batch", "max_ttl": 50, "active_ttl": 51},
    {"mode": "batch", "active_ttl": 50, "interactive_ttl": 51},
    {"mode": "batch", "backend": 5},
    {"mode": "batch", "backend": None},
    {"mode": "batch", "instance": 5},
    {"mode": "batch", "backend": "ibm_fez", "backend_name": "ibm_torino"},
]


@table("body", BAD_SESSIONS)
async def test_bad_session(clock: Clock, body: object) -> None:
    """A body that breaks the contract is a 400 and makes no session."""
    sent: object = {"interactive_ttl": 9, **body} if isinstance(body, dict) else body
    async with calling(clock=clock, partner=True) as call:
        status, answer = await call("POST", "/v1/sessions", sent)
        assert (status, first_code(answer)) == (400, 1208)
        assert not call.emulator.sessions


@table(
    ("terms", "fields", "said"),
    [
        ({}, {"max_ttl": 28801}, "max_ttl may be at most 28800 seconds on the paid plan."),
        (
            {"plan": "open"},
            {"max_ttl": 901},
            "max_ttl may be at most 900 seconds on the open plan.",
        ),
        ({"partner": True}, {"max_ttl": 600}, "A channel partner must set interactive_ttl."),
        (
            {},
            {"interactive_ttl": 60},
            "Only channel partners may set interactive_ttl and active_ttl.",
        ),
        ({}, {"active_ttl": 60}, "Only channel partners may set interactive_ttl and active_ttl."),
    ],
)
async def test_limits_that_the_terms_do_not_allow(
    clock: Clock, terms: dict[str, Any], fields: dict[str, object], said: str
) -> None:
    """A create beyond the plan's caps, or with limits that are for partners alone or without
    theirs, is told so.
    """
    async with calling(clock=clock, **terms) as call:
        status, answer = await call("POST", "/v1/sessions", {"mode": "batch", **fields})
        assert (status, first_code(answer), answer["errors"][0]["message"]) == (400, 1208, said)
        assert not call.emulator.sessions


async def test_unknown_backend(call: Caller) -> None:
    """A session on a backend that does not exist is a 400 with the service's code for it."""
    status, answer = await call(
        "POST", "/v1/sessions", {"mode": "batch", "backend_name": "ibm_none"}
    )
    assert (status, first_code(answer)) == (400, 1007)


@table(
    "data",
    [b"", b"{", b"\xff", b"[" * 100_000, b'{"mode": "batch", "max_ttl": NaN}', b"7" * 10_000],
)
async def test_body_that_is_no_json(call: Caller, data: bytes) -> None:
    """Whatever is no JSON object, an empty body too, is a 400 and makes no session."""
    status, answer = await call("POST", "/v1/sessions", data=data)
    assert (status, first_code(answer)) == (400, 1208)
    assert not call.emulator.sessions


async def test_open_plan(clock: Clock) -> None:
    """The plan without payment makes batches but no dedicated sessions."""
    async with calling(clock=clock, plan="open") as call:
        assert (await call("POST", "/v1/sessions", {"mode": "batch"}))[0] == 200
        status, answer = await call("POST", "/v1/sessions", {"mode": "dedicated"})
    assert (status, first_code(answer)) == (400, 1352)


@table("body", [{}, {"accepting_jobs": 0}, {"accepting_jobs": None}, ["accepting_jobs"]])
async def test_bad_update(call: Caller, body: object) -> None:
    """An update must say true or false."""
    path = f"/v1/sessions/{await call.create()}"
    assert (await call("PATCH", path, body))[0] == 400


async def test_api_versions(call: Caller) -> None:
    """Every listed version is taken, the default is among them, and any other is a 400."""
    status, answer = await call("GET", "/v1/versions", headers={})
    assert status == 200
    listed = [version["version"] for version in answer["versions"]]
    assert listed == sorted(listed)
    assert "2025-01-01" in listed
    assert [version for version in answer["versions"] if version["status"] == "live"] == [
        {"version": "2026-04-15", "status": "live"},
    ]
    assert {
        "version": "2026-03-15",
        "status": "deprecated",
        "sunset_date": "2027-03-15",
    } in answer["versions"]
    for version in listed:
        headers = {**call.good(), "IBM-API-Version": version}
        assert (await call("GET", "/v1/workloads", headers=headers))[0] == 200
    for unknown in ("2025-01-02", "latest", ""):
        headers = {**call.good(), "IBM-API-Version": unknown}
        assert (await call("GET", "/v1/workloads", headers=headers))[0] == 400


async def test_pages_stay_right_while_sessions_come_and_go(call: Caller) -> None:
    """Following next shows each workload once and in order, though others are made and closed
    meanwhile.
    """
    made = [await call.create() for _ in range(5)]
    status, page = await call("GET", "/v1/workloads", query={"limit": 2})
    assert (status, page["total_count"], page["limit"]) == (200, 5, 2)
    assert "previous" not in page
    seen = [workload["id"] for workload in page["workloads"]]
    made.append(await call.create())
    await call("DELETE", f"/v1/sessions/{made[0]}/close")
    while "next" in page:
        assert page["next"]["href"].startswith(f"{call.emulator.url}/v1/workloads?")
        page = (await call("GET", page["next"]["href"]))[1]
        seen += [workload["id"] for workload in page["workloads"]]
    assert seen == made
    page = (await call("GET", page["previous"]["href"]))[1]
    assert [workload["id"] for workload in page["workloads"]] == made[2:4]
    page = (await call("GET", page["previous"]["href"]))[1]
    assert [workload["id"] for workload in page["workloads"]] == made[:2]
    assert "previous" not in page


async def test_newest_first_with_filters(call: Caller) -> None:
    """Page links keep the order and the filters of the first page."""
    made = [await call.create() for _ in range(4)]
    await call("DELETE", f"/v1/sessions/{made[2]}/close")
    query = [
        ("sort", "-createdAt"),
        ("limit", "1"),
        ("status", "pending"),
        ("status", "in_progress"),
    ]
    page = (await call("GET", "/v1/workloads", query=query))[1]
    seen = [page["workloads"][0]["id"]]
    await call.create()
    while "next" in page:
        page = (await call("GET", page["next"]["href"]))[1]
        seen += [workload["id"] for workload in page["workloads"]]
    assert seen == [made[3], made[1], made[0]]
    assert page["total_count"] == 4
    page = (await call("GET", page["previous"]["href"]))[1]
    assert [workload["id"] for workload in page["workloads"]] == [made[1]]


async def test_a_page_that_emptied(call: Caller) -> None:
    """A page whose workloads no longer match is empty and ends the list."""
    made = [await call.create() for _ in range(2)]
    page = (await call("GET", "/v1/workloads", query={"limit": 1, "status": "pending"}))[1]
    await call("DELETE", f"/v1/sessions/{made[1]}/close")
    page = (await call("GET", page["next"]["href"]))[1]
    assert page == {"total_count": 1, "limit": 1, "workloads": []}


async def test_workload_filters(call: Caller, clock: Clock) -> None:
    """Each filter picks what the contract says: by status, mode, backend, id, tags and time."""
    emulator = call.emulator
    session = await call.create(backend="ibm_fez")
    clock.at += 10
    batch = (await call("POST", "/v1/sessions", {"mode": "batch"}))[1]["id"]
    clock.at += 10
    job = emulator.submit_job(session, seconds=1000)
    tagged = {"program_id": "p", "backend": "ibm_torino", "tags": ["Night run", "b"]}
    lone = (await call("POST", "/v1/jobs", tagged))[1]["id"]
    clock.at += 10
    cases: list[tuple[Any, list[str]]] = [
        ({}, [session, batch, job, lone]),
        ({"mode": "session"}, [session]),
        ({"mode": "batch"}, [batch]),
        ({"mode": "job"}, [job, lone]),
        ({"status": "pending"}, [batch]),
        ([("status", "pending"), ("status", "in_progress")], [session, batch, job]),
        ({"status": "completed"}, [lone]),
        ({"status": "failed"}, []),
        ({"backend": "ibm_fez"}, [session, job]),
        ({"search": "TORINO"}, []),
        ({"search": "night"}, [lone]),
        ({"tags": "b"}, [lone]),
        ([("tags", "b"), ("tags", "Night run")], [lone]),
        ([("tags", "b"), ("tags", "c")], []),
        ({"user": "me"}, [session, batch, job, lone]),
        ({"search": session[:13]}, [session]),
        ({"created_after": "2027-01-15T08:00:10Z"}, [batch, job, lone]),
        ({"created_after": "2027-01-15T08:00:10.000001Z"}, [job, lone]),
        ({"created_before": "2027-01-15T10:00:10+02:00"}, [session, batch]),
        ({"created_before": "2027-01-15t08:00:09.9999"}, [session]),
        ({"sort": "createdAt", "limit": 50}, [session, batch, job, lone]),
    ]
    for query, expected in cases:
        status, page = await call("GET", "/v1/workloads", query=query)
        assert (status, [workload["id"] for workload in page["workloads"]]) == (200, expected), (
            query
        )
        assert page["total_count"] == len(expected)


async def test_how_workloads_look(call: Caller, clock: Clock) -> None:
    """A workload tells its instance, its end and its usage, and leaves out what it hasn't; only
    jobs have no accepting_jobs.
    """
    session = await call.create()
    job = call.emulator.submit_job(session, seconds=4)
    clock.at += 5
    await call("DELETE", f"/v1/sessions/{session}/close")
    shown, of_job = (await call("GET", "/v1/workloads"))[1]["workloads"]
    assert shown == {
        "id": session,
        "created": "2027-01-15T08:00:00.000Z",
        "ended": "2027-01-15T08:00:05.000Z",
        "backend": "ibm_fez",
        "instance": call.emulator.crn,
        "user_id": shown["user_id"],
        "accepting_jobs": False,
        "mode": "session",
        "status": "completed",
        "status_reason": "session_closed_early",
        "tags": [],
        "usage_seconds": 5,
        "usage": {"qpu_charge_time_seconds": 5},
    }
    assert of_job == {
        "id": job,
        "created": "2027-01-15T08:00:00.000Z",
        "ended": "2027-01-15T08:00:04.000Z",
        "backend": "ibm_fez",
        "instance": call.emulator.crn,
        "user_id": shown["user_id"],
        "mode": "job",
        "status": "completed",
        "tags": [],
        "usage_seconds": 4,
        "usage": {"qpu_charge_time_seconds": 4, "status": "complete"},
        "estimated_running_time_seconds": 4,
    }
    await call.create()
    fresh = (await call("GET", "/v1/workloads", query={"status": "pending"}))[1]["workloads"][0]
    assert (fresh["backend"], "ended" in fresh) == (None, False)


async def test_times_are_in_milliseconds(call: Caller, clock: Clock) -> None:
    """A time is shown in whole milliseconds that have passed, and a search from or up to what is
    shown finds it.
    """
    clock.at += 0.001999
    session = await call.create()
    shown = (await call("GET", "/v1/workloads"))[1]["workloads"][0]["created"]
    assert shown == "2027-01-15T08:00:00.001Z"
    for name in ("created_after", "created_before"):
        found = (await call("GET", "/v1/workloads", query={name: shown}))[1]["workloads"]
        assert [workload["id"] for workload in found] == [session]
    assert (
        await call("GET", "/v1/workloads", query={"created_before": "2027-01-15T08:00:00.000Z"})
    )[1]["workloads"] == []


BAD_QUERIES = [
    ("workloads", "limit=0"),
    ("workloads", "limit=51"),
    ("workloads", "limit=-1"),
    ("workloads", "user=you"),
    ("workloads", "limit=ten"),
    ("workloads", "limit="),
    ("workloads", "limit=1e1"),
    ("workloads", f"limit={'9' * 5000}"),
    ("workloads", "sort=name"),
    ("workloads", "status=open"),
    ("workloads", "status=pending&status="),
    ("workloads", "mode=dedicated"),
    ("workloads", "next=x"),
    ("workloads", "previous="),
    ("workloads", "next=0000000000000001&previous=0000000000000001"),
    ("workloads", "created_after=yesterday"),
    ("workloads", "created_after=2026-13-01T00:00:00Z"),
    ("workloads", "created_before=2026-01-01"),
    ("jobs", "limit="),
    ("jobs", "limit=ten"),
    ("jobs", "offset=1.5"),
    ("jobs", "pending=maybe"),
    ("jobs", "sort=asc"),
    ("jobs", "exclude_params=1"),
]


@table(("path", "query"), BAD_QUERIES)
async def test_bad_query(call: Caller, path: str, query: str) -> None:
    """A query that breaks the contract, by what is no number or none of the words of a filter, is a
    400.
    """
    status, answer = await call("GET", f"/v1/{path}?{query}")
    assert (status, first_code(answer)) == (400, 9400)


async def test_page_link_without_a_host_header(call: Caller) -> None:
    """A client too old to name the host gets links to the address it reached."""
    for _ in range(2):
        await call.create()
    lines = "".join(f"{name}: {value}\r\n" for name, value in call.good().items())
    answer = await speak(call.emulator, f"GET /api/v1/workloads?limit=1 HTTP/1.0\r\n{lines}\r\n")
    page = json.loads(answer.partition("\r\n\r\n")[2])
    assert page["next"]["href"].startswith(f"{call.emulator.url}/v1/workloads?limit=1&next=")


async def test_jobs_over_http(call: Caller, clock: Clock) -> None:
    """Jobs can be queued, listed, looked at and cancelled."""
    session = await call.create(backend="ibm_fez")
    ids: list[str] = []
    for seconds in (5, 500, 600):
        body = {
            "program_id": "sampler",
            "backend": "ibm_fez",
            "session_id": session,
            "params": {"seconds": seconds},
        }
        status, made = await call("POST", "/v1/jobs", body)
        assert (status, made["backend"], made["session_id"]) == (200, "ibm_fez", session)
        ids.append(made["id"])
    lone = (await call("POST", "/v1/jobs", {"program_id": "p", "backend": "ibm_torino"}))[1]
    assert lone == {"id": lone["id"], "backend": "ibm_torino"}
    clock.at += 10
    assert await call("POST", f"/v1/jobs/{ids[1]}/cancel") == (204, None)
    status, job = await call("GET", f"/v1/jobs/{ids[1]}")
    assert (status, job) == (
        200,
        {
            "id": ids[1],
            "cost": 500,
            "user_id": job["user_id"],
            "backend": "ibm_fez",
            "session_id": session,
            "params": {"seconds": 500},
            "program": {"id": "sampler"},
            "tags": [],
            "private": False,
            "created": "2027-01-15T08:00:00.000Z",
            "ended": "2027-01-15T08:00:10.000Z",
            "status": "Cancelled",
            "state": {"status": "Cancelled", "reason": "cancelled on request"},
            "usage": {"qpu_charge_time_seconds": 10, "status": "complete"},
            "estimated_running_time_seconds": 500,
        },
    )
    assert (await call("POST", f"/v1/jobs/{ids[1]}/cancel"))[0] == 409
    clock.at += 10
    tagged = {
        "program_id": "estimator",
        "backend": "ibm_fez",
        "tags": ["a", "b"],
        "private": True,
        "params": {"seconds": 1.5},
    }
    last = (await call("POST", "/v1/jobs", tagged))[1]["id"]
    shown = (await call("GET", f"/v1/jobs/{last}", query={"exclude_params": "true"}))[1]
    assert (shown["tags"], shown["private"], shown["cost"]) == (["a", "b"], True, 2)
    assert {"params", "session_id", "ended"}.isdisjoint(shown)
    assert shown["usage"] == {"qpu_charge_time_seconds": 0, "status": "pending"}
    clock.at += 2
    cases: list[tuple[Any, list[str]]] = [
        ({}, [last, lone["id"], *reversed(ids)]),
        ({"sort": "ASC"}, [*ids, lone["id"], last]),
        ({"limit": "0", "offset": "-1"}, [last, lone["id"], *reversed(ids)]),
        ({"limit": "201", "offset": "9" * 5000}, [last, lone["id"], *reversed(ids)]),
        ({"program": "estimator"}, [last]),
        ([("tags", "a"), ("tags", "b")], [last]),
        ({"tags": "c"}, []),
        ({"created_after": "2027-01-15T08:00:20Z"}, [last]),
        ({"created_before": "2027-01-15T08:00:00Z"}, [lone["id"], *reversed(ids)]),
        ({"pending": "true", "session_id": session}, [ids[2]]),
        ({"pending": "true", "session_id": "none"}, []),
        ({"pending": "true"}, [ids[2]]),
        ({"pending": "false", "limit": "1", "offset": "2"}, [ids[1]]),
        ({"session_id": session}, list(reversed(ids))),
        ({"backend": "ibm_torino"}, [lone["id"]]),
    ]
    for query, expected in cases:
        page = (await call("GET", "/v1/jobs", query=query))[1]
        assert [job["id"] for job in page["jobs"]] == expected, query
        assert not any("params" in job for job in page["jobs"])
    query = {"exclude_params": "false", "sort": "ASC"}
    shown = [job.get("params") for job in (await call("GET", "/v1/jobs", query=query))[1]["jobs"]]
    # The last one is private.
    assert (shown[0], shown[-1]) == ({"seconds": 5}, None)
    page = (
        await call("GET", "/v1/jobs", query={"pending": "false", "limit": "1", "offset": "-5"})
    )[1]
    assert (page["count"], page["limit"], page["offset"]) == (4, 1, 0)
    status, backend = await call("GET", "/v1/backends/ibm_fez/status")
    assert (status, backend["length_queue"], backend["state"]) == (200, 1, True)


BAD_JOBS: list[dict[str, object]] = [
    {},
    {"program_id": "p"},
    {"backend": "ibm_fez"},
    {"program_id": "", "backend": "ibm_fez"},
    {"program_id": "p", "backend": "ibm_fez", "session_id": None},
    {"program_id": "p", "backend": "ibm_fez", "params": []},
    {"program_id": "p", "backend": "ibm_fez", "tags": "a"},
    {"program_id": "p", "backend": "ibm_fez", "tags": [1]},
    {"program_id": "p", "backend": "ibm_fez", "private": "yes"},
    {"program_id": "p", "backend": "ibm_fez", "params": {"seconds": "5"}},
    {"program_id": "p", "backend": "ibm_fez", "params": {"seconds": True}},
    {"program_id": "p", "backend": "ibm_fez", "params": {"seconds": -1}},
    {"program_id": "p", "backend": "ibm_fez", "params": {"seconds": 10**400}},
]


@table("body", BAD_JOBS)
async def test_bad_job(call: Caller, body: dict[str, object]) -> None:
    """A job that breaks the contract is a 400 and is not queued."""
    assert (await call("POST", "/v1/jobs", body))[0] == 400
    assert not call.emulator.jobs


async def test_errors_say_where_to_read_more(call: Caller) -> None:
    """An error has a link of its code beside the solution."""
    (error,) = (await call("GET", "/v1/jobs/none"))[1]["errors"]
    assert error == {
        "code": 1291,
        "message": "Job not found.",
        "solution": "Check the job's id and the instance.",
        "more_info": "https://quantum.cloud.ibm.com/docs/errors#1291",
    }


async def test_wrong_places(call: Caller) -> None:
    """Unknown paths, ids, names and methods are answered in the service's form."""
    for path in ("/v1/nothing", "/v1/sessions/", "/v2/sessions"):
        status, answer = await call("GET", path, headers={})
        assert (status, first_code(answer)) == (404, 9404)
    status, answer = await call("GET", "/v1/sessions/none")
    assert (status, first_code(answer)) == (404, 9404)
    assert (await call("GET", f"/v1/sessions/{'x' * 501}"))[0] == 400
    status, answer = await call("GET", "/v1/jobs/none")
    assert (status, first_code(answer)) == (404, 1291)
    status, answer = await call("GET", "/v1/backends/none/status")
    assert (status, first_code(answer)) == (404, 1007)
    status, headers, text = await call.full("PUT", "/v1/jobs")
    assert (status, first_code(json.loads(text)), headers["Allow"]) == (405, 9405, "GET, POST")
    assert (await call.full("HEAD", "/v1/workloads"))[0] == 405


async def test_bodies_that_cannot_be_read(call: Caller) -> None:
    """A body that is too long, broken or cut off is refused in the service's form."""
    status, answer = await call("POST", "/v1/sessions", data=io.BytesIO(b" " * (50 * 2**20 + 1)))
    assert (status, first_code(answer)) == (413, 9400)
    for encoding in ("gzip", "deflate"):
        headers = {**call.good(), "Content-Encoding": encoding}
        status, answer = await call("POST", "/v1/sessions", data=b"not compressed", headers=headers)
        assert (status, first_code(answer)) == (400, 9400)
    _, writer = await connect(call.emulator)
    writer.write(b"POST /cut-off HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n{")
    writer.close()
    await writer.wait_closed()
    await until(lambda: call.emulator.requests[-1].path == "/cut-off")
    assert call.emulator.requests[-1].status == 400


async def test_date_follows_the_emulators_clock(call: Caller, clock: Clock) -> None:
    """Every answer, refused ones too, is dated by the emulator's clock, which never runs backwards."""
    assert (await call.full("GET", "/v1/versions"))[1]["Date"] == "Fri, 15 Jan 2027 08:00:00 GMT"
    clock.at -= 60
    assert (await call.full("GET", "/v1/none"))[1]["Date"] == "Fri, 15 Jan 2027 08:00:00 GMT"
    clock.at += 90
    assert (await call.full("GET", "/v1/none"))[1]["Date"] == "Fri, 15 Jan 2027 08:00:30 GMT"


async def test_a_fault_of_the_emulator_itself(caplog: pytest.LogCaptureFixture) -> None:
    """An unexpected error is a 500 in the service's form, and neither it nor the log quotes what
    was raised.
    """

    def broken() -> float:
        raise ZeroDivisionError("a secret")

    async with calling(clock=broken) as call:
        status, answer = await call("GET", "/v1/workloads")
    assert (status, first_code(answer)) == (500, 1000)
    assert "ZeroDivisionError" in caplog.text
    assert "a secret" not in caplog.text + json.dumps(answer)


async def test_received_requests_are_kept_without_secrets(call: Caller) -> None:
    """What was received can be asserted on, and shows which secret went where but none itself."""
    emulator = call.emulator
    token = await call.token()
    await call.exchange(grant_type=GRANT, apikey="someone-elses")
    headers = {
        "Authorization": f"Bearer {token}",
        "Backend-Authentication": emulator.api_key,
        "external-service-token": "strange",
        "Service-CRN": emulator.api_key,
        "Cookie": "a=b",
        "X-Note": emulator.service_token,
    }
    query = urlencode({"search": emulator.backend_token})
    await call("GET", f"/v1/workloads?{query}", headers=headers)
    await call("GET", "/v1/%2Fx", headers={"Authorization": "Basic abc", "Service-CRN": "abc"})
    await call("GET", "/v1/none", headers={"Authorization": "abc", "Service-CRN": emulator.crn})
    raw = "GET /none HTTP/1.1\r\nHost: x\r\nConnection: close\r\nX-Two: 1\r\nX-Two: 2\r\n\r\n"
    await speak(emulator, raw)
    exchange, foreign, listing, basic, bare, twice = emulator.requests
    assert exchange.body == urlencode({"grant_type": GRANT}) + "&apikey=<api_key>"
    assert foreign.body.endswith("&apikey=***")
    assert (listing.method, listing.path, listing.status, listing.at) == (
        "GET",
        "/api/v1/workloads",
        401,
        START,
    )
    assert listing.query == "search=<backend_token>"
    assert {name: listing.headers[name.lower()] for name in headers} == {
        "Authorization": "Bearer <token>",
        "Backend-Authentication": "<api_key>",
        "external-service-token": "***",
        "Service-CRN": "<api_key>",
        "Cookie": "***",
        "X-Note": "<service_token>",
    }
    assert (basic.path, basic.headers["authorization"], basic.headers["service-crn"]) == (
        "/api/v1/%2Fx",
        "***",
        "***",
    )
    assert (bare.headers["authorization"], bare.headers["service-crn"]) == ("***", emulator.crn)
    assert twice.headers["x-two"] == "1, 2"
    shown = repr(emulator.requests) + repr(emulator)
    assert not [
        secret
        for secret in (
            token,
            emulator.api_key,
            emulator.backend_token,
            emulator.service_token,
            "elses",
        )
        if secret in shown
    ]


STRAY = "r3al-kEy+of/somebody=="
ENCODED = quote(STRAY, safe="")


@table(
    ("path", "headers", "body"),
    [
        ("/v1/none", {}, json.dumps({"apikey": STRAY, "a": 1})),
        ("/v1/none", {}, json.dumps({"auth": {"api_key" : STRAY}, "password": [STRAY]}, indent=1)),
        ("/v1/none", {}, json.dumps(json.dumps({"accessToken": STRAY + '"' + STRAY}))),
        ("/v1/none", {}, "{'token': '" + STRAY + "'}"),
        ("/v1/none", {}, quote(json.dumps({"apikey": STRAY}))),
        ("/v1/none", {}, f"apikey={STRAY}"),
        ("/v1/none", {}, quote(f"grant=x&apikey={STRAY}&y=1", safe="")),
        (f"/v1/none?token={ENCODED}&limit=5", {}, ""),
        (f"/v1/none?x=1&API_Key={ENCODED}", {}, ""),
        (f"/v1/none?next={quote(f'/x?access_token={ENCODED}', safe='')}", {}, ""),
        (f"/v1/none;apikey={ENCODED}/x", {}, ""),
        ("/v1/none", {"X-Api-Key": STRAY}, ""),
        ("/v1/none", {"X-Auth-Token": STRAY, "Api-Key": f"Bearer {STRAY}"}, ""),
        ("/v1/none", {"Referer": f"http://x/?apikey={ENCODED}"}, ""),
    ],
)  # fmt: skip
async def test_a_real_key_that_strays_to_the_emulator_is_not_kept(
    call: Caller, path: str, headers: dict[str, str], body: str
) -> None:
    """A key that the emulator doesn't know is masked in what it keeps and logs, by the name it
    stands under.
    """
    before = len(call.emulator.requests)
    await call("POST", path, headers=headers, data=body.encode())
    (kept,) = call.emulator.requests[before:]
    shown = repr(kept)
    assert "r3al" not in shown
    assert "***" in shown
    assert "limit=5" in kept.query or "limit=5" not in path


async def test_a_secret_of_the_emulator_is_told_in_any_form(call: Caller) -> None:
    """A secret that the emulator knows is told by its label also where it stands percent-encoded or
    in JSON.
    """
    key = call.emulator.api_key
    body = json.dumps({"apikey": key, "token": "x", "name": "a token: y", "page": 1})
    await call("POST", f"/v1/none?token={key}", data=body.encode())
    (kept,) = call.emulator.requests
    assert kept.query == "token=<api_key>"
    assert json.loads(kept.body) == {
        "apikey": "<api_key>",
        "token": "***",
        "name": "a token: y",
        "page": 1,
    }


def test_the_first_name_of_its_error_still_imports() -> None:
    """Code that catches `Refusal` catches what is raised."""
    assert Refusal is ServiceError


async def test_a_client_of_the_same_process_can_look_inside(call: Caller, clock: Clock) -> None:
    """Sessions, jobs, events and the time can be read without a request, and jobs queued."""
    session = await call.create()
    job = call.emulator.submit_job(session, seconds=3, program_id="estimator")
    clock.at += 4
    emulator = call.emulator
    assert emulator.sessions[session].state == "active"
    assert emulator.sessions[session].usage(emulator.now()) == 4
    assert (emulator.jobs[job].status, emulator.jobs[job].program_id) == ("Completed", "estimator")
    assert [event.what for event in emulator.events] == [
        "open",
        "job_queued",
        "job_started",
        "active",
        "job_ended",
    ]
    with pytest.raises(ServiceError):
        emulator.submit_job("none")
    with pytest.raises(ServiceError):
        emulator.submit_job(session, seconds=float("nan"))


async def test_a_job_takes_any_duration(call: Caller) -> None:
    """A job's length is given as every duration is, and what isn't one is a public error."""
    for length in (90, "90", "1m 30s", timedelta(seconds=90)):
        job = call.emulator.submit_job(seconds=length)
        assert call.emulator.jobs[job].seconds == 90
    wrong: Any
    for wrong in ("soon", -1, None, True):
        with pytest.raises(ServiceError, match=r"seconds: .* is no duration"):
            call.emulator.submit_job(seconds=wrong)


async def test_queue_seconds(clock: Clock) -> None:
    """With a queue every job waits its time before it starts."""
    async with calling(clock=clock, queue_seconds=30, interactive_ttl=7) as call:
        emulator, session = call.emulator, await call.create()
        emulator.submit_job(session)
        clock.at += 29
        assert emulator.sessions[session].state == "open"
        clock.at += 1
        assert emulator.sessions[session].state == "active"
        clock.at += 8
        assert emulator.sessions[session].state == "inactive"


async def test_stop_and_start_again(clock: Clock) -> None:
    """A stopped emulator drops its connections at once, and comes back where it was with what it
    knew.
    """
    emulator = Emulator(clock=clock)
    with pytest.raises(RuntimeError, match="start it first"):
        _ = emulator.url
    await emulator.stop()
    async with ClientSession() as http:
        await emulator.start()
        with pytest.raises(RuntimeError, match="running already"):
            await emulator.start()
        call = Caller(http, emulator)
        url, session = emulator.url, await call.create()
        reader, writer = await connect(emulator)
        writer.write(b"POST /api/v1/sessions HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n{")
        await call("GET", "/v1/versions")
        async with asyncio.timeout(30):
            await emulator.stop()
        await reader.read()
        writer.close()
        await writer.wait_closed()
        await emulator.start()
        assert emulator.url == url
        assert (await call("GET", f"/v1/sessions/{session}"))[0] == 200
        await emulator.stop()


async def test_a_taken_port(clock: Clock) -> None:
    """An address that cannot be had is an OSError, and leaves the emulator stopped."""
    async with Emulator(clock=clock) as first:
        second = Emulator(clock=clock, port=URL(first.iam_url).port or 0)
        with pytest.raises(OSError, match=r"address|Address"):
            await second.start()
        assert "stopped" in repr(second)


def test_addresses_and_environment() -> None:
    """The URLs fit the contract, and env leads the documented variables to them."""
    emulator = Emulator(host="::1", port=8080)
    assert (emulator.url, emulator.iam_url) == ("http://[::1]:8080/api", "http://[::1]:8080")
    assert emulator.env() == {
        "QSESSIONS_BASE_URL": emulator.url,
        "IAM_URL": emulator.iam_url,
        "QISKIT_IBM_TOKEN": emulator.api_key,
        "QISKIT_IBM_INSTANCE": emulator.crn,
    }
    assert emulator.crn.split(":")[:6] == [
        "crn",
        "v1",
        "bluemix",
        "public",
        "quantum-computing",
        "us-east",
    ]
    assert len({emulator.api_key, emulator.backend_token, emulator.service_token}) == 3
    assert "emulated" in emulator.api_key


def test_seed() -> None:
    """A seed makes an emulator's ids and keys repeatable; without one they differ."""
    assert (Emulator(seed=5).api_key, Emulator(seed=5).crn) == (
        Emulator(seed=5).api_key,
        Emulator(seed=5).crn,
    )
    assert Emulator().api_key != Emulator().api_key


def test_default_clock() -> None:
    """Without a clock of its own the emulator lives in the present."""
    emulator = Emulator()
    assert abs(emulator.now() - time.time()) < 5
    assert emulator.now() <= emulator.now()


@table(
    ("options", "said"),
    [
        ({"plan": "free"}, "plan"),
        ({"interactive_ttl": 0}, "interactive_ttl"),
        ({"token_seconds": 0}, "token"),
        ({"queue_seconds": -1}, "queue_seconds"),
        ({"backends": ()}, "backend"),
        # It isn't taken for all addresses.
        ({"host": ""}, "host must not be empty"),
        ({"port": -1}, "port must be"),
        ({"port": 65536}, "port must be"),
    ],
)
def test_impossible_options(options: dict[str, Any], said: str) -> None:
    """Options that make no sense are refused when the emulator is made."""
    with pytest.raises(ValueError, match=said):
        Emulator(**options)


def test_missing_library() -> None:
    """Without PyJWT the import says in one line what to install, without the traceback of what is
    missing; any other missing module is told as it is.
    """
    for missing, said, tracebacks in (
        ("jwt", "ImportError: the emulator needs PyJWT: pip install 'qsessions[emulator]'", 1),
        ("yarl", "ModuleNotFoundError: import of yarl halted; None in sys.modules", 1),
    ):
        program = (
            f"import sys; sys.modules['{missing}'] = None; from qsessions.emulator import Emulator"
        )
        done = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stderr.splitlines()[-1]) == (1, said)
        assert done.stderr.count("Traceback") == tracebacks


async def test_listening_everywhere_has_an_address_to_call() -> None:
    """An emulator that listens on every address names one that a client can call."""
    async with Emulator(host="0.0.0.0") as emulator:  # noqa: S104 - it is the case
        assert emulator.url.startswith("http://127.0.0.1:")
