"""Each fault of the network, of the service and of what stands between, with each operation."""

from __future__ import annotations

import ssl

import pytest
import trustme

from qsessions import (
    AsyncSessionClient,
    ConnectionFailed,
    CreateOutcomeUnknown,
    IBMCloudAuth,
    ResponseReceived,
    RetryPolicy,
    ServerError,
    ServiceCRN,
)
from qsessions.events import Event
from qsessions.testing import ManualClock
from tests.support.calls import CREATE, GET, ROWS, VERSIONS, Row, each
from tests.support.clients import CRN, Against, static_auth
from tests.support.fault_checks import (
    BODIES,
    HARMLESS,
    IAM_FAULTS,
    REDIRECTS,
    SHAPES,
    TOKEN,
    bad_tls,
    check_certificate,
    check_fault,
    check_form,
    check_iam,
    check_redirect,
    check_shape,
    check_status,
)
from tests.support.fault_server import FaultServer, hang, http
from tests.support.faults import FAULT_SAMPLE, FAULTS, LONG_S, STATUSES, within
from tests.support.tables import row_of_table

OTHERS = tuple(row for row in ROWS if row is not CREATE)


async def test_each_fault_has_its_class() -> None:
    """Whatever comes in place of an answer, the call ends in time, as what happened, and leaves
    nothing behind; the next one works.

    A create meets each fault, any other call one of each class.
    """
    for fault in FAULTS:
        await check_fault(fault, CREATE)
    for row in OTHERS:
        for fault in FAULT_SAMPLE:
            await check_fault(fault, row)


async def test_each_status_has_its_class() -> None:
    """A refusal has the class of its status, whoever wrote its body, but for three: a create that
    may have been carried out is unknown, a 404 of another form than the service's is no `NotFound`,
    and an HTML page with 401 or 403 says nothing about the credentials.

    A create meets each status with each body, a reading each status, any other call one of each
    class.
    """
    for status in STATUSES:
        for body in BODIES:
            await check_status(status, body, CREATE)
        await check_status(status, "own", GET)
    for row in OTHERS:
        for status in (401, 403, 404):
            for body in BODIES:
                await check_status(status, body, row)
        for status in (400, 409, 418, 429, 500, 501, 502, 503):
            await check_status(status, "own", row)


async def test_credentials_never_travel_to_another_host() -> None:
    """A redirect is an error, and the server that it leads to hears nothing."""
    for status in REDIRECTS:
        await check_redirect(status, CREATE)
    for row in OTHERS:
        await check_redirect(307, row)


async def test_an_unusual_answer_is_read() -> None:
    """What is strange about an answer, and takes nothing from what it says, does no harm."""
    for form in HARMLESS:
        for row in (CREATE, GET):
            await check_form(form, row)
    for row in OTHERS:
        for form in ("interim answers", "no length", "chunks of a byte"):
            await check_form(form, row)


@each(CREATE, GET)
async def test_the_last_of_duplicate_keys_counts(row: Row, against: Against) -> None:
    """JSON leaves open what a name that comes twice means; as nearly everywhere the last one
    counts.
    """
    body = http(200, b'{"id": "s0", "max_ttl": {}, "id": "s1", "max_ttl": 60}')
    _, client = await against(body)
    session = await row(client)
    assert (session.id, session.max_ttl) == ("s1", 60)


async def test_each_field_of_the_wrong_shape_is_named() -> None:
    """A field that doesn't hold what it should is named; of a create, the session's id is known all
    the same.
    """
    for shape in SHAPES:
        await check_shape(shape)


@each()
async def test_a_connection_that_can_not_be_made_is_told(row: Row, time: ManualClock) -> None:
    """When nobody listens, or the host has no address, nothing was sent: even a create is tried
    again, and fails as itself.
    """
    async with FaultServer(row.success) as gone:
        nobody = gone.url
    for url, tried in ((nobody, 5), ("https://service.invalid", 1)):
        policy = RetryPolicy(max_attempts=tried)
        async with AsyncSessionClient(
            static_auth(), base_url=url, clock=time, retry=policy
        ) as client:
            with pytest.raises(ConnectionFailed, match="can't be reached") as caught:
                await row(client)
        assert (caught.value.sent, caught.value.attempts) == (False, tried)


