"""Proxies: their addresses, with the credentials apart, and what can't be one."""

from __future__ import annotations

from base64 import b64decode
from urllib.parse import quote

import pytest
from hypothesis import given, strategies as st
from yarl import URL

from qsessions import ConfigurationError
from qsessions.http.proxies import Proxy, parse_proxy, proxy_for
from tests.support.tables import table


def parsed(value: object) -> tuple[str, bytes | None]:
    """Return the address of a proxy and the credentials that it is sent."""
    proxy = parse_proxy(value)
    assert isinstance(proxy, Proxy)
    basic = proxy.headers.get("Proxy-Authorization")
    return str(proxy.url), basic and b64decode(basic.removeprefix("Basic "))  # type: ignore[return-value]


@table(
    ("value", "address", "credentials"),
    [
        ("http://proxy.example:3128", "http://proxy.example:3128", None),
        ("https://proxy.example", "https://proxy.example", None),
        ("HTTP://Proxy.example/", "http://proxy.example", None),
        ("http://proxy.example:3128/some/path", "http://proxy.example:3128", None),
        ("proxy.example:3128", "http://proxy.example:3128", None),
        ("proxy", "http://proxy", None),
        ("[::1]:3128", "http://[::1]:3128", None),
        ("http://@proxy:1", "http://proxy:1", None),
        ("http://:@proxy:1", "http://proxy:1", None),
        ("http://user:pass@proxy:1", "http://proxy:1", b"user:pass"),
        ("user:pass@proxy:1", "http://proxy:1", b"user:pass"),
        ("http://token@proxy:1", "http://proxy:1", b"token:"),
        ("http://:pass@proxy:1", "http://proxy:1", b":pass"),
        ("http://user:p:a@s@proxy:1", "http://proxy:1", b"user:p:a@s"),
        ("http://us%40er:p%23%2F%3f%5b@proxy:1", "http://proxy:1", b"us@er:p#/?["),
        ("http://user:p%E9ss@proxy:1", "http://proxy:1", b"user:p\xe9ss"),
        ("http://user:pä+ss@proxy:1", "http://proxy:1", "user:pä+ss".encode()),
        (URL("http://user:p%40ss@proxy:1"), "http://proxy:1", b"user:p@ss"),
    ],
)
def test_proxy(value: object, address: str, credentials: bytes | None) -> None:
    """A proxy is an http or https URL, or what follows http://, and its credentials are decoded."""
    assert parsed(value) == (address, credentials)


@table(
    "value",
    [
        *("", " ", "://", "http://", "http:proxy:3128", "http:/proxy:3128", "http://proxy:port"),
        *("socks5://user:planted@proxy", "ftp://proxy", "http://proxy:99999", "http://[1]"),
        *("http://user:planted@", "user:planted", "http://proxy?planted", "http://proxy#planted"),
        *("http://xn--", "http://pro xy", "http://<proxy>:3128", "http://{proxy}", "http://[::g]"),
        *(None, 5, b"http://proxy:3128", ["http://proxy:3128"]),
    ],
)
def test_refused(value: object) -> None:
    """What has another form is none, told without repeating it."""
    assert parse_proxy(value) == 'must be an http or https URL, such as "http://proxy.example:3128"'


@table("quotes", ['"{}"', "'{}'", "`{}`", '"{}', "{}'"])
def test_quoted(quotes: str) -> None:
    """Quotation marks around it are told as such."""
    problem = parse_proxy(quotes.format("http://user:planted@proxy:1"))
    assert isinstance(problem, str)
    assert problem.startswith("begins or ends with a quotation mark")


@given(
    st.sampled_from(["http://", "https://", ""]),
    st.text(st.characters(codec="utf-8"), max_size=8),
    st.text(st.characters(codec="utf-8"), min_size=1, max_size=12),
)
def test_any_password(scheme: str, user: str, password: str) -> None:
    """Percent-encoded, any user name and password arrive as they are; written plainly, they are
    either taken whole or refused, and never become a part of the address.
    """
    # The first colon ends the user name.
    user = user.replace(":", "")
    both = f"{user}:{password}".encode()
    encoded = f"{scheme}{quote(user, safe='')}:{quote(password, safe='')}@proxy.example:3128"
    assert parsed(encoded)[1] == both
    plain = f"{scheme}{user}:{password}@proxy.example:3128"
    proxy = parse_proxy(plain)
    if isinstance(proxy, Proxy):
        assert (proxy.url.host, proxy.url.port) == ("proxy.example", 3128)
    else:
        assert "percent-encode it" in proxy or "quotation mark" in proxy
        assert plain not in proxy
    encoded_signs = set("/?#[]\\") & {*user, *password}
    assert not encoded_signs or isinstance(proxy, str)


def test_proxy_for() -> None:
    """The scheme of the address chooses the proxy; this machine and the hosts under "no" need none."""
    proxies = {"https": "proxy:1", "no": "own.example"}
    found = proxy_for(URL("https://quantum.example"), proxies)
    assert found == parse_proxy("http://proxy:1")
    for url in ("http://quantum.example", "https://own.example", "https://127.0.0.1"):
        assert proxy_for(URL(url), proxies) is None
    with pytest.raises(ConfigurationError) as caught:
        proxy_for(URL("https://quantum.example"), {"https": "http://user:1#planted@proxy"})
    assert caught.value.message.startswith(
        "the proxy for https addresses, from HTTPS_PROXY or the account, has a user name"
    )
    assert "planted" not in str(caught.value)
