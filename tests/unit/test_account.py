"""The account file: which account is chosen, what it gives, and each way in which it won't do."""

from __future__ import annotations

import json
import traceback
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import pytest
from hypothesis import given, strategies as st

from qsessions import (
    AuthProvider,
    ConfigurationError,
    IBMCloudAPIKey,
    IBMCloudAuth,
    QSessionsError,
    ServiceCRN,
)
from qsessions.auth.iam import TokenExchange
from qsessions.config.account_file import decode_accounts, read_accounts
from qsessions.config.resolve import resolve
from qsessions.config.settings import Settings, SettingsLoader
from tests.support.clients import CRN
from tests.support.json_values import JSON
from tests.support.leftovers import LEFTOVERS
from tests.support.settings import iam_url
from tests.support.tables import table

CRN_EU, CRN_JP = CRN.replace("us-east", "eu-de"), CRN.replace("us-east", "jp-tok")
EU = "https://eu-de.quantum.cloud.ibm.com/api"
PLATFORM, CLOUD, OLD = "ibm_quantum_platform", "ibm_cloud", "ibm_quantum"


def account(**fields: object) -> dict[str, object]:
    """Return an account as the official client saves it."""
    return {
        "channel": PLATFORM,
        "token": "planted",
        "instance": CRN_EU,
        "url": "https://cloud.ibm.com",
        "verify": True,
        "private_endpoint": False,
        "region": "us-east",
        "plans_preference": ["open"],
        "tags": [],
    } | fields


def save(folder: Path, accounts: object) -> str:
    """Write a file of accounts."""
    file = folder / "accounts.json"
    file.write_text(json.dumps(accounts), encoding="utf-8")
    return str(file)


def look(
    home: Path,
    accounts: object,
    auth: AuthProvider | list[AuthProvider] | None = None,
    environ: dict[str, str] | None = None,
    **options: Any,
) -> Settings:
    """SettingsLoader the usual file, or another that is named, with these accounts in it."""
    (home / ".qiskit").mkdir(exist_ok=True)
    (home / ".qiskit" / "qiskit-ibm.json").write_text(json.dumps(accounts), encoding="utf-8")
    search = resolve(auth, environ=environ or {}, **options)
    assert isinstance(search, SettingsLoader)
    return search.load_blocking()


def crns(settings: Settings) -> list[str]:
    """Return the CRNs that a client would send."""
    return [provider.crn for provider in settings.providers if isinstance(provider, ServiceCRN)]


def seen(error: BaseException) -> str:
    """Return all that an error shows: its texts, and the locals of each frame but the tests' own."""
    shown = [repr(error), str(error), repr(vars(error))]
    for frame, _ in traceback.walk_tb(error.__traceback__):
        if frame.f_code.co_filename != __file__:
            shown += map(repr, frame.f_locals.values())
    context = error.__context__ or error.__cause__
    return " ".join(shown) + (seen(context) if context else "")


def refused(home: Path, accounts: object, *arguments: Any, **options: Any) -> ConfigurationError:
    """Return the error that a search ends with."""
    with pytest.raises(ConfigurationError) as caught:
        look(home, accounts, *arguments, **options)
    assert "planted" not in seen(caught.value)
    return caught.value


def test_both_halves_from_one_account(home: Path) -> None:
    """Key and CRN come from the account, the base URL from its CRN's region."""
    settings = look(home, {"mine": account()})
    assert settings.base_url == EU
    assert [type(provider) for provider in settings.providers] == [IBMCloudAuth, ServiceCRN]
    assert crns(settings) == [CRN_EU]
    auth = settings.providers[0]
    assert isinstance(auth, IBMCloudAuth)
    assert isinstance(auth._tokens, TokenExchange)
    assert b"apikey=planted" in (auth._tokens._request.body or b"")


