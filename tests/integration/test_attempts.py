"""The attempt loop over real sockets: what is sent again, when, until when, and what a create does
instead.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from itertools import product
from typing import Any

import aiohttp
import pytest

from qsessions import (
    AsyncSessionClient,
    BackendAuthentication,
    CallTimeout,
    Clock,
    ConfigurationError,
    Conflict,
    ConnectionFailed,
    CreateOutcomeUnknown,
    Forbidden,
    IBMCloudAPIKey,
    IBMCloudAuth,
    InstanceNotFound,
    NotFound,
    ProtocolError,
    QSessionsError,
    RateLimited,
    ResponseError,
    RetryPolicy,
    ServerError,
    TokenExchangeFailed,
    Transport,
    Unauthorized,
)
from qsessions.emulator import Emulator
from qsessions.testing import ManualClock
from tests.support.attempt_checks import (
    FINAL_STATUSES,
    HTML,
    OWN,
    REPEATED_STATUSES,
    RETRY_AFTER,
    TOO_LONG,
    check_not_repeated,
    check_repeated,
    check_retry_after,
    check_too_long,
)
from tests.support.calls import (
    CLOSE,
    CREATE,
    DRAIN,
    GET,
    NO_WORKLOADS,
    ROWS,
    SESSION,
    UPDATE,
    VERSIONS,
    Row,
    each,
    fault,
)
from tests.support.clients import Against, static_auth
from tests.support.fault_server import Answer, Connection, hang, http, reset
from tests.support.loop_time import late, let_pass

OTHERS = tuple(row for row in ROWS if row is not CREATE)
THRICE = RetryPolicy(max_attempts=3)
RESERVED = fault("The backend is reserved.", code=1233)
# Of others around the service, and so not its word.
FOREIGN: tuple[object, ...] = (
    {"error": {"status": 404, "message": "gone", "code": 7}},
    {"incidentID": "i-1", "code": "E", "description": "no route", "type": "error"},
    {"statusCode": 500, "message": ["too long", "no name"], "error": "Bad Request"},
)


def refused(*statuses: int, body: object = OWN) -> list[Answer]:
    """Write answers with these statuses."""
    return [http(status, body) for status in statuses]


async def test_what_may_be_repeated_is_repeated() -> None:
    """Every operation but create is sent again after each status that is worth it, whatever the
    body.

    A reading meets each status and body, any other operation one of them.
    """
    for status, body in product(REPEATED_STATUSES, (OWN, HTML, b"")):
        await check_repeated(GET, status, body)
    for row in OTHERS:
        await check_repeated(row, 503, OWN)


async def test_what_would_fail_again_is_not_repeated() -> None:
    """A status that would come again ends the call at the first attempt.

    A drain, which a conflict needn't end, meets each status and body, any other operation one of
    each class.
    """
    for status, body in product(FINAL_STATUSES, (OWN, HTML)):
        await check_not_repeated(DRAIN, status, body)
    for row in OTHERS:
        for status in (404, 409, 501):
            await check_not_repeated(row, status, OWN)


@pytest.mark.parametrize(
    ("status", "body"),
    [
        *product((429, 503, 521, 522), (OWN, HTML, b"")),
        (500, OWN),
        (500, {"errors": [{"code": 1000}]}),
        (500, {"errors": [{"message": "No."}]}),
        (423, RESERVED),
    ],
    ids=lambda value: repr(value)[:20],
)
async def test_a_create_is_repeated_where_nothing_was_done(
    against: Against, time: ManualClock, status: int, body: object
) -> None:
    """A create is sent again after a status that says that nothing was done, after a 500 in the
    service's own form, and where the service says that the backend is reserved.
    """
    server, client = await against(http(status, body), CREATE.success)
    assert (await CREATE(client)).id == "s1"
    assert [request.body for request in server.received] == [server.received[0].body] * 2
    assert time.slept == [0.25]


@pytest.mark.parametrize(
    ("status", "body"),
    [
        *product((502, 504, 520, 524), (OWN, HTML, b"")),
        *product((500, 501, 505, 523, 599), (HTML, b"", {"errors": []})),
        *((500, body) for body in FOREIGN),
        (500, {"message": "no form of the service's"}),
        (500, '{"errors": [{"code": 1000, "messa'),
    ],
    ids=lambda value: repr(value)[:20],
)
async def test_a_create_is_not_repeated_where_it_may_have_been_done(
    against: Against, time: ManualClock, status: int, body: object
) -> None:
    """After an answer that leaves open whether a session was created, a create is not sent again
    and says so.
    """
    server, client = await against(http(status, body), CREATE.success)
    with pytest.raises(CreateOutcomeUnknown, match="may have been created") as caught:
        await CREATE(client)
    error = caught.value
    assert (error.operation, error.method, error.path) == ("create", "POST", "/v1/sessions")
    assert (error.status, error.attempts, error.session_id, error.retryable) == (
        status,
        1,
        None,
        False,
    )
    assert "workloads" in (error.solution or "")
    assert (server.count("POST"), time.slept) == (1, [])


@pytest.mark.parametrize("status", [400, 403, 404, 409, 410, 304])
async def test_a_create_that_is_refused_fails_as_itself(against: Against, status: int) -> None:
    """A refusal says that nothing was created, so it is no unknown outcome."""
    server, client = await against(http(status, b"" if status == 304 else OWN))
    with pytest.raises(ResponseError) as caught:
        await CREATE(client)
    assert caught.value.status == status
    assert len(server.received) == 1


@pytest.mark.parametrize("status", [501, 505])
async def test_a_create_that_the_service_says_failed_fails_as_itself(
    against: Against, status: int
) -> None:
    """Another 5xx in the service's own form is its word that it failed; it isn't sent again."""
    server, client = await against(*refused(status))
    with pytest.raises(ServerError):
        await CREATE(client)
    assert len(server.received) == 1


@pytest.mark.parametrize("statuses", [(503, 502), (429, 500, 504)], ids=str)
async def test_an_outcome_can_become_unknown_later(
    against: Against, statuses: tuple[int, ...]
) -> None:
    """A create that was rightly repeated ends as unknown as soon as one attempt may have been
    carried out.
    """
    server, client = await against(*refused(*statuses), CREATE.success)
    with pytest.raises(CreateOutcomeUnknown) as caught:
        await CREATE(client)
    assert caught.value.attempts == server.count("POST") == len(statuses)


@each()
async def test_a_failure_to_connect_is_repeated(
    emulator: Emulator, time: ManualClock, row: Row
) -> None:
    """Nothing was sent when the connection could not be made, so every operation is tried again and
    finds the service back.
    """

    async def back_again(seconds: float) -> None:
        await time.sleep(seconds)
        await emulator.start()

    clock = Clock(time.monotonic, time.wall, back_again, time.random, time.call_later)
    auth = [IBMCloudAPIKey(emulator.api_key), BackendAuthentication(emulator.backend_token)]
    await emulator.stop()
    async with AsyncSessionClient(auth, base_url=emulator.url, clock=clock) as client:
        with suppress(Unauthorized):  # it has no CRN, but an answer is an answer
            await row(client)
    assert len(emulator.requests) == 1
    assert time.slept == [0.25]


# The HTTP library itself repeats a GET or DELETE once whose connection is lost, so that two losses
# are one attempt of ours.
LOST: dict[str, list[Answer]] = {"GET": [reset, reset], "DELETE": [reset, reset], "PATCH": [reset]}


@each(*OTHERS)
async def test_a_lost_connection_is_repeated(against: Against, time: ManualClock, row: Row) -> None:
    """Whatever does no harm twice is sent again after the connection was lost."""
    lost = LOST[row.method]
    server, client = await against(*lost, row.success)
    await row(client)
    assert len(server.received) == len(lost) + 1
    assert time.slept == [0.25]


async def _after_the_head(connection: Connection) -> None:
    await connection.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n")
    connection.writer.close()


@pytest.mark.parametrize(
    "answer", [reset, _after_the_head, b"SSH-2.0-x\r\n\r\n"], ids=["lost", "cut", "no HTTP"]
)
async def test_a_create_without_an_answer_is_unknown(
    against: Against, time: ManualClock, answer: Answer
) -> None:
    """A create whose request was sent and got no whole answer may have made a session, and isn't
    sent again.
    """
    server, client = await against(answer, CREATE.success)
    with pytest.raises(CreateOutcomeUnknown, match="may have been created") as caught:
        await CREATE(client)
    assert (caught.value.status, caught.value.session_id, caught.value.attempts) == (None, None, 1)
    assert (server.count("POST"), time.slept) == (1, [])


@pytest.mark.parametrize(
    ("answer", "session_id"),
    [
        (http(200, SESSION | {"max_ttl": "long"}), "s1"),
        (http(201, SESSION | {"state": 7}), "s1"),
        (http(200, {"id": "s/1", "mode": []}), "s/1"),
        (http(200, SESSION | {"id": ""}), None),
        (http(200, SESSION | {"id": 5}), None),
        (http(200, [SESSION]), None),
        (http(200, HTML), None),
        (http(200), None),
        (http(204), None),
        (http(200, b'{"id": "s1", "mode'), None),
        (http(200, b"\xff"), None),
        (http(200, b" " * (1024 * 1024 + 1)), None),
    ],
    ids=lambda value: repr(value)[-40:],
)
async def test_a_create_whose_answer_cannot_be_read_is_unknown(
    against: Against, answer: bytes, session_id: str | None
) -> None:
    """A success that can't be read means that a session exists; its id is told where it could be
    read.
    """
    server, client = await against(answer, CREATE.success)
    with pytest.raises(CreateOutcomeUnknown) as caught:
        await CREATE(client)
    error = caught.value
    assert (error.session_id, error.operation, error.attempts) == (session_id, "create", 1)
    assert (f"Close session {session_id!r}" in str(error)) == (session_id is not None)
    assert server.count("POST") == 1


class Rotating:
    """A provider with a number in its token, which goes up with each refusal."""

    def __init__(self) -> None:
        self.number = 1

    async def headers(self, transport: Transport) -> Mapping[str, str]:
        """Return the current token."""
        return {"Authorization": f"Bearer token-{self.number}"}

    def invalidate(self, refused: Mapping[str, str]) -> bool:
        """Go on to the next token."""
        self.number += 1
        return True


@each(*(row for row in ROWS if row is not VERSIONS))
async def test_a_401_gets_one_fresh_try(against: Against, time: ManualClock, row: Row) -> None:
    """After a 401 each operation, create included, is tried once more at once, with fresh
    credentials.
    """
    server, client = await against(
        *refused(401), row.success, auth=Rotating(), retry=RetryPolicy(max_attempts=1)
    )
    await row(client)
    sent = [request.headers["authorization"] for request in server.received]
    assert sent == ["Bearer token-1", "Bearer token-2"]
    assert time.slept == []


@each(CREATE, GET)
async def test_a_second_401_is_the_end(against: Against, row: Row) -> None:
    """When fresh credentials are refused as well, the call ends as Unauthorized."""
    server, client = await against(*refused(401), auth=[Rotating(), static_auth()[1]])
    with pytest.raises(Unauthorized) as caught:
        await row(client)
    assert caught.value.attempts == len(server.received) == 2


@each(CREATE, GET)
async def test_a_401_for_credentials_that_stay_is_the_end(against: Against, row: Row) -> None:
    """Where there are no fresh credentials, nothing is sent again; without any credentials neither."""
    for auth in (static_auth(), [], [IBMCloudAuth.from_token("given"), static_auth()[1]]):
        server, client = await against(*refused(401), auth=auth)
        with pytest.raises(Unauthorized) as caught:
            await row(client)
        assert caught.value.attempts == len(server.received) == 1


async def test_the_fresh_try_follows_the_rules_of_any_other(
    against: Against, time: ManualClock
) -> None:
    """The try after a 401 counts as an attempt, may be followed by retries, and a create may become
    unknown in it.
    """
    server, client = await against(*refused(503, 401, 503), GET.success, auth=Rotating())
    await GET(client)
    assert time.slept == [0.25, 1.0]
    assert len(server.received) == 4
    server, client = await against(*refused(401, 504), auth=Rotating())
    with pytest.raises(CreateOutcomeUnknown) as caught:
        await CREATE(client)
    assert caught.value.attempts == 2


@pytest.mark.parametrize(
    ("policy", "chance", "slept"),
    [
        (RetryPolicy(), 0.5, [0.25, 0.5, 1.0, 2.0]),
        (RetryPolicy(), 0.0, [0.0] * 4),
        (RetryPolicy(max_attempts=7), 1.0, [0.5, 1.0, 2.0, 4.0, 8.0, 8.0]),
        (RetryPolicy(max_attempts=4, base_delay=3, max_delay=4), 0.5, [1.5, 2.0, 2.0]),
        (RetryPolicy(max_attempts=1), 0.5, []),
    ],
    ids=["half", "none", "full", "bounds", "off"],
)
async def test_waits_grow_and_are_drawn_at_random(
    against: Against, policy: RetryPolicy, chance: float, slept: list[float]
) -> None:
    """Waits double up to a bound and are drawn from zero to there; the attempts end at the policy's
    limit, which a note says.
    """
    time = ManualClock(chance=chance)
    server, client = await against(*refused(503), clock=time, retry=policy)
    with pytest.raises(ServerError) as caught:
        await GET(client)
    assert time.slept == slept
    assert caught.value.attempts == len(server.received) == policy.max_attempts
    assert caught.value.__notes__ == ["retry limit reached"]


async def test_a_lost_connection_that_stays_lost_is_told_with_its_attempts(
    against: Against,
) -> None:
    """Failures without an answer end at the policy's limit too, and the note says so."""
    _, client = await against(reset, retry=THRICE)
    with pytest.raises(ConnectionFailed) as caught:
        await UPDATE(client)
    assert caught.value.attempts == 3
    assert caught.value.__notes__ == ["retry limit reached"]
    assert "3 attempts" in str(caught.value)