@each()
async def test_a_connection_that_is_reset_unheard(row: Row, against: Against) -> None:
    """When the server tears connections down before it reads, a create is unknown exactly where its
    request had begun to go out.
    """
    server, client = await against(row.success)
    server.deaf = True
    with pytest.raises((ConnectionFailed, CreateOutcomeUnknown)) as caught:
        await row(client)
    assert server.received == []
    if row is CREATE and isinstance(caught.value, ConnectionFailed):
        assert not caught.value.sent


@each()
async def test_a_server_that_is_gone_for_good(
    row: Row, against: Against, time: ManualClock
) -> None:
    """Once the server is gone, a call on a connection that is still kept tries again, within its
    deadline, and fails as itself.
    """
    server, client = await against(GET.success)
    await GET(client)
    await server.stop()
    with within(LONG_S, time), pytest.raises(ConnectionFailed) as caught:
        await row(client)
    assert (caught.value.sent, caught.value.attempts) == (False, 5)
    assert server.count(row.method) == (row.method == "GET")


@pytest.fixture
def bad_servers(authority: trustme.CA) -> dict[str, ssl.SSLContext]:
    """Return the TLS settings of servers that nobody should talk to."""
    return bad_tls(authority)


async def test_a_certificate_that_is_not_right_ends_the_call(
    bad_servers: dict[str, ssl.SSLContext], client_tls: ssl.SSLContext
) -> None:
    """Who can't prove to be the service hears nothing, not even of a second try."""
    for wrong, server_tls in bad_servers.items():
        for row in ROWS if wrong == "expired" else (CREATE,):
            with row_of_table(wrong, row.name):
                await check_certificate(row, server_tls=server_tls, client_tls=client_tls)


async def test_without_a_token_nothing_is_sent() -> None:
    """Whatever is wrong with IAM, a call that needs a token fails within its deadline, and the
    service hears nothing of it.
    """
    for wrong in IAM_FAULTS:
        await check_iam(wrong, CREATE)
    for row in OTHERS:
        for wrong in ("silence", "reset", "503"):
            await check_iam(wrong, row)


@each()
async def test_an_iam_that_is_down(row: Row, against: Against, time: ManualClock) -> None:
    """When IAM can't be reached at all, only what needs no token goes on."""
    async with FaultServer(hang) as iam:
        auth = [IBMCloudAuth("key", iam.url, clock=time), ServiceCRN(CRN)]
    server, client = await against(row.success, auth=auth)
    if row is VERSIONS:
        await row(client)
        return
    with pytest.raises(ConnectionFailed) as caught:
        await row(client)
    assert (caught.value.operation, caught.value.sent) == ("token_exchange", False)
    assert str(caught.value).startswith(
        "the token exchange with IAM at 127.0.0.1: the server can't be reached. "
    )
    assert str(caught.value).endswith("Check the network, the proxy and IAM_URL.")
    assert server.received == []


@each()
async def test_a_clock_that_jumps_an_hour(row: Row, against: Against, time: ManualClock) -> None:
    """An answer after the jump counts, a failure isn't repeated past the deadline, and the next
    call asks for a new token.
    """

    def jump(event: Event) -> None:
        if isinstance(event, ResponseReceived) and event.operation != "token_exchange":
            time.advance(3600)

    async with FaultServer(http(200, TOKEN)) as iam:
        auth = [IBMCloudAuth("key", iam.url, clock=time), ServiceCRN(CRN)]
        script = (row.success, http(503), row.success)
        server, client = await against(*script, auth=auth, observers=[jump])
        await row(client)
        with pytest.raises(ServerError, match="503") as caught:
            await row(client)
        await row(client)
        assert len(server.received) == 3
        assert len(iam.received) == (0 if row is VERSIONS else 3)
    assert "deadline is in 0 s" in caught.value.__notes__[0]
