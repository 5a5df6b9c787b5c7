"""The five credentials, each in its own header and no other, and providers that users write
themselves.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Any, ClassVar

import attrs
import pytest

from qsessions import (
    AsyncSessionClient,
    AuthProvider,
    BackendAuthentication,
    ConfigurationError,
    ExternalServiceToken,
    IBMCloudAPIKey,
    IBMCloudAuth,
    ServiceCRN,
    Transport,
    Unauthorized,
)
from qsessions.emulator import Emulator
from tests.support.calls import CREATE, GET
from tests.support.clients import CRN, Against
from tests.support.fault_server import http
from tests.support.providers import CustomProvider, failing
from tests.support.tables import table

REFUSED = http(401, {"errors": [{"code": 1201, "message": "Invalid credentials."}]})
HEADERS = ("authorization", "backend-authentication", "external-service-token", "service-crn")

# Each way of making a provider from text.
PROVIDERS: list[Callable[[Any], AuthProvider]] = [
    IBMCloudAuth,
    IBMCloudAuth.from_token,
    IBMCloudAPIKey,
    BackendAuthentication,
    ExternalServiceToken,
    ServiceCRN,
]


@pytest.mark.smoke
@table(
    ("make", "header", "value"),
    [
        (IBMCloudAuth.from_token, "authorization", "Bearer planted"),
        (IBMCloudAPIKey, "authorization", "apikey planted"),
        (BackendAuthentication, "backend-authentication", "planted"),
        (ExternalServiceToken, "external-service-token", "planted"),
    ],
)
async def test_a_credential_is_sent_in_its_own_header_only(
    against: Against, make: Callable[[str], AuthProvider], header: str, value: str
) -> None:
    """Of the four credential headers, a call has the provider's own and the CRN's, exactly."""
    server, client = await against(GET.success, auth=[make("planted"), ServiceCRN(CRN)])
    await client.get("s1")
    (received,) = server.received
    sent = {name: received.headers[name] for name in HEADERS if name in received.headers}
    assert sent == {header: value, "service-crn": CRN}
    assert sum("planted" in text for text in received.headers.values()) == 1
    assert "planted" not in f"{received.target}{received.body!r}"


@pytest.mark.smoke
@table(
    "scheme", ["IBMCloudAuth", "IBMCloudAPIKey", "BackendAuthentication", "ExternalServiceToken"]
)
async def test_the_emulator_lets_each_scheme_in(emulator: Emulator, scheme: str) -> None:
    """A session is created and closed with each of the service's credentials."""
    auth: AuthProvider = {
        "IBMCloudAuth": IBMCloudAuth(emulator.api_key, emulator.iam_url),
        "IBMCloudAPIKey": IBMCloudAPIKey(emulator.api_key),
        "BackendAuthentication": BackendAuthentication(emulator.backend_token),
        "ExternalServiceToken": ExternalServiceToken(emulator.service_token),
    }[scheme]
    async with AsyncSessionClient(
        [auth, ServiceCRN(emulator.crn)], base_url=emulator.url
    ) as client:
        session = await client.create(mode="dedicated", max_ttl=60)
        await client.close(session.id)
    assert emulator.sessions[session.id].state == "closed"


@table("make", PROVIDERS)
@table(
    ("value", "message"),
    [
        ("planted\r", "line end"),
        ("planted\nX-Evil: 1", "line end"),
        ("planted\0", "NUL"),
        ("", "is empty"),
        ("plänted", "outside printable ASCII"),
        ("planted\x7f", "outside printable ASCII"),
        ("planted\x1b[0m", "outside printable ASCII"),
        (" planted", "white space"),
        ("planted\t", "white space"),
        (None, "is not text but NoneType"),
        (b"planted", "is not text but bytes"),
        (17, "is not text but int"),
    ],
)
def test_a_credential_that_no_header_can_hold_is_refused(
    make: Callable[[Any], object], value: object, message: str
) -> None:
    """What would smuggle in a header, or is a paste error, is refused when the provider is made,
    without being repeated.
    """
    with pytest.raises(ConfigurationError, match=message) as caught:
        make(value)
    assert "planted" not in f"{caught.value}{caught.value.__dict__}"
    assert "planted" not in repr([frame.frame.f_locals for frame in caught.traceback[1:]])