async def test_a_retry_after_is_kept_to() -> None:
    """A Retry-After in seconds or as a date, by the server's clock where it tells it, is waited
    for, with jitter on top.

    A create meets each form of it, and each operation one form with each status.
    """
    for headers, asked in RETRY_AFTER:
        await check_retry_after(CREATE, 429, headers, asked)
    for row, status in product(ROWS, (429, 503, 500)):
        await check_retry_after(row, status, {"Retry-After": "7"}, 7.0)


async def test_a_retry_after_over_the_limit_ends_the_call() -> None:
    """A Retry-After above the policy's limit is told at once, with the seconds and the reason."""
    for asked in TOO_LONG:
        await check_too_long(CREATE, asked)
    for row in OTHERS:
        await check_too_long(row, "61")


@each()
async def test_a_retry_after_beyond_the_deadline_ends_the_call(
    against: Against, time: ManualClock, row: Row
) -> None:
    """A wait that would last past the call's deadline isn't begun."""
    server, client = await against(http(429, OWN, headers={"Retry-After": "30"}))
    with pytest.raises(RateLimited) as caught:
        await row(client, timeout=30)
    assert caught.value.__notes__ == [
        "the service asks to wait 30 s, the call's deadline is in 30 s"
    ]
    assert (len(server.received), time.slept) == (1, [])


