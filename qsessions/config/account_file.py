"""The official client's file of accounts: what is in it and which account to use.

An account is chosen as the official client does. The file is never written.
"""

from __future__ import annotations

import json
import re
from codecs import BOM_UTF8
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from attrs import field, frozen

from qsessions.api.structure import loads, structure
from qsessions.errors import ConfigurationError

ACCOUNT_FILE = "~/.qiskit/qiskit-ibm.json"
# The first is the one that is wanted by default; the second is its older name.
CHANNELS = ("ibm_quantum_platform", "ibm_cloud")
# The platform before it.
OLD_CHANNEL = "ibm_quantum"

# A file of a hundred accounts has about 50 KiB.
_MAX_BYTES = 1024 * 1024

# Why a path that begins with ~ can't be read.
UNKNOWN_HOME = "the home folder is unknown"

# How much of the file goes into a message.
_MAX_LISTED = 5
_MAX_NAME = 60
_WORD = re.compile(r"[A-Za-z0-9_-]{1,16}")


@frozen(eq=False, repr=False)
class ProxyUrls:
    """An account's proxies by the scheme of the address; `extra` has those for other schemes."""

    https: str | None = None
    http: str | None = None
    extra: Mapping[str, object] = field(factory=dict)


@frozen(eq=False, repr=False)
class AccountProxies:
    """How an account says to get out; `extra` has the keys that the official client refuses."""

    urls: ProxyUrls | None = None
    username_ntlm: str | None = None
    password_ntlm: str | None = None
    extra: Mapping[str, object] = field(factory=dict)


@frozen(eq=False, repr=False)
class Account:
    """An account in the official client's file. Its repr shows no field: some are secret.

    Attributes:
        channel: Which service it is for.
        is_default_account: Whether it is the default; any JSON that Python takes for true.
        token: The API key.
        instance: The instance's CRN, or its name, or "auto".
        url: The address of the cloud.
        verify: Whether the server's certificate is checked.
        private_endpoint: Whether the service is reached inside the cloud.
        proxies: How to get out.
        region: Only instances of this region are looked for.
        plans_preference: Only instances of one of these plans; empty for all.
        tags: Only instances with all of these tags.
        problem: Why the account can't be read, or None; of one that can't, only the channel and
            `is_default_account` are known.
    """

    channel: str | None = None
    is_default_account: Any = False
    token: str | None = None
    instance: str | None = None
    url: str | None = None
    verify: bool = True
    private_endpoint: bool = False
    proxies: AccountProxies | None = None
    region: str | None = None
    plans_preference: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    problem: str | None = None


def read_accounts(file: str) -> dict[str, Account] | str | None:
    """Return the accounts by their names, why they can't be read, or None without a file.

    It takes as long as the file system does.
    """
    path = Path(file)
    try:
        path = path.expanduser()
        with path.open("rb") as stream:
            body = stream.read(_MAX_BYTES + 1)
    except FileNotFoundError:
        return "it is a link to a file that doesn't exist" if path.is_symlink() else None
    except OSError as error:
        # Windows calls it a lack of permission.
        return "it is a directory" if path.is_dir() else error.strerror or type(error).__name__
    except RuntimeError:
        return UNKNOWN_HOME
    except ValueError as error:
        # A NUL in the path.
        return str(error)
    if len(body) > _MAX_BYTES:
        return f"it is larger than {_MAX_BYTES} bytes"
    return decode_accounts(body)


def decode_accounts(body: bytes) -> dict[str, Account] | str:
    """Read the official client's file of accounts, or return why it can't be read.

    It never raises, since its frames hold the keys. Windows' editors begin a file with a byte order
    mark.
    """
    encoding = json.detect_encoding(body)
    body = body.removeprefix(BOM_UTF8)
    if not body.strip(b"\0\t\n\r "):
        return "it is empty"
    if not encoding.startswith("utf-8"):
        return f"it is in {encoding[:6].upper()} and must be in UTF-8"
    try:
        body.decode()
        value = loads(body)
    except UnicodeDecodeError as error:
        return f"it is not text in UTF-8, from byte {error.start} on"
    except ValueError as error:
        return str(error)
    if not isinstance(value, dict):
        return "expected an object of accounts"
    return {name: _account(entry) for name, entry in value.items()}


