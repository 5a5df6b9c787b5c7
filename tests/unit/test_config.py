"""Settings: arguments, then the environment, then defaults, each of them and each way to get them
wrong.
"""

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
from qsessions.api.messages import Transport
from qsessions.config.resolve import resolve
from qsessions.config.settings import Settings, SettingsLoader
from tests.support.clients import CRN
from tests.support.leftovers import LEFTOVERS, QUOTED
from tests.support.settings import iam_url
from tests.support.tables import table

CRN_EU = CRN.replace("us-east", "eu-de")
US = "https://quantum.cloud.ibm.com/api"
EU = "https://eu-de.quantum.cloud.ibm.com/api"
BOTH = {"QISKIT_IBM_TOKEN": "planted-env", "QISKIT_IBM_INSTANCE": CRN_EU}


class Custom:
    """A user's own provider."""

    async def headers(self, transport: Transport) -> Mapping[str, str]:
        """Return a header that a built-in one sets too."""
        return {"Authorization": "custom"}

    def invalidate(self, refused: Mapping[str, str]) -> bool:
        """Have nothing fresher."""
        return False


def described(settings: Settings | SettingsLoader) -> tuple[str, list[str]]:
    """Where a client would call, and with which providers."""
    assert isinstance(settings, Settings)
    return settings.base_url, [
        provider.crn if isinstance(provider, ServiceCRN) else type(provider).__name__
        for provider in settings.providers
    ]


KEY, TOKEN_PROVIDER = "IBMCloudAuth", "BackendAuthentication"


@table(
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
        (
            [ServiceCRN(CRN), ExternalServiceToken("t")],
            None,
            BOTH,
            US,
            [CRN, "ExternalServiceToken"],
        ),
        ((item for item in (IBMCloudAuth("k"), ServiceCRN(CRN_EU))), None, {}, EU, [KEY, CRN_EU]),
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
        (
            None,
            None,
            {**BOTH, "QSESSIONS_BASE_URL": "https://e/api/"},
            "https://e/api",
            [KEY, CRN_EU],
        ),
        (None, None, {**BOTH, "QSESSIONS_BASE_URL": ""}, EU, [KEY, CRN_EU]),
        ([], None, {"QSESSIONS_BASE_URL": "http://127.0.0.1:8080"}, "http://127.0.0.1:8080", []),
        # QISKIT_IBM_URL: the host that the service's is derived from, unless a base URL is given.
        (None, None, {**BOTH, "QISKIT_IBM_URL": "https://cloud.ibm.com"}, EU, [KEY, CRN_EU]),
        (
            None,
            None,
            {**BOTH, "QISKIT_IBM_URL": "https://test.cloud.ibm.com/"},
            "https://eu-de.quantum.test.cloud.ibm.com/api",
            [KEY, CRN_EU],
        ),
        ([], None, {"QISKIT_IBM_URL": "http://Own.example"}, "http://quantum.own.example/api", []),
        ([], None, {"QISKIT_IBM_URL": ""}, US, []),
        ([], "https://a/api", {"QISKIT_IBM_URL": "not looked at"}, "https://a/api", []),
        (
            None,
            None,
            {
                **BOTH,
                "QISKIT_IBM_URL": "no",
                "QSESSIONS_BASE_URL": "https://e/api",
                "IAM_URL": "https://iam.example",
            },
            "https://e/api",
            [KEY, CRN_EU],
        ),
    ],
)
def test_resolve(
    auth: Any, base_url: str | None, environ: dict[str, str], base: str, providers: list[str]
) -> None:
    """An argument wins over the environment and the environment over the default, for each half on
    its own.
    """
    assert described(resolve(auth, base_url, environ=environ)) == (base, providers)


SEARCH = "https://api.global-search-tagging.cloud.ibm.com"
CATALOG = "https://globalcatalog.cloud.ibm.com/api/v1"
KEY_ALONE = {"QISKIT_IBM_TOKEN": "k"}