@each(GET, DRAIN, VERSIONS)
async def test_the_deadline_covers_attempts_and_waits(
    against: Against, time: ManualClock, row: Row
) -> None:
    """However many attempts the policy allows, a call ends within its deadline, and says that this
    was why.
    """
    started = time.now
    server, client = await against(*refused(503), retry=RetryPolicy(max_attempts=1000))
    with pytest.raises(ServerError) as caught:
        await row(client, timeout=10)
    assert time.slept == [0.25, 0.5, 1.0, 2.0, 4.0]
    assert time.now - started < 10
    assert caught.value.attempts == len(server.received) == 6
    assert caught.value.__notes__ == [
        "the next try would be in 4 s, the call's deadline is in 2.25 s"
    ]


async def test_the_deadline_covers_both_halves_of_a_drain(
    against: Against, time: ManualClock
) -> None:
    """The look after a conflict has what the conflict left of the deadline."""
    _, client = await against(
        *refused(503, 503, 503, 409, 503), retry=RetryPolicy(max_attempts=1000)
    )
    with pytest.raises(ServerError) as caught:
        await DRAIN(client, timeout=4)
    assert caught.value.operation == "get"
    assert time.slept == [0.25, 0.5, 1.0, 0.25, 0.5, 1.0]


async def test_no_deadline_waits_as_long_as_the_policy_says(
    against: Against, time: ManualClock
) -> None:
    """With timeout=None only the policy ends a call."""
    answers = [http(503, OWN, headers={"Retry-After": "60"})] * 4
    _, client = await against(*answers, GET.success)
    await GET(client, timeout=None)
    assert sum(time.slept) > 240
    _, client = await against(*answers, GET.success, timeout=None)
    await GET(client)


