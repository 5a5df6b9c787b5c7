"""Where requests may go without TLS: to this machine, and to the hosts that the user names."""

from __future__ import annotations

import logging

from yarl import URL

from qsessions.api.messages import INSECURE_HOSTS, InsecureHosts, is_loopback
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
    if not _is_allowed(url, named):
        raise ConfigurationError(
            f"{problem}.",
            solution=f"Use https, name the host and its port in {INSECURE_HOSTS}, or pass "
            "allow_insecure=True.",
            argument="allow_insecure",
        )
    if proxy is not None and not _is_allowed(proxy.url, named):
        raise ConfigurationError(
            f"{problem}: the proxy is another machine.",
            solution="Leave out proxy=, name the host in NO_PROXY, or pass allow_insecure=True.",
            argument="allow_insecure",
        )


def _is_allowed(url: URL, named: InsecureHosts) -> bool:
    """Return whether a host is this machine or allowed by its name; the first time, warn."""
    if is_loopback(url.raw_host):
        return True
    host = (url.raw_host, url.port)
    if host not in named:
        return False
    if host not in _WARNED:
        _WARNED.add(host)
        _logger.warning(
            "%s is plain http, which %s allows: others on its network can read the credentials",
            url.origin(),
            INSECURE_HOSTS,
        )
    return True