def _account(value: Any) -> Account:
    try:
        return structure(value, Account)
    except ValueError as error:
        problem = str(error)
    # A mistake in one account must not keep the others, or this one, from being chosen.
    entry: Mapping[str, Any] = value if isinstance(value, dict) else {}
    channel = entry.get("channel")
    return Account(
        channel=channel if isinstance(channel, str) else None,
        is_default_account=entry.get("is_default_account"),
        problem=problem,
    )


def default_account(accounts: Mapping[str, Account], channel: str) -> str | None:
    """Return the name of the account that the official client takes where none is named.

    The order is that of `AccountManager.get` of qiskit-ibm-runtime 0.51. Accounts of the old
    channel, which that client refuses when it comes to one, are passed over.

    Args:
        accounts: The accounts by their names, in the order of the file.
        channel: What QISKIT_IBM_CHANNEL says, or the default channel.
    """
    usable = {name: each for name, each in accounts.items() if each.channel != OLD_CHANNEL}
    of_channel = [name for name, each in usable.items() if each.channel == channel]
    platform, cloud = (f"default-{each.replace('_', '-')}" for each in CHANNELS)
    choices = (
        *(name for name, each in usable.items() if each.is_default_account),
        *(name for name in of_channel if name == (cloud if channel == CHANNELS[1] else platform)),
        *of_channel[-1:],
        *(name for name in (platform, cloud) if name in usable),
    )
    return next(iter(choices), None)


def list_accounts(accounts: Mapping[str, Account]) -> str:
    """Return the names and channels of the accounts, for a message that another one is missing."""
    if not accounts:
        return "nor any other"
    texts = [f"{quote(name)} ({_channel(account)})" for name, account in accounts.items()]
    more = len(texts) - _MAX_LISTED
    return f"only {', '.join(texts[:_MAX_LISTED])}" + (f" and {more} more" if more > 0 else "")


def quote(name: str) -> str:
    """Return an account's name for a message: quoted, and cut if it is long."""
    return repr(name if len(name) <= _MAX_NAME else name[:_MAX_NAME] + "…")


def _channel(account: Account) -> str:
    if account.channel == OLD_CHANNEL:
        return f"the old channel {OLD_CHANNEL}, whose platform is gone"
    # An unknown channel isn't repeated: it may be the key, in the wrong place.
    return account.channel if account.channel in CHANNELS else "of an unknown channel"


def _keys(extra: Mapping[str, object]) -> str:
    # What isn't a word isn't repeated: it may be a URL with a password.
    names = [f'"{name}"' if _WORD.fullmatch(name) else "one that is no word" for name in extra]
    return ", ".join(names[:_MAX_LISTED])


def account_problem(account: Account, source: str, *, own_tls: bool) -> ConfigurationError | None:
    """Return the error for what an account asks for and can't have, or None.

    Tags, plans and regions make no difference here.

    Args:
        account: The account.
        source: What the message calls it.
        own_tls: Whether the caller brings TLS settings.
    """
    proxies = account.proxies or AccountProxies()
    urls = proxies.urls or ProxyUrls()
    problems = (
        (account.problem is not None, f"can't be read: {account.problem}", None, None),
        (account.channel == OLD_CHANNEL, f"is of {_channel(account)}", None, None),
        (account.channel not in {None, *CHANNELS}, f"is {_channel(account)}", None, None),
        (
            not account.verify and not own_tls,
            'says "verify": false, and certificates are always checked',
            (
                "For a CA of your own: context = ssl.create_default_context(); "
                'context.load_verify_locations("ca.pem"); pass ssl=context.'
            ),
            "ssl",
        ),
        (
            bool(proxies.extra),
            f'has "proxies" with unknown keys: {_keys(proxies.extra)}; addresses go into "urls"',
            'Write "proxies": {"urls": {"https": "http://proxy.example:3128"}}, or pass proxy=.',
            "proxy",
        ),
        (
            proxies.username_ntlm is not None,
            "asks for NTLM at the proxy, which is not supported",
            "Pass proxy= with the URL of a proxy that does without.",
            "proxy",
        ),
        (
            bool(urls.extra),
            f'has "urls" of "proxies" with unsupported keys: {_keys(urls.extra)}',
            'Name the proxies by "https" and "http", or pass proxy=.',
            "proxy",
        ),
    )
    refusals = (
        ConfigurationError(f"{source} {problem}.", solution=solution, argument=argument)
        for applies, problem, solution, argument in problems
        if applies
    )
    return next(refusals, None)
