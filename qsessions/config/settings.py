"""Makes the `Settings` of a client of its arguments and an account, which it loads."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from typing import ClassVar

import attrs
from attrs import frozen

from qsessions.api.addresses import InsecureHosts, service_url
from qsessions.api.messages import AuthProvider, SecretValues, strips_frames
from qsessions.auth import IBMCloudAuth, ServiceCRN
from qsessions.auth.iam import DEFAULT_IAM_URL
from qsessions.config.account_file import (
    CHANNELS,
    UNKNOWN_HOME,
    Account,
    account_problem,
    default_account,
    list_accounts,
    quote,
    read_accounts,
)
from qsessions.config.checks import (
    CHANNEL,
    CLOUD_URL,
    DEFAULT_CLOUD_URL,
    TOKEN,
    cloud_address,
    unknown_channel,
)
from qsessions.config.instances import (
    GIVE_CRN,
    Directory,
    InstanceLookup,
    directory_of,
    key_of,
    may_be_name,
)
from qsessions.errors import ConfigurationError
from qsessions.http.threads import run_in_thread

INSTANCE = "QISKIT_IBM_INSTANCE"
IAM_URL = "IAM_URL"

DEFAULT_REGION = "us-east"

# What the fields of an account are called in the environment.
_VARIABLES = {"token": TOKEN, "instance": INSTANCE, "url": CLOUD_URL}
WAYS = (
    f"Pass auth=[IBMCloudAuth(api_key), ServiceCRN(crn)], or set {TOKEN} (an API key) and "
    f"{INSTANCE} (the CRN), or save an account with the official client."
)


@frozen(kw_only=True, eq=False, repr=False)
class Settings:
    """What a client works with. Its repr shows no field: a proxy may have a password.

    Attributes:
        base_url: The part of every URL before /v1.
        providers: They give the headers that prove who is calling; empty for a client without
            credentials.
        proxies: The proxy for each scheme of an address, and under "no" the hosts that need none.
        instance: The CRN that is sent, where it is known.
        insecure_hosts: Where plain http may go besides this machine.
        origins: Where key and CRN come from, in words, if they come from different places.
        directory: Where the key's instances are listed, or why they can't be.
        lookup: Gives the settings with the instance, which must be looked up first, or None.
        url_of: Returns the base URL for a region.
    """

    base_url: str
    providers: tuple[AuthProvider, ...]
    proxies: Mapping[str, str]
    insecure_hosts: InsecureHosts
    instance: str | None = None
    origins: str | None = None
    directory: Directory | ConfigurationError
    lookup: InstanceLookup | None = None
    url_of: Callable[[str], str]

    def for_instance(self, crn: ServiceCRN) -> Settings:
        """Return the settings for another instance.

        Raises:
            ConfigurationError: The cloud's address can't be used.
        """
        url = self.url_of(crn.region)
        providers = (*(each for each in self.providers if not isinstance(each, ServiceCRN)), crn)
        return attrs.evolve(
            self, base_url=url, providers=providers, instance=crn.crn, origins=None, lookup=None
        )


@frozen(kw_only=True, eq=False, repr=False)
class SettingsLoader:
    """Loads the settings from the account file. Its repr shows no field, since some are secret."""

    activity: ClassVar[str] = "reading the account file"
    providers: tuple[AuthProvider, ...]
    needs_key: bool
    needs_crn: bool
    # The service may not need it.
    is_crn_optional: bool
    base_url: str | None
    iam_url: str | None
    search_url: str | None
    catalog_url: str | None
    account: str | None
    file: str
    is_named: bool
    channel: str
    own_tls: bool
    environment: Account
    proxies: Mapping[str, str]
    insecure_hosts: InsecureHosts
    # What to do about missing credentials where nothing better is known.
    advice: str

    async def load(self) -> Settings:
        """Read the account file in a thread and return the settings.

        A file system that hangs doesn't keep the interpreter from ending.

        Raises:
            ConfigurationError: See `load_blocking`.
            ConnectionFailed: There can be no thread for it.
        """
        return await run_in_thread(self.load_blocking, "qsessions-account")

    @strips_frames
    def load_blocking(self) -> Settings:
        """Read the account file and return the settings. It takes as long as the file system does.

        Raises:
            ConfigurationError: The file has no usable account; the message lists the sources that
                were searched, in order.
        """
        accounts = read_accounts(self.file)
        if accounts == UNKNOWN_HOME and self.is_crn_optional:
            # Nobody asked for the file, and without a home folder there is none.
            accounts = None
        if isinstance(accounts, str):
            correction = (
                "Set HOME, or name a file without ~ in account_file=."
                if accounts == UNKNOWN_HOME
                else "Correct the file."
            )
            raise self._refusal(
                f"{self.file} can't be read: {accounts}.", f"{correction} {self.advice}"
            )
        name = self.account or default_account(accounts or {}, self.channel)
        if accounts is not None and name in accounts:
            account, key = accounts[name], key_of(self.providers)
            # The instance of another key may be on another bill.
            if self.is_named or key is None or key.may_be_of(account.token or ""):
                return self.settings(account, f"the account {quote(name)} in {self.file}")
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
                f"{other if self.is_named else WAYS}"
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
        private = "private." * (account.private_endpoint or self.environment.private_endpoint)
        if self.needs_key:
            iam_url = self.iam_url or self._host_url(account, source, f"{private}iam.")
            service_url(iam_url, IAM_URL, DEFAULT_IAM_URL, f"Correct or unset {IAM_URL}.")
            make_auth = partial(IBMCloudAuth, iam_url=iam_url)
            providers.insert(0, self._provider(make_auth, account.token, "token", source))
        key = key_of(providers)
        directory = directory_of(
            key,
            self.search_url,
            self.catalog_url,
            self.insecure_hosts,
            partial(self._host_url, account, source) if self.base_url is None else None,
        )
        lookup = None
        if self.needs_crn and key is not None and may_be_name(account.instance or ""):
            lookup = self._lookup(account, source, providers, directory)
        elif self.needs_crn and (account.instance or not self.is_crn_optional):
            providers.append(self._provider(ServiceCRN, account.instance, "instance", source))
        crns = [provider for provider in providers if isinstance(provider, ServiceCRN)]
        url_of = cache(partial(self._base_url, account, source, private))
        return Settings(
            base_url=url_of(crns[0].region if crns else DEFAULT_REGION),
            providers=tuple(providers),
            proxies=self._proxies(account),
            insecure_hosts=self.insecure_hosts,
            instance=crns[0].crn if crns else None,
            origins=self._origins(source) if crns else None,
            directory=directory,
            lookup=lookup,
            url_of=url_of,
        )

    def _proxies(self, account: Account) -> SecretValues:
        urls = account.proxies and account.proxies.urls
        named = {"https": urls.https, "http": urls.http} if urls else {}
        return SecretValues({name: url for name, url in named.items() if url}, **self.proxies)

    def _base_url(self, account: Account, source: str | None, private: str, region: str) -> str:
        # The default region has no name of its own in the public host.
        prefix = f"{private}{region}." if private or region != DEFAULT_REGION else ""
        return self.base_url or self._host_url(account, source, f"{prefix}quantum.") + "/api"

    def _lookup(
        self,
        account: Account,
        source: str | None,
        providers: Sequence[AuthProvider],
        directory: Directory | ConfigurationError,
    ) -> InstanceLookup:
        label = _label("instance", source)
        if isinstance(directory, ConfigurationError):
            raise self._refusal(
                f"{label}: without a CRN the instance is looked up, and {directory.message}",
                f"{directory.solution} {GIVE_CRN}",
                directory.argument,
            )

        def complete(crn: str) -> Settings:
            loader = attrs.evolve(
                self, providers=(*providers, ServiceCRN(crn)), needs_key=False, needs_crn=False
            )
            return loader.settings(account, source)

        return InstanceLookup(
            directory=directory,
            account=account,
            name_source=label,
            source=source or "the environment",
            complete=complete,
        )

    def _origins(self, source: str | None) -> str | None:
        if self.needs_key == self.needs_crn:
            return None
        key = _label("token", source) if self.needs_key else "auth="
        crn = _label("instance", source) if self.needs_crn else "auth="
        return f"The key or token comes from {key} and the CRN from {crn}: do they belong together?"

    def _provider(
        self, make: Callable[[str], AuthProvider], value: str | None, name: str, source: str | None
    ) -> AuthProvider:
        label = _label(name, source)
        if not value:
            raise self._refusal(f"{label} is missing.")
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
