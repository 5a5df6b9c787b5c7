"""What servers' certificates are checked with, and what to do where one is refused."""

from __future__ import annotations

import asyncio
import os
import ssl as tls
import sys
from pathlib import Path
from typing import TypeAlias

from qsessions.http.threads import run_in_thread

# The numbers are those of OpenSSL's x509_vfy.h. Nobody who is trusted vouches for it:
_UNKNOWN = frozenset({2, 18, 19, 20, 21})
_OUT_OF_DATE = frozenset({9, 10})
_ANOTHER_HOST = frozenset({62, 64})
# What only VERIFY_X509_STRICT minds, which Python 3.13 and newer have on by default.
_STRICT = range(79, 94)


# What OpenSSL doesn't say of a refusal, what to do, and the client's argument that this is about.
Refusal: TypeAlias = tuple[str, str, str | None]


class Certificates:
    """The TLS settings of connections: the user's, or else the system's, which are loaded late.

    Args:
        context: The user's, or None.
        is_borrowed: Whether the connections are another's, whose settings aren't known.

    Attributes:
        context: The settings, where they are known.
    """

    def __init__(self, context: tls.SSLContext | None, *, is_borrowed: bool) -> None:
        self.context = None if is_borrowed else context
        self._is_users = context is not None
        self._way = (
            "pass http= with a pool of your own, aiohttp.TCPConnector(ssl=context)"
            if is_borrowed
            else "pass ssl=context"
        )
        self._loading: asyncio.Future[tls.SSLContext] | None = None
        # Why the system has no certificates to check others with.
        self._lack: Refusal | None = None

    async def load(self) -> tls.SSLContext:
        """Load the system's in a thread, since that takes some 30 ms, and return them.

        Raises:
            ConnectionFailed: There can be no thread.
            OSError: OpenSSL's own settings are wrong.
        """
        if self.context is not None:
            return self.context
        if self._loading is None or self._loading.done():
            self._loading = run_in_thread(self._load, "qsessions-certificates")
        # The cancellation of a caller ends its wait only.
        self.context = await asyncio.shield(self._loading)
        return self.context

    def _load(self) -> tls.SSLContext:
        context = tls.create_default_context()
        # As in the HTTP library's own, which it makes when it is imported.
        context.set_alpn_protocols(["http/1.1"])
        self._lack = _lack(context)
        return context

    def refusal(self, error: Exception) -> Refusal:
        """Return what a refusal is due to.

        The system's certificates are loaded anew after it: they may be put right meanwhile.
        """
        context, code = self.context, getattr(error, "verify_code", None)
        if not self._is_users:
            self.context = None
        if code in _UNKNOWN:
            return self._lack or self._unknown(context)
        if code in _STRICT and (context is None or context.verify_flags & tls.VERIFY_X509_STRICT):
            return (
                "; a CA's certificate breaks a rule that Python 3.13 and newer insist on",
                (
                    "Have the CA issue a certificate that conforms to RFC 5280, or turn this check "
                    "off: context = ssl.create_default_context(); "
                    f"context.verify_flags &= ~ssl.VERIFY_X509_STRICT; {self._way}."
                ),
                "ssl.verify_flags",
            )
        solution = "Check the URL. If it is right, the server needs another certificate."
        if code in _OUT_OF_DATE:
            solution = (
                "Check this machine's clock. If it is right, the server has to renew its "
                "certificate, or this machine its CA certificates."
            )
        elif code in _ANOTHER_HOST:
            solution = "Check the base URL, IAM_URL and the proxy: another host answers."
        return "", solution, None

    def _unknown(self, context: tls.SSLContext | None) -> Refusal:
        if self._is_users and context is not None and not context.cert_store_stats()["x509"]:
            return (
                "; the context in ssl= has no CA certificates",
                "Make it with ssl.create_default_context().",
                "ssl",
            )
        return (
            "; its CA is not among those that are trusted",
            (
                "Check the URL. For a CA of your own: context = ssl.create_default_context(); "
                f'context.load_verify_locations("ca.pem"); {self._way}.'
            ),
            "ssl",
        )


def _lack(context: tls.SSLContext) -> Refusal | None:
    """Return what to do where the system has no CA certificates, or None. It looks into folders."""
    paths = tls.get_default_verify_paths()
    if context.cert_store_stats()["x509"]:
        return None
    file, folders = map(os.environ.get, (paths.openssl_cafile_env, paths.openssl_capath_env))
    if file:
        return (
            f"; {paths.openssl_cafile_env} names {file}, where there are no CA certificates",
            f"Correct or unset {paths.openssl_cafile_env}.",
            None,
        )
    # OpenSSL reads them only when it looks for a certificate.
    for folder in (folders or paths.openssl_capath).split(os.pathsep):
        if next(Path(folder).glob("????????.[0-9]*"), None) is not None:
            return None
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    return (
        "; there are no CA certificates on this machine where Python looks for them",
        (
            "Install the system's: on Linux the package ca-certificates, for python.org's Python "
            f'on macOS with "/Applications/Python {version}/Install Certificates.command". Or '
            "run `pip install certifi`, and set SSL_CERT_FILE to what `python -m certifi` prints."
        ),
        None,
    )
