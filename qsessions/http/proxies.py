"""Which proxy a request goes through, with the proxy's credentials apart from its address."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping
from urllib.request import (  # type: ignore[attr-defined]  # the stubs lack it
    proxy_bypass_environment,  # pyright: ignore[reportAttributeAccessIssue]
)

from attrs import field, frozen
from yarl import URL

from qsessions.api.messages import SecretHeaders, is_loopback
from qsessions.errors import ConfigurationError


@frozen(eq=False, repr=False)
class Proxy:
    """A proxy. Its URL has no credentials: the HTTP library shows URLs in errors and warnings.

    Nor has its repr, which shows no field.
    """

    url: URL
    headers: SecretHeaders = field(factory=SecretHeaders)
    secrets: tuple[str, ...] = ()


def parse_proxy(value: str | URL) -> Proxy | None:
    """Return the proxy at an http or https URL, with its credentials, or None at any other."""
    try:
        url = URL(value)
        if url.scheme not in {"http", "https"} or not url.host:
            return None
    except (TypeError, ValueError, IndexError):
        return None
    if url.user is None and url.password is None:
        return Proxy(url)
    both = f"{url.user or ''}:{url.password or ''}".encode()
    basic = f"Basic {b64encode(both).decode()}"
    return Proxy(
        url.with_user(None),
        SecretHeaders({"Proxy-Authorization": basic}),
        # Some proxies take a token for a user's name, without a password.
        secrets=(basic, url.password or url.user or ""),
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
    proxy = parse_proxy(named if "://" in named else f"http://{named}")
    if proxy is None:
        del named
        raise ConfigurationError(
            f"the proxy for {url.scheme} addresses, from {url.scheme.upper()}_PROXY or the "
            'account, must have an http or https URL, such as "http://proxy.example:3128".',
            solution="Correct it, pass proxy=, or name the host in NO_PROXY.",
            argument="proxy",
        )
    return proxy
