"""`extra_headers=` of each call, and `extra=` of what creates and changes a session."""

from __future__ import annotations

import json
import traceback
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

import qsessions
from qsessions import (
    AsyncSessionClient,
    CreateSession,
    IBMCloudAuth,
    InvalidArgument,
    NotFound,
    QSessionsError,
    ServiceCRN,
    SessionClient,
    UpdateSession,
)
from qsessions.emulator import Emulator
from qsessions.testing import ManualClock
from qsessions.testing.threaded import ThreadedEmulator
from tests.support.clients import Against, client_of
from tests.support.fault_server import http
from tests.support.tables import table

SESSION = {"id": "s-1", "state": "open", "accepting_jobs": True, "priority": {"level": 3}}
LISTED: dict[str, object] = {"workloads": [], "next": None}


async def listed(client: AsyncSessionClient, **options: Any) -> None:
    """Read the list to its end."""
    assert [each async for each in client.workloads(**options)] == []


async def block(client: AsyncSessionClient, **options: Any) -> None:
    """Enter and leave a block."""
    async with client.open(mode="batch", max_ttl="10m", on_exit="close", **options):
        pass


@table(
    ("call", "answers"),
    [
        (lambda client, **more: client.create(mode="batch", **more), [http(200, SESSION)]),
        (block, [http(200, SESSION), http(204)]),
        (lambda client, **more: client.get("s-1", **more), [http(200, SESSION)]),
        (lambda client, **more: client.has_pending_jobs("s-1", **more), [http(200, {"jobs": []})]),
        (
            lambda client, **more: client.update("s-1", accepting_jobs=True, **more),
            [http(204), http(200, SESSION)],
        ),
        (lambda client, **more: client.drain("s-1", **more), [http(204)]),
        (lambda client, **more: client.close("s-1", **more), [http(204)]),
        (lambda client, **more: client.close_all(**more), [http(200, LISTED)] * 4),
        (lambda client, **more: client.versions(**more), [http(200, {"versions": []})]),
        (listed, [http(200, LISTED)] * 2),
    ],
)
async def test_each_call_takes_further_headers(
    against: Against, call: Callable[..., Awaitable[object]], answers: list[bytes]
) -> None:
    """Every request of a call has its further headers, in place of the client's of the same name, and
    the next call has them no more. Those that qsessions sets itself are refused.
    """
    server, client = await against(*answers, *answers, headers={"X-Team": "a", "X-Kept": "k"})
    for name in ("Authorization", "service-crn", "IBM-API-Version", "Content-Type"):
        with pytest.raises(InvalidArgument, match=f"extra_headers= can't set {name}"):
            await call(client, extra_headers={name: "the-secret"})
    with pytest.raises(InvalidArgument, match="extra_headers= must be a mapping"):
        await call(client, extra_headers="X-Team: b")
    assert server.received == []
    await call(client, extra_headers={"x-team": "b"})
    asked = len(server.received)
    await call(client)
    headers = [{name.lower(): text for name, text in r.headers.items()} for r in server.received]
    seen = [(each["x-team"], each["x-kept"]) for each in headers]
    assert seen == [("b", "k")] * asked + [("a", "k")] * (len(seen) - asked)
    assert asked


def locals_of(error: BaseException) -> str:
    """Return what the locals of our own frames show."""
    shown = traceback.TracebackException(
        type(error), error, error.__traceback__, capture_locals=True
    )
    package = str(Path(qsessions.__file__).parent)
    ours = [frame.locals for frame in shown.stack if frame.filename.startswith(package)]
    assert ours
    return str(ours)