FIRST = account(instance=CRN)
MARKED = account(is_default_account=True)
CHOICES: list[tuple[dict[str, dict[str, object]], dict[str, str], str]] = [
    # The one marked as default, wherever it stands.
    (
        {"default-ibm-quantum-platform": FIRST, "b": account(is_default_account=True), "c": FIRST},
        {},
        CRN_EU,
    ),
    (
        {
            "a": account(is_default_account=True),
            "b": account(instance=CRN, is_default_account=True),
        },
        {},
        CRN_EU,
    ),
    # Then the one that is named so.
    ({"default-ibm-quantum-platform": account(), "b": FIRST}, {}, CRN_EU),
    (
        {"b": FIRST, "default-ibm-quantum-platform": account(), "default-ibm-cloud": FIRST},
        {},
        CRN_EU,
    ),
    # Then any: the last.
    ({"a": FIRST, "b": account()}, {}, CRN_EU),
    # One that is marked, of whatever channel, also where another channel is asked for.
    (
        {"a": FIRST, "b": account(channel=CLOUD, is_default_account=True)},
        {},
        CRN_EU,
    ),
    (
        {"default-ibm-cloud": account(channel=CLOUD, instance=CRN), "b": MARKED},
        {"QISKIT_IBM_CHANNEL": CLOUD},
        CRN_EU,
    ),
    ({"a": FIRST, "b": account(is_default_account=1), "c": FIRST}, {}, CRN_EU),
    ({"a": account(is_default_account=0), "b": account()}, {}, CRN_EU),
    # Else only of the wanted channel.
    (
        {
            "a": FIRST,
            "default-ibm-cloud": account(channel=CLOUD),
            "c": account(channel=CLOUD, instance=CRN),
        },
        {"QISKIT_IBM_CHANNEL": CLOUD},
        CRN_EU,
    ),
    ({"a": account(), "default-ibm-cloud": account(channel=CLOUD, instance=CRN)}, {}, CRN_EU),
    # Where there is none of it, the usual name of the default channel, else of the other one.
    ({"default-ibm-cloud": account(channel=CLOUD)}, {}, CRN_EU),
    ({"default-ibm-cloud": account(channel=CLOUD, is_default_account=True)}, {}, CRN_EU),
    (
        {"default-ibm-quantum-platform": account(), "b": FIRST},
        {"QISKIT_IBM_CHANNEL": CLOUD},
        CRN_EU,
    ),
    (
        {
            "default-ibm-cloud": account(channel=CLOUD, instance=CRN),
            "default-ibm-quantum-platform": account(),
        },
        {"QISKIT_IBM_CHANNEL": OLD},
        CRN_EU,
    ),
    ({"a": FIRST, "b": MARKED}, {"QISKIT_IBM_CHANNEL": "another"}, CRN_EU),
    # An old one is passed over, and so is one that can't be read and isn't of the channel.
    (
        {
            "old": account(channel=OLD, instance="ibm-q/open/main", is_default_account=True),
            "b": account(),
        },
        {},
        CRN_EU,
    ),
    (
        {
            "b": account(),
            "broken": {"channel": 5, "token": ["planted"]},
            "text": "planted",  # type: ignore[dict-item]  # on purpose
        },
        {},
        CRN_EU,
    ),
]


@table(("accounts", "environ", "crn"), CHOICES)
def test_choice(home: Path, accounts: dict[str, object], environ: dict[str, str], crn: str) -> None:
    """Without a name, the account is chosen in the official client's order."""
    assert crns(look(home, accounts, environ=environ)) == [crn]


def test_named(home: Path, tmp_path: Path) -> None:
    """`account=` and `account_file=` choose, each alone and both together, and come before the
    environment.
    """
    both = {"QISKIT_IBM_TOKEN": "k", "QISKIT_IBM_INSTANCE": CRN_JP}
    accounts = {
        "a": account(),
        "b": account(instance=CRN, channel=CLOUD),
        "c": {"token": "k", "instance": CRN_JP},
    }
    assert crns(look(home, accounts, environ=both, account="b")) == [CRN]
    assert crns(look(home, accounts, environ=both, account="c")) == [CRN_JP]
    file = save(tmp_path, {"a": account(instance=CRN)})
    assert crns(look(home, accounts, environ=both, account_file=file)) == [CRN]
    assert crns(look(home, accounts, environ=both, account_file=Path(file), account="a")) == [CRN]
    assert crns(look(home, accounts, environ=both, account_file="~/.qiskit/qiskit-ibm.json")) == [
        CRN_EU
    ]


def test_an_argument_overrides_its_half(home: Path) -> None:
    """A key takes the account's CRN, a CRN its key; with both, or a provider of one's own, the
    account gives only the rest.
    """
    accounts = {"a": account(url="https://test.cloud.ibm.com")}
    key = IBMCloudAPIKey("k")
    settings = look(home, accounts, key)
    assert settings.providers[0] is key
    assert crns(settings) == [CRN_EU]
    settings = look(home, accounts, ServiceCRN(CRN_JP))
    assert isinstance(settings.providers[0], IBMCloudAuth)
    assert crns(settings) == [CRN_JP]
    assert settings.base_url == "https://jp-tok.quantum.test.cloud.ibm.com/api"
    both: list[AuthProvider] = [key, ServiceCRN(CRN)]
    settings = look(home, accounts, both, account="a")
    assert settings.providers == tuple(both)
    assert settings.base_url == "https://quantum.test.cloud.ibm.com/api"
    assert look(home, accounts, [], account="a").providers == ()


