"""Checks of a client's arguments, each on its own."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from itertools import combinations
from typing import cast

from qsessions.api.messages import (
    RESERVED_HEADERS,
    AuthProvider,
    SecretHeaders,
    header_problem,
    service_url,
)
from qsessions.auth import IBMCloudAuth, ServiceCRN, StaticHeader
from qsessions.errors import ConfigurationError

BASE_URL = "QSESSIONS_BASE_URL"

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


def _built_in(providers: tuple[AuthProvider, ...]) -> list[IBMCloudAuth | StaticHeader]:
    return [provider for provider in providers if isinstance(provider, IBMCloudAuth | StaticHeader)]


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
    name, value = "base_url", base_url
    if base_url is None:
        name, value = BASE_URL, environ.get(BASE_URL) or None
    url = None if value is None else service_url(value, name)
    if url is not None and url.endswith("/v1"):
        raise ConfigurationError(
            f"{name} must be the part before /v1, such as https://quantum.cloud.ibm.com/api."
        )
    return url


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