async def test_a_traceback_shows_no_header(client: AsyncSessionClient) -> None:
    """What a user sets as a header may be secret: the frames of a call that fails don't show it."""
    secret = {"X-Key": "the-secret"}
    for call in (client.get, client.drain, client.close):
        with pytest.raises(NotFound) as failed:
            await call("unknown", extra_headers=secret)
        assert "the-secret" not in locals_of(failed.value)
    failing: list[Callable[[], Awaitable[object]]] = [
        lambda: client.create(mode="batch", labels={"run": "1"}, extra_headers=secret),
        lambda: client.create(mode="batch", max_ttl=-1, extra_headers=secret),
        lambda: client.get("s-1", extra_headers={"X-Key": "the-secret\n"}),
        lambda: client.usage(extra_headers={"X-Key": "the-secret\n"}),
        lambda: listed(client, mode="nope", extra_headers=secret),
        lambda: client.raw(client.get, "unknown", extra_headers=secret),
        lambda: block(client, max_usage=-1, extra_headers=secret),
    ]
    for begin in failing:
        with pytest.raises(QSessionsError) as wrongly:
            await begin()
        assert "the-secret" not in locals_of(wrongly.value)
    for wrong in ({"X-Key": "the-secret\n"}, {"X-Key": "the-secret", "Host": "h"}):
        with pytest.raises(InvalidArgument) as refused:
            await client.create(mode="batch", extra_headers=wrong)
        assert "the-secret" not in f"{refused.value} {refused.value.to_json()}"


def test_a_traceback_of_the_facade_shows_no_header() -> None:
    """The frames of the synchronous client don't show it either."""
    with ThreadedEmulator(Emulator(seed=1)) as emulator:
        auth = [IBMCloudAuth(emulator.api_key, emulator.iam_url), ServiceCRN(emulator.crn)]
        with SessionClient(auth, base_url=emulator.url) as client:
            session = client.create(mode="batch", max_ttl="10m", extra_headers={"X-Key": "k"})
            with pytest.raises(NotFound) as failed:
                client.get("unknown", extra_headers={"X-Key": "the-secret"})
            client.close(session.id, extra_headers={"X-Key": "k"})
    assert "the-secret" not in locals_of(failed.value)


async def test_fields_that_qsessions_does_not_know(against: Against) -> None:
    """They are sent beside the others, null included, and what the service says of them is in the
    session's `extra`.
    """
    server, client = await against(
        http(200, SESSION), http(200, SESSION), http(204), http(200, SESSION)
    )
    extra: dict[str, object] = {"priority": {"level": 3}, "note": None}
    request = CreateSession("batch", max_ttl=60, extra=extra)
    extra["priority"] = "changed"
    created = await client.create(request)
    assert created.extra == {"priority": {"level": 3}}
    await client.create(mode="batch", max_ttl=60, extra={"priority": 4})
    await client.update("s-1", accepting_jobs=True, extra={"priority": 5})
    assert [json.loads(each.body) for each in server.received[:3]] == [
        {"mode": "batch", "max_ttl": 60, "priority": {"level": 3}, "note": None},
        {"mode": "batch", "max_ttl": 60, "priority": 4},
        {"accepting_jobs": True, "priority": 5},
    ]
    assert request != CreateSession("batch", max_ttl=60)


@table(
    ("extra", "problem"),
    [
        ({"max_ttl": 60}, "can't hold max_ttl, which qsessions sets itself"),
        ({"instance": "crn", "mode": "batch"}, "can't hold instance, mode"),
        ({"accepting_jobs": True}, "can't hold accepting_jobs"),
        ({"a": object()}, "can't be written as JSON: .*object"),
        ({"a": float("nan")}, "can't be written as JSON"),
        ({1: "a"}, "must be a mapping of names"),
        ({"": "a"}, "must be a mapping of names"),
        ([("a", "b")], "must be a mapping of names"),
    ],
)
def test_fields_that_cannot_be_sent(extra: Any, problem: str) -> None:
    """A field that has an argument of its own, or that JSON has no form for, is refused."""
    with pytest.raises(InvalidArgument, match=problem):
        CreateSession("batch", extra=extra)
    with pytest.raises(InvalidArgument, match=problem):
        UpdateSession(accepting_jobs=False, extra=extra)


async def test_a_handle_of_its_own_has_no_headers_of_a_call(
    emulator: Emulator, time: ManualClock
) -> None:
    """Another handle on a session that was opened with further headers doesn't send them."""
    async with client_of(emulator, time) as client:
        headers = {"X-Run": "1"}
        async with client.open(mode="batch", max_ttl="10m", extra_headers=headers) as live:
            await client.attach(live.id).refresh()
            await live.refresh()
    sent = [request.headers.get("x-run") for request in emulator.requests]
    operations = [request.operation for request in emulator.requests]
    assert [run for run, what in zip(sent, operations, strict=True) if what == "get"] == [None, "1"]
