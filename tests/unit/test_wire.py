"""Requests, responses and the checks of what goes into a header or a URL."""

from typing import Any

import attrs
import pytest
from hypothesis import given, strategies as st
from yarl import URL

from qsessions import ConfigurationError, Request, Response
from qsessions.api.addresses import service_url
from qsessions.api.messages import SecretHeaders, header_problem, leftover_problem
from tests.support.leftovers import LEFTOVERS, PLACEHOLDER, QUOTED
from tests.support.tables import table

REQUEST = Request(
    "create",
    "POST",
    URL("https://h/api/v1/sessions"),
    {"X-Mine": "1"},
    b"key=planted-body",
    "s-1",
    False,
    frozenset({404}),
    ("planted-secret",),
)


def test_repr_shows_no_secret() -> None:
    """Neither a request's nor a response's text shows credentials, secrets or bodies; it does show
    what helps to find out.
    """
    credentials = SecretHeaders({"Authorization": "Bearer planted-token", "Service-CRN": "crn"})
    request = repr(attrs.evolve(REQUEST, credentials=credentials, timeout=2.5))
    response = repr(Response(200, {"Set-Cookie": "planted-cookie"}, b"planted-body"))
    assert "planted" not in request + response
    assert "SecretHeaders(['Authorization', 'Service-CRN'])" in request
    assert "https://h/api/v1/sessions" in request
    assert response == "Response(status=200, body=<12 bytes>, attempts=1)"
    assert "planted" not in f"{credentials} {credentials!r}"


@table(
    ("text", "masked"),
    [
        ("nothing to hide", "nothing to hide"),
        ("you sent Bearer planted-token.", "you sent ***."),
        ("token planted-token is bad, planted-token!", "token *** is bad, ***!"),
        ("key planted-secret", "key ***"),
        ("other planted-token-too", "other ***"),
        ("you sent Bearer", "you sent Bearer"),
        ("cut: planted-to", "cut: ***"),
        ("cut, then more: planted-tok…", "cut, then more: ***…"),
        ("too little to tell: plante", "too little to tell: plante"),
        ("encoded: pass%2Fword%3D", "encoded: ***"),
        ("plain: pass/word=", "plain: ***"),
        ("instance crn:v1:x", "instance crn:v1:x"),
    ],
)
def test_mask(text: str, masked: str) -> None:
    """What a server echoes of credentials and secrets is masked, whole or cut, plain or encoded;
    the CRN is no secret.
    """
    credentials = SecretHeaders(
        {
            "Authorization": "Bearer planted-token",
            "external-service-token": "planted-token-too",
            "Backend-Authentication": "pass/word=",
            "service-CRN": "crn:v1:x",
        }
    )
    assert attrs.evolve(REQUEST, credentials=credentials).mask(text) == masked


@table(
    "credentials",
    [{}, {"Authorization": ""}, {"Authorization": "Bearer "}, {"Authorization": "Bearer plain"}],
)
def test_mask_of_nothing(credentials: dict[str, str]) -> None:
    """A credential that is empty or too short to tell masks nothing, least of all every place
    between two letters.
    """
    request = Request(
        "get", "GET", URL("https://h/api"), {}, credentials=SecretHeaders(credentials)
    )
    assert request.mask("Bearer plain text") == "Bearer plain text"


def test_mask_of_headers() -> None:
    """A header that the user set is masked, and so is what came with the transport; what every
    request says is not.
    """
    headers = {
        "X-Own": "own secret-header",
        "Content-Type": "application/json",
        "IBM-API-Version": "2025-01-01",
    }
    request = Request("get", "GET", URL("https://h/api"), headers)
    text = "own secret-header, application/json, 2025-01-01, password"
    assert request.mask(text, ["password"]) == "***, application/json, 2025-01-01, ***"


@table("name", ["Retry-After", "retry-after", "RETRY-AFTER"])
def test_header(name: str) -> None:
    """A header is found whatever the case of its name."""
    assert Response(429, {"Date": "x", "retry-After": "5"}).header(name) == "5"


def test_no_header() -> None:
    """A header that isn't there is None."""
    assert Response(429, {"Date": "x"}).header("Retry-After") is None


@table(
    ("value", "url"),
    [
        ("https://quantum.cloud.ibm.com/api", "https://quantum.cloud.ibm.com/api"),
        ("https://quantum.cloud.ibm.com/api/", "https://quantum.cloud.ibm.com/api"),
        ("https://h", "https://h"),
        ("https://h//", "https://h"),
        ("HTTPS://H/Api", "https://h/Api"),
        ("http://127.0.0.1:8080", "http://127.0.0.1:8080"),
        ("http://[::1]:8080/x", "http://[::1]:8080/x"),
        ("https://h/a%2Fb", "https://h/a%2Fb"),
        ("https://h/api?", "https://h/api"),
        (URL("https://h/api/"), "https://h/api"),
    ],
)
def test_service_url(value: str | URL, url: str) -> None:
    """A base URL is given back without a slash at its end, so that paths can be added to it."""
    assert service_url(value, "base_url") == url


NOT_ABSOLUTE = 'base_url must be an absolute URL that begins with http:// or https://, without white space, such as "https://quantum.cloud.ibm.com/api".'
NO_PASSWORD = "base_url must not hold a user name or password."
NO_QUERY = "base_url must have neither query nor fragment."


