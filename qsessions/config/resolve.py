"""Combines arguments, environment, account file and defaults to the settings of a client.

Key and CRN come from one source as a pair: both from arguments, else both from the environment,
else both from one account. An argument overrides its half. Where `account=` or `account_file=`
names the account, the environment's key and CRN are passed over. The cloud's address comes with the
account, else from QISKIT_IBM_URL. For proxies, the environment comes before the account.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from urllib.request import getproxies_environment

import attrs

from qsessions.api.messages import AuthProvider, SecretValues, strips_frames
from qsessions.config.account_file import ACCOUNT_FILE, CHANNELS, Account
from qsessions.config.checks import (
    BASE_URL,
    CHANNEL,
    CLOUD_URL,
    TOKEN,
    checked_base_url,
    checked_insecure_hosts,
    checked_private_endpoint,
    checked_providers,
    checked_text,
    missing_credentials,
    refuse_emulator,
    unknown_channel,
)
from qsessions.config.instances import CATALOG_URL, SEARCH_URL, key_of
from qsessions.config.settings import IAM_URL, INSTANCE, WAYS, Settings, SettingsLoader

_NAME_ANOTHER = (
    "Name another account with account= or account_file=, or neither: "
    "then the environment is looked at first."
)


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
    environment = _account_in(environ)
    loader = SettingsLoader(
        providers=providers or (),
        needs_key=needs_key,
        needs_crn=needs_crn,
        is_crn_optional=not needs_key and not is_named,
        base_url=checked_base_url(base_url, environ),
        iam_url=environ.get(IAM_URL),
        search_url=environ.get(SEARCH_URL),
        catalog_url=environ.get(CATALOG_URL),
        account=checked_text(account, "account= must be the name of an account."),
        file=checked_text(account_file, "account_file= must be the path of a file.")
        or ACCOUNT_FILE,
        is_named=is_named,
        channel=environ.get(CHANNEL) or CHANNELS[0],
        own_tls=own_tls,
        environment=environment,
        proxies=SecretValues(getproxies_environment()),
        insecure_hosts=checked_insecure_hosts(environ),
        advice=_NAME_ANOTHER
        if is_named
        else f"{WAYS} auth=[] makes a client without credentials, enough for versions().",
    )
    if is_named and needs_key:
        refuse_emulator(loader.iam_url, IAM_URL, loader.insecure_hosts)
        refuse_emulator(None if base_url else loader.base_url, BASE_URL, loader.insecure_hosts)
    key = key_of(loader.providers) if needs_crn else None
    if key is not None and environment.token and not key.may_be_of(environment.token):
        # The instance of another key may be on another bill.
        environment = attrs.evolve(environment, instance=None)
    has_enough = not needs_crn or bool(environment.instance)
    if needs_key or (key is not None and not has_enough):
        has_enough = bool(environment.token)
    if not has_enough or is_named:
        return loader
    if needs_key and loader.channel not in CHANNELS:
        raise unknown_channel(loader.channel)
    return loader.settings(environment)


def _account_in(environ: Mapping[str, str]) -> Account:
    return Account(
        token=environ.get(TOKEN),
        instance=environ.get(INSTANCE),
        url=environ.get(CLOUD_URL),
        private_endpoint=checked_private_endpoint(environ),
    )