@table(
    ("base_url", "environ", "search", "catalog"),
    [
        # In the cloud of the base URL.
        (None, {}, SEARCH, CATALOG),
        (
            None,
            {"QISKIT_IBM_URL": "https://test.cloud.ibm.com"},
            SEARCH.replace(".cloud", ".test.cloud"),
            CATALOG.replace(".cloud", ".test.cloud"),
        ),
        # As the variables say, also where the base URL is derived: the official client heeds them.
        (None, {"GLOBAL_SEARCH_URL": "https://s/"}, "https://s", CATALOG),
        (None, {"GLOBAL_CATALOG_URL": "https://c/x"}, SEARCH, "https://c/x"),
        (
            US,
            {"GLOBAL_SEARCH_URL": "https://s", "GLOBAL_CATALOG_URL": "https://c"},
            "https://s",
            "https://c",
        ),
        (
            "http://127.0.0.1:1/api",
            {
                "GLOBAL_SEARCH_URL": "http://127.0.0.1:1",
                "GLOBAL_CATALOG_URL": "http://127.0.0.1:1",
            },
            "http://127.0.0.1:1",
            "http://127.0.0.1:1",
        ),
    ],
)
def test_where_instances_are_looked_up(
    base_url: str | None, environ: dict[str, str], search: str, catalog: str
) -> None:
    """A key's token goes to the directory of the cloud of the base URL, else where the variables
    say, and no key is shown.
    """
    settings = resolve(None, base_url, environ=KEY_ALONE | environ)
    assert isinstance(settings, Settings)
    assert settings.lookup is not None
    directory = settings.lookup.directory
    assert (directory.search_url, directory.catalog_url) == (search, catalog)
    assert settings.directory == directory
    assert "planted" not in repr(resolve(None, environ={"QISKIT_IBM_TOKEN": "planted"}))


def test_the_region_that_was_found() -> None:
    """The address and the header of the service are those of the instance that was found; the key
    and its token stay.
    """
    settings = resolve(None, environ=KEY_ALONE)
    assert isinstance(settings, Settings)
    assert (settings.base_url, settings.instance) == (US, None)
    assert settings.lookup is not None
    complete = settings.lookup.complete(CRN_EU)
    assert described(complete) == (EU, [KEY, CRN_EU])
    assert (complete.instance, complete.lookup, complete.origins) == (CRN_EU, None, None)
    assert complete.providers[0] is settings.providers[0]


@table(
    ("auth", "environ"),
    [
        (IBMCloudAPIKey("k"), BOTH),
        (Custom(), {}),
        ([Custom(), IBMCloudAuth("k")], KEY_ALONE),
        ([], KEY_ALONE),
        (None, BOTH),
        (IBMCloudAuth("planted-env"), BOTH),
        (IBMCloudAuth.from_token("token"), BOTH),
        (IBMCloudAuth("k"), {"QISKIT_IBM_INSTANCE": CRN}),
    ],
)
def test_nothing_is_looked_up(auth: Any, environ: dict[str, str]) -> None:
    """With a CRN, without a key of ours, and among a user's own providers, there is no look-up."""
    settings = resolve(auth, environ=environ)
    assert isinstance(settings, Settings)
    assert settings.lookup is None


@table(
    ("auth", "crn"),
    [(None, CRN_EU), ([IBMCloudAuth("k"), ServiceCRN(CRN)], CRN), ([], None), (Custom(), None)],
)
def test_the_instance_is_known(auth: Any, crn: str | None) -> None:
    """The settings name the instance whose CRN is sent, wherever it comes from."""
    settings = resolve(auth, environ=BOTH)
    assert isinstance(settings, Settings)
    assert settings.instance == crn


async def test_key_of_the_environment() -> None:
    """The instance in the environment is the one whose header is sent."""
    settings = resolve(IBMCloudAPIKey("k"), environ=BOTH)
    assert isinstance(settings, Settings)
    transport: Any = None  # They ask nobody.
    headers = [dict(await provider.headers(transport)) for provider in settings.providers]
    assert headers == [{"Authorization": "apikey k"}, {"Service-CRN": CRN_EU}]


NO_CREDENTIALS = "there are no usable credentials: "
NOWHERE = NO_CREDENTIALS + (
    "QISKIT_IBM_INSTANCE: without a CRN the instance is looked up, and the base URL doesn't say "
    "where instances are listed."
)
NO_CLOUD = (
    "QISKIT_IBM_URL must be the address of the cloud, such as https://cloud.ibm.com, without "
    "port and path."
)