async def _head_only(connection: Connection) -> None:
    await connection.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n")
    await connection.hang()


@each(*OTHERS)
@pytest.mark.parametrize("answer", [hang, _head_only], ids=["nothing", "head"])
async def test_a_call_that_gets_no_answer_in_time_is_a_timeout(
    against: Against, time: ManualClock, row: Row, answer: Answer
) -> None:
    """When the deadline passes while waiting for the answer, the call times out, and the request
    may have been carried out.
    """
    server, client = await against(late(answer, 5, time))
    with pytest.raises(CallTimeout, match="without an answer") as caught:
        await row(client, timeout=5)
    error = caught.value
    assert isinstance(error, TimeoutError)
    assert (error.operation, error.sent, error.attempts, error.retryable) == (
        row.name,
        True,
        1,
        True,
    )
    assert error.__context__ is None
    assert len(server.received) == 1


@pytest.mark.parametrize("answer", [hang, _head_only], ids=["nothing", "head"])
async def test_a_create_that_gets_no_answer_in_time_is_unknown(
    against: Against, time: ManualClock, answer: Answer
) -> None:
    """When the deadline passes after a create was sent, a session may have been created."""
    server, client = await against(late(answer, 5, time))
    with pytest.raises(
        CreateOutcomeUnknown, match="may have been created: the call's deadline passed"
    ):
        await CREATE(client, timeout=5)
    assert server.count("POST") == 1


async def test_a_refusal_whose_body_hangs_is_told_by_its_status(
    against: Against, time: ManualClock
) -> None:
    """When only the body of a refusal fails to come in time, the status says enough."""

    async def slow(connection: Connection) -> None:
        await connection.write(b"HTTP/1.1 409 No\r\nContent-Length: 100\r\n\r\nnot her")
        await connection.hang()

    _, client = await against(late(slow, 5, time))
    with pytest.raises(Conflict, match="not her"):
        await GET(client, timeout=5)


class Slow:
    """A provider that never has its credential ready, while five seconds pass."""

    def __init__(self, time: ManualClock) -> None:
        self._time = time

    async def headers(self, transport: Transport) -> Mapping[str, str]:
        """Wait for ever."""
        await let_pass(5, self._time)
        await asyncio.Event().wait()
        raise AssertionError

    def invalidate(self, refused: Mapping[str, str]) -> bool:
        """Return that there is no fresher one."""
        return False


@each(*(row for row in ROWS if row is not VERSIONS))
async def test_a_deadline_that_passes_before_sending_is_a_timeout(
    against: Against, time: ManualClock, row: Row
) -> None:
    """When the deadline passes while waiting for credentials, nothing was sent: for a create that
    is no unknown outcome.
    """
    server, client = await against(row.success, auth=Slow(time))
    with pytest.raises(CallTimeout, match="nothing was sent") as caught:
        await row(client, timeout=5)
    assert (caught.value.sent, caught.value.attempts, caught.value.operation) == (
        False,
        0,
        row.name,
    )
    assert server.received == []