@table("make", PROVIDERS)
def test_a_provider_does_not_show_its_credential(make: Callable[[str], object]) -> None:
    """The repr of a provider holds no secret; a CRN is none."""
    text = repr(make(CRN))
    assert text == f"ServiceCRN({CRN!r})" if make is ServiceCRN else CRN not in text


@table(
    "value",
    [
        "my-instance",
        "crn:v1:bluemix:public:satellite",
        "crn:v1:bluemix:public:quantum-computing::a/0123:1111::",
        "crn:v1:bluemix:public:quantum-computing:us-east.evil.example/:a/0123:1111::",
        "crn:v1:bluemix:public:quantum-computing:US-EAST@evil:a/0123:1111::",
        "nrc:v1:bluemix:public:quantum-computing:us-east:a/0123:1111::",
    ],
)
def test_a_name_in_place_of_a_crn_is_refused(value: str) -> None:
    """An instance's name, or a CRN with a region that is none, is refused with where to find the
    right one, and isn't repeated.
    """
    with pytest.raises(ConfigurationError, match="is not the CRN") as caught:
        ServiceCRN(value)
    assert "Copy the CRN" in str(caught.value)
    assert value not in str(caught.value)


def test_a_crn_names_its_region() -> None:
    """The region that the service's host is made of is the CRN's sixth field."""
    assert ServiceCRN(CRN.replace("us-east", "eu-de")).region == "eu-de"


async def _async_token() -> str:
    return "t1"


@table("source", ["t1", lambda: "t1", _async_token])
async def test_a_token_may_be_text_or_come_from_a_callable(
    against: Against, source: str | Callable[[], str | Awaitable[str]]
) -> None:
    """A token that a user has is sent as a bearer token, wherever it comes from."""
    server, client = await against(
        GET.success, auth=[IBMCloudAuth.from_token(source), ServiceCRN(CRN)]
    )
    await client.get("s1")
    assert server.received[0].headers["authorization"] == "Bearer t1"


async def _nothing() -> None:
    return None


@table(
    ("source", "message"),
    [
        (lambda: None, "yielded NoneType, not text"),
        (lambda: b"planted", "yielded bytes, not text"),
        (lambda: ["planted"], "yielded list, not text"),
        (_nothing, "yielded NoneType, not text"),
        (lambda: "", "IBMCloudAuth gave starts or ends with white space"),
        (lambda: "planted\r\nX-Evil: 1", "IBMCloudAuth gave contains a line end"),
        (lambda: "plänted", "IBMCloudAuth gave contains characters outside"),
    ],
)
async def test_a_callable_that_yields_no_token_is_an_error(
    against: Against, source: Any, message: str
) -> None:
    """What a callable yields is checked at each call; nothing is sent, and the message doesn't hold
    it.
    """
    server, client = await against(
        GET.success, auth=[IBMCloudAuth.from_token(source), ServiceCRN(CRN)]
    )
    with pytest.raises(ConfigurationError, match=message) as caught:
        await client.get("s1")
    assert "planted" not in str(caught.value)
    assert caught.value.operation == "get"
    assert server.received == []


async def test_a_callable_is_asked_again_after_a_401(against: Against) -> None:
    """A callable may have a fresh token, so a 401 is repeated once with what it then yields."""
    tokens = iter(["old", "new"])
    server, client = await against(
        REFUSED, GET.success, auth=[IBMCloudAuth.from_token(lambda: next(tokens)), ServiceCRN(CRN)]
    )
    await client.get("s1")
    assert [request.headers["authorization"] for request in server.received] == [
        "Bearer old",
        "Bearer new",
    ]


@table("make", PROVIDERS)
async def test_a_credential_that_stays_is_not_sent_again_after_a_401(
    against: Against, make: Callable[[str], AuthProvider]
) -> None:
    """Where no fresh credential can be had, a 401 is final after one request."""
    if make is IBMCloudAuth:
        provider: AuthProvider = IBMCloudAuth.from_token(CRN)
    else:
        provider = make(CRN)
    server, client = await against(
        REFUSED, auth=[provider, ServiceCRN(CRN) if make is not ServiceCRN else IBMCloudAPIKey("k")]
    )
    with pytest.raises(Unauthorized) as caught:
        await client.get("s1")
    assert (len(server.received), caught.value.attempts) == (1, 1)


