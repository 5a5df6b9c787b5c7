"""Where requests may go without TLS: to this machine, and to the hosts that the user names."""

from __future__ import annotations

import logging

from yarl import URL

from qsessions.api.addresses import INSECURE_HOSTS, InsecureHosts, is_loopback, may_be_plain
from qsessions.errors import ConfigurationError
from qsessions.http.proxies import Proxy

# The hosts that were warned of in this process.
_WARNED: set[tuple[str | None, int | None]] = set()
# The command line prints its warnings.
_logger = logging.getLogger("qsessions.http")


def check_plain_http(url: URL, proxy: Proxy | None, named: InsecureHosts) -> None:
    """Check whether a request may go to an address: with TLS, or here in plain http.

    Args:
        url: The address.
        proxy: The proxy that it goes through, or None.
        named: The hosts, each with its port, that the user allows.

    Raises:
        ConfigurationError: It may not: others could read the credentials.
    """
    if url.scheme == "https" or (proxy is None and is_loopback(url.raw_host)):
        return
    problem = f"{url.origin()} is plain http, so others on the way could read the credentials"
    if not may_be_plain(url, named):
        raise ConfigurationError(
            f"{problem}.",
            solution=f"Use https, name the host and its port in {INSECURE_HOSTS}, or pass "
            "allow_insecure=True.",
            argument="allow_insecure",
        )
    _warn_once(url, "is plain http")
    if proxy is None:
        return
    if not may_be_plain(proxy.url, named):
        raise ConfigurationError(
            f"{problem}: the proxy is another machine, {proxy.url.authority}.",
            solution="Leave out proxy=, name the host in NO_PROXY, name the proxy and its port in "
            f"{INSECURE_HOSTS}, or pass allow_insecure=True.",
            argument="allow_insecure",
        )
    _warn_once(proxy.url, "is a proxy for plain http")


def _warn_once(url: URL, what: str) -> None:
    """Warn of a host that is allowed by its name, the first time."""
    host = (url.raw_host, url.port)
    if not is_loopback(url.raw_host) and host not in _WARNED:
        _WARNED.add(host)
        _logger.warning(
            "%s %s, which %s allows: others on its network can read the credentials",
            url.origin(),
            what,
            INSECURE_HOSTS,
        )
