"""Wrong arguments are refused with a sentence when they are passed, before anything is sent."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from qsessions import AsyncSessionClient, ConfigurationError, IBMCloudAuth, InvalidArgument
from tests.support.clients import Against, static_auth
from tests.support.providers import CustomProvider
from tests.support.tables import table


@table(
    ("arguments", "message"),
    [
        ({"retry": 5}, "retry= must be a RetryPolicy, not 5."),
        ({"retry": 0}, "retry= must be a RetryPolicy, not 0."),
        ({"clock": 5}, "clock= must be a Clock, not 5."),
        ({"allow_insecure": "false"}, "allow_insecure= must be True or False, not 'false'."),
        ({"http": 5}, "http= must be an aiohttp.ClientSession."),
        (
            {"headers": [("X-Secret", "planted")]},
            "headers= must be a mapping of names to values, not list.",
        ),
        (
            {"headers": {"Expect": "100-continue"}},
            "headers= can't set Expect, which qsessions sets itself.",
        ),
        ({"observers": 5}, "observers= must be an iterable of callables, not 5."),
        ({"observers": [None]}, "observers= must hold callables only, not (None,)."),
        (
            {"proxy": "http://u:pw@[]@"},
            'proxy= must be an http or https URL, such as "http://proxy.example:3128".',
        ),
    ],
)
def test_constructor_arguments_are_checked(arguments: dict[str, Any], message: str) -> None:
    """An argument of the wrong kind is refused when the client is made."""
    with pytest.raises(ConfigurationError) as caught:
        AsyncSessionClient(static_auth(), base_url="http://127.0.0.1:1", **arguments)
    assert caught.value.message == message


@table("url", ["https://xn--a", "", 5, "http://[]@"])
def test_urls_are_checked(url: Any) -> None:
    """A base URL or IAM URL that is none is refused when it is passed, the empty one included."""
    with pytest.raises(ConfigurationError, match="base_url must be an absolute URL"):
        AsyncSessionClient(static_auth(), base_url=url)
    with pytest.raises(ConfigurationError, match="iam_url must be an absolute URL"):
        IBMCloudAuth("key-0123456789", url)


@table(
    ("call", "message"),
    [
        (lambda client: client.versions(api_version="latest"), "api_version must be a date"),
        (
            lambda client: client.create(mode="batch", backend=" ibm_fez"),
            "backend must be a backend's name",
        ),
        (
            lambda client: client.create(mode="batch", backend="a\nb"),
            "backend must be a backend's name",
        ),
        (
            lambda client: client.create(backend="ibm_fez"),
            'create takes mode="dedicated" or mode="batch" with other fields, or one CreateSession',
        ),
        (
            lambda client: client.create("dedicated", backend="ibm_fez"),
            'create takes mode="dedicated" or mode="batch" with other fields, or one CreateSession',
        ),
    ],
)
async def test_call_arguments_are_checked(
    against: Against, call: Callable[[AsyncSessionClient], Any], message: str
) -> None:
    """An argument that can't be right is refused, and nothing is sent."""
    server, client = await against(b"")
    with pytest.raises(InvalidArgument, match=message):
        await call(client)
    assert server.received == []


@table(
    "filters",
    [
        {"mode": None},
        {"mode": 5},
        {"mode": [[]]},
        {"status": None},
        {"status": 5},
        {"api_version": ""},
    ],
)
async def test_filters_are_checked_at_once(against: Against, filters: dict[str, Any]) -> None:
    """A filter of the wrong kind is refused by the call itself, before the list is walked."""
    _, client = await against(b"")
    with pytest.raises(InvalidArgument, match=next(iter(filters))):
        client.workloads(**filters)


@table(
    ("headers", "message"),
    [
        (None, r"CustomProvider.headers\(\) gave NoneType, not a mapping"),
        ([("X-Mine", "planted")], r"CustomProvider.headers\(\) gave list, not a mapping"),
        ({"IBM-API-Version": "2024-01-01"}, "can't set the header IBM-API-Version"),
        ({"Host": "elsewhere.example"}, "can't set the header Host"),
    ],
)
async def test_what_a_provider_gives_is_checked(
    against: Against, headers: Any, message: str
) -> None:
    """A provider whose headers are no mapping, or hold one that isn't its to set, is refused by
    name, and nothing is sent.
    """
    server, client = await against(b"", auth=[CustomProvider(lambda: headers)])
    with pytest.raises(ConfigurationError, match=message):
        await client.get("s1")
    assert server.received == []