def test_a_key_alone_is_enough(home: Path) -> None:
    """Where nobody named an account, a key without any CRN to be found goes alone: the service may
    not need one.
    """
    key = IBMCloudAPIKey("k")
    search = resolve(key, environ={"QISKIT_IBM_URL": "https://test.cloud.ibm.com"})
    assert isinstance(search, SettingsLoader)
    settings = search.load_blocking()
    assert settings.base_url == "https://quantum.test.cloud.ibm.com/api"
    assert settings.providers == (key,)
    assert look(home, {"old": account(channel=OLD)}, key).providers == (key,)
    assert look(home, {"a": account(instance="")}, key).providers == (key,)
    error = refused(home, {"a": account(instance=None)}, key, account="a")
    assert error.message == (
        "there are no usable credentials: auth= has no CRN; the environment was passed "
        "over, since the account is named; "
        "\"instance\" of the account 'a' in ~/.qiskit/qiskit-ibm.json is missing."
    )


@table(
    ("fields", "environ", "base", "iam"),
    [
        ({}, {}, EU, "https://iam.cloud.ibm.com"),
        ({"url": ""}, {}, EU, "https://iam.cloud.ibm.com"),
        (
            {"url": None},
            {"QISKIT_IBM_URL": "https://own.example"},
            "https://eu-de.quantum.own.example/api",
            "https://iam.own.example",
        ),
        ({}, {"QISKIT_IBM_URL": "https://own.example"}, EU, "https://iam.cloud.ibm.com"),
        (
            {"url": "https://test.cloud.ibm.com", "instance": CRN},
            {},
            "https://quantum.test.cloud.ibm.com/api",
            "https://iam.test.cloud.ibm.com",
        ),
        (
            {},
            {"QSESSIONS_BASE_URL": "https://e/api", "IAM_URL": "https://iam.example"},
            "https://e/api",
            "https://iam.example",
        ),
        (
            {"private_endpoint": True, "instance": CRN},
            {},
            "https://private.us-east.quantum.cloud.ibm.com/api",
            "https://private.iam.cloud.ibm.com",
        ),
        (
            {"instance": CRN},
            {"QSESSIONS_PRIVATE_ENDPOINT": "true"},
            "https://private.us-east.quantum.cloud.ibm.com/api",
            "https://private.iam.cloud.ibm.com",
        ),
        (
            {"private_endpoint": True},
            {"QSESSIONS_PRIVATE_ENDPOINT": "false"},
            "https://private.eu-de.quantum.cloud.ibm.com/api",
            "https://private.iam.cloud.ibm.com",
        ),
        (
            {"private_endpoint": True},
            {},
            "https://private.eu-de.quantum.cloud.ibm.com/api",
            "https://private.iam.cloud.ibm.com",
        ),
    ],
)
def test_urls(
    home: Path, fields: dict[str, object], environ: dict[str, str], base: str, iam: str
) -> None:
    """The service's host and IAM's are derived from the account's `url`, private ones where it asks
    for them.
    """
    settings = look(home, {"a": account(**fields)}, environ=environ)
    assert (settings.base_url, iam_url(settings)) == (base, iam)


