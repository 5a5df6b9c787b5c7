"""Where settings come from: arguments, the environment, the account file, defaults; into one frozen `Settings`.

Key and CRN come from one source as a pair: both from arguments, else both from the environment, else both from one account. An argument
overrides its half. Where `account=` or `account_file=` names the account, the environment's key and CRN are passed over. The cloud's
address comes with the account, else from QISKIT_IBM_URL. For proxies, the environment comes before the account.
"""

from __future__ import annotations

import asyncio
import os
import re
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from functools import partial
from typing import TypeVar, cast
from urllib.request import getproxies_environment

from attrs import field, frozen
from yarl import URL

from qsessions.api.codec import Account, decode_accounts
from qsessions.api.messages import (
    FRAMING_HEADERS,
    AuthProvider,
    SecretHeaders,
    SecretValues,
    header_problem,
    is_loopback,
    service_url,
    strip_frames,
)
from qsessions.auth import IBMCloudAuth, ServiceCRN, StaticHeader
from qsessions.auth.iam import DEFAULT_IAM_URL
from qsessions.config.account_file import (
    ACCOUNT_FILE,
    CHANNELS,
    OLD_CHANNEL,
    check,
    default_name,
    listed,
    read,
    shown,
)
from qsessions.errors import ConfigurationError

T = TypeVar("T")

BASE_URL = "QSESSIONS_BASE_URL"
TOKEN = "QISKIT_IBM_TOKEN"  # noqa: S105 - the name of a variable
INSTANCE = "QISKIT_IBM_INSTANCE"
CLOUD_URL = "QISKIT_IBM_URL"
CHANNEL = "QISKIT_IBM_CHANNEL"
IAM_URL = "IAM_URL"
_VARIABLES = (TOKEN, INSTANCE, CLOUD_URL, CHANNEL, IAM_URL)
# What the fields of an account are called in the environment.
_FIELDS = {"token": TOKEN, "instance": INSTANCE, "url": CLOUD_URL}

DEFAULT_CLOUD_URL = "https://cloud.ibm.com"
DEFAULT_REGION = "us-east"

_HOST = re.compile(r"[a-z0-9.-]+")
# Headers that have an argument of their own.
_INSTEAD = {
    "authorization": "auth=",
    "backend-authentication": "auth=",
    "external-service-token": "auth=",
    "service-crn": "auth=",
    "ibm-api-version": "api_version=",
    "user-agent": "application=",
}
_GIVE = (
    f"Pass auth=[IBMCloudAuth(api_key), ServiceCRN(crn)], or set {TOKEN} (an API key) and {INSTANCE} (the CRN), or save an account with "
    "the official client."
)
_WAYS = f"{_GIVE} auth=[] makes a client without credentials, enough for versions()."
_WITHOUT_FILE = "Without account_file=, the environment is looked at first."
_WAYS_OF_NAMED = "Name another account with account= or account_file=, or neither: then the environment is looked at first."


@frozen
class Settings:
    """What a client works with.

    Attributes:
        base_url: The part of every URL before /v1.
        providers: Who gives the headers that prove who is calling; empty for a client that calls without credentials.
        proxies: The proxy for each scheme of an address, and under "no" the hosts that need none.
        source: Where what the arguments don't hold comes from, in words.
    """

    base_url: str
    providers: tuple[AuthProvider, ...]
    # A proxy's URL may hold a password.
    proxies: Mapping[str, str] = field(repr=False)
    source: str