async def test_time_that_credentials_take_counts(against: Against, time: ManualClock) -> None:
    """When the credentials came only after the deadline, the request isn't sent any more."""

    class Late(Rotating):
        async def headers(self, transport: Transport) -> Mapping[str, str]:
            time.advance(61)
            return await super().headers(transport)

    server, client = await against(CREATE.success, auth=Late())
    with pytest.raises(CallTimeout, match="before the request was sent") as caught:
        await CREATE(client)
    assert not caught.value.sent
    assert server.received == []


async def test_a_provider_s_own_timeout_error_is_its_own(against: Against) -> None:
    """A TimeoutError out of a user's provider, ours too, is not taken for the call's deadline, whether
    it comes at once or after waiting.
    """

    class Broken(Rotating):
        def __init__(self, turns: int, error: TimeoutError) -> None:
            super().__init__()
            self.turns = turns
            self.error = error

        async def headers(self, transport: Transport) -> Mapping[str, str]:
            for _ in range(self.turns):
                await asyncio.sleep(0)
            raise self.error

    for turns in (0, 1, 2):
        _, client = await against(GET.success, auth=Broken(turns, TimeoutError("vault is slow")))
        with pytest.raises(ConfigurationError, match="TimeoutError: vault is slow"):
            await GET(client)
        _, client = await against(GET.success, auth=Broken(turns, CallTimeout("vault is slow")))
        with pytest.raises(CallTimeout, match="vault is slow"):
            await GET(client)


@pytest.mark.parametrize(
    ("headers", "told"),
    [
        ({"Authorization": "Bearer a\r\nX: y"}, "line end"),
        ({"Authorization": ""}, "is empty"),
        ({"Auth orization": "x"}, "no header can have"),
        ({"Authorization": 7}, "not text but int"),
        ({"service-crn": "x"}, "two auth providers set the header service-crn"),
    ],
    ids=repr,
)
async def test_headers_of_a_provider_are_checked_before_they_are_sent(
    against: Against, headers: dict[str, Any], told: str
) -> None:
    """What a user's provider gives is checked at the merge, and nothing is sent with it."""

    class Own(Rotating):
        async def headers(self, transport: Transport) -> Mapping[str, str]:
            return headers

    server, client = await against(GET.success, auth=[static_auth()[1], Own()])
    with pytest.raises(ConfigurationError, match=told) as caught:
        await GET(client)
    assert (caught.value.operation, caught.value.attempts) == ("get", 0)
    assert server.received == []


@pytest.mark.parametrize(
    ("first", "success"),
    [
        (reset, True),
        (http(502, OWN), True),
        (http(504, HTML), True),
        (http(520), True),
        (http(524), True),
        (http(500, HTML), True),
        (http(500, OWN), False),
        (http(503, OWN), False),
        (http(429, OWN), False),
        (http(521), False),
    ],
    ids=["lost", "502", "504", "520", "524", "500 HTML", "500 own", "503", "429", "521"],
)
async def test_a_close_that_is_repeated_takes_a_404_as_done(
    against: Against, first: Answer, success: bool
) -> None:
    """A repeated close that finds the session gone is a success exactly when an earlier attempt may
    have closed it.
    """
    before = LOST["DELETE"] if first is reset else [first]
    server, client = await against(*before, http(404, fault("Session not found.")))
    if success:
        await CLOSE(client)
    else:
        with pytest.raises(NotFound) as caught:
            await CLOSE(client)
        assert caught.value.attempts == 2
    assert len(server.received) == len(before) + 1


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        ("<html>default backend - 404</html>", ResponseError),
        *((body, ResponseError) for body in FOREIGN),
        (fault("Instance not found.", code=1279), InstanceNotFound),
        (fault("Instance not found.", code="1279"), InstanceNotFound),
    ],
    ids=lambda value: repr(value)[:30],
)
async def test_a_repeated_close_takes_no_other_404_as_done(
    against: Against, body: object, kind: type[ResponseError]
) -> None:
    """A 404 that isn't the service's own, or that is about the instance, doesn't say that the first
    attempt closed the session.
    """
    _, client = await against(*LOST["DELETE"], http(404, body))
    with pytest.raises(ResponseError) as caught:
        await CLOSE(client)
    assert type(caught.value) is kind


@pytest.mark.parametrize(
    ("body", "attempts"),
    [(RESERVED, 5), (OWN, 1), ({"code": 1233, "message": "The backend is reserved."}, 1)],
    ids=["reserved", "another code", "another form"],
)
@each(GET, CREATE, CLOSE)
async def test_a_reserved_backend_may_be_free_later(
    against: Against, row: Row, body: object, attempts: int
) -> None:
    """A 423 is tried again, and counts as something that may pass, where the service itself says
    that the backend is reserved.
    """
    server, client = await against(http(423, body))
    with pytest.raises(ResponseError) as caught:
        await row(client)
    assert type(caught.value) is ResponseError
    assert caught.value.retryable is (attempts > 1)
    assert caught.value.attempts == len(server.received) == attempts


