"""Settings: arguments, then the environment, then defaults, each of them and each way to get them wrong."""

import os
from collections.abc import Mapping
from typing import Any

import pytest

from qsessions import (
    AuthProvider,
    BackendAuthentication,
    ConfigurationError,
    ExternalServiceToken,
    IBMCloudAPIKey,
    IBMCloudAuth,
    ServiceCRN,
)
from qsessions.config import Settings, resolve
from qsessions.wire import Transport

CRN = "crn:v1:bluemix:public:quantum-computing:us-east:a/acc0unt:guid-1::"
CRN_EU = "crn:v1:bluemix:public:quantum-computing:eu-de:a/acc0unt:guid-2::"
US = "https://quantum.cloud.ibm.com/api"
EU = "https://eu-de.quantum.cloud.ibm.com/api"
BOTH = {"QISKIT_IBM_TOKEN": "planted-env", "QISKIT_IBM_INSTANCE": CRN_EU}


class Custom:
    """A user's own provider."""

    async def headers(self, transport: Transport) -> Mapping[str, str]:
        """Give a header that a built-in one sets too."""
        return {"Authorization": "custom"}

    def invalidate(self, refused: Mapping[str, str]) -> bool:
        """Have nothing fresher."""
        return False


def described(settings: Settings) -> tuple[str, list[str]]:
    """Where a client would call, and with which providers."""
    return settings.base_url, [
        provider.crn if isinstance(provider, ServiceCRN) else type(provider).__name__
        for provider in settings.providers
    ]


KEY, TOKEN_PROVIDER = "IBMCloudAuth", "BackendAuthentication"


@pytest.mark.parametrize(
    ("auth", "base_url", "environ", "base", "providers"),
    [
        # Both halves from the environment.
        (None, None, BOTH, EU, [KEY, CRN_EU]),
        (None, None, {**BOTH, "QISKIT_IBM_INSTANCE": CRN}, US, [KEY, CRN]),
        # An argument for one half, the environment for the other.
        (IBMCloudAPIKey("k"), None, BOTH, EU, ["IBMCloudAPIKey", CRN_EU]),
        ([BackendAuthentication("t")], None, BOTH, EU, [TOKEN_PROVIDER, CRN_EU]),
        (ServiceCRN(CRN), None, BOTH, US, [KEY, CRN]),
        ([ServiceCRN(CRN)], None, {"QISKIT_IBM_TOKEN": "k"}, US, [KEY, CRN]),
        # Both halves from arguments: the environment is not looked at.
        ([IBMCloudAuth("k"), ServiceCRN(CRN)], None, BOTH, US, [KEY, CRN]),
        ([ServiceCRN(CRN), ExternalServiceToken("t")], None, BOTH, US, [CRN, "ExternalServiceToken"]),
        ((item for item in (IBMCloudAuth("k"), ServiceCRN(CRN_EU))), None, {}, EU, [KEY, CRN_EU]),
        # A key alone works too: the service may not need the CRN.
        ([IBMCloudAPIKey("k")], None, {}, US, ["IBMCloudAPIKey"]),
        ([IBMCloudAPIKey("k")], None, {"QISKIT_IBM_INSTANCE": ""}, US, ["IBMCloudAPIKey"]),
        # No credentials, on purpose.
        ([], None, BOTH, US, []),
        ((), None, {}, US, []),
        # A custom provider may set anything: nothing is added to it, nothing is refused.
        (Custom(), None, BOTH, US, ["Custom"]),
        ([Custom(), IBMCloudAPIKey("k")], None, BOTH, US, ["Custom", "IBMCloudAPIKey"]),
        ([Custom(), ServiceCRN(CRN_EU)], None, {}, EU, ["Custom", CRN_EU]),
        # The base URL: argument, environment, region, default.
        (
            None,
            "https://a/api",
            {**BOTH, "QSESSIONS_BASE_URL": "https://e/api"},
            "https://a/api",
            [KEY, CRN_EU],
        ),
        (None, None, {**BOTH, "QSESSIONS_BASE_URL": "https://e/api/"}, "https://e/api", [KEY, CRN_EU]),
        (None, None, {**BOTH, "QSESSIONS_BASE_URL": ""}, EU, [KEY, CRN_EU]),
        ([], None, {"QSESSIONS_BASE_URL": "http://127.0.0.1:8080"}, "http://127.0.0.1:8080", []),
    ],
)
def test_resolve(
    auth: Any, base_url: str | None, environ: dict[str, str], base: str, providers: list[str]
) -> None:
    """An argument wins over the environment and the environment over the default, for each half on its own."""
    assert described(resolve(auth, base_url, environ)) == (base, providers)


async def test_key_of_the_environment() -> None:
    """The instance in the environment is the one whose header is sent."""
    settings = resolve(IBMCloudAPIKey("k"), None, BOTH)
    headers = [dict(await provider.headers(Any)) for provider in settings.providers]  # type: ignore[arg-type]  # they ask nobody
    assert headers == [{"Authorization": "apikey k"}, {"Service-CRN": CRN_EU}]


NO_CREDENTIALS = "there are no credentials: auth= was not given, and "


