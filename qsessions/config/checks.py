"""Checks of a client's arguments, each on its own."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from itertools import combinations
from typing import cast

from yarl import URL

from qsessions.api.addresses import INSECURE_HOSTS, InsecureHosts, is_emulator, service_url
from qsessions.api.messages import (
    RESERVED_HEADERS,
    AuthProvider,
    SecretHeaders,
    header_problem,
    leftover_problem,
    replaced,
)
from qsessions.auth import ServiceCRN
from qsessions.auth.static import OwnProvider
from qsessions.config.account_file import CHANNELS, OLD_CHANNEL
from qsessions.errors import ConfigurationError

TOKEN = "QISKIT_IBM_TOKEN"  # noqa: S105 - the name of a variable
CHANNEL = "QISKIT_IBM_CHANNEL"
BASE_URL = "QSESSIONS_BASE_URL"
CLOUD_URL = "QISKIT_IBM_URL"
PRIVATE_ENDPOINT = "QSESSIONS_PRIVATE_ENDPOINT"

DEFAULT_CLOUD_URL = "https://cloud.ibm.com"

_CLOUD = re.compile(
    r"(?P<scheme>https?://)(?P<host>[a-z0-9-]+(?:\.[a-z0-9-]+)*)\.?(?P<rest>(:[0-9]+)?(/[^?#@]*)?)"
)
# Names in a cloud's domain that are the service's own or IAM's, and the names of IBM's clouds.
_PARTS = {"quantum", "quantum-computing", "iam", "private"}
_IBM_CLOUD = re.compile(r"((?!www\.|globalcatalog\.)[a-z0-9]+\.)?cloud\.ibm\.com")
# A host and perhaps its port, without what may surround them in a URL. Docker's names have _.
_HOST = re.compile(r"([a-z0-9_-]+(\.[a-z0-9_-]+)*|\[[0-9a-f:.]+\])(:[0-9]+)?")

# Headers that have an argument of their own.
_ARGUMENT_OF = {
    "authorization": "auth=",
    "backend-authentication": "auth=",
    "external-service-token": "auth=",
    "service-crn": "auth=",
    "ibm-api-version": "api_version=",
    "user-agent": "application=",
}


def checked_providers(
    auth: AuthProvider | Iterable[AuthProvider] | None,
) -> tuple[AuthProvider, ...] | None:
    """Check `auth=` and return the providers in it, or None where it was not passed.

    Raises:
        ConfigurationError: It holds something else, or two built-in providers of one header.
    """
    if auth is None:
        return None
    # Text is an iterable too: an empty one must not pass for "no credentials".
    is_one = isinstance(auth, str | bytes) or not isinstance(auth, Iterable)
    providers = tuple(cast("Iterable[AuthProvider]", [auth] if is_one else auth))
    for provider in providers:
        methods = (getattr(provider, name, None) for name in ("headers", "invalidate"))
        if isinstance(provider, type) or not all(map(callable, methods)):
            problem = (
                f"the class {provider.__name__}, not a provider made of it"
                if isinstance(provider, type)
                else f"the {type(provider).__name__} object, which is not an auth provider: "
                "it needs headers() and invalidate()"
            )
            raise ConfigurationError(
                f"auth= holds {problem}.",
                solution="Pass a provider such as IBMCloudAuth(api_key), or several in a list.",
            )
    for first, second in combinations(_built_in(providers), 2):
        if first.header == second.header:
            raise ConfigurationError(
                f"{type(first).__name__} and {type(second).__name__} both set the header "
                f"{first.header}; pass one of them."
            )
    return providers


def missing_credentials(providers: tuple[AuthProvider, ...] | None) -> tuple[bool, bool]:
    """Return whether a key and whether a CRN must come from the environment or an account."""
    if providers is None:
        return True, True
    # A user's own provider may set any header.
    if not providers or len(_built_in(providers)) < len(providers):
        return False, False
    crns = [isinstance(provider, ServiceCRN) for provider in providers]
    return all(crns), not any(crns)


def _built_in(providers: tuple[AuthProvider, ...]) -> list[OwnProvider]:
    return [provider for provider in providers if isinstance(provider, OwnProvider)]


def checked_text(value: object, problem: str) -> str | None:
    """Return a text or path as text, or None where it was not passed.

    Raises:
        ConfigurationError: It is empty or of another class; the message is `problem`.
    """
    text = os.fspath(value) if isinstance(value, os.PathLike) else value
    if text is None or (isinstance(text, str) and text):
        return text
    raise ConfigurationError(problem)


def checked_base_url(base_url: str | None, environ: Mapping[str, str]) -> str | None:
    """Return the base URL in `base_url=`, else in the environment, else None.

    Raises:
        ConfigurationError: It is not a base URL.
    """
    name, value, solution = "base_url", base_url, None
    if base_url is None:
        name, value = BASE_URL, environ.get(BASE_URL) or None
        solution = f"Correct or unset {BASE_URL}."
    url = None if value is None else service_url(value, name, solution=solution)
    if url is not None and url.endswith("/v1"):
        raise ConfigurationError(
            f"{name} must be the part before /v1, such as https://quantum.cloud.ibm.com/api.",
            solution=solution,
        )
    return url


def cloud_address(url: str, name: str) -> tuple[str, str]:
    """Check the address of a cloud, which others are derived from, and return its scheme and host.

    Args:
        url: The address.
        name: What the message calls it.

    Raises:
        ConfigurationError: It has a port or a path, or its host is the service's own. The message
            says what to write, and doesn't repeat the address, which may hold a password.
    """
    if problem := leftover_problem(url):
        raise ConfigurationError(f"{name} {problem}.", argument="base_url")
    cloud, private = DEFAULT_CLOUD_URL, ""
    solution = f"The service's own base URL goes into base_url= or {BASE_URL}."
    if match := _CLOUD.fullmatch(url.lower()):
        scheme, host = match["scheme"], match["host"]
        wanted = _cloud_of(host)
        if wanted == host and not match["rest"].strip("/"):
            return scheme, host
        if wanted != host or _IBM_CLOUD.fullmatch(host):
            cloud = f"{scheme}{wanted}"
            solution = f"Write {cloud}. {solution}"
        if "private" in host.split("."):
            private = f", and {PRIVATE_ENDPOINT}=true asks for private endpoints"
    raise ConfigurationError(
        f"{name} must be the address of the cloud, such as {cloud}, without port and "
        f"path{private}.",
        solution=solution,
        argument="base_url",
    )


def _cloud_of(host: str) -> str:
    """Return the host of the cloud that a host belongs to."""
    labels = host.split(".")
    after = [index + 1 for index, label in enumerate(labels) if label in _PARTS]
    cloud = ".".join(labels[max(after, default=0) :])
    if f".{cloud}".endswith(".ibm.com") and not _IBM_CLOUD.fullmatch(cloud):
        return "cloud.ibm.com"
    return cloud or host


def checked_private_endpoint(environ: Mapping[str, str]) -> bool:
    """Return whether the environment asks for the cloud's private endpoints.

    Raises:
        ConfigurationError: It says neither yes nor no.
    """
    value = environ.get(PRIVATE_ENDPOINT, "").lower()
    if value not in {"true", "false", ""}:
        raise ConfigurationError(
            f"{PRIVATE_ENDPOINT} must be true or false.",
            solution=f"Correct or unset {PRIVATE_ENDPOINT}.",
        )
    return value == "true"


def checked_insecure_hosts(environ: Mapping[str, str]) -> InsecureHosts:
    """Return the hosts, with their ports, that the environment allows plain http to.

    Raises:
        ConfigurationError: One is malformed, or IBM Cloud's. The message doesn't repeat it.
    """
    value = environ.get(INSECURE_HOSTS, "").strip().lower()
    entries = [entry.strip() for entry in value.split(",")] if value else []
    hosts = []
    for number, entry in enumerate(entries, 1):
        try:
            url = URL(f"http://{entry}") if _HOST.fullmatch(entry) else URL()
        except ValueError:
            url = URL()
        if not url.raw_host:
            raise ConfigurationError(
                f"{INSECURE_HOSTS} must list hosts with their ports, separated by commas, such as "
                f"emulator:9000,other:8080 (without a port it is 80); number {number} is none.",
                solution=f"Correct or unset {INSECURE_HOSTS}.",
            )
        if f".{url.raw_host}".endswith(".cloud.ibm.com"):
            raise ConfigurationError(
                f"{INSECURE_HOSTS} can't name {url.raw_host}: no key goes to IBM Cloud in plain "
                "http.",
                solution=f"Leave it out of {INSECURE_HOSTS}, and use https.",
            )
        hosts.append((url.raw_host, url.port))
    return frozenset(hosts)


def unknown_channel(channel: str) -> ConfigurationError:
    """Return the error for a channel in the environment that doesn't exist."""
    # It isn't repeated: it may be the key, in the wrong place.
    gone = f"; the platform of {OLD_CHANNEL} is gone" * (channel == OLD_CHANNEL)
    return ConfigurationError(
        f"{CHANNEL} must be {' or '.join(CHANNELS)}{gone}.", solution=f"Correct or unset {CHANNEL}."
    )


