"""The file in which the official client keeps accounts: reading it, and choosing one of them as that client does. It is never written."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from qsessions.api.codec import Account
from qsessions.errors import ConfigurationError

ACCOUNT_FILE = "~/.qiskit/qiskit-ibm.json"
# The first is the one that is wanted by default; the second is its older name.
CHANNELS = ("ibm_quantum_platform", "ibm_cloud")
# The platform before it.
OLD_CHANNEL = "ibm_quantum"
_GONE = f"the old channel {OLD_CHANNEL}, whose platform is gone"

# A file of a hundred accounts has about 50 KiB.
_MAX_BYTES = 1024 * 1024

# How much of the file goes into a message.
_MOST_LISTED = 5
_LONGEST_NAME = 60


def read(file: str) -> bytes | str | None:
    """Give the file's bytes, or why it can't be read, or None where there is none. It takes as long as the file system does."""
    try:
        with Path(file).expanduser().open("rb") as stream:
            body = stream.read(_MAX_BYTES + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        return error.strerror or type(error).__name__
    except (ValueError, RuntimeError) as error:
        # A NUL in the path, or a home folder that nobody knows.
        return str(error)
    return body if len(body) <= _MAX_BYTES else f"it is larger than {_MAX_BYTES} bytes"


def default_name(accounts: Mapping[str, Account], channel: str) -> str | None:
    """Choose the account that nobody named, as the official client does."""
    names = [name for name, account in accounts.items() if account.channel == channel]
    for name in names:
        if accounts[name].is_default_account:
            return name
    usual = f"default-{channel.replace('_', '-')}"
    if usual in names:
        return usual
    # Of several it takes the last.
    return names[-1] if names else None


def listed(accounts: Mapping[str, Account]) -> str:
    """Say which accounts there are."""
    texts = [
        f"{shown(name)} ({_channel(account)})"
        for name, account in [*accounts.items()][:_MOST_LISTED]
    ]
    more = len(accounts) - len(texts)
    return (
        "only " + ", ".join(texts) + (f" and {more} more" if more else "")
        if texts
        else "nor any other"
    )


def shown(name: str) -> str:
    """Give an account's name for a message: quoted, and cut where it is long."""
    return repr(name if len(name) <= _LONGEST_NAME else name[:_LONGEST_NAME] + "…")


def _channel(account: Account) -> str:
    if account.channel == OLD_CHANNEL:
        return _GONE
    # What is no channel isn't repeated: it may be the key, in the wrong place.
    return account.channel if account.channel in CHANNELS else "of no known channel"


def check(account: Account, who: str, *, own_tls: bool) -> None:
    """Refuse what an account asks for and can't have; tags, plans and regions make no difference here.

    Args:
        account: The account.
        who: What the message calls it.
        own_tls: Whether the caller brings TLS settings.

    Raises:
        ConfigurationError: It can't be read, is of a channel that doesn't exist, or wants unchecked certificates or a proxy that isn't
            supported.
    """
    if account.problem is not None:
        raise ConfigurationError(f"{who} can't be read: {account.problem}")
    if account.channel not in {None, *CHANNELS}:
        raise ConfigurationError(
            f"{who} is {'of ' * (account.channel == OLD_CHANNEL)}{_channel(account)}"
        )
    if not account.verify and not own_tls:
        raise ConfigurationError(
            f'{who} says "verify": false, and certificates are always checked',
            solution="Pass ssl=ssl.create_default_context(cafile=...) with the CA that signed the server's certificate.",
        )
    if account.proxies is None:
        return
    if account.proxies.username_ntlm is not None:
        raise ConfigurationError(
            f"{who} asks for NTLM at the proxy, which is not supported",
            solution="Pass proxy= with the URL of a proxy that does without.",
        )
    if account.proxies.urls is not None and account.proxies.urls.extra:
        raise ConfigurationError(
            f'{who} names a proxy for something else than "https" and "http", which is not supported',
            solution="Name them by these two, or pass proxy=.",
        )