@pytest.mark.parametrize("status", [401, 403])
@each()
async def test_a_wall_of_html_says_nothing_of_the_credentials(
    against: Against, row: Row, status: int
) -> None:
    """An HTML page with 401 or 403 is no refusal of a token: none is renewed, and the error says
    what may stand in between.
    """
    server, client = await against(http(status, HTML), auth=[Rotating(), static_auth()[1]])
    with pytest.raises(
        ResponseError, match="An HTML page answered in the service's place"
    ) as caught:
        await row(client)
    assert type(caught.value) is ResponseError
    assert (caught.value.status, caught.value.attempts) == (status, 1)
    assert len(server.received) == 1


@pytest.mark.parametrize("body", [OWN, {"message": "<html>"}, *FOREIGN, b"no entry", b""], ids=repr)
@pytest.mark.parametrize(("status", "kind"), [(401, Unauthorized), (403, Forbidden)])
async def test_any_other_form_of_a_refusal_is_one(
    against: Against, status: int, kind: type[ResponseError], body: object
) -> None:
    """JSON of any form, plain text and nothing at all keep the class of the status, and a 401 is
    tried with a fresh token.
    """
    server, client = await against(http(status, body), auth=[Rotating(), static_auth()[1]])
    with pytest.raises(kind):
        await GET(client)
    assert len(server.received) == (2 if status == 401 else 1)


@each(GET, UPDATE, DRAIN)
async def test_other_repeats_take_a_404_as_it_is(against: Against, row: Row) -> None:
    """For anything but a close, 404 is an error after a lost connection too."""
    _, client = await against(reset, http(404, OWN))
    with pytest.raises(NotFound):
        await row(client)


async def test_an_earlier_attempt_is_remembered_over_several(against: Against) -> None:
    """That an earlier attempt may have closed the session is not forgotten when a later one was
    turned away.
    """
    server, client = await against(*refused(502, 503, 429, 404))
    await CLOSE(client)
    assert len(server.received) == 4


@pytest.mark.parametrize(
    "first", [reset, http(502, OWN), http(500, HTML)], ids=["lost", "502", "500"]
)
@pytest.mark.parametrize(
    ("wanted", "found", "success"),
    [
        (False, {"state": "closed", "accepting_jobs": False}, True),
        (False, {"state": "closed", "accepting_jobs": None}, True),
        (False, {"state": "active", "accepting_jobs": False}, True),
        (False, {"state": "active", "accepting_jobs": True}, False),
        (True, {"state": "active", "accepting_jobs": True}, True),
        (True, {"state": "closed", "accepting_jobs": False}, False),
        (True, {"state": "closed", "accepting_jobs": True}, False),
        (True, {"state": "active", "accepting_jobs": None}, False),
    ],
    ids=str,
)
async def test_a_repeated_update_that_finds_what_it_wants_is_done(
    against: Against, *, first: Answer, wanted: bool, found: dict[str, Any], success: bool
) -> None:
    """A conflict after a lost answer is a success where the session is as it was wanted, and a
    conflict where it isn't.
    """
    server, client = await against(first, http(409, OWN), http(200, SESSION | found))
    if success:
        await client.update("s1", accepting_jobs=wanted)
    else:
        with pytest.raises(Conflict) as caught:
            await client.update("s1", accepting_jobs=wanted)
        assert (caught.value.operation, caught.value.attempts) == ("update", 2)
    assert [request.method for request in server.received] == ["PATCH", "PATCH", "GET"]


async def test_a_repeated_update_with_further_fields_is_not_known_to_be_done(
    against: Against,
) -> None:
    """Where the session is as it was wanted, nobody knows whether a further field was set, too."""
    server, client = await against(reset, http(409, OWN))
    with pytest.raises(Conflict):
        await client.update("s1", accepting_jobs=False, extra={"new": 1})
    assert [request.method for request in server.received] == ["PATCH", "PATCH"]


async def test_a_first_update_takes_a_conflict_as_it_is(against: Against) -> None:
    """An update that was sent once and is refused did nothing, so nobody looks whether somebody
    else did.
    """
    server, client = await against(http(409, OWN))
    with pytest.raises(Conflict):
        await client.update("s1", accepting_jobs=False)
    assert len(server.received) == 1


@pytest.mark.parametrize("first", [reset, http(502, OWN)], ids=["lost", "502"])
async def test_a_repeated_drain_that_finds_the_session_draining_is_done(
    against: Against, first: Answer
) -> None:
    """A drain whose answer was lost is a success when the session takes no more jobs, closed or not
    yet.
    """
    for found in ({"state": "active", "accepting_jobs": False}, {"state": "closed"}):
        _, client = await against(first, http(409, OWN), http(200, SESSION | found))
        await DRAIN(client)


@each(*OTHERS, CREATE)
async def test_a_connection_that_the_server_drops_as_a_request_goes_out_is_nobodys_business(
    against: Against, row: Row
) -> None:
    """When the server closes each idle connection just as the next request comes in over it, every
    call is a success all the same.
    """
    served: set[object] = set()
    waiting = [GET.success, row.success]

    async def once(connection: Connection) -> None:
        if connection.writer in served:
            connection.reset()
        else:
            served.add(connection.writer)
            await connection.write(waiting.pop(0))

    server, client = await against(once)
    await GET(client)
    await row(client)
    assert waiting == []
    assert server.count("POST") == (row is CREATE)