def refuse_emulator(url: str | None, variable: str, insecure_hosts: InsecureHosts) -> None:
    """Refuse an emulator's address in the environment, where one of the cloud's keys would go.

    Raises:
        ConfigurationError: The address is plain http to where that may go.
    """
    if url and is_emulator(url, insecure_hosts):
        raise ConfigurationError(
            f"{variable} is an address in plain http, as an emulator has, and a key of the cloud's "
            "would go there.",
            solution=f"Unset {variable}. For an emulator, set {BASE_URL} and {TOKEN} too, and name "
            "no account.",
        )


def checked_headers(headers: object) -> SecretHeaders:
    """Check `headers=` and return them in a form that a traceback may show.

    Raises:
        ConfigurationError: They can't be sent, or have an argument of their own. The message
            doesn't repeat a value; the frames do, until the client strips them.
    """
    if not isinstance(headers, Mapping):
        raise ConfigurationError(
            f"headers= must be a mapping of names to values, not {type(headers).__name__}."
        )
    for name, value in headers.items():
        if problem := header_problem(name, value):
            raise ConfigurationError(f"the header {name!r} in headers= {problem}.")
        argument = _ARGUMENT_OF.get(name.lower())
        if argument or name.lower() in RESERVED_HEADERS:
            raise ConfigurationError(
                f"headers= can't set {name}, which qsessions sets itself.",
                solution=argument and f"Use {argument}.",
            )
    return SecretHeaders(headers)


def merged_headers(before: Mapping[str, str], headers: object) -> SecretHeaders:
    """Return headers with further ones, or None for none, in place of those of the same names.

    Raises:
        ConfigurationError: As `checked_headers`.
    """
    return replaced(before, checked_headers({} if headers is None else headers))