class Ticket:
    """A provider that a user wrote."""

    def __init__(self, *values: str, header: str = "X-Ticket") -> None:
        self.values = list(values)
        self.header = header
        self.refused: list[dict[str, str]] = []

    async def headers(self, transport: Transport) -> Mapping[str, str]:
        """Return the current ticket."""
        return {self.header: self.values[0]}

    def invalidate(self, refused: Mapping[str, str]) -> bool:
        """Go on to the next ticket, and return whether there is one."""
        self.refused.append(dict(refused))
        if refused[self.header] == self.values[0]:
            del self.values[0]
        return bool(self.values)


@pytest.mark.smoke
async def test_a_provider_of_ones_own_works(against: Against) -> None:
    """A provider of ten lines is asked for its headers, hears of a 401 with just these, and is asked
    again.
    """
    ticket = Ticket("one", "two")
    server, client = await against(REFUSED, GET.success, auth=[ticket, ServiceCRN(CRN)])
    await client.get("s1")
    assert [request.headers["x-ticket"] for request in server.received] == ["one", "two"]
    assert ticket.refused == [{"X-Ticket": "one"}]


async def test_a_provider_that_has_nothing_fresh_ends_the_call(against: Against) -> None:
    """When `invalidate` says that a fresh try can't do better, the 401 is final."""
    server, client = await against(REFUSED, auth=Ticket("one"))
    with pytest.raises(Unauthorized):
        await client.get("s1")
    assert len(server.received) == 1


async def test_every_provider_hears_of_a_401(against: Against) -> None:
    """One that has something fresh to offer is enough, and it takes the word from no other."""
    first, second = Ticket("one", "two"), Ticket("three", header="X-Other")
    server, client = await against(REFUSED, REFUSED, auth=[first, second, ServiceCRN(CRN)])
    second.values.append("four")
    with pytest.raises(Unauthorized):
        await client.get("s1")
    assert (first.refused, second.refused) == ([{"X-Ticket": "one"}], [{"X-Other": "three"}])
    assert [
        (request.headers["x-ticket"], request.headers["x-other"]) for request in server.received
    ] == [
        ("one", "three"),
        ("two", "four"),
    ]


async def test_a_provider_may_return_any_awaitable(against: Against) -> None:
    """Headers may come from a future, and after any number of waits, which may fail in between."""

    class Vault(CustomProvider):
        def headers(self, transport: object) -> Any:
            return asyncio.ensure_future(self._after_a_failure())

        async def _after_a_failure(self) -> dict[str, str]:
            broken = asyncio.get_running_loop().create_future()
            broken.set_exception(LookupError)
            with suppress(LookupError):
                await asyncio.gather(asyncio.sleep(0), broken)
            await asyncio.sleep(0)
            return {"X-Ticket": "a-ticket"}

    server, client = await against(GET.success, auth=Vault(dict))
    await client.get("s1")
    assert server.received[0].headers["x-ticket"] == "a-ticket"


@table(
    ("auth", "message"),
    [
        (failing(LookupError("no ticket")), "failed in CustomProvider.headers(). LookupError: no ticket"),
        (failing(TimeoutError("stuck")), "failed in CustomProvider.headers(). TimeoutError: stuck"),
        (failing(OSError(2, "No such file", "/run/t1")), "FileNotFoundError: [Errno 2] No such file: '/run/t1'"),
    ],
)  # fmt: skip
async def test_an_error_of_a_custom_provider_is_one_of_ours(
    against: Against, auth: Any, message: str
) -> None:
    """What a user's own provider raises comes out as an error of ours that names the provider, with
    its type and text and without its frames, and nothing is sent.
    """
    server, client = await against(GET.success, auth=auth)
    for row in (GET, CREATE):
        with pytest.raises(ConfigurationError) as caught:
            await row(client)
        error = caught.value
        assert message in error.message
        assert (error.operation, error.argument, error.attempts) == (row.name, "auth", 0)
        assert error.__cause__ is error.__context__ is None
    assert server.received == []


