"""Makes one `Settings` of arguments, environment, account file and defaults.

Key and CRN come from one source as a pair: both from arguments, else both from the environment,
else both from one account. An argument overrides its half. Where `account=` or `account_file=`
names the account, the environment's key and CRN are passed over. The cloud's address comes with the
account, else from QISKIT_IBM_URL. For proxies, the environment comes before the account.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from functools import partial
from urllib.request import getproxies_environment

from attrs import frozen

from qsessions.api.codec import Account
from qsessions.api.messages import (
    AuthProvider,
    SecretValues,
    service_url,
    strips_frames,
)
from qsessions.auth import IBMCloudAuth, ServiceCRN
from qsessions.auth.iam import DEFAULT_IAM_URL
from qsessions.config.account_file import (
    ACCOUNT_FILE,
    CHANNELS,
    account_problem,
    default_account,
    list_accounts,
    quote,
    read_accounts,
)
from qsessions.config.checks import (
    BASE_URL,
    CHANNEL,
    CLOUD_URL,
    DEFAULT_CLOUD_URL,
    TOKEN,
    checked_base_url,
    checked_private_endpoint,
    checked_providers,
    checked_text,
    cloud_address,
    missing_credentials,
    refuse_emulator,
    unknown_channel,
)
from qsessions.errors import ConfigurationError

INSTANCE = "QISKIT_IBM_INSTANCE"
IAM_URL = "IAM_URL"

DEFAULT_REGION = "us-east"

# What the fields of an account are called in the environment.
_VARIABLES = {"token": TOKEN, "instance": INSTANCE, "url": CLOUD_URL}
_WAYS = (
    f"Pass auth=[IBMCloudAuth(api_key), ServiceCRN(crn)], or set {TOKEN} (an API key) and "
    f"{INSTANCE} (the CRN), or save an account with the official client."
)
_NAME_ANOTHER = (
    "Name another account with account= or account_file=, or neither: "
    "then the environment is looked at first."
)


@frozen(eq=False, repr=False)
class Settings:
    """What a client works with. Its repr shows no field: a proxy may have a password.

    Attributes:
        base_url: The part of every URL before /v1.
        providers: They give the headers that prove who is calling; empty for a client without
            credentials.
        proxies: The proxy for each scheme of an address, and under "no" the hosts that need none.
        source: Where the settings come from that the arguments don't hold, in words.
        instance: The CRN that is sent, where it is known.
    """

    base_url: str
    providers: tuple[AuthProvider, ...]
    proxies: Mapping[str, str]
    source: str
    instance: str | None = None


@strips_frames
def resolve(
    auth: AuthProvider | Iterable[AuthProvider] | None,
    base_url: str | None = None,
    *,
    account: str | None = None,
    account_file: str | os.PathLike[str] | None = None,
    own_tls: bool = False,
    environ: Mapping[str, str] = os.environ,
) -> Settings | SettingsLoader:
    """Combine arguments and environment, without reading a file.

    Args:
        auth: One provider or several; None for those that the environment or an account gives;
            empty for none at all. Where all are built in, a missing key or CRN comes from there.
        base_url: The part before /v1; by default QSESSIONS_BASE_URL, else the service of the CRN's
            region (us-east without a CRN) in the cloud that the account's `url` names, else
            QISKIT_IBM_URL, else IBM Cloud.
        account: The name of an account in the file.
        account_file: The file, in place of ~/.qiskit/qiskit-ibm.json.
        own_tls: Whether the caller brings TLS settings, without which an account with
            `"verify": false` is refused.
        environ: The environment; proxies are always those of the process itself.

    Returns:
        The settings, or their loader where the account file is needed.

    Raises:
        ConfigurationError: Something is missing or wrong; the message lists the sources.
    """
    providers = checked_providers(auth)
    needs_key, needs_crn = missing_credentials(providers)
    is_named = account is not None or account_file is not None
    environment = Account(
        token=environ.get(TOKEN),
        instance=environ.get(INSTANCE),
        url=environ.get(CLOUD_URL),
        private_endpoint=checked_private_endpoint(environ),
    )
    loader = SettingsLoader(
        providers=providers or (),
        needs_key=needs_key,
        needs_crn=needs_crn,
        is_crn_optional=not needs_key and not is_named,
        base_url=checked_base_url(base_url, environ),
        iam_url=environ.get(IAM_URL),
        account=checked_text(account, "account= must be the name of an account."),
        file=checked_text(account_file, "account_file= must be the path of a file.")
        or ACCOUNT_FILE,
        is_named=is_named,
        channel=environ.get(CHANNEL) or CHANNELS[0],
        own_tls=own_tls,
        environment=environment,
        proxies=SecretValues(getproxies_environment()),
        advice=_NAME_ANOTHER
        if is_named
        else f"{_WAYS} auth=[] makes a client without credentials, enough for versions().",
    )
    if is_named and needs_key:
        refuse_emulator(loader.iam_url, IAM_URL)
        refuse_emulator(loader.base_url if base_url is None else None, BASE_URL)
    has_enough = environment.token if needs_key else environment.instance or not needs_crn
    if not has_enough or is_named:
        return loader
    if needs_key and loader.channel not in CHANNELS:
        raise unknown_channel(loader.channel)
    return loader.settings(environment)


@frozen(kw_only=True, eq=False, repr=False)
class SettingsLoader:
    """Loads the settings from the account file. Its repr shows no field, since some are secret."""

    providers: tuple[AuthProvider, ...]
    needs_key: bool
    needs_crn: bool
    # The service may not need it.
    is_crn_optional: bool
    base_url: str | None
    iam_url: str | None
    account: str | None
    file: str
    is_named: bool
    channel: str
    own_tls: bool
    environment: Account
    proxies: Mapping[str, str]
    # What to do about missing credentials where nothing better is known.
    advice: str

    async def load(self) -> Settings:
        """Read the account file in a thread and return the settings.

        A file system that hangs doesn't keep the interpreter from ending.

        Raises:
            ConfigurationError: See `load_blocking`.
        """
        result: Future[Settings] = Future()
        # Cancelling a caller that waits doesn't cancel the reading.
        result.set_running_or_notify_cancel()

        def read() -> None:
            try:
                result.set_result(self.load_blocking())
            except BaseException as error:  # noqa: BLE001 - it belongs to the caller that waits
                result.set_exception(error)

        # Not one of the event loop's own threads, which are waited for at its end.
        threading.Thread(target=read, name="qsessions-account", daemon=True).start()
        return await asyncio.wrap_future(result)

    @strips_frames
    def load_blocking(self) -> Settings:
        """Read the account file and return the settings. It takes as long as the file system does.

        Raises:
            ConfigurationError: The file has no usable account; the message lists the sources that
                were searched, in order.
        """
        accounts = read_accounts(self.file)
        if isinstance(accounts, str):
            raise self._refusal(
                f"{self.file} can't be read: {accounts}.", f"Correct the file. {self.advice}"
            )
        name = self.account or default_account(accounts or {}, self.channel)
        if accounts is not None and name in accounts:
            return self.settings(accounts[name], f"the account {quote(name)} in {self.file}")
        if self.is_crn_optional:
            return self.settings(self.environment)
        if accounts is None:
            raise self._refusal(f"{self.file} doesn't exist.")
        sought, solution = f"account of the channel {self.channel}", None
        if self.account is not None:
            sought = f"account {quote(self.account)}"
        elif self.channel not in CHANNELS:
            raise unknown_channel(self.channel)
        elif any(account.channel in CHANNELS for account in accounts.values()):
            other = "Without account_file=, the environment is looked at first."
            solution = (
                f"Name one with account=, or its channel in {CHANNEL}. "
                f"{other if self.is_named else _WAYS}"
            )
        raise self._refusal(f"{self.file} has no {sought}, {list_accounts(accounts)}.", solution)

    def settings(self, account: Account, source: str | None = None) -> Settings:
        """Make settings of the arguments and an account.

        Args:
            account: The account, or the environment in the form of one.
            source: What messages call the account, or None for the environment.

        Raises:
            ConfigurationError: A key or CRN is missing, or the account can't be used.
        """
        if source is not None and (
            problem := account_problem(account, source, own_tls=self.own_tls)
        ):
            raise self._refusal(problem.message, problem.solution, problem.argument)
        providers = list(self.providers)
        is_private = account.private_endpoint or self.environment.private_endpoint
        private = "private." if is_private else ""
        if self.needs_key:
            iam_url = self.iam_url or self._host_url(account, source, f"{private}iam.")
            service_url(iam_url, IAM_URL, DEFAULT_IAM_URL, f"Correct or unset {IAM_URL}.")
            make_auth = partial(IBMCloudAuth, iam_url=iam_url)
            providers.insert(0, self._provider(make_auth, account.token, "token", source))
        if self.needs_crn and (account.instance or not self.is_crn_optional):
            providers.append(self._provider(ServiceCRN, account.instance, "instance", source))
        crns = [provider for provider in providers if isinstance(provider, ServiceCRN)]
        region = crns[0].region if crns else DEFAULT_REGION
        # The default region has no name of its own in the public host.
        prefix = f"{private}{region}." if private or region != DEFAULT_REGION else ""
        urls = account.proxies and account.proxies.urls
        proxies = {"https": urls.https, "http": urls.http} if urls else {}
        return Settings(
            self.base_url or self._host_url(account, source, f"{prefix}quantum.") + "/api",
            tuple(providers),
            SecretValues({name: url for name, url in proxies.items() if url}, **self.proxies),
            source or "the environment",
            crns[0].crn if crns else None,
        )

    def _provider(
        self, make: Callable[[str], AuthProvider], value: str | None, name: str, source: str | None
    ) -> AuthProvider:
        label = _label(name, source)
        if not value:
            # In the environment, which is used only with a key, it is the CRN.
            raise self._refusal(
                f"{TOKEN} is set and {INSTANCE} is not."
                if source is None
                else f"{label} is missing."
            )
        try:
            return make(value)
        except ConfigurationError as error:
            raise self._refusal(
                f"{label}: {error.message}", error.solution, error.argument
            ) from None

    def _host_url(self, account: Account, source: str | None, prefix: str) -> str:
        """Return the URL of a host in the cloud that the account, or the environment, names."""
        url = account.url or self.environment.url or DEFAULT_CLOUD_URL
        url_source = source if account.url else None
        try:
            scheme, host = cloud_address(url, _label("url", url_source))
        except ConfigurationError as error:
            # An address in the environment has nothing to do with credentials.
            make = ConfigurationError if url_source is None else self._refusal
            raise make(error.message, solution=error.solution, argument=error.argument) from None
        return f"{scheme}{prefix}{host}"

    def _refusal(
        self, problem: str, solution: str | None = None, argument: str | None = None
    ) -> ConfigurationError:
        """Return the error that lists the sources that were searched, in order, and the problem."""
        what = (
            "there are no usable credentials"
            if self.needs_key or self.needs_crn
            else "the settings can't be used"
        )
        findings = []
        if self.needs_key != self.needs_crn:
            findings.append(f"auth= has no {'key or token' if self.needs_key else 'CRN'}")
        crn = self.environment.instance
        variable, value = (TOKEN, self.environment.token) if self.needs_key else (INSTANCE, crn)
        if self.is_named:
            findings.append("the environment was passed over, since the account is named")
        elif not value:
            findings.append(f"{variable} is not set")
            if crn and self.needs_key and self.needs_crn:
                findings[-1] += f" ({INSTANCE} is, and counts only together with it)"
        return ConfigurationError(
            f"{what}: {'; '.join([*findings, problem])}",
            solution=solution or self.advice,
            argument=argument or ("account" if self.is_named else "auth"),
        )


def _label(name: str, source: str | None) -> str:
    return _VARIABLES[name] if source is None else f'"{name}" of {source}'
