"""Where settings come from: arguments, else the environment, else defaults; into one frozen `Settings`."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import cast

from attrs import frozen

from qsessions.auth import IBMCloudAuth, ServiceCRN, StaticHeader
from qsessions.errors import ConfigurationError
from qsessions.wire import AuthProvider, service_url

BASE_URL = "QSESSIONS_BASE_URL"
TOKEN = "QISKIT_IBM_TOKEN"  # noqa: S105 - the name of a variable
INSTANCE = "QISKIT_IBM_INSTANCE"

DEFAULT_REGION = "us-east"


@frozen
class Settings:
    """What a client works with.

    Attributes:
        base_url: The part of every URL before /v1.
        providers: Who gives the headers that prove who is calling; empty for a client that calls without credentials.
    """

    base_url: str
    providers: tuple[AuthProvider, ...]


def resolve(
    auth: AuthProvider | Iterable[AuthProvider] | None,
    base_url: str | None,
    environ: Mapping[str, str] = os.environ,
) -> Settings:
    """Bring arguments and environment together.

    Args:
        auth: One provider or several; None for those that the environment names; empty for none at all. Where all are built in, a missing
            key or CRN comes from the environment.
        base_url: The part before /v1; by default QSESSIONS_BASE_URL, else the service of the CRN's region, else that of us-east.
        environ: The environment.

    Raises:
        ConfigurationError: Something is missing or can't be right; the message says what was looked at.
    """
    providers = _providers(auth, environ)
    given = base_url if base_url is not None else environ.get(BASE_URL) or None
    if given is None:
        return Settings(_regional_url(providers), providers)
    name = "base_url" if base_url is not None else BASE_URL
    url = service_url(given, name)
    if url.endswith("/v1"):
        raise ConfigurationError(
            f"{name} must be the part before /v1, such as https://quantum.cloud.ibm.com/api."
        )
    return Settings(url, providers)


def _providers(
    auth: AuthProvider | Iterable[AuthProvider] | None, environ: Mapping[str, str]
) -> tuple[AuthProvider, ...]:
    if auth is None:
        return _from_environment(environ)
    # Text is an iterable too: an empty one must not pass for "no credentials".
    one = isinstance(auth, str | bytes) or not isinstance(auth, Iterable)
    providers = (cast("AuthProvider", auth),) if one else tuple(cast("Iterable[AuthProvider]", auth))
    for provider in providers:
        if isinstance(provider, type) or not (
            callable(getattr(provider, "headers", None)) and callable(getattr(provider, "invalidate", None))
        ):
            raise ConfigurationError(
                f"auth= holds the class {provider.__name__}, not a provider made of it."
                if isinstance(provider, type)
                else f"auth= holds the {type(provider).__name__} object, which is no auth provider: it has no headers() and invalidate().",
                solution="Pass a provider such as IBMCloudAuth(api_key), or several in a list.",
            )
    built_in = [provider for provider in providers if isinstance(provider, IBMCloudAuth | StaticHeader)]
    _refuse_same_header(built_in)
    if providers and len(built_in) == len(providers):
        return _completed(built_in, environ)
    return providers


def _refuse_same_header(providers: Sequence[IBMCloudAuth | StaticHeader]) -> None:
    seen: dict[str, str] = {}
    for provider in providers:
        name = type(provider).__name__
        if provider.header in seen:
            raise ConfigurationError(
                f"{seen[provider.header]} and {name} both set the header {provider.header}; pass one of them."
            )
        seen[provider.header] = name


def _completed(
    providers: Sequence[IBMCloudAuth | StaticHeader], environ: Mapping[str, str]
) -> tuple[AuthProvider, ...]:
    """Take the half that is missing of key and CRN from the environment."""
    kinds = [isinstance(provider, ServiceCRN) for provider in providers]
    if all(kinds):
        if not environ.get(TOKEN):
            raise ConfigurationError(
                f"auth= has a CRN but no key or token, and {TOKEN} is not set.",
                solution=f"Pass IBMCloudAuth(api_key) too, or set {TOKEN}.",
            )
        return (IBMCloudAuth(environ[TOKEN]), *providers)
    if not any(kinds) and environ.get(INSTANCE):
        return (*providers, ServiceCRN(environ[INSTANCE]))
    return tuple(providers)


def _from_environment(environ: Mapping[str, str]) -> tuple[AuthProvider, ...]:
    missing = [name for name in (TOKEN, INSTANCE) if not environ.get(name)]
    if missing:
        raise ConfigurationError(
            f"there are no credentials: auth= was not given, and {' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} not set.",
            solution=f"Pass auth=[IBMCloudAuth(api_key), ServiceCRN(crn)], or set {TOKEN} (an API key) and {INSTANCE} (the CRN). "
            "auth=[] makes a client without credentials, enough for versions().",
        )
    return (IBMCloudAuth(environ[TOKEN]), ServiceCRN(environ[INSTANCE]))


def _regional_url(providers: Iterable[AuthProvider]) -> str:
    regions = [provider.region for provider in providers if isinstance(provider, ServiceCRN)]
    region = regions[0] if regions else DEFAULT_REGION
    # The default region has no name of its own in the host.
    host = "quantum.cloud.ibm.com" if region == DEFAULT_REGION else f"{region}.quantum.cloud.ibm.com"
    return f"https://{host}/api"