def resolve(
    auth: AuthProvider | Iterable[AuthProvider] | None,
    base_url: str | None = None,
    *,
    account: str | None = None,
    account_file: str | os.PathLike[str] | None = None,
    own_tls: bool = False,
    environ: Mapping[str, str] = os.environ,
) -> Settings | Search:
    """Bring arguments and environment together. It reads no file.

    Args:
        auth: One provider or several; None for those that the environment or an account gives; empty for none at all. Where all are built
            in, a missing key or CRN comes from there.
        base_url: The part before /v1; by default QSESSIONS_BASE_URL, else the service of the CRN's region (us-east without a CRN) in the
            cloud that the account's `url` names, else QISKIT_IBM_URL, else IBM Cloud.
        account: The name of an account in the file.
        account_file: The file, in place of ~/.qiskit/qiskit-ibm.json.
        own_tls: Whether the caller brings TLS settings, without which an account with `"verify": false` is refused.
        environ: The environment; proxies are always those of the process's own.

    Returns:
        The settings, or, where the account file is needed for them, the search to be made there.

    Raises:
        ConfigurationError: Something is missing or can't be right; the message says what was looked at.
    """
    try:
        return _resolved(auth, base_url, account, account_file, own_tls=own_tls, environ=environ)
    except BaseException as error:
        # The frames of the search hold the keys.
        del auth, base_url
        strip_frames(error)
        raise


def _resolved(
    auth: AuthProvider | Iterable[AuthProvider] | None,
    base_url: str | None,
    account: str | None,
    account_file: str | os.PathLike[str] | None,
    *,
    own_tls: bool,
    environ: Mapping[str, str],
) -> Settings | Search:
    given = _given(auth)
    search = Search(
        given=given or (),
        wanted=_wanted(given),
        base_url=_base_url(base_url, environ),
        account=None
        if account is None
        else _text(account, "account= must be the name of an account."),
        file=ACCOUNT_FILE
        if account_file is None
        else _text(account_file, "account_file= must be the path of a file."),
        named=account is not None or account_file is not None,
        own_tls=own_tls,
        environ={name: environ[name] for name in _VARIABLES if environ.get(name)},
        proxies=SecretValues(getproxies_environment()),
    )
    if search.named and TOKEN in search.wanted:
        _refuse_emulators(search.environ.get(IAM_URL), IAM_URL)
        _refuse_emulators(environ.get(BASE_URL) if base_url is None else None, BASE_URL)
    return search.in_environment() or search


