"""What every call goes through before its first attempt: the settings, the API version, and what they leave of its deadline."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import timedelta
from types import EllipsisType
from typing import TypeAlias, TypeVar

from yarl import URL

from qsessions.api import operations
from qsessions.api.messages import SecretHeaders
from qsessions.api.operations import Operation
from qsessions.auth import ServiceCRN
from qsessions.clock import Clock
from qsessions.config import settings as config
from qsessions.errors import CallTimeout, ClientClosed, QSessionsError, replica
from qsessions.http.attempts import Attempts
from qsessions.http.transport import AiohttpTransport
from qsessions.http.unrepeatable import Undo
from qsessions.models import ApiVersion, deadline_seconds

T = TypeVar("T")

# A call's deadline: seconds, a timedelta, text such as "2m", None for none, or `...` for the client's own.
Timeout: TypeAlias = float | timedelta | str | EllipsisType | None


class Caller:
    """Carries operations out for one client.

    Args:
        settings: Where to call with which credentials, or the search for that in the account file, made once, when it is first needed.
        transport: Told which proxies to use.
        attempts: Told which credentials to send.
        clock: The time.
        api_version: The API version of calls that name none, or None for the default.
        timeout: The deadline of calls that name none, in seconds, or None.
        headers: Further headers.

    Raises:
        ConfigurationError: The service's address is plain http to another machine.

    Attributes:
        base_url: Where it calls, once that is settled.
        instance: The CRN that it sends, where it is known.
    """

    def __init__(
        self,
        settings: config.Settings | config.Search,
        transport: AiohttpTransport,
        attempts: Attempts,
        clock: Clock,
        *,
        api_version: str | None,
        timeout: float | None,
        headers: Mapping[str, str],
    ) -> None:
        self.base_url = ""
        self.instance: str | None = None
        self._transport = transport
        self._attempts = attempts
        self._clock = clock
        self._api_version = api_version
        self._timeout = timeout
        # The user's own, which a traceback that shows locals must not show.
        self._headers = SecretHeaders(headers)
        self._search: config.Search | None = None
        self._searching: asyncio.Task[QSessionsError | None] | None = None
        if isinstance(settings, config.Search):
            self._search = settings
        else:
            self._settle(settings)
        self._latest: str | None = None
        self._latest_lock = asyncio.Lock()

    async def call(
        self,
        operation: Operation[T],
        api_version: str | None,
        timeout: Timeout,
        undo: Undo | None = None,
    ) -> T:
        """Carry an operation out, all within one deadline.

        Args:
            operation: What to do.
            api_version: The API version for it, or None for the client's.
            timeout: Its deadline, or `...` for the client's.
            undo: See `Attempts.run`.

        Raises:
            QSessionsError: See errors.py.
        """
        seconds = await self.settled(operation.name, timeout)
        version = (
            self._api_version if api_version is None else operations.checked_version(api_version)
        )
        if version == operations.LATEST:
            started = self._clock.monotonic()
            version = await self._latest_version(operation, seconds)
            seconds = self.left(seconds, started)
        headers = SecretHeaders(self._headers)
        headers["IBM-API-Version"] = version or operations.default_version(self._clock.wall())
        request = operation.request(self.base_url, headers)
        return await self._attempts.run(
            request, operation.read, seconds, undo=undo, urgent=operation.ending
        )

    async def admit(self, operation: Operation[T]) -> None:
        """Raise what refuses an operation that can't be repeated, if something does; the settings must be settled.

        Raises:
            ClientClosed: The client begins none any more, or none just now.
        """
        await self._attempts.admit(operation.request(self.base_url, {}))

    async def versions(
        self, api_version: str | None, timeout: Timeout, *, urgent: bool = False
    ) -> list[ApiVersion]:
        """List the API versions, without credentials; see `Attempts.run` for `urgent`."""
        headers = SecretHeaders(self._headers)
        if api_version is not None:
            headers["IBM-API-Version"] = operations.checked_version(api_version, latest=False)
        operation = operations.versions()
        seconds = await self.settled(operation.name, timeout)
        request = operation.request(self.base_url, headers)
        return await self._attempts.run(
            request, operation.read, seconds, authenticated=False, urgent=urgent
        )

    async def settled(self, operation: str, timeout: Timeout) -> float | None:
        """Wait for the account file where the settings are in it; give what is left of the call's seconds."""
        seconds = self.seconds(timeout)
        if self._search is None:
            return seconds
        started = self._clock.monotonic()
        # One reading for all who wait, and not one that a caller's cancellation ends.
        if self._searching is None or self._searching.done():
            self._searching = self._attempts.spawn(self._look(self._search))
        searching = self._searching
        done, _ = await asyncio.wait({searching}, timeout=seconds)
        if not done:
            raise CallTimeout(
                "the call's deadline passed while reading the account file.",
                operation=operation,
                sent=False,
            )
        if searching.cancelled():
            raise ClientClosed(
                "the client was closed while reading the account file.", operation=operation
            )
        error = searching.result()
        if error is not None:
            raise replica(error)
        return self.left(seconds, started)

    def seconds(self, timeout: Timeout) -> float | None:
        """Read a call's deadline as seconds, or None for none.

        Raises:
            InvalidArgument: It can't be one.
        """
        return (
            self._timeout
            if isinstance(timeout, EllipsisType)
            else deadline_seconds(timeout, "timeout")
        )

    def left(self, seconds: float | None, started: float) -> float | None:
        """Give what is left of a deadline; never 0 or less, which would be no deadline at all but a wrong one."""
        return (
            None if seconds is None else max(seconds - (self._clock.monotonic() - started), 0.001)
        )

    def _settle(self, settings: config.Settings) -> None:
        """Take the settings on: here they become where calls go, how they get there and what they carry."""
        self._transport.check(URL(settings.base_url))
        self.base_url = settings.base_url
        crns = [provider.crn for provider in settings.providers if isinstance(provider, ServiceCRN)]
        self.instance = crns[0] if crns else None
        self._transport.proxies = settings.proxies
        self._attempts.providers = settings.providers

    async def _look(self, search: config.Search) -> QSessionsError | None:
        """Find the settings in the account file; give the error that all who wait get, or None."""
        try:
            self._settle(await search.looked_up())
        except QSessionsError as error:
            return error.with_traceback(None)
        self._search = None
        return None

    async def _latest_version(self, operation: Operation[T], seconds: float | None) -> str:
        if self._latest is not None:
            return self._latest
        scope = asyncio.timeout(seconds)
        try:
            async with scope, self._latest_lock:
                return await self._newest_live(seconds)
        except TimeoutError:
            if not scope.expired():
                raise
            raise CallTimeout(
                "the call's deadline passed while asking for the latest API version.",
                operation=operation.name,
                session_id=operation.session_id,
                sent=False,
            ) from None

    async def _newest_live(self, seconds: float | None) -> str:
        # Whoever had the lock before may have got it. And whoever waits for it may be about to end a session.
        if self._latest is None:
            self._latest = operations.newest_live(await self.versions(None, seconds, urgent=True))
        return self._latest
