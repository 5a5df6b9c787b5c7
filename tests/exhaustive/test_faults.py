"""The long form of tests/integration/test_faults.py: each operation with everything."""

from __future__ import annotations

import ssl

import pytest
import trustme

from tests.support.calls import Row, each
from tests.support.fault_checks import (
    BODIES,
    HARMLESS,
    IAM_FAULTS,
    REDIRECTS,
    bad_tls,
    check_certificate,
    check_fault,
    check_form,
    check_iam,
    check_redirect,
    check_status,
)
from tests.support.faults import FAULTS, STATUSES
from tests.support.tables import row_of_table

pytestmark = each()


async def test_each_fault_has_its_class(row: Row) -> None:
    """Whatever comes in place of an answer, the call ends in time, as what happened."""
    for fault in FAULTS:
        await check_fault(fault, row)


async def test_each_status_has_its_class(row: Row) -> None:
    """A refusal has the class of its status, whatever its body, but for what its check lists."""
    for status in STATUSES:
        for body in BODIES:
            await check_status(status, body, row)


async def test_credentials_never_travel_to_another_host(row: Row) -> None:
    """A redirect of any status is an error, and the server that it leads to hears nothing."""
    for status in REDIRECTS:
        await check_redirect(status, row)


async def test_an_unusual_answer_is_read(row: Row) -> None:
    """An answer of any form that takes nothing from what it says does no harm."""
    for form in HARMLESS:
        await check_form(form, row)


@pytest.fixture
def bad_servers(authority: trustme.CA) -> dict[str, ssl.SSLContext]:
    """Return the TLS settings of servers that nobody should talk to."""
    return bad_tls(authority)


async def test_a_certificate_that_is_not_right_ends_the_call(
    row: Row, bad_servers: dict[str, ssl.SSLContext], client_tls: ssl.SSLContext
) -> None:
    """Who can't prove to be the service, for whatever reason, hears nothing."""
    for wrong, server_tls in bad_servers.items():
        with row_of_table(wrong):
            await check_certificate(row, server_tls=server_tls, client_tls=client_tls)


async def test_without_a_token_nothing_is_sent(row: Row) -> None:
    """Whatever is wrong with IAM, the call fails within its deadline."""
    for wrong in IAM_FAULTS:
        await check_iam(wrong, row)