@frozen(kw_only=True)
class Search:
    """What arguments and environment say, and what is still to be looked for in the account file. Its repr shows no secret."""

    given: tuple[AuthProvider, ...]
    wanted: tuple[str, ...]
    base_url: str | None
    account: str | None
    file: str
    named: bool
    own_tls: bool
    environ: Mapping[str, str] = field(repr=False)
    proxies: Mapping[str, str] = field(repr=False)

    def in_environment(self) -> Settings | None:
        """Give the settings where arguments and environment are enough for them.

        Raises:
            ConfigurationError: The environment has a key and no CRN, or something that can't be right.
        """
        found = [name for name in self.wanted if name in self.environ]
        if not self.named and (len(found) == len(self.wanted) or TOKEN in found):
            return self._settings(self._environment(), None)
        channel = self.environ.get(CHANNEL, CHANNELS[0])
        if self.account is None and channel not in CHANNELS:
            raise ConfigurationError(
                f"{CHANNEL} must be {' or '.join(CHANNELS)}"
                + (f"; the platform of {OLD_CHANNEL} is gone." if channel == OLD_CHANNEL else ".")
            )
        return None

    async def looked_up(self) -> Settings:
        """Read the account file in a thread and give the settings. A file system that hangs keeps no interpreter from ending.

        Raises:
            ConfigurationError: See `in_file`.
        """
        done: Future[Settings] = Future()
        # Whoever is cancelled while waiting doesn't cancel it.
        done.set_running_or_notify_cancel()

        def look() -> None:
            try:
                done.set_result(self.in_file())
            except BaseException as error:  # noqa: BLE001 - it belongs to whoever waits
                done.set_exception(error)

        # Not one of the event loop's own threads, which are waited for at its end.
        threading.Thread(target=look, name="qsessions-account", daemon=True).start()
        return await asyncio.wrap_future(done)

    def in_file(self) -> Settings:
        """Read the account file and give the settings. This takes as long as the file system does, so do it in a thread.

        Raises:
            ConfigurationError: The file has no account that will do; the message says which sources were looked at, in order.
        """
        try:
            return self._in_file()
        except BaseException as error:
            # The frames of the search hold the keys.
            strip_frames(error)
            raise

    def _in_file(self) -> Settings:
        body = read(self.file)
        if body is None and self._can_do_without:
            return self._settings(self._environment(), None)
        if body is None:
            raise self._refused(f"{self.file} doesn't exist")
        accounts = decode_accounts(body) if isinstance(body, bytes) else body
        if isinstance(accounts, str):
            raise self._refused(
                f"{self.file} can't be read: {accounts}", f"Correct the file. {self._ways}"
            )
        name = self.account if self.account in accounts else None
        if self.account is None:
            name = default_name(accounts, self.environ.get(CHANNEL, CHANNELS[0]))
        if name is not None:
            return self._settings(accounts[name], name)
        if self._can_do_without:
            return self._settings(self._environment(), None)
        solution = None
        if self.account is None and any(
            account.channel in CHANNELS for account in accounts.values()
        ):
            choose = f"Name one with account=, or its channel in {CHANNEL}."
            solution = f"{choose} {_WITHOUT_FILE if self.named else _GIVE}"
        raise self._refused(f"{self.file} has no {self._sought()}, {listed(accounts)}", solution)

    @property
    def _can_do_without(self) -> bool:
        """Whether nobody named the account and only the CRN is missing, which the service may not need."""
        return self.wanted == (INSTANCE,) and not self.named

    def _environment(self) -> Account:
        """Give what the environment says in the form of an account."""
        return Account(token=self.environ.get(TOKEN), instance=self.environ.get(INSTANCE))

    def _settings(self, account: Account, name: str | None) -> Settings:
        """Make settings of the arguments and of an account; its name is None where it stands for the environment."""
        try:
            self._check_addresses(account)
        except ConfigurationError as error:
            # The frames of the check hold the address, and that may hold a password.
            raise error.with_traceback(None)  # noqa: B904 - it is the same error
        try:
            return self._made_of(account, name)
        except ConfigurationError as error:
            problem, solution = error.message.rstrip("."), error.solution
        # Out here, so that the frames of the former, which hold the key, aren't its context.
        raise self._refused(problem, solution)

    def _check_addresses(self, account: Account) -> None:
        """Refuse an address in the environment that counts and can't be right: it is no matter of credentials."""
        if TOKEN in self.wanted and IAM_URL in self.environ:
            try:
                service_url(self.environ[IAM_URL], IAM_URL, DEFAULT_IAM_URL)
            except ConfigurationError as error:
                error.solution = f"Correct {IAM_URL}, or take it out."
                raise
        if not account.url and (
            not self.base_url or (TOKEN in self.wanted and IAM_URL not in self.environ)
        ):
            self._cloud(account, None)

    def _made_of(self, account: Account, name: str | None) -> Settings:
        if name is not None:
            check(account, self._who(name), own_tls=self.own_tls)
        providers = list(self.given)
        if TOKEN in self.wanted:
            iam_url = self.environ.get(IAM_URL) or self._iam_url(account, name)
            token = self._half(account.token, "token", name)
            providers.insert(
                0, _made(partial(IBMCloudAuth, token, iam_url), self._label("token", name))
            )
        if INSTANCE in self.wanted and (account.instance or not self._can_do_without):
            instance = self._half(account.instance, "instance", name)
            providers.append(_made(partial(ServiceCRN, instance), self._label("instance", name)))
        base_url = self.base_url or self._regional_url(providers, account, name)
        urls = account.proxies and account.proxies.urls
        named = {"https": urls.https, "http": urls.http} if urls else {}
        proxies = SecretValues(
            {scheme: url for scheme, url in named.items() if url}, **self.proxies
        )
        source = "the environment" if name is None else self._who(name)
        return Settings(base_url, tuple(providers), proxies, source)

    def _half(self, value: str | None, field_name: str, name: str | None) -> str:
        if value:
            return value
        raise ConfigurationError(
            f"{TOKEN} is set and {INSTANCE} is not"
            if name is None
            else f"{self._label(field_name, name)} is missing"
        )

    def _cloud(self, account: Account, name: str | None) -> URL:
        """Give the address of the cloud: nothing but a scheme and a host."""
        value = account.url or self.environ.get(CLOUD_URL, DEFAULT_CLOUD_URL)
        label = self._label("url", name if account.url else None)
        try:
            url = URL(service_url(value, label))
        except ConfigurationError:
            url = URL()
        if (
            _HOST.fullmatch(url.raw_host or "")
            and url.explicit_port is None
            and url.path in {"", "/"}
        ):
            return url
        raise ConfigurationError(
            f"{label} must be the address of the cloud, such as {DEFAULT_CLOUD_URL}, without port and path.",
            solution=f"The service's own base URL goes into base_url= or {BASE_URL}.",
        )

    def _iam_url(self, account: Account, name: str | None) -> str:
        cloud = self._cloud(account, name)
        return (
            f"{cloud.scheme}://{'private.' if account.private_endpoint else ''}iam.{cloud.raw_host}"
        )

    def _regional_url(
        self, providers: Iterable[AuthProvider], account: Account, name: str | None
    ) -> str:
        cloud = self._cloud(account, name)
        regions = [provider.region for provider in providers if isinstance(provider, ServiceCRN)]
        region = regions[0] if regions else DEFAULT_REGION
        prefix = f"{region}."
        if account.private_endpoint:
            prefix = f"private.{prefix}"
        elif region == DEFAULT_REGION:
            # It has no name of its own in the public host.
            prefix = ""
        return f"{cloud.scheme}://{prefix}quantum.{cloud.raw_host}/api"

    def _label(self, field_name: str, name: str | None) -> str:
        return _FIELDS[field_name] if name is None else f'"{field_name}" of {self._who(name)}'

    def _who(self, name: str) -> str:
        return f"the account {shown(name)} in {self.file}"

    def _sought(self) -> str:
        if self.account is not None:
            return f"account {shown(self.account)}"
        return f"account of the channel {self.environ.get(CHANNEL, CHANNELS[0])}"

    def _refused(self, found: str, solution: str | None = None) -> ConfigurationError:
        """Tell what was looked at, in order, and what was found last."""
        looked = []
        if self.wanted == (TOKEN, INSTANCE):
            looked.append("auth= was not given")
        elif self.wanted:
            looked.append(f"auth= has no {'key or token' if TOKEN in self.wanted else 'CRN'}")
        if self.named:
            looked.append("the environment was passed over, since the account is named")
        elif self.wanted[0] not in self.environ:
            alone = (
                f" ({INSTANCE} is, and counts only together with it)" if self._has_lone_crn else ""
            )
            looked.append(f"{self.wanted[0]} is not set{alone}")
        what = "there are no usable credentials" if self.wanted else "the settings can't be used"
        return ConfigurationError(
            f"{what}: {'; '.join([*looked, found])}.", solution=solution or self._ways
        )

    @property
    def _ways(self) -> str:
        """Say how to give credentials where nothing better is known."""
        return _WAYS_OF_NAMED if self.named else _WAYS

    @property
    def _has_lone_crn(self) -> bool:
        return self.wanted == (TOKEN, INSTANCE) and INSTANCE in self.environ