async def test_an_error_of_a_custom_provider_shows_no_other_ones_secret(against: Against) -> None:
    """What a provider says for itself may repeat what the others gave, which is masked in all of it;
    the error that it raised stays as it is.
    """
    secret = "the-secret-of-another"
    error = ConfigurationError(f"no vault for {secret}.", solution=f"Unlock {secret}.", code=secret)
    error.trace_id = secret
    first = CustomProvider(lambda: {"X-Key": secret})
    server, client = await against(GET.success, auth=[first, failing(error)])
    for _ in range(2):
        with pytest.raises(ConfigurationError) as caught:
            await client.get("s1")
        told = caught.value
        assert (told.message, told.solution) == ("no vault for ***.", "Unlock ***.")
        assert (told.code, told.trace_id, told.args) == ("***", "***", ("no vault for ***.",))
        assert told.operation == "get"
    assert error.message == f"no vault for {secret}."
    assert error.operation is None
    assert server.received == []


@table(
    ("error", "shown", "known"),
    [
        ("the word is planted-word", "the word is ***", {"word": "planted-word"}),
        ("planted-one and planted-two", "*** and ***", {"words": ["planted-one", "planted-two"]}),
        ("b64: cGxhbnRlZC13b3Jk", "b64: ***", {"words": {"a": "planted-word", "b": 7}}),
        ("Authorization: Bearer planted1", "Authorization: Bearer ***", {}),
        ("http://me:planted@vault.example/x is gone", "http://***@vault.example/x is gone", {}),
        ("Basic authentication failed at /run/vault", "Basic authentication failed at /run/vault", {"path": "/run/vault"}),
        ("https://vault.example is gone", "https://vault.example is gone", {"url": "https://vault.example"}),
    ],
)  # fmt: skip
async def test_a_providers_error_shows_no_secret(
    against: Against, error: str, shown: str, known: dict[str, object]
) -> None:
    """What a failing provider quotes of what it keeps, or of a header or a URL, is masked; places
    are shown.
    """

    class Vault(CustomProvider):
        async def headers(self, _: object) -> Any:
            raise LookupError(error)

    provider = Vault(dict)
    vars(provider).update(known)
    _, client = await against(GET.success, auth=provider)
    with pytest.raises(ConfigurationError) as caught:
        await client.get("s1")
    assert caught.value.message.endswith(f"LookupError: {shown}.")


async def test_a_providers_error_shows_nothing_of_its_slots(against: Against) -> None:
    """A provider may keep its secret in a slot, as attrs' classes do, or in its class."""

    @attrs.define
    class Slotted(CustomProvider):
        key: str
        unset: str = attrs.field(init=False)
        shared: ClassVar[str] = "planted-for-all"

        async def headers(self, transport: object) -> Any:
            raise LookupError(f"{self.key} and {self.shared}")

    _, client = await against(GET.success, auth=Slotted("planted-key"))
    with pytest.raises(ConfigurationError, match=r"LookupError: \*\*\* and \*\*\*\."):
        await client.get("s1")


async def test_a_providers_error_shows_no_header_of_before(against: Against) -> None:
    """What was sent with an earlier call is masked, and so is what another provider gave."""
    planted = iter(["planted-before"])

    def ticket() -> dict[str, str]:
        if (value := next(planted, None)) is not None:
            return {"X-Ticket": value}
        raise LookupError("planted-before is over, planted-other too")

    first = CustomProvider(lambda: {"X-Other": "planted-other"})
    _, client = await against(GET.success, auth=[first, CustomProvider(ticket)])
    await client.get("s1")
    with pytest.raises(ConfigurationError, match=r"LookupError: \*\*\* is over, \*\*\* too"):
        await client.get("s1")


class Plain:
    """A provider whose author left out `async`."""

    def headers(self, transport: Transport) -> object:
        """Return headers at once."""
        return {"X-Ticket": "planted"}

    def invalidate(self, refused: Mapping[str, str]) -> bool:
        """Return that a fresh try can't do better."""
        return False