@table(
    ("value", "problem"),
    [
        ("", NOT_ABSOLUTE),
        ("quantum.cloud.ibm.com/api", NOT_ABSOLUTE),
        ("//h/planted", NOT_ABSOLUTE),
        ("ftp://h/planted", NOT_ABSOLUTE),
        ("https:///planted", NOT_ABSOLUTE),
        ("https://", NOT_ABSOLUTE),
        ("http://[", NOT_ABSOLUTE),
        ("http://[]@", NOT_ABSOLUTE),
        ("http://h:port/planted", NOT_ABSOLUTE),
        ("http://h:99999/planted", NOT_ABSOLUTE),
        ("https://h/planted\n", NOT_ABSOLUTE),
        (" https://h/planted", NOT_ABSOLUTE),
        ("https://h/plan ted", NOT_ABSOLUTE),
        ("http://h\r\nplanted", NOT_ABSOLUTE),
        ("https://h/planted\0", NOT_ABSOLUTE),
        (None, NOT_ABSOLUTE),
        (5, NOT_ABSOLUTE),
        (b"https://h/planted", NOT_ABSOLUTE),
        ("https://user:planted@h/", NO_PASSWORD),
        ("https://planted@h/", NO_PASSWORD),
        ("https://:planted@h/", NO_PASSWORD),
        ("https://user:12/planted@h/", NO_PASSWORD),
        ("https://user:12#planted@h/", NO_PASSWORD),
        ("https://token?planted@h/", NO_PASSWORD),
        ("https://user:planted#12@h/", NOT_ABSOLUTE),
        ("https://h/?planted=1", NO_QUERY),
        ("https://h/#planted", NO_QUERY),
        ('"https://h/planted"', f"base_url {QUOTED}."),
        ("'https://h/planted'", f"base_url {QUOTED}."),
        ("https://<region>.planted/api", f"base_url {PLACEHOLDER}."),
        ("https://{region}.planted", f"base_url {PLACEHOLDER}."),
        ("$PLANTED", f"base_url {PLACEHOLDER}."),
    ],
)
def test_service_url_refused(value: Any, problem: str) -> None:
    """What is no base URL is refused with a sentence that doesn't repeat it, since it may hold a
    password.
    """
    with pytest.raises(ConfigurationError) as caught:
        service_url(value, "base_url")
    assert caught.value.message == problem


def test_service_url_drops_the_value() -> None:
    """A traceback that shows the locals of the check doesn't show a password in the URL."""
    with pytest.raises(ConfigurationError) as caught:
        service_url("https://user:planted@h/", "base_url")
    frame = caught.traceback[-1].frame
    assert "planted" not in repr(frame.f_locals)


@table(("text", "problem"), LEFTOVERS)
def test_leftovers(text: str, problem: str) -> None:
    """Quotation marks and placeholders are told as what they are."""
    assert leftover_problem(text) == problem


@given(
    st.text("abcXYZ0189_-", min_size=44, max_size=44)
    | st.from_regex(
        r"eyJ[\w-]{9}\.[\w-]{20}\.[\w-]{20}",
        fullmatch=True,
        alphabet=st.characters(max_codepoint=127),
    )
    | st.uuids().map("crn:v1:bluemix:public:quantum-computing:us-east:a/0af:{}::".format)
)
def test_no_leftovers(text: str) -> None:
    """Real keys, tokens and CRNs are none."""
    assert leftover_problem(text) is None


@given(st.text() | st.text("htps:/[]@?#.%h1 ", max_size=20).map("https://{}".format))
def test_any_service_url(text: str) -> None:
    """Any text is a URL that can be read again, or refused; nothing else ever comes of it."""
    try:
        url = service_url(text, "base_url")
    except ConfigurationError:
        return
    assert service_url(url, "base_url") == url
    assert URL(url).scheme in {"http", "https"}


LINE_END = "contains a line end (CR, LF) or NUL, as text read from a file without strip() does"
NO_NAME = "has a name that no header can have"
NO_ASCII = "contains characters outside printable ASCII"


@table(
    ("name", "value", "problem"),
    [
        ("X-Mine", "value", None),
        ("x_mine!", "two words", None),
        ("", "value", NO_NAME),
        ("X Mine", "value", NO_NAME),
        ("X-Mine:", "value", NO_NAME),
        ("X-Mine\n", "value", NO_NAME),
        ("X-É", "value", NO_NAME),
        (None, "value", NO_NAME),
        ("X-Mine", None, "is not text but NoneType"),
        ("X-Mine", b"value", "is not text but bytes"),
        ("X-Mine", "", "is empty"),
        ("X-Mine", "a\r\nX-Evil: 1", LINE_END),
        ("X-Mine", "a\n", LINE_END),
        ("X-Mine", "a\rb", LINE_END),
        ("X-Mine", "a\0", LINE_END),
        ("X-Mine", " value", "starts or ends with white space"),
        ("X-Mine", "value\t", "starts or ends with white space"),
        ("X-Mine", "valué", NO_ASCII),
        ("X-Mine", "a\tb", NO_ASCII),
        ("X-Mine", "a\x7fb", NO_ASCII),
        ("X-Mine", "\ud800", NO_ASCII),
    ],
)
def test_header_problem(name: object, value: object, problem: str | None) -> None:
    """What can't be a header is told in words that don't repeat the value."""
    assert header_problem(name, value) == problem


@given(st.text())
def test_any_header_value(value: str) -> None:
    """Only printable ASCII without white space around it passes, so nothing can smuggle in another
    header.
    """
    printable = bool(value) and all(" " <= character <= "~" for character in value)
    assert (header_problem("X-Mine", value) is None) == (printable and value.strip() == value)
