"""The four credentials that never change: one header each, checked before anything is sent."""

from typing import Any

import pytest
from hypothesis import given, strategies as st

from qsessions import (
    BackendAuthentication,
    ConfigurationError,
    ExternalServiceToken,
    IBMCloudAPIKey,
    IBMCloudAuth,
    Request,
    Response,
    ServiceCRN,
)
from qsessions.auth import StaticHeader
from tests.support.clients import CRN
from tests.support.leftovers import LEFTOVERS
from tests.support.tables import table

LINE_END = "contains a line end (CR, LF) or NUL, as text read from a file without strip() does"
KINDS: list[tuple[type[StaticHeader], str, dict[str, str]]] = [
    (IBMCloudAPIKey, "planted", {"Authorization": "apikey planted"}),
    (BackendAuthentication, "planted", {"Backend-Authentication": "planted"}),
    (ExternalServiceToken, "planted", {"external-service-token": "planted"}),
    (ServiceCRN, CRN, {"Service-CRN": CRN}),
]
SECRET_KINDS = [IBMCloudAPIKey, BackendAuthentication, ExternalServiceToken]


class NoTransport:
    """A transport for providers that have nobody to ask."""

    async def send(self, request: Request) -> Response:
        """Fail."""
        raise AssertionError(f"a static credential sent {request}")

    def spawn(self, coroutine: Any) -> Any:
        """Fail."""
        raise AssertionError(f"a static credential started {coroutine}")


@pytest.mark.smoke
@table(("kind", "value", "headers"), KINDS)
async def test_headers(kind: type[StaticHeader], value: str, headers: dict[str, str]) -> None:
    """Each credential goes into its own header and no other, without asking anybody."""
    assert await kind(value).headers(NoTransport()) == headers


@table(("kind", "value", "headers"), KINDS)
def test_invalidate(kind: type[StaticHeader], value: str, headers: dict[str, str]) -> None:
    """After a 401 there is no fresher credential, so the call isn't tried again for nothing."""
    assert kind(value).invalidate(headers) is False


@table("kind", SECRET_KINDS)
async def test_repr(kind: type[StaticHeader]) -> None:
    """Neither the provider's text nor that of its headers shows the credential."""
    provider = kind("planted")
    assert repr(provider) == f"{kind.__name__}(***)"
    assert "planted" not in repr(await provider.headers(NoTransport()))


def test_crn() -> None:
    """A CRN is no secret: it is shown, and its region can be read."""
    provider = ServiceCRN(CRN)
    assert repr(provider) == f"ServiceCRN({CRN!r})"
    assert (provider.crn, provider.region) == (CRN, "us-east")


@table(
    ("value", "problem"),
    [
        ("", "is empty"),
        ("planted\n", LINE_END),
        ("planted\r\nX-Evil: 1", LINE_END),
        ("plan\0ted", LINE_END),
        (" planted", "starts or ends with white space"),
        ("plantéd", "contains characters outside printable ASCII"),
        (None, "is not text but NoneType"),
        (b"planted", "is not text but bytes"),
    ],
)
@table("kind", [*SECRET_KINDS, ServiceCRN])
def test_refused(kind: type[StaticHeader], value: Any, problem: str) -> None:
    """What can't be a header's value is refused when the provider is made, without repeating it."""
    with pytest.raises(ConfigurationError) as caught:
        kind(value)
    assert caught.value.message == f"the value for {kind.__name__} {problem}."
    assert not shows_planted(caught)


@table(("value", "problem"), LEFTOVERS)
@table("make", [*SECRET_KINDS, ServiceCRN, IBMCloudAuth, IBMCloudAuth.from_token])
def test_leftovers(make: Any, value: str, problem: str) -> None:
    """A credential in quotation marks or a placeholder for it is refused by every provider."""
    with pytest.raises(ConfigurationError) as caught:
        make(value)
    assert caught.value.message.endswith(f" {problem}.")
    assert not shows_planted(caught)


@table(
    "value",
    [
        "planted",
        "planted-instance-name",
        "crn:v1:bluemix:public:quantum-computing:us-east",
        "crn:v1:bluemix:public:quantum-computing::a/x:guid::",
        "crn:v1:bluemix:public:quantum-computing:us_east:a/x:guid::",
        "crn:v1:bluemix:public:quantum-computing:evil.example/:a/x:guid::",
        "crn:v1:bluemix:public:quantum-computing:-us:a/x:guid::",
        "crn:v1:bluemix:public:quantum-computing:US-EAST:a/x:guid::",
        "CRN:v1:bluemix:public:quantum-computing:us-east:a/x:guid::",
        "planted:v1:bluemix:public:quantum-computing:us-east:a/x:guid::",
    ],
)
def test_no_crn(value: str) -> None:
    """What is no CRN with a region is refused, with the way to get one; it may be a key in the
    wrong place, so it isn't repeated.
    """
    with pytest.raises(ConfigurationError) as caught:
        ServiceCRN(value)
    error = caught.value
    is_name = "crn:" not in value.lower()
    assert error.message == (
        "the value for ServiceCRN is not the CRN of a service instance"
        f"{'; a name is not enough' * is_name}."
    )
    assert error.solution is not None
    assert "crn:v1:bluemix:public:quantum-computing:" in error.solution
    assert not shows_planted(caught)


def shows_planted(caught: pytest.ExceptionInfo[ConfigurationError]) -> bool:
    """Whether the error, or a local variable of ours on the way to it, shows the value that was
    given.
    """
    frames = [entry.frame for entry in caught.traceback[1:]]
    return "planted" in f"{caught.value!s} {caught.value!r} {[frame.f_locals for frame in frames]}"


@given(st.text("abz019-.:/_AZ@ ", max_size=12))
def test_any_region(region: str) -> None:
    """A region that is accepted can't leave its place in a host name."""
    try:
        provider = ServiceCRN(f"crn:v1:bluemix:public:quantum-computing:{region}:a/x:guid::")
    except ConfigurationError:
        return
    assert set(provider.region) <= set("abz019-")
    assert provider.region[0] != "-"