@table(
    ("auth", "base_url", "environ", "problem"),
    [
        # Without a CRN, where no directory is known.
        (None, US, {"QISKIT_IBM_TOKEN": "planted"}, NOWHERE),
        (
            None,
            None,
            {
                "QISKIT_IBM_TOKEN": "planted",
                "QISKIT_IBM_INSTANCE": "planted-name",
                "QSESSIONS_BASE_URL": US,
                "GLOBAL_SEARCH_URL": "https://search.example",
            },
            NOWHERE,
        ),
        (
            IBMCloudAuth("planted"),
            US,
            BOTH,
            NOWHERE.replace(NO_CREDENTIALS, NO_CREDENTIALS + "auth= has no CRN; "),
        ),
        (
            None,
            US,
            {
                "QISKIT_IBM_TOKEN": "planted",
                "GLOBAL_SEARCH_URL": "planted",
                "GLOBAL_CATALOG_URL": US,
            },
            NO_CREDENTIALS
            + (
                "QISKIT_IBM_INSTANCE: without a CRN the instance is looked up, and "
                "GLOBAL_SEARCH_URL must be an absolute URL that begins with http:// or https://, "
                'without white space, such as "https://quantum.cloud.ibm.com/api".'
            ),
        ),
        # No key of the cloud's goes to an emulator.
        (
            None,
            None,
            {"QISKIT_IBM_TOKEN": "planted", "GLOBAL_CATALOG_URL": "http://127.0.0.1:8765"},
            NO_CREDENTIALS
            + (
                "QISKIT_IBM_INSTANCE: without a CRN the instance is looked up, and "
                "GLOBAL_CATALOG_URL is an address in plain http, as an emulator "
                "has, and a key of the cloud's would go there."
            ),
        ),
        (
            None,
            None,
            {"QISKIT_IBM_TOKEN": "planted\n", "QISKIT_IBM_INSTANCE": CRN},
            NO_CREDENTIALS
            + "QISKIT_IBM_TOKEN: the API key for IBMCloudAuth contains a line end (CR, LF) or NUL, "
            "as text read from a file without strip() does.",
        ),
        (
            None,
            None,
            {"QISKIT_IBM_TOKEN": "planted", "QISKIT_IBM_INSTANCE": "'planted-name'"},
            (
                f"{NO_CREDENTIALS}QISKIT_IBM_INSTANCE: the value for ServiceCRN begins or ends with a "
                "quotation mark, as `docker --env-file` keeps it: leave it out."
            ),
        ),
        (
            None,
            None,
            {"QISKIT_IBM_TOKEN": "planted", "QISKIT_IBM_INSTANCE": "crn:v1:my-instance"},
            NO_CREDENTIALS
            + (
                "QISKIT_IBM_INSTANCE: the value for ServiceCRN is not the CRN of a service "
                "instance."
            ),
        ),
        (
            IBMCloudAPIKey("planted"),
            None,
            {"QISKIT_IBM_INSTANCE": "planted"},
            (
                "there are no usable credentials: auth= has no CRN; "
                "QISKIT_IBM_INSTANCE: the value for ServiceCRN is not the CRN of a "
                "service instance; a name is not enough."
            ),
        ),
        (
            None,
            None,
            {**BOTH, "IAM_URL": "https://u:planted@iam.example"},
            "IAM_URL must not hold a user name or password.",
        ),
        *(
            (
                None,
                None,
                {**BOTH, "IAM_URL": url},
                (
                    "IAM_URL must be an absolute URL that begins with http:// or "
                    "https://, without white space, "
                    'such as "https://iam.cloud.ibm.com".'
                ),
            )
            for url in ("planted", "ftp://planted", "https://planted example")
        ),
        *(
            ([], None, {"QISKIT_IBM_URL": url}, NO_CLOUD)
            for url in (
                "planted",
                "https://u:planted@cloud.ibm.com",
                "https://quantum.cloud.ibm.com/api",
                "https://cloud.ibm.com:8443",
                "https://[::1]",
                "https://cloud.ibm.com?planted=1",
            )
        ),
        # The same where only the key's IAM is derived from it.
        (None, US, {**BOTH, "QISKIT_IBM_URL": "planted"}, NO_CLOUD),
        (None, None, {**BOTH, "QISKIT_IBM_URL": "http://planted/api"}, NO_CLOUD),
        *(
            (None, None, {**BOTH, variable: text}, f"{what} {problem}.")
            for text, problem in LEFTOVERS
            for variable, what in (
                ("QISKIT_IBM_URL", "QISKIT_IBM_URL"),
                ("IAM_URL", "IAM_URL"),
                ("QSESSIONS_BASE_URL", "QSESSIONS_BASE_URL"),
                (
                    "QISKIT_IBM_TOKEN",
                    NO_CREDENTIALS + "QISKIT_IBM_TOKEN: the API key for IBMCloudAuth",
                ),
                (
                    "QISKIT_IBM_INSTANCE",
                    NO_CREDENTIALS + "QISKIT_IBM_INSTANCE: the value for ServiceCRN",
                ),
            )
        ),
        (
            [],
            '"https://planted"',
            {},
            f"base_url {QUOTED}.",
        ),
        *(
            (
                None,
                None,
                {**BOTH, "QSESSIONS_PRIVATE_ENDPOINT": text},
                "QSESSIONS_PRIVATE_ENDPOINT must be true or false.",
            )
            for text in ("yes", "1", "planted", '"true"')
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
        *(
            (
                auth,
                None,
                BOTH,
                (
                    f"auth= holds the {kind} object, which is not an auth provider: it needs headers() "
                    "and invalidate()."
                ),
            )
            for auth, kind in (
                ("planted", "str"),
                ("", "str"),
                (b"", "bytes"),
                (["planted"], "str"),
                ({"Authorization": "planted"}, "str"),
                (5, "int"),
            )
        ),
        (
            [IBMCloudAuth],
            None,
            BOTH,
            "auth= holds the class IBMCloudAuth, not a provider made of it.",
        ),
        (Custom, None, BOTH, "auth= holds the class Custom, not a provider made of it."),
        (
            [],
            "",
            {"QSESSIONS_BASE_URL": US},
            (
                "base_url must be an absolute URL that begins with http:// or https://, "
                'without white space, such as "https://quantum.cloud.ibm.com/api".'
            ),
        ),
        (
            [],
            "https://u:planted@h",
            {},
            "base_url must not hold a user name or password.",
        ),
        (
            [],
            None,
            {"QSESSIONS_BASE_URL": "nonsense"},
            (
                "QSESSIONS_BASE_URL must be an absolute URL that begins with http:// or "
                'https://, without white space, such as "https://quantum.cloud.ibm.com/api".'
            ),
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
            (
                "QSESSIONS_BASE_URL must be the part before /v1, such as "
                "https://quantum.cloud.ibm.com/api."
            ),
        ),
    ],
)
def test_refused(auth: Any, base_url: str | None, environ: dict[str, str], problem: str) -> None:
    """What is missing or wrong is said in a sentence that names the argument or variable and
    repeats no secret.
    """
    with pytest.raises(ConfigurationError) as caught:
        resolve(auth, base_url, environ=environ)
    assert caught.value.message == problem
    assert "planted" not in str(caught.value)


def test_advice_about_an_address() -> None:
    """A wrong address in the environment is to be corrected itself; how to give credentials is no
    help.
    """
    with pytest.raises(ConfigurationError) as caught:
        resolve(None, environ={**BOTH, "IAM_URL": "foo"})
    assert caught.value.solution == "Correct or unset IAM_URL."
    for name, values in {
        "QSESSIONS_BASE_URL": ["foo", '"https://foo"', "https://foo/v1", "https://u:p@foo"],
        "QSESSIONS_PRIVATE_ENDPOINT": ["yes"],
        "QSESSIONS_INSECURE_HOSTS": ["/"],
    }.items():
        for value in values:
            with pytest.raises(ConfigurationError) as caught:
                resolve(None, environ={**BOTH, name: value})
            assert caught.value.solution == f"Correct or unset {name}."
    with pytest.raises(ConfigurationError) as caught:
        resolve(None, environ={**BOTH, "QISKIT_IBM_URL": "http://foo/api"})
    assert (
        caught.value.solution
        == "The service's own base URL goes into base_url= or QSESSIONS_BASE_URL."
    )


BASE_URL_GOES = "The service's own base URL goes into base_url= or QSESSIONS_BASE_URL."
PRIVATE = ", and QSESSIONS_PRIVATE_ENDPOINT=true asks for private endpoints"


@table(
    ("url", "cloud", "more"),
    [
        ("https://quantum.cloud.ibm.com", "https://cloud.ibm.com", ""),
        ("https://quantum.cloud.ibm.com/", "https://cloud.ibm.com", ""),
        ("https://quantum.cloud.ibm.com/api", "https://cloud.ibm.com", ""),
        ("https://quantum.cloud.ibm.com/api/v1", "https://cloud.ibm.com", ""),
        ("HTTPS://Quantum.Cloud.IBM.com:443", "https://cloud.ibm.com", ""),
        ("https://eu-de.quantum.cloud.ibm.com", "https://cloud.ibm.com", ""),
        ("https://private.us-east.quantum.cloud.ibm.com", "https://cloud.ibm.com", PRIVATE),
        ("https://private.iam.cloud.ibm.com", "https://cloud.ibm.com", PRIVATE),
        ("https://private.cloud.ibm.com", "https://cloud.ibm.com", PRIVATE),
        ("https://iam.cloud.ibm.com", "https://cloud.ibm.com", ""),
        ("https://iam.cloud.ibm.com/identity/token", "https://cloud.ibm.com", ""),
        ("https://us-east.quantum-computing.cloud.ibm.com", "https://cloud.ibm.com", ""),
        ("https://quantum-computing.ibm.com", "https://cloud.ibm.com", ""),
        ("https://auth.quantum-computing.ibm.com/api", "https://cloud.ibm.com", ""),
        ("https://quantum.ibm.com", "https://cloud.ibm.com", ""),
        ("https://docs.quantum.ibm.com", "https://cloud.ibm.com", ""),
        ("https://us-east.cloud.ibm.com", "https://cloud.ibm.com", ""),
        ("https://globalcatalog.cloud.ibm.com/api/v1", "https://cloud.ibm.com", ""),
        ("https://www.ibm.com/quantum", "https://cloud.ibm.com", ""),
        ("https://ibm.com", "https://cloud.ibm.com", ""),
        ("https://cloud.ibm.com/login", "https://cloud.ibm.com", ""),
        ("https://cloud.ibm.com:443", "https://cloud.ibm.com", ""),
        ("https://iam.test.cloud.ibm.com", "https://test.cloud.ibm.com", ""),
        ("https://eu-de.quantum.own.example", "https://own.example", ""),
    ],
)
def test_an_address_that_is_the_service_s_own(url: str, cloud: str, more: str) -> None:
    """An address of the service, of IAM or of the platform before isn't taken for the cloud's: the
    advice has the one to write.
    """
    with pytest.raises(ConfigurationError) as caught:
        resolve(None, environ={**BOTH, "QISKIT_IBM_URL": url})
    assert caught.value.message == (
        f"QISKIT_IBM_URL must be the address of the cloud, such as {cloud}, without port and "
        f"path{more}."
    )
    assert caught.value.solution == f"Write {cloud}. {BASE_URL_GOES}"
    # What it says to write is taken.
    assert isinstance(resolve(None, environ={**BOTH, "QISKIT_IBM_URL": cloud}), Settings)


@table(
    ("crn", "value", "base", "iam"),
    [
        (CRN, "true", "https://private.us-east.quantum.cloud.ibm.com/api", "private.iam"),
        (CRN_EU, "True", "https://private.eu-de.quantum.cloud.ibm.com/api", "private.iam"),
        (CRN_EU, "false", EU, "iam"),
        (CRN_EU, "", EU, "iam"),
    ],
)
def test_private_endpoints(crn: str, value: str, base: str, iam: str) -> None:
    """The environment can ask for private endpoints, of the service and of IAM."""
    environ = {**BOTH, "QISKIT_IBM_INSTANCE": crn, "QSESSIONS_PRIVATE_ENDPOINT": value}
    settings = resolve(None, environ=environ)
    assert isinstance(settings, Settings)
    assert (settings.base_url, iam_url(settings)) == (base, f"https://{iam}.cloud.ibm.com")


def test_an_address_that_does_not_count_is_not_looked_at() -> None:
    """IAM's address matters only where a key is sought, the cloud's only where something is derived
    from it.
    """
    wrong = {"IAM_URL": "foo", "QISKIT_IBM_URL": "foo"}
    assert isinstance(resolve([], US, environ=wrong), Settings)
    own = {**BOTH, "QISKIT_IBM_URL": "foo", "IAM_URL": "https://iam.example"}
    assert isinstance(resolve(None, US, environ=own), Settings)


@table(
    ("auth", "solution"),
    [
        (None, "Pass auth=[IBMCloudAuth(api_key), ServiceCRN(crn)], or set QISKIT_IBM_TOKEN"),
        ("key", "Pass a provider such as IBMCloudAuth(api_key), or several in a list."),
    ],
)
def test_advice(auth: Any, solution: str) -> None:
    """Missing credentials come with what to do about it."""
    with pytest.raises(ConfigurationError) as caught:
        resolve(auth, environ={"QISKIT_IBM_TOKEN": "k\n"})
    assert caught.value.solution is not None
    assert caught.value.solution.startswith(solution)


def test_the_process_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no environment is passed, that of the process is read, as it is at the time of the
    call.
    """
    monkeypatch.setitem(os.environ, "QISKIT_IBM_TOKEN", "k")
    monkeypatch.setitem(os.environ, "QISKIT_IBM_INSTANCE", CRN_EU)
    assert described(resolve(None)) == (EU, [KEY, CRN_EU])


def test_custom_provider_is_one() -> None:
    """A class with the two methods is a provider, for type checkers too, and is passed on as is."""
    provider: AuthProvider = Custom()
    settings = resolve(provider, environ={})
    assert isinstance(settings, Settings)
    assert settings.providers == (provider,)


@table(
    ("environ", "iam"),
    [
        (BOTH, "https://iam.cloud.ibm.com"),
        (
            {**BOTH, "QISKIT_IBM_URL": "https://test.cloud.ibm.com"},
            "https://iam.test.cloud.ibm.com",
        ),
        (
            {**BOTH, "QISKIT_IBM_URL": "https://test.cloud.ibm.com", "IAM_URL": "https://own/"},
            "https://own",
        ),
    ],
)
def test_iam_of_the_same_cloud(environ: dict[str, str], iam: str) -> None:
    """The key goes to IAM of the cloud that QISKIT_IBM_URL names, unless IAM_URL says another."""
    settings = resolve(None, environ=environ)
    assert isinstance(settings, Settings)
    assert iam_url(settings) == iam


@table(
    ("auth", "environ", "named"),
    [
        (None, {}, {}),
        (None, {"QISKIT_IBM_TOKEN": "", "QISKIT_IBM_INSTANCE": CRN}, {}),
        (ServiceCRN(CRN), {"QISKIT_IBM_INSTANCE": CRN_EU}, {}),
        ([IBMCloudAPIKey("k")], {"QISKIT_IBM_TOKEN": "k", "QISKIT_IBM_INSTANCE": ""}, {}),
        # A named account comes before the environment, and may give only the URL and the proxies.
        (None, BOTH, {"account": "a"}),
        (None, BOTH, {"account_file": "a.json"}),
        ([], BOTH, {"account": "a"}),
        ([IBMCloudAuth("k"), ServiceCRN(CRN)], {}, {"account": "a"}),
        # A channel that is gone matters where the file gives no default.
        (None, {"QISKIT_IBM_CHANNEL": "ibm_quantum"}, {}),
        (None, {"QISKIT_IBM_CHANNEL": "ibm_quantum"}, {"account": "a"}),
    ],
)
def test_the_file_is_needed(auth: Any, environ: dict[str, str], named: dict[str, str]) -> None:
    """Where arguments and environment leave a half open, or an account is named, the file has to be
    searched; no secret shows.
    """
    options: dict[str, Any] = {**named, "environ": {"IAM_URL": "https://planted", **environ}}
    search = resolve(auth, **options)
    assert isinstance(search, SettingsLoader)
    assert "planted" not in repr(search)


@table(
    ("named", "problem"),
    [
        ({"account": ""}, "account= must be the name of an account."),
        ({"account": 5}, "account= must be the name of an account."),
        ({"account_file": ""}, "account_file= must be the path of a file."),
        ({"account_file": b"x"}, "account_file= must be the path of a file."),
        ({"account_file": 5}, "account_file= must be the path of a file."),
    ],
)
def test_no_account(named: Any, problem: str) -> None:
    """A name or a path that can't be one is refused at once."""
    with pytest.raises(ConfigurationError, match=problem.replace(".", r"\.")):
        resolve(None, environ=BOTH, **named)


def test_proxies_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """The process's proxies are taken on, and their passwords aren't shown."""
    monkeypatch.setenv("HTTPS_PROXY", "http://user:planted@proxy.example")
    monkeypatch.setenv("NO_PROXY", "own.example")
    settings = resolve([], environ={})
    assert isinstance(settings, Settings)
    assert settings.proxies == {"https": "http://user:planted@proxy.example", "no": "own.example"}
    assert "planted" not in repr(settings)