async def test_a_create_over_a_borrowed_pool_may_meet_a_dropped_connection(
    against: Against,
) -> None:
    """A borrowed pool gives a kept connection to a create too; when it is lost the outcome is
    unknown, and nothing is sent twice.
    """
    async with aiohttp.ClientSession() as http_session:
        server, client = await against(
            GET.success, reset, http(200, NO_WORKLOADS), http=http_session
        )
        await GET(client)
        with pytest.raises(CreateOutcomeUnknown):
            await CREATE(client)
    assert server.connections == 2
    assert [request.method for request in server.received] == ["GET", "POST", "GET"]


SPENT = "the client's retry budget is spent, since too many of its requests failed of late"


@each(GET, CREATE)
async def test_a_spent_budget_ends_retries(against: Against, row: Row) -> None:
    """The retries of all calls come out of one budget; without it a call fails at its first
    failure, and says why.
    """
    server, client = await against(*refused(503), retry=RetryPolicy(budget=12))
    for attempts in (3, 1, 1):
        with pytest.raises(ServerError) as caught:
            await row(client)
        assert caught.value.attempts == attempts
        assert caught.value.__notes__ == [SPENT]
    assert len(server.received) == 5


async def test_a_retry_after_no_answer_costs_more(against: Against) -> None:
    """What got no answer held a connection all the while, and takes twice as much out of the
    budget.
    """
    _, client = await against(reset, retry=RetryPolicy(budget=12))
    with pytest.raises(ConnectionFailed) as caught:
        await GET(client)
    assert (caught.value.attempts, caught.value.__notes__) == (2, [SPENT])


async def test_successes_refill_the_budget(against: Against) -> None:
    """A success gives back what its last retry took; one at the first attempt earns a little, up to
    the budget.
    """
    server, client = await against(retry=RetryPolicy(budget=5))
    for _ in range(3):
        server.answers = [*refused(503), GET.success]
        await GET(client)
    server.answers = refused(503)
    with pytest.raises(ServerError, match="2 attempts"):
        await GET(client)
    for successes in (4, 5, 100):
        server.answers = [GET.success]
        for _ in range(successes):
            await GET(client)
        server.answers = refused(503)
        with pytest.raises(ServerError) as caught:
            await GET(client)
        assert caught.value.attempts == (1 if successes == 4 else 2)


async def test_the_token_exchange_shares_the_budget(against: Against) -> None:
    """When IAM is away, its retries are limited by the same budget, and those of the calls are by
    what it took.
    """
    iam, _ = await against(*refused(503))
    auth = [IBMCloudAuth("key", iam.url), static_auth()[1]]
    server, client = await against(*refused(503), auth=auth, retry=RetryPolicy(budget=5))
    for attempts in (2, 1):
        with pytest.raises(TokenExchangeFailed) as caught:
            await GET(client)
        assert caught.value.attempts == attempts
    iam.answers = [http(200, {"access_token": "token", "expires_in": 3600})]
    with pytest.raises(ServerError) as refusal:
        await GET(client)
    assert (refusal.value.attempts, len(server.received)) == (1, 1)


async def spent(client: AsyncSessionClient) -> None:
    """Use up a client's retry budget."""
    with pytest.raises(ServerError) as caught:
        await client.get("s1")
    assert caught.value.__notes__ == [SPENT]


@each(CLOSE, DRAIN, UPDATE)
async def test_the_budget_never_refuses_an_ending(against: Against, row: Row) -> None:
    """What ends a session is retried to the policy's limit however little is left of the budget."""
    server, client = await against(*refused(503), retry=RetryPolicy(budget=1))
    await spent(client)
    server.answers = [*refused(503, 502, 503, 503), row.success]
    await row(client)
    assert len(server.received) == 6


async def test_the_budget_never_refuses_what_an_ending_needs(against: Against) -> None:
    """The token, the API version and the look after a conflict that an ending waits for are retried
    like the ending itself.
    """
    iam, _ = await against(
        *refused(503, 503), http(200, {"access_token": "token", "expires_in": 3600})
    )
    auth = [IBMCloudAuth("key", iam.url), static_auth()[1]]
    server, client = await against(
        *refused(503, 503),
        VERSIONS.success,
        *refused(503, 409, 503, 503),
        http(200, SESSION | {"state": "closed"}),
        auth=auth,
        api_version="latest",
        retry=RetryPolicy(budget=1),
    )
    await DRAIN(client)
    assert len(iam.received) == 3
    assert [request.method for request in server.received] == ["GET"] * 3 + ["PATCH"] * 2 + [
        "GET"
    ] * 3


async def test_the_budget_never_refuses_the_close_of_a_cancelled_create(against: Against) -> None:
    """The session of a create that was cancelled in flight is closed though the budget is spent."""
    answered = asyncio.Event()

    async def late(connection: Connection) -> None:
        await answered.wait()
        await connection.write(CREATE.success)

    server, client = await against(*refused(503), retry=RetryPolicy(budget=1))
    await spent(client)
    server.answers = [late, *refused(503, 503), CLOSE.success]
    creating = asyncio.create_task(CREATE(client))
    await server.arrival(2)
    creating.cancel()
    answered.set()
    with pytest.raises(asyncio.CancelledError):
        await creating
    assert [request.method for request in server.received] == [
        "GET",
        "POST",
        "DELETE",
        "DELETE",
        "DELETE",
    ]