def _text(value: object, problem: str) -> str:
    text = os.fspath(value) if isinstance(value, os.PathLike) else value
    if isinstance(text, str) and text:
        return text
    raise ConfigurationError(problem)


def _made(make: Callable[[], AuthProvider], label: str) -> AuthProvider:
    try:
        return make()
    except ConfigurationError as error:
        problem = error.with_traceback(None)
    raise ConfigurationError(f"{label}: {problem.message}", solution=problem.solution)


def _base_url(base_url: str | None, environ: Mapping[str, str]) -> str | None:
    given = base_url if base_url is not None else environ.get(BASE_URL) or None
    if given is None:
        return None
    name = "base_url" if base_url is not None else BASE_URL
    url = service_url(given, name)
    if url.endswith("/v1"):
        raise ConfigurationError(
            f"{name} must be the part before /v1, such as https://quantum.cloud.ibm.com/api."
        )
    return url


def _refuse_emulators(url: str | None, variable: str) -> None:
    """Refuse an address that an emulator left in the environment, where the key of a named account would go there."""
    try:
        found = URL(url or "")
        left_over = found.scheme == "http" and is_loopback(found.raw_host)
    except (ValueError, IndexError):
        # What is no URL is told where it is used.
        return
    if left_over:
        del url, found
        raise ConfigurationError(
            f"{variable} is this machine in plain http, as for an emulator, and the key of the account that is named would go there.",
            solution=f"Unset {variable}. For an emulator name no account: its key is in {TOKEN}.",
        )