async def test_a_provider_that_is_not_async_is_told(against: Against) -> None:
    """Where `headers` returns its headers at once, or nothing, the error says what to write."""

    class Empty(Plain):
        def headers(self, transport: Transport) -> object:
            return None

    for provider in (Plain(), Empty()):
        server, client = await against(GET.success, auth=provider)
        with pytest.raises(ConfigurationError, match=r"\.headers\(\) is not async") as caught:
            await client.get("s1")
        assert "async def headers(self, transport)" in (caught.value.solution or "")
        assert "planted" not in str(caught.value)
        assert server.received == []


async def test_an_invalidate_that_fails_is_an_error_of_ours(against: Against) -> None:
    """What `invalidate` raises after a 401 comes out the same way, and an async one is told."""

    class Failing(Ticket):
        def invalidate(self, refused: Mapping[str, str]) -> bool:
            raise LookupError(f"no ticket after {refused['X-Ticket']}")

    class Async(Ticket):
        async def invalidate(self, refused: Mapping[str, str]) -> bool:  # type: ignore[override]
            return True

    class Ours(Ticket):
        def invalidate(self, refused: Mapping[str, str]) -> bool:
            raise ConfigurationError("the vault is shut.")

    for provider, message in (
        (
            Failing("planted-ticket"),
            r"in Failing.invalidate\(\). LookupError: no ticket after \*\*\*",
        ),
        (Async("one"), r"in Async.invalidate\(\). TypeError: it must not be async"),
        (Ours("one"), "the vault is shut"),
    ):
        server, client = await against(REFUSED, auth=provider)
        for row in (GET, CREATE):
            with pytest.raises(ConfigurationError, match=message) as caught:
                await row(client)
            assert (caught.value.operation, caught.value.attempts) == (row.name, 1)
        assert len(server.received) == 2


@table(
    ("header", "value", "message"),
    [
        ("X-Ticket", "planted\r\nX-Evil: 1", "line end"),
        ("X-Ticket", "planted\0", "NUL"),
        ("X-Ticket", "", "is empty"),
        ("X-Ticket", "plänted", "outside printable ASCII"),
        ("X-Ticket", " planted", "white space"),
        ("X-Ticket\r\nX-Evil", "planted", "name that no header can have"),
        ("X Ticket", "planted", "name that no header can have"),
        ("", "planted", "name that no header can have"),
    ],
)
async def test_a_custom_header_that_is_none_is_refused(
    against: Against, header: str, value: str, message: str
) -> None:
    """A custom provider can't smuggle in headers either; the message names the provider and not the
    value.
    """
    server, client = await against(GET.success, auth=Ticket(value, header=header))
    with pytest.raises(ConfigurationError, match=message) as caught:
        await client.get("s1")
    assert "Ticket" in caught.value.message
    assert "planted" not in str(caught.value)
    assert server.received == []


@table(
    "auth",
    [
        [IBMCloudAuth("k"), IBMCloudAPIKey("k")],
        [IBMCloudAuth.from_token("t"), IBMCloudAuth("k"), ServiceCRN(CRN)],
        [ServiceCRN(CRN), ServiceCRN(CRN)],
        [BackendAuthentication("k"), Ticket("x"), BackendAuthentication("k")],
    ],
)
def test_two_built_in_providers_of_one_header_are_refused_at_once(auth: list[AuthProvider]) -> None:
    """A client isn't made with two credentials for one place."""
    with pytest.raises(ConfigurationError, match="both set the header"):
        AsyncSessionClient(auth)


@table("header", ["Authorization", "AUTHORIZATION", "authorization"])
async def test_a_custom_provider_of_a_taken_header_is_refused_at_the_first_merge(
    against: Against, header: str
) -> None:
    """Which headers a custom provider sets shows when it gives them; two for one place are refused
    whatever the case.
    """
    server, client = await against(
        GET.success, auth=[IBMCloudAPIKey("planted"), Ticket("planted", header=header)]
    )
    with pytest.raises(ConfigurationError, match="two auth providers set the header") as caught:
        await client.get("s1")
    assert "planted" not in str(caught.value)
    assert server.received == []