def test_proxies(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The account's proxies are taken on, those of the environment come before them, and no
    password shows.
    """
    urls = {"https": "http://u:planted@a.example", "http": "b.example:3128"}
    accounts = {"a": account(proxies={"urls": urls, "password_ntlm": "planted"})}
    settings = look(home, accounts)
    assert settings.proxies == urls
    assert "planted" not in repr(settings)
    monkeypatch.setenv("http_proxy", "http://e.example")
    assert look(home, accounts).proxies == urls | {"http": "http://e.example"}
    assert look(home, {"a": account(proxies={})}).proxies == {"http": "http://e.example"}
    assert look(home, {"a": account(proxies={"urls": {"https": ""}})}).proxies == {
        "http": "http://e.example"
    }


FILE = "~/.qiskit/qiskit-ibm.json"
NOTHING = "there are no usable credentials: QISKIT_IBM_TOKEN is not set; "
THE_ACCOUNT = f"the account 'a' in {FILE}"


@table(
    ("accounts", "problem"),
    [
        ({}, f"{FILE} has no account of the channel {PLATFORM}, nor any other."),
        (
            {
                "a": account(channel=OLD),
                "b": account(channel=CLOUD),
                "c": account(channel="planted"),
                "d": {},
            },
            (
                f"{FILE} has no account of the channel {PLATFORM}, only 'a' (the old "
                "channel ibm_quantum, whose platform is gone), "
                "'b' (ibm_cloud), 'c' (of an unknown channel), 'd' (of an unknown channel)."
            ),
        ),
        (
            {f"{number}" * 70: account(channel=OLD) for number in range(7)},
            f"{FILE} has no account of the channel {PLATFORM}, only "
            + ", ".join(
                f"'{f'{number}' * 60}…' (the old channel ibm_quantum, whose platform is gone)"
                for number in range(5)
            )
            + " and 2 more.",
        ),
        ([], f"{FILE} can't be read: expected an object of accounts."),
        ("planted", f"{FILE} can't be read: expected an object of accounts."),
        ({"a": account(token=None)}, f'"token" of {THE_ACCOUNT} is missing.'),
        ({"a": account(token="")}, f'"token" of {THE_ACCOUNT} is missing.'),
        (
            {"a": account(instance="crn:v1:planted")},
            (
                f'"instance" of {THE_ACCOUNT}: the value for ServiceCRN is not the CRN of a '
                "service instance."
            ),
        ),
        (
            {"a": account(token="planted\u00e9")},
            (
                f'"token" of {THE_ACCOUNT}: the API key for IBMCloudAuth contains characters '
                "outside printable ASCII."
            ),
        ),
        (
            {"a": account(token={"planted": 1})},
            f"{THE_ACCOUNT} can't be read: expected text, got an object @ $.token.",
        ),
        (
            {"a": account(verify="planted")},
            f"{THE_ACCOUNT} can't be read: expected true or false, got text @ $.verify.",
        ),
        (
            {"a": account(plans_preference="planted")},
            f"{THE_ACCOUNT} can't be read: expected an array, got text @ $.plans_preference.",
        ),
        (
            {"a": account(region=["planted"])},
            f"{THE_ACCOUNT} can't be read: expected text, got an array @ $.region.",
        ),
        (
            {"a": account(proxies={"urls": "planted"})},
            f"{THE_ACCOUNT} can't be read: expected an object, got text @ $.proxies.urls.",
        ),
        # It is the default, so that no other is taken in its place.
        (
            {"a": account(url=5, is_default_account=True), "b": account()},
            f"{THE_ACCOUNT} can't be read: expected text, got a number @ $.url.",
        ),
        (
            {"a": account(url="https://auth.quantum-computing.ibm.com/api")},
            (
                f'"url" of {THE_ACCOUNT} must be the address of the cloud, such as '
                "https://cloud.ibm.com, without port and path."
            ),
        ),
        (
            {"a": account(url="https://u:planted@cloud.ibm.com")},
            (
                f'"url" of {THE_ACCOUNT} must be the address of the cloud, such as '
                "https://cloud.ibm.com, without port and path."
            ),
        ),
        (
            {"a": account(verify=False)},
            f'{THE_ACCOUNT} says "verify": false, and certificates are always checked.',
        ),
        (
            {"a": account(proxies={"urls": {"https": "p.example"}, "username_ntlm": "planted"})},
            f"{THE_ACCOUNT} asks for NTLM at the proxy, which is not supported.",
        ),
        (
            {"a": account(proxies={"urls": {"https://planted": "p.example"}})},
            f'{THE_ACCOUNT} has "urls" of "proxies" with unsupported keys: one that is no word.',
        ),
        *(
            (
                {"a": account(proxies={"urls": urls})},
                f'{THE_ACCOUNT} has "urls" of "proxies" with unsupported keys: {keys}.',
            )
            for urls, keys in (
                ({"all": "p.example"}, '"all"'),
                ({"HTTPS": None, "https": "p.example", "no_proxy": ""}, '"HTTPS", "no_proxy"'),
            )
        ),
        *(
            (
                {"a": account(proxies=proxies)},
                f'{THE_ACCOUNT} has "proxies" with unknown keys: {keys}; addresses go into "urls".',
            )
            for proxies, keys in (
                ({"https": "http://planted@p.example"}, '"https"'),
                ({"http": "planted", "https": None}, '"http", "https"'),
                ({"url": {"https": "planted"}, "urls": {"https": "planted"}}, '"url"'),
                ({"http://u:planted@p.example": "x"}, "one that is no word"),
                ({"planted" * 3: "x"}, "one that is no word"),
                (dict.fromkeys("abcdefg", "planted"), '"a", "b", "c", "d", "e"'),
            )
        ),
        *(
            ({"a": account(**{field: text})}, f'"{field}" of {THE_ACCOUNT}{what} {problem}.')
            for text, problem in LEFTOVERS
            for field, what in (
                ("token", ": the API key for IBMCloudAuth"),
                ("instance", ": the value for ServiceCRN"),
                ("url", ""),
            )
        ),
    ],
)
def test_refused(home: Path, accounts: object, problem: str) -> None:
    """What won't do is told with all sources in order, and with no key, password or URL."""
    error = refused(home, accounts)
    assert error.message == NOTHING + problem
    assert error.solution is not None


@table(
    ("channel", "gone"),
    [("planted", ""), (OLD, "; the platform of ibm_quantum is gone"), ('"ibm_cloud"', "")],
)
def test_unknown_channel(home: Path, channel: str, gone: str) -> None:
    """A channel that doesn't exist is told where no account can be found without it, and where the
    environment's key is to be used with it; it isn't repeated.
    """
    environ = {"QISKIT_IBM_CHANNEL": channel}
    errors = [refused(home, {"a": account()}, environ=environ)]
    with pytest.raises(ConfigurationError) as caught:
        resolve(None, environ={"QISKIT_IBM_TOKEN": "k", "QISKIT_IBM_INSTANCE": CRN, **environ})
    for error in (*errors, caught.value):
        assert (
            error.message == f"QISKIT_IBM_CHANNEL must be ibm_quantum_platform or ibm_cloud{gone}."
        )
        assert error.solution == "Correct or unset QISKIT_IBM_CHANNEL."
    assert crns(look(home, {"a": account()}, environ=environ, account="a")) == [CRN_EU]


@table(
    ("fields", "problem"),
    [
        (
            {"channel": OLD},
            "the account 'a' in {} is of the old channel ibm_quantum, whose platform is gone.",
        ),
        ({"channel": "planted"}, "the account 'a' in {} is of an unknown channel."),
        (None, "{} has no account 'a', only 'b' (ibm_quantum_platform)."),
    ],
)
def test_refused_by_name(
    home: Path, tmp_path: Path, fields: dict[str, Any] | None, problem: str
) -> None:
    """An account that is named must be there and of a channel that exists."""
    file = save(tmp_path, {"b": account()} if fields is None else {"a": account(**fields)})
    error = refused(home, {}, account="a", account_file=file)
    assert error.message == (
        "there are no usable credentials: the environment was passed over, since the "
        "account is named; " + problem.format(file)
    )
    assert error.argument == "account"


def test_an_account_that_is_named_and_needed_for_no_credentials_must_be_there(home: Path) -> None:
    """Where the account gives no credentials, its absence isn't told as their lack."""
    error = refused(home, {"b": account()}, [], account="a")
    assert error.message == (
        "the settings can't be used: the environment was passed over, since the account is named; "
        f"{FILE} has no account 'a', only 'b' (ibm_quantum_platform)."
    )


def test_a_lone_crn_counts_for_nothing(home: Path) -> None:
    """A CRN alone in the environment doesn't mix with the account's, and the error says so."""
    environ = {"QISKIT_IBM_INSTANCE": CRN_JP}
    assert crns(look(home, {"a": account()}, environ=environ)) == [CRN_EU]
    assert (
        "(QISKIT_IBM_INSTANCE is, and counts only together with it)"
        in refused(home, {}, environ=environ).message
    )
    error = refused(home, {}, ServiceCRN(CRN), environ=environ)
    assert error.message.startswith(
        "there are no usable credentials: auth= has no key or token; QISKIT_IBM_TOKEN is "
        "not set; ~/"
    )


def test_advice(home: Path) -> None:
    """Each refusal says what to do: how to pass TLS settings, how to choose another account, how to
    give credentials.
    """
    assert 'load_verify_locations("ca.pem"); pass ssl=context' in str(
        refused(home, {"a": account(verify=False)})
    )
    assert "Name one with account=, or its channel in QISKIT_IBM_CHANNEL. Pass auth=" in str(
        refused(home, {"a": account(channel=CLOUD)})
    )
    assert "auth=[]" not in str(refused(home, {"a": account(channel=CLOUD)}))
    # What is only of a channel that is gone can't be named.
    assert "account=" not in str(refused(home, {"a": account(channel=OLD)}))
    assert "starts with crn:v1:bluemix" in str(refused(home, {"a": account(instance="crn:x")}))
    assert "base_url= or QSESSIONS_BASE_URL" in str(refused(home, {"a": account(url="x")}))


@table("fields", [None, {"channel": "ibm_quantum"}, {"token": ""}])
def test_advice_for_an_account_that_is_named(
    tmp_path: Path, home: Path, fields: dict[str, Any] | None
) -> None:
    """Where the account is named, advice is about names and files; the environment, which is passed
    over, is no way out.
    """
    file = tmp_path / "accounts.json"
    file.unlink(missing_ok=True)
    if fields is not None:
        save(tmp_path, {"a": account(**fields)})
    error = refused(home, {}, account="a", account_file=file)
    assert error.solution == (
        "Name another account with account= or account_file=, or neither: then the "
        "environment is looked at first."
    )


def test_verify_false_with_own_tls(home: Path) -> None:
    """Who brings TLS settings may use an account that would have certificates unchecked."""
    assert crns(look(home, {"a": account(verify=False)}, own_tls=True)) == [CRN_EU]


@table(
    ("make", "problem"),
    [
        (lambda file: None, "{} doesn't exist."),
        (lambda file: file.mkdir(), "{} can't be read: it is a directory."),
        (
            lambda file: file.symlink_to(file.with_name("gone")),
            "{} can't be read: it is a link to a file that doesn't exist.",
        ),
        *(
            (
                lambda file, body=body: file.write_bytes(body),
                f"{{}} can't be read: it is not text in UTF-8, from byte {byte} on.",
            )
            for body, byte in ((b"\xff", 0), (b'{"\xe9', 2), (b"\x1f\x8b\x08\x08\0", 1))
        ),
        *(
            (
                lambda file, body=body: file.write_bytes(body),
                "{} can't be read: it is empty.",
            )
            for body in (b"", b" ", b"\n\t\r\n", b"\xef\xbb\xbf", b"\0" * 100, b"\xef\xbb\xbf\n")
        ),
        *(
            (
                lambda file, encoding=encoding: file.write_text('{"a": 1}', encoding=encoding),
                f"{{}} can't be read: it is in {encoding[:6].upper()} and must be in UTF-8.",
            )
            for unit in ("utf-16", "utf-32")
            for encoding in (unit, f"{unit}-le", f"{unit}-be")
        ),
        (
            lambda file: file.write_bytes(b"["),
            "{} can't be read: it is not valid JSON: Expecting value: line 1 column 2 (char 1).",
        ),
        (
            lambda file: file.write_bytes(b"[" * 200_000),
            "{} can't be read: it is not valid JSON: it is nested too deeply.",
        ),
        (
            lambda file: file.write_bytes(b" " * 1_048_577),
            "{} can't be read: it is larger than 1048576 bytes.",
        ),
        (
            lambda file: file.symlink_to(file),
            "{} can't be read: Too many levels of symbolic links.",
        ),
    ],
)
def test_unreadable(tmp_path: Path, make: Any, problem: str) -> None:
    """A file that isn't there, isn't one, or holds no JSON is told by its path and the reason."""
    file = Path(mkdtemp(dir=tmp_path)) / "file.json"
    make(file)
    search = resolve(None, environ={}, account_file=file)
    assert isinstance(search, SettingsLoader)
    with pytest.raises(ConfigurationError) as caught:
        search.load_blocking()
    assert caught.value.message.endswith("; " + problem.format(file))


def test_a_byte_order_mark(home: Path) -> None:
    """A file that begins with a byte order mark, as Windows' editors write it, is read."""
    file = Path(save(home, {"a": account()}))
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    search = resolve(None, environ={}, account_file=file)
    assert isinstance(search, SettingsLoader)
    assert crns(search.load_blocking()) == [CRN_EU]


def test_a_file_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the system says about a file is passed on, as about one without permission."""

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", refuse)
        assert read_accounts(str(tmp_path / "x")) == "Permission denied"
        assert read_accounts(str(tmp_path)) == "it is a directory"


@table("path", ["\0", "~nobody-by-this-name/x"])
def test_no_path(path: str) -> None:
    """A path that the system can't take, or the home of nobody, is a configuration error too."""
    search = resolve(None, environ={}, account_file=path)
    assert isinstance(search, SettingsLoader)
    with pytest.raises(ConfigurationError, match="can't be read: "):
        search.load_blocking()


def test_the_file_is_only_read(home: Path) -> None:
    """Neither the file nor its folder is changed or made."""
    search = resolve(None, environ={})
    assert isinstance(search, SettingsLoader)
    with pytest.raises(ConfigurationError):
        search.load_blocking()
    assert list(home.iterdir()) == []
    look(home, {"a": account()})
    file = home / ".qiskit" / "qiskit-ibm.json"
    file.chmod(0o400)
    file.parent.chmod(0o500)
    before = file.stat()
    assert isinstance(search.load_blocking(), Settings)
    file.parent.chmod(0o700)
    after = file.stat()
    assert (before.st_mtime_ns, before.st_size) == (after.st_mtime_ns, after.st_size)
    assert list(file.parent.iterdir()) == [file]


def test_reprs_show_no_secret() -> None:
    """An account's repr shows neither key nor the password of a proxy."""
    fields = account(
        instance="planted",
        url="planted",
        proxies={"urls": {"https": "planted"}, "username_ntlm": "planted"},
    )
    assert "planted" not in repr(decode_accounts(json.dumps({"a": fields}).encode()))


# Distinctive, so that finding it means that it got out.
KEYS = st.from_regex(r"pLaNtEd[0-9a-z\r\n é]{0,9}", fullmatch=True)
VALUES = JSON | st.just(CRN)
SECRET = KEYS | st.lists(KEYS, max_size=2) | st.dictionaries(st.text(max_size=5), KEYS, max_size=2)
FIELDS = st.fixed_dictionaries(
    {},
    optional={
        "token": SECRET,
        "channel": st.sampled_from([PLATFORM, CLOUD, OLD]) | VALUES,
        "instance": st.just(CRN) | KEYS | VALUES,
        "url": st.just("https://cloud.ibm.com") | KEYS.map("https://u:{}@x".format) | VALUES,
        "verify": st.just(True) | VALUES,
        "private_endpoint": st.booleans() | VALUES,
        "is_default_account": st.booleans() | VALUES,
        "proxies": st.fixed_dictionaries(
            {},
            optional={
                "urls": st.dictionaries(st.sampled_from(["https", "http", "all"]), KEYS | VALUES)
                | VALUES
            },
        )
        | VALUES,
    },
)
FILES = (
    st.dictionaries(
        st.sampled_from(["a", "b", "token"]) | st.text(max_size=9),
        FIELDS | SECRET | VALUES,
        max_size=4,
    )
    | VALUES
)


@given(
    content=FILES.map(lambda value: json.dumps(value).encode()) | st.binary(max_size=60),
    name=st.none() | st.sampled_from(["a", "token"]),
    auth=st.sampled_from([None, IBMCloudAPIKey("k"), ServiceCRN(CRN)]),
)
def test_any_content(
    tmp_path_factory: pytest.TempPathFactory,
    content: bytes,
    name: str | None,
    auth: AuthProvider | None,
) -> None:
    """Whatever the file holds, settings or a ConfigurationError come of it, and no key is ever
    seen.
    """
    file = tmp_path_factory.getbasetemp() / "any.json"
    file.write_bytes(content)
    del content
    search = resolve(auth, environ={}, account=name, account_file=file)
    assert isinstance(search, SettingsLoader)
    try:
        shown = repr(search.load_blocking())
    except QSessionsError as error:
        shown = f"{seen(error)} {type(error).__name__}"
        assert shown.endswith(" ConfigurationError")
    assert "pLaNtEd" not in shown


def test_a_malformed_file_is_to_be_corrected(tmp_path: Path) -> None:
    """The advice about a file that can't be read is to correct it, before any other way."""
    file = tmp_path / "accounts.json"
    file.write_text("{", encoding="utf-8")
    search = resolve(None, account_file=file, environ={})
    assert isinstance(search, SettingsLoader)
    with pytest.raises(ConfigurationError) as caught:
        search.load_blocking()
    assert caught.value.solution is not None
    assert caught.value.solution.startswith("Correct the file. ")