def _given(auth: AuthProvider | Iterable[AuthProvider] | None) -> tuple[AuthProvider, ...] | None:
    if auth is None:
        return None
    # Text is an iterable too: an empty one must not pass for "no credentials".
    one = isinstance(auth, str | bytes) or not isinstance(auth, Iterable)
    providers = (
        (cast("AuthProvider", auth),) if one else tuple(cast("Iterable[AuthProvider]", auth))
    )
    for provider in providers:
        if isinstance(provider, type) or not (
            callable(getattr(provider, "headers", None))
            and callable(getattr(provider, "invalidate", None))
        ):
            raise ConfigurationError(
                f"auth= holds the class {provider.__name__}, not a provider made of it."
                if isinstance(provider, type)
                else f"auth= holds the {type(provider).__name__} object, which is no auth provider: it has no headers() and invalidate().",
                solution="Pass a provider such as IBMCloudAuth(api_key), or several in a list.",
            )
    _refuse_same_header(
        [provider for provider in providers if isinstance(provider, IBMCloudAuth | StaticHeader)]
    )
    return providers


def _wanted(given: Sequence[AuthProvider] | None) -> tuple[str, ...]:
    """Say which halves of key and CRN are still to be found, by the names of their variables."""
    if given is None:
        return (TOKEN, INSTANCE)
    # A user's own provider may set any header.
    if not given or not all(
        isinstance(provider, IBMCloudAuth | StaticHeader) for provider in given
    ):
        return ()
    crns = [isinstance(provider, ServiceCRN) for provider in given]
    if all(crns):
        return (TOKEN,)
    return () if any(crns) else (INSTANCE,)


def _refuse_same_header(providers: Sequence[IBMCloudAuth | StaticHeader]) -> None:
    seen: dict[str, str] = {}
    for provider in providers:
        name = type(provider).__name__
        if provider.header in seen:
            raise ConfigurationError(
                f"{seen[provider.header]} and {name} both set the header {provider.header}; pass one of them."
            )
        seen[provider.header] = name


def one_of(name: str, value: object, kind: type[T]) -> T:
    """Give an argument that is of its kind, or one made anew for None.

    Raises:
        ConfigurationError: It is of another kind.
    """
    if value is None:
        return kind()
    if isinstance(value, kind):
        return value
    raise ConfigurationError(f"{name}= must be a {kind.__name__}, not {value!r}.")


def extra_headers(headers: object) -> SecretHeaders:
    """Check `headers=` and give them in a form that a traceback may show.

    Raises:
        ConfigurationError: They can't be sent, or have an argument of their own. The message doesn't repeat a value.
    """
    if not isinstance(headers, Mapping):
        kind = type(headers).__name__
        del headers
        raise ConfigurationError(f"headers= must be a mapping of names to values, not {kind}.")
    for name, value in headers.items():
        if problem := header_problem(name, value):
            del value, headers
            raise ConfigurationError(f"the header {name!r} in headers= {problem}.")
        if name.lower() in FRAMING_HEADERS or name.lower() in _INSTEAD:
            del value, headers
            instead = _INSTEAD.get(name.lower())
            raise ConfigurationError(
                f"headers= can't set {name}, which qsessions sets itself.",
                solution=instead and f"Use {instead}.",
            )
    return SecretHeaders(headers)
