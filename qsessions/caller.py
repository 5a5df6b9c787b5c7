"""What every call passes first: the settings, the headers, the API version, the deadline."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping
from contextlib import aclosing
from datetime import timedelta
from types import EllipsisType
from typing import Any, TypeAlias, TypeVar

from yarl import URL

from qsessions.api import operations
from qsessions.api.codec import WorkloadPage
from qsessions.api.messages import Progress, SecretHeaders
from qsessions.api.operations import Operation, Query
from qsessions.api.pages import Paging
from qsessions.auth import ServiceCRN
from qsessions.clock import Clock, Deadline
from qsessions.config.checks import merged_headers
from qsessions.config.instances import Directory, InstanceLookup, loading_failure
from qsessions.config.settings import Settings, SettingsLoader
from qsessions.errors import ConfigurationError, QSessionsError, copy_error
from qsessions.http.attempts import Attempts
from qsessions.http.retry import RetryPolicy
from qsessions.http.transport import AiohttpTransport
from qsessions.models import ApiVersion, Instance, Workload, deadline_seconds
from qsessions.values import with_changes

T = TypeVar("T")

# The look-up of an instance has a deadline of its own: it serves all callers.
_LOOKUP_TIMEOUT_S = 60.0

# A call's timeout: seconds, a timedelta, text such as "2m", None for none, `...` for the client's.
Timeout: TypeAlias = float | timedelta | str | EllipsisType | None


class Caller:
    """Makes the calls of one client.

    Args:
        settings: The settings, or where to look them up, once, when they are first needed.
        transport: The connections; they get the proxies of the settings.
        attempts: The attempt loop; it gets the auth providers of the settings.
        clock: The time.
        api_version: The API version of calls that name none, or None for the default.
        timeout: The timeout of calls that name none, in seconds, or None.
        headers: The user's own headers.

    Raises:
        ConfigurationError: The service's address is plain http to another machine.
        InvalidArgument: The API version is neither a date nor "latest".

    Attributes:
        base_url: The part of the service's address before /v1, once the settings are loaded. Until
            an instance was looked up, whose region counts, it is that of the default region.
        instance: The CRN that is sent, where it is known.
        spawn: Runs a coroutine as a task that is cancelled when the client is closed; raises
            `ClientClosed` after that.
        before_call: Called before each call, if it is set.
        ancestors: What this one was made from by `with_options`, the nearest first.
        is_closed: Whether the client that was made by `with_options` for it was closed.
        settings: The settings, once there are some, perhaps without the instance yet.
    """

    def __init__(
        self,
        settings: Settings | SettingsLoader,
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
        self.spawn = transport.spawn
        self.before_call: Callable[[], None] | None = None
        self.settings: Settings | None = None
        # Of one that has options of its own: the CRN in place of those of the settings.
        self.ancestors: tuple[Caller, ...] = ()
        self.is_closed = False
        self._crn: ServiceCRN | None = None
        self._transport = transport
        self._attempts = attempts
        self._clock = clock
        self._api_version = operations.checked_version(api_version)
        self._timeout = timeout
        # A traceback that shows locals must not show them. A header of our own needs a place in
        # RESERVED_HEADERS, too.
        self._user_headers = SecretHeaders(headers)
        # With the version of the latest call. They are replaced, not changed.
        self._headers = SecretHeaders()
        self._directory: Directory | ConfigurationError = ConfigurationError("nothing is loaded.")
        # What calls still wait for: the account file, and then perhaps the instance.
        self._loader: SettingsLoader | InstanceLookup | None = None
        self._loading: asyncio.Task[QSessionsError | None] | None = None
        if isinstance(settings, SettingsLoader):
            self._loader = settings
        else:
            self._apply(settings)
        self._latest: str | None = None
        self._latest_lock = asyncio.Lock()

    def with_options(
        self,
        crn: ServiceCRN | None,
        retry: RetryPolicy | None,
        headers: Mapping[str, str] | None,
        *,
        api_version: str | None = None,
        timeout: Timeout = ...,
    ) -> Caller:
        """Return one with options of its own on the same connections, credentials and budget.

        Args:
            crn: Names another instance, or None for the same.
            retry: The retry policy, or None for the same.
            headers: Further headers, in place of those of the same names, or None.
            api_version: The API version, checked, or None for the same.
            timeout: The timeout, or `...` for the same.

        Raises:
            ConfigurationError: The headers can't be sent.
            InvalidArgument: The timeout can't be right.
        """
        other = with_changes(
            self,
            ancestors=(self, *self.ancestors),
            _crn=crn or self._crn,
            _attempts=self._attempts.with_policy(retry),
            _api_version=api_version or self._api_version,
            _timeout=self.seconds(timeout),
            _user_headers=merged_headers(self._user_headers, headers),
            _headers=SecretHeaders(),
        )
        if crn is not None:
            other.inherit(self.settings)
        return other

    def inherit(self, settings: Settings | None) -> None:
        """Take the settings of the client that this one was made from."""
        if settings is not None:
            self._apply(settings if self._crn is None else settings.for_instance(self._crn))

    def deadline(self, timeout: Timeout | Deadline) -> Deadline:
        """Return the deadline of a call that begins now; one that is given is returned itself.

        Raises:
            InvalidArgument: The timeout can't be right.
        """
        if self.before_call is not None:
            self.before_call()
        if isinstance(timeout, Deadline):
            return timeout
        return self._clock.deadline(self.seconds(timeout))

    def seconds(self, timeout: Timeout) -> float | None:
        """Return a call's timeout in seconds, or None for none.

        Raises:
            InvalidArgument: The timeout can't be right.
        """
        return self._timeout if timeout is ... else deadline_seconds(timeout, "timeout")

    def call(
        self,
        operation: Operation[T],
        api_version: str | None = None,
        timeout: Timeout | Deadline = ...,
        progress: Progress | None = None,
    ) -> Coroutine[Any, Any, T]:
        """Carry out an operation, all within one deadline.

        Args:
            operation: What to do.
            api_version: The API version for it, or None for the client's.
            timeout: Its timeout or deadline, or `...` for the client's.
            progress: Follows the request.

        Raises:
            QSessionsError: See errors.py.
        """
        deadline = self.deadline(timeout)
        version = (
            self._api_version if api_version is None else operations.checked_version(api_version)
        )
        # What waits for nothing is no coroutine of its own: each costs at every wake-up.
        if self._loader is not None or version == operations.LATEST:
            return self._call_when_known(operation, version, deadline, progress)
        return self._run(operation, version, deadline, progress)

    async def _call_when_known(
        self,
        operation: Operation[T],
        version: str | None,
        deadline: Deadline,
        progress: Progress | None,
    ) -> T:
        """Find out the settings and the latest API version, then carry out an operation."""
        await self.ensure_configured(operation.name, deadline)
        if version == operations.LATEST:
            version = await self._latest_version(operation, deadline)
        return await self._run(operation, version, deadline, progress)

    def _run(
        self,
        operation: Operation[T],
        version: str | None,
        deadline: Deadline,
        progress: Progress | None,
    ) -> Coroutine[Any, Any, T]:
        version = version or operations.default_version(self._clock.wall())
        if self._headers.get("IBM-API-Version") != version:
            self._headers = SecretHeaders(self._user_headers, **{"IBM-API-Version": version})
        return self._attempts.run(
            operation.request(self.base_url, self._headers, progress), operation.read, deadline
        )

    async def versions(
        self, api_version: str | None, timeout: Timeout | Deadline, *, urgent: bool = False
    ) -> list[ApiVersion]:
        """List the API versions, without credentials; see `Request` for `urgent`."""
        headers = SecretHeaders(self._user_headers)
        if api_version is not None:
            headers["IBM-API-Version"] = operations.checked_version(api_version, latest=False)
        operation = operations.versions()
        deadline = self.deadline(timeout)
        await self.ensure_configured(operation.name, deadline, instance=False)
        request = operation.request(self.base_url, headers)
        request.urgent = urgent
        return await self._attempts.run(request, operation.read, deadline, providers=())

    async def instances(self, timeout: Timeout | Deadline) -> list[Instance]:
        """List the instances of the key's account.

        Raises:
            ConfigurationError: There is no key, or it isn't known where to ask.
            QSessionsError: See `Directory.instances`.
        """
        deadline = self.deadline(timeout)
        await self.ensure_configured("instances", deadline, instance=False)
        if isinstance(self._directory, ConfigurationError):
            raise copy_error(self._directory)
        return await self._directory.instances(self._attempts, deadline)

    async def pages(
        self,
        query: Query,
        api_version: str | None = None,
        timeout: Timeout | Deadline = ...,
        *,
        ending: bool = False,
    ) -> AsyncGenerator[WorkloadPage, None]:
        """Yield the pages of a list of workloads, each fetched when it is needed.

        Args:
            query: Which workloads.
            api_version: The API version, or None for the client's.
            timeout: The timeout of each page, or the deadline of all.
            ending: Whether the end of a session depends on it.

        Raises:
            ProtocolError: The links of the pages lead nowhere; see `Paging`.
            QSessionsError: See errors.py.
        """
        paging, cursor = Paging(), None
        while True:
            operation = operations.workloads(query, cursor, ending=ending)
            page = await self.call(operation, api_version, timeout)
            yield page
            cursor = paging.cursor_after(page)
            if cursor is None:
                return

    async def workloads(
        self,
        query: Query,
        api_version: str | None = None,
        timeout: Timeout | Deadline = ...,
        *,
        ending: bool = False,
    ) -> AsyncGenerator[Workload, None]:
        """Yield the workloads of all pages; see `pages`."""
        async with aclosing(self.pages(query, api_version, timeout, ending=ending)) as pages:
            async for page in pages:
                for workload in page.workloads:
                    yield workload

    async def ensure_configured(
        self, operation: str, timeout: Timeout | Deadline, *, instance: bool = True
    ) -> None:
        """Load the settings and look the instance up, as far as that wasn't done yet.

        Args:
            operation: The operation that needs it.
            timeout: Its timeout or deadline.
            instance: Whether it needs the instance, too.

        Raises:
            ConfigurationError: The account file can't be used, or no one instance was found.
            CallTimeout: Time was up.
            QSessionsError: The look-up failed. Nothing was sent to the service.
        """
        deadline = self.deadline(timeout)
        if self._loader is not None and self.ancestors:
            await self.ancestors[0].ensure_configured(
                operation, deadline, instance=instance and not self._crn
            )
            self.inherit(self.ancestors[0].settings)
            return
        while (loader := self._loader) is not None:
            if isinstance(loader, InstanceLookup) and not instance:
                return
            # One for all who wait, which a caller's cancellation doesn't end.
            if self._loading is None or self._loading.done():
                self._loading = self.spawn(self._load(loader))
            loading = self._loading
            await deadline.wait({loading})
            failure = loading_failure(
                loading,
                f"while {loader.activity}.",
                operation,
                self._attempts.awaited[0].last_failure,
            )
            if failure is not None:
                raise failure

    def _apply(self, settings: Settings) -> None:
        self._transport.proxies = settings.proxies
        self._transport.insecure_hosts = settings.insecure_hosts
        if settings.base_url != self.base_url:
            self._transport.check(URL(settings.base_url))
        self.base_url = settings.base_url
        self.instance = settings.instance
        self._attempts.providers = settings.providers
        self._attempts.origins = settings.origins
        self._directory = settings.directory
        self.settings = settings
        self._loader = settings.lookup

    async def _load(self, loader: SettingsLoader | InstanceLookup) -> QSessionsError | None:
        """Take the next step to the settings; return the error for all who wait, or None."""
        try:
            if isinstance(loader, SettingsLoader):
                settings = await loader.load()
            else:
                deadline = self._clock.deadline(_LOOKUP_TIMEOUT_S)
                settings = await loader.load(self._attempts, deadline)
            self._apply(settings)
        except QSessionsError as error:
            return error.with_traceback(None)
        return None

    async def _latest_version(self, operation: Operation[T], deadline: Deadline) -> str:
        if self._latest is not None:
            return self._latest
        if self.ancestors and self._crn is self.ancestors[0]._crn:  # noqa: SLF001
            # Outside of the lock, which both have.
            return await self.ancestors[0]._latest_version(operation, deadline)  # noqa: SLF001
        with deadline.call_timeout(
            "the call's deadline passed while asking for the latest API version.",
            operation=operation.name,
            session_id=operation.session_id,
        ):
            async with self._latest_lock:
                # Another call may have got it meanwhile. This one may be about to end a session.
                if self._latest is None:
                    versions = await self.versions(None, deadline, urgent=True)
                    self._latest = operations.newest_live(versions)
                return self._latest
