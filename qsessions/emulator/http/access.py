"""Who may rule the emulator, and see its page."""

import base64
import ipaddress
import re
from urllib.parse import urlsplit

import attrs
from aiohttp import web

from qsessions.emulator.http.credentials import checked_secret, same_secret
from qsessions.emulator.http.middleware import Handler
from qsessions.emulator.service.errors import NOT_AUTHORISED, ServiceError

_NAME = re.compile(r"[\w.-]+", re.ASCII)


def is_loopback(address: str) -> bool:
    """Return whether only this machine can have an address, of a peer or to listen on.

    localhost is the only such name.
    """
    if address.lower() == "localhost":
        return True
    parsed = _address(address)
    # A socket for both families reports IPv4 peers as mapped ones.
    return parsed is not None and (getattr(parsed, "ipv4_mapped", None) or parsed).is_loopback


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


@attrs.frozen(kw_only=True)
class Access:
    """What serves this machine, and others with the admin token.

    A page's own name may have been made to lead here, so that the Host must be an address,
    localhost or a name that the emulator was given.

    Attributes:
        names: Those names, in lower case.
        admin_token: The token; None keeps others out.
    """

    names: frozenset[str]
    admin_token: str | None = attrs.field(repr=False)

    def check(self, request: web.Request) -> None:
        """Check where a request comes from.

        Raises:
            ServiceError: It is from another machine without the token (401, or 403 where there is
                none), from a web page that isn't the emulator's own, or to an unknown name (403).
        """
        is_local = is_loopback(request.remote or "")
        if not self._knows_host(request) or not _is_no_others_page(request, is_local=is_local):
            raise ServiceError(
                403,
                NOT_AUTHORISED,
                "The emulator is ruled by its address, or by a name that it was given, and by no "
                "web page from elsewhere.",
                "Use its address, or start it with --advertised-host and this name.",
            )
        if is_local:
            return
        if self.admin_token is None:
            raise ServiceError(
                403,
                NOT_AUTHORISED,
                "The emulator is ruled from its own machine only.",
                "Start it with --admin-token to rule it from elsewhere.",
            )
        if not same_secret(_sent_token(request), self.admin_token):
            raise ServiceError(
                401,
                NOT_AUTHORISED,
                "From another machine the emulator is ruled with its admin token only.",
                "Send it as Authorization: Bearer …, or as the password of Basic.",
            )

    def _knows_host(self, request: web.Request) -> bool:
        host = request.headers.get("Host")
        try:
            name = urlsplit(f"//{host or ''}").hostname or ""
        except ValueError:
            return False
        return (
            host is None or name == "localhost" or name in self.names or _address(name) is not None
        )


ACCESS = web.AppKey("access", Access)


def make_access(host: str, advertised_host: str | None, admin_token: str | None) -> Access:
    """Return the access to an emulator that listens on a host and is known by another.

    Raises:
        ValueError: The host is empty, the other no name or address, or the token malformed.
    """
    if not host:
        # An empty host means every address, which must be asked for by name.
        raise ValueError("host must not be empty")
    if advertised_host is not None and not (
        _NAME.fullmatch(advertised_host) or _address(advertised_host)
    ):
        raise ValueError("advertised_host must be a name or an address alone, without a port")
    if admin_token is not None:
        checked_secret(admin_token, "admin_token")
    names = frozenset({host.lower(), (advertised_host or host).lower()})
    return Access(names=names, admin_token=admin_token)


def guarded(handler: Handler) -> Handler:
    """Return a handler that serves those alone whom the application's `Access` lets in."""

    async def serve(request: web.Request) -> web.StreamResponse:
        await request.read()  # a connection can be kept only once its request is read
        request.app[ACCESS].check(request)
        return await handler(request)

    return serve


def _is_no_others_page(request: web.Request, *, is_local: bool) -> bool:
    """Return whether a request is from no web page, or from one of this emulator.

    For a browser on this machine, so is a page of any server on it.
    """
    origin = request.headers.get("Origin")
    if origin is None:
        return True
    try:
        parts = urlsplit(origin)
        return parts.netloc == request.headers.get("Host") or (
            is_local and is_loopback(parts.hostname or "")
        )
    except ValueError:
        return False


def _sent_token(request: web.Request) -> str:
    """Return the token that a request has, as a bearer's or as anybody's password; else ""."""
    scheme, _, value = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return value.strip()
    if scheme.lower() != "basic":
        return ""
    try:
        return base64.b64decode(value.strip(), validate=True).decode().partition(":")[2]
    except ValueError:
        return ""
