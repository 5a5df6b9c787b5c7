"""Which proxy a request goes through, with the proxy's credentials apart from its address."""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Mapping
from urllib.parse import unquote, unquote_to_bytes
from urllib.request import (  # type: ignore[attr-defined]  # the stubs lack it
    proxy_bypass_environment,  # pyright: ignore[reportAttributeAccessIssue]
)

from attrs import field, frozen
from yarl import URL

from qsessions.api.addresses import is_loopback
from qsessions.api.messages import SecretHeaders, quoted_problem, strips_frames
from qsessions.errors import ConfigurationError

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^\s/?#\[\]\\:%<>{}]+)(:[0-9]+)?(?=/[^?#]*$|$)")
# What would end a user name or password in its middle, and a % that begins no code.
_UNENCODED = re.compile(r"[\s/?#\[\]\\]|%(?![0-9A-Fa-f]{2})")


@frozen(repr=False)
class Proxy:
    """A proxy. Its URL has no credentials: the HTTP library shows URLs in errors and warnings.

    Nor has its repr, which shows no field.
    """

    url: URL
    headers: SecretHeaders = field(factory=SecretHeaders)
    secrets: tuple[str, ...] = ()


@strips_frames
def parse_proxy(value: object) -> Proxy | str:
    """Return the proxy at an address, or why it can't be one, in words that don't repeat it.

    Args:
        value: An http or https URL, with credentials if the proxy wants any. Without a scheme it is
            http.
    """
    text = str(value) if isinstance(value, str | URL) else ""
    if problem := quoted_problem(text):
        return problem
    scheme = _SCHEME.match(text)
    # The last @ ends the credentials, whatever is in them.
    credentials, _, rest = text[scheme.end() if scheme else 0 :].rpartition("@")
    host = _HOST.match(rest)
    try:
        url = URL(f"{scheme[1] if scheme else 'http'}://{host[0]}" if host else "")
        # yarl decodes the host only when it is asked for.
        is_proxy = url.scheme in {"http", "https"} and url.host is not None
    except ValueError:
        url, is_proxy = URL(), False
    if not is_proxy:
        return 'must be an http or https URL, such as "http://proxy.example:3128"'
    if _UNENCODED.search(credentials):
        return (
            "has a user name or password with one of / ? # [ ] \\, white space or a % that begins "
            'no code: percent-encode it ("#" is "%23")'
        )
    user, _, password = credentials.partition(":")
    if not user and not password:
        return Proxy(url)
    basic = (
        f"Basic {b64encode(unquote_to_bytes(user) + b':' + unquote_to_bytes(password)).decode()}"
    )
    return Proxy(
        url,
        SecretHeaders({"Proxy-Authorization": basic}),
        # Some proxies take a token for a user's name, without a password.
        secrets=(basic, unquote(password or user)),
    )


def proxy_for(url: URL, proxies: Mapping[str, str]) -> Proxy | None:
    """Return the proxy for an address, or None.

    Args:
        url: The address.
        proxies: The proxies by the scheme of the address, and under "no" the hosts that need none.

    Raises:
        ConfigurationError: The proxy has an address that can't be one. The message doesn't repeat
            it.
    """
    named = proxies.get(url.scheme)
    # What is sent to this machine must not leave it, least of all as plain http.
    if (
        named is None
        or is_loopback(url.raw_host)
        or proxy_bypass_environment(f"{url.raw_host}:{url.port}", proxies)
    ):
        return None
    proxy = parse_proxy(named)
    if isinstance(proxy, str):
        del named
        raise ConfigurationError(
            f"the proxy for {url.scheme} addresses, from {url.scheme.upper()}_PROXY or the "
            f"account, {proxy}.",
            solution="Correct it, pass proxy=, or name the host in NO_PROXY.",
            argument="proxy",
        )
    return proxy
