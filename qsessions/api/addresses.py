"""Checks of addresses: which can be a service's, and where plain http may go."""

from __future__ import annotations

import ipaddress
import re
from functools import cache
from typing import TypeAlias

from yarl import URL

from qsessions.api.messages import leftover_problem
from qsessions.errors import ConfigurationError

# The variable that names the hosts to which plain http may go besides this machine; and what it
# names, each with its port.
INSECURE_HOSTS = "QSESSIONS_INSECURE_HOSTS"
InsecureHosts: TypeAlias = frozenset[tuple[str | None, int | None]]


@cache
def is_loopback(host: str | None) -> bool:
    """Return whether a host is this machine itself."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host or "").is_loopback
    except ValueError:
        return False


def may_be_plain(url: URL, insecure_hosts: InsecureHosts) -> bool:
    """Return whether plain http may go to a host: to this machine, and to those that are named."""
    return is_loopback(url.raw_host) or (url.raw_host, url.port) in insecure_hosts


def is_emulator(url: str, insecure_hosts: InsecureHosts) -> bool:
    """Return whether an address is one that an emulator may have: plain http to where that may go.

    A malformed one isn't: it is refused where it is used.

    Args:
        url: The address.
        insecure_hosts: Where plain http may go besides this machine.
    """
    try:
        address = URL(url)
        return address.scheme == "http" and may_be_plain(address, insecure_hosts)
    except (ValueError, IndexError):  # yarl 1.25 raises the latter for "http://[]@"
        return False


def service_url(
    value: object,
    name: str,
    example: str = "https://quantum.cloud.ibm.com/api",
    solution: str | None = None,
) -> str:
    """Check the base URL of a service and return it without a slash at its end.

    Args:
        value: The URL.
        name: What the message calls it.
        example: One that is right, for the message.
        solution: The advice, in place of the usual one.

    Raises:
        ConfigurationError: It is not an absolute http(s) URL, or has a user name, password, query
            or fragment. The message doesn't repeat it, since it may hold a password.
    """
    if isinstance(value, str) and (problem := leftover_problem(value)):
        del value
        raise ConfigurationError(f"{name} {problem}.", solution=solution)
    if isinstance(value, str) and re.search(r"[\s\x00-\x1f\x7f]", value):
        # It would be dropped or encoded in silence.
        value = ""
    try:
        url = URL(value) if isinstance(value, str | URL) else URL()
        # yarl decodes the host only when it is asked for.
        host = url.host
    except (ValueError, IndexError):  # yarl 1.25 raises the latter for "http://[]@"
        url, host = URL(), None
    advice, argument = None, None
    if url.scheme not in {"http", "https"} or not host:
        problem = (
            "must be an absolute URL that begins with http:// or https://, without white space, "
            f'such as "{example}"'
        )
    elif "@" in str(value):
        # Written plainly, a password may have ended the host in its middle.
        problem = "must not hold a user name or password"
        advice, argument = "Credentials go into auth=.", "auth"
    elif url.query_string or url.fragment:
        problem = "must have neither query nor fragment"
    else:
        return str(url).rstrip("/")
    del value, url
    if solution is not None:
        advice, argument = solution, None
    raise ConfigurationError(f"{name} {problem}.", solution=advice, argument=argument)