@pytest.mark.parametrize(
    ("auth", "base_url", "environ", "problem"),
    [
        (None, None, {}, NO_CREDENTIALS + "QISKIT_IBM_TOKEN and QISKIT_IBM_INSTANCE are not set."),
        (None, US, {}, NO_CREDENTIALS + "QISKIT_IBM_TOKEN and QISKIT_IBM_INSTANCE are not set."),
        (None, None, {"QISKIT_IBM_TOKEN": "planted"}, NO_CREDENTIALS + "QISKIT_IBM_INSTANCE is not set."),
        (None, None, {"QISKIT_IBM_INSTANCE": CRN}, NO_CREDENTIALS + "QISKIT_IBM_TOKEN is not set."),
        (
            None,
            None,
            {"QISKIT_IBM_TOKEN": "", "QISKIT_IBM_INSTANCE": CRN},
            NO_CREDENTIALS + "QISKIT_IBM_TOKEN is not set.",
        ),
        (
            ServiceCRN(CRN),
            None,
            {},
            "auth= has a CRN but no key or token, and QISKIT_IBM_TOKEN is not set.",
        ),
        (
            None,
            None,
            {"QISKIT_IBM_TOKEN": "planted\n", "QISKIT_IBM_INSTANCE": CRN},
            "the API key for IBMCloudAuth contains a line end (CR, LF) or NUL; was it read from a file without strip()?.",
        ),
        (
            None,
            None,
            {"QISKIT_IBM_TOKEN": "planted", "QISKIT_IBM_INSTANCE": "my-instance"},
            "the value for ServiceCRN is no CRN of a service instance; its name is not enough.",
        ),
        (
            [IBMCloudAuth("planted"), IBMCloudAPIKey("planted")],
            None,
            {},
            "IBMCloudAuth and IBMCloudAPIKey both set the header Authorization; pass one of them.",
        ),
        (
            [ServiceCRN(CRN), ServiceCRN(CRN)],
            None,
            BOTH,
            "ServiceCRN and ServiceCRN both set the header Service-CRN; pass one of them.",
        ),
        (
            [Custom(), IBMCloudAuth("planted"), IBMCloudAuth("planted")],
            None,
            {},
            "IBMCloudAuth and IBMCloudAuth both set the header Authorization; pass one of them.",
        ),
        (
            "planted",
            None,
            BOTH,
            "auth= holds the str object, which is no auth provider: it has no headers() and invalidate().",
        ),
        (
            "",
            None,
            BOTH,
            "auth= holds the str object, which is no auth provider: it has no headers() and invalidate().",
        ),
        (
            b"",
            None,
            BOTH,
            "auth= holds the bytes object, which is no auth provider: it has no headers() and invalidate().",
        ),
        (
            ["planted"],
            None,
            BOTH,
            "auth= holds the str object, which is no auth provider: it has no headers() and invalidate().",
        ),
        (
            {"Authorization": "planted"},
            None,
            BOTH,
            "auth= holds the str object, which is no auth provider: it has no headers() and invalidate().",
        ),
        (
            5,
            None,
            BOTH,
            "auth= holds the int object, which is no auth provider: it has no headers() and invalidate().",
        ),
        ([IBMCloudAuth], None, BOTH, "auth= holds the class IBMCloudAuth, not a provider made of it."),
        (Custom, None, BOTH, "auth= holds the class Custom, not a provider made of it."),
        (
            [],
            "",
            {"QSESSIONS_BASE_URL": US},
            'base_url must be an absolute URL without white space, such as "https://quantum.cloud.ibm.com/api".',
        ),
        (
            [],
            "https://u:planted@h",
            {},
            "base_url must not hold a user name or password; credentials go into auth=.",
        ),
        (
            [],
            None,
            {"QSESSIONS_BASE_URL": "nonsense"},
            'QSESSIONS_BASE_URL must be an absolute URL without white space, such as "https://quantum.cloud.ibm.com/api".',
        ),
        (
            [],
            US + "/v1",
            {},
            "base_url must be the part before /v1, such as https://quantum.cloud.ibm.com/api.",
        ),
        (
            [],
            None,
            {"QSESSIONS_BASE_URL": US + "/v1/"},
            "QSESSIONS_BASE_URL must be the part before /v1, such as https://quantum.cloud.ibm.com/api.",
        ),
    ],
)
def test_refused(auth: Any, base_url: str | None, environ: dict[str, str], problem: str) -> None:
    """What is missing or wrong is said in a sentence that names the argument or variable and repeats no secret."""
    with pytest.raises(ConfigurationError) as caught:
        resolve(auth, base_url, environ)
    assert caught.value.message == problem
    assert "planted" not in str(caught.value)


@pytest.mark.parametrize(
    ("auth", "solution"),
    [
        (None, "Pass auth=[IBMCloudAuth(api_key), ServiceCRN(crn)], or set QISKIT_IBM_TOKEN"),
        (ServiceCRN(CRN), "Pass IBMCloudAuth(api_key) too, or set QISKIT_IBM_TOKEN."),
        ("key", "Pass a provider such as IBMCloudAuth(api_key), or several in a list."),
    ],
)
def test_advice(auth: Any, solution: str) -> None:
    """Missing credentials come with what to do about it."""
    with pytest.raises(ConfigurationError) as caught:
        resolve(auth, None, {})
    assert caught.value.solution is not None
    assert caught.value.solution.startswith(solution)


def test_the_process_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no environment is passed, that of the process is read, as it is at the time of the call."""
    monkeypatch.setitem(os.environ, "QISKIT_IBM_TOKEN", "k")
    monkeypatch.setitem(os.environ, "QISKIT_IBM_INSTANCE", CRN_EU)
    assert described(resolve(None, None)) == (EU, [KEY, CRN_EU])


def test_custom_provider_is_one() -> None:
    """A class with the two methods is a provider for type checkers too, and is passed on as it is."""
    provider: AuthProvider = Custom()
    assert resolve(provider, None, {}).providers == (provider,)