async def test_a_policy_without_a_budget_has_no_limit_but_its_own(against: Against) -> None:
    """With budget=None each call makes as many attempts as the policy allows."""
    server, client = await against(*refused(503), retry=RetryPolicy(budget=None))
    for _ in range(120):
        with pytest.raises(ServerError):
            await GET(client)
    assert len(server.received) == 600


async def test_the_default_budget_is_a_hundred_retries(against: Against) -> None:
    """In an outage a client sends a hundred requests more than without retries, however many calls
    it makes.
    """
    server, client = await against(*refused(503))
    for _ in range(120):
        with pytest.raises(ServerError):
            await GET(client)
    assert len(server.received) == 120 + 100


KEY = "the-api-key"


@pytest.mark.parametrize(
    "answer",
    [
        http(
            403,
            fault(f"apikey {KEY} is bad", code=KEY, solution=f"Change {KEY}.", trace=f"t-{KEY}"),
        ),
        http(403, f"<html><title>{KEY}</title></html>"),
        http(403, f"denied: authorization: apikey {KEY}".encode()),
        http(403, f"{'x' * 190} {KEY}".encode()),
        http(403, fault("x" * 990 + " " + KEY)),
        http(302, headers={"Location": f"https://elsewhere.example/?key={KEY}"}),
        f"HTTP/1.1 200 OK\r\nbad header {KEY}\r\n\r\n".encode(),
        f"HTTP/1.1 {KEY} OK\r\n\r\n".encode(),
        http(200, {"id": "s1", "started_at": KEY}),
    ],
    ids=[
        "own form",
        "HTML",
        "text",
        "at the cut",
        "at the long cut",
        "redirect",
        "no HTTP",
        "status",
        "time",
    ],
)
@each(GET, CREATE)
async def test_secrets_that_a_server_echoes_are_masked(
    against: Against, answer: bytes, row: Row
) -> None:
    """No part of an error shows a credential that the server sent back, not even the beginning of
    one.
    """
    _, client = await against(answer, retry=RetryPolicy(max_attempts=1))
    with pytest.raises(QSessionsError) as caught:
        await row(client)
    shown = f"{caught.value} {caught.value!r} {vars(caught.value)} {caught.value.args}"
    assert KEY[:6] not in shown


@pytest.mark.parametrize(
    "answer",
    [
        http(400, {"errorCode": "BXNIM0415E", "errorMessage": "No such key: a+b/c-key=="}),
        http(
            400,
            {
                "errorCode": "a+b/c-key==",
                "errorMessage": "x",
                "context": {"requestId": "a+b/c-key=="},
            },
        ),
        http(400, "<html><title>grant_type=x&apikey=a%2Bb%2Fc-key%3D%3D</title></html>"),
        http(200, {"access_token": "a+b/c-key==\n", "expires_in": 60}),
        b"HTTP/1.1 200 OK\r\napikey=a%2Bb%2Fc-key%3D%3D\r\n\r\n",
    ],
    ids=["message", "code", "form", "token", "no HTTP"],
)
async def test_an_api_key_that_iam_echoes_is_masked(against: Against, answer: bytes) -> None:
    """No part of a failed exchange's error shows the key, plain or as the form encodes it."""
    iam, _ = await against(answer)
    auth = [IBMCloudAuth("a+b/c-key==", iam.url), static_auth()[1]]
    service, client = await against(GET.success, auth=auth, retry=RetryPolicy(max_attempts=1))
    with pytest.raises((TokenExchangeFailed, ProtocolError)) as caught:
        await GET(client)
    shown = f"{caught.value} {caught.value!r} {vars(caught.value)} {caught.value.__notes__}"
    assert "a+b/c" not in shown
    assert "a%2Bb" not in shown
    assert caught.value.__notes__ == [
        "get needed the credentials; nothing was sent to the service."
    ]
    assert service.received == []


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"max_attempts": 0}, "max_attempts"),
        ({"base_delay": 0}, "base_delay"),
        ({"max_delay": "1"}, "max_delay"),
    ],
    ids=str,
)
def test_a_policy_that_cannot_be_right_is_refused(given: dict[str, Any], told: str) -> None:
    """A policy with a number out of range is refused when it is made."""
    with pytest.raises(ConfigurationError, match=told):
        RetryPolicy(**given)


async def test_many_calls_at_once_keep_their_own_attempts(
    against: Against, time: ManualClock
) -> None:
    """Calls side by side each follow the policy on their own."""
    script: Sequence[Answer] = refused(503, 503, 503)
    server, client = await against(*script, GET.success)
    results = await asyncio.gather(*(client.get("s1") for _ in range(3)))
    assert [session.id for session in results] == ["s1"] * 3
    assert len(server.received) == 6
    assert time.slept == [0.25] * 3
