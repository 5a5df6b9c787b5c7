"""The checks of `doctor`."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime

from attrs import define, field, frozen
from yarl import URL

from qsessions.api import operations
from qsessions.api.addresses import INSECURE_HOSTS, InsecureHosts, is_loopback
from qsessions.api.messages import Response, http_date
from qsessions.cli import service
from qsessions.cli.api_version import why_version
from qsessions.cli.failures import Exit, advice_on, exit_code
from qsessions.cli.options import Options
from qsessions.cli.recording import use_ledger
from qsessions.cli.service import connect
from qsessions.config.resolve import resolve
from qsessions.config.settings import Settings, SettingsLoader
from qsessions.errors import CallTimeout, ProtocolError, QSessionsError, ResponseError, problem_of
from qsessions.events import Event, Observers, TokenRenewed
from qsessions.http.attempts import Attempts
from qsessions.http.resolver import Resolver
from qsessions.http.retry import RetryPolicy
from qsessions.http.transport import AiohttpTransport
from qsessions.models import ApiVersion

# What servers' clocks, a slow answer and the whole seconds of a Date header may add up to.
_SKEW_S = 60.0
# A second attempt would hide what the first one saw.
_ONCE = RetryPolicy(max_attempts=1)
_CHECK_NETWORK = "Check the network, the proxy and the base URL."
_CHECK_FILE = "Check the account file and the file system that it is on."


# What to do about these if they take too long. Later checks have a deadline of their own.
_ADVICE_IN_TIME = {
    "ledger": "Check the ledger's URL or its file system.",
    "credentials": _CHECK_FILE,
    "base_url": _CHECK_FILE,
    "dns": _CHECK_NETWORK,
}


@frozen
class Check:
    """One line of the report.

    Attributes:
        check: What was checked.
        status: ok, failed, or skipped where something else must be put right first.
        found: What was found.
        advice: What to do, or None.
        code: The exit code that fits.
    """

    check: str
    status: str
    found: str
    advice: str | None = None
    code: int = Exit.DONE


class _Problem(Exception):
    """What is wrong, what to do, and the exit code."""


class _Skipped(Exception):
    """Why there is nothing to check."""


@define
class Diagnosis:
    """Makes the checks. Later ones rest on what earlier ones found."""

    options: Options
    url: URL = field(factory=URL)
    proxies: Mapping[str, str] = field(factory=dict)
    insecure_hosts: InsecureHosts = frozenset()
    settings: Settings | None = None
    answer: Response | None = None
    versions: list[ApiVersion] = field(factory=list)
    refusal: QSessionsError | None = None
    read_failure: QSessionsError | None = None
    has_sessions: bool = False

    async def checks(self) -> AsyncIterator[Check]:
        """Yield one check after the other."""
        # For each check that can't be made or failed, the one that must be put right.
        blocked: dict[str, str] = {}
        for name, find, needed in (
            ("credentials", self._credentials, ""),
            ("instance", self._instance, "credentials"),
            ("base_url", self._base_url, ""),
            ("dns", self._dns, "base_url"),
            ("tls", self._tls, "dns"),
            ("iam", self._iam, "instance"),
            ("read", self._read, "iam"),
            ("clock", self._clock, ""),
            ("api_version", self._api_version, ""),
            ("ledger", self._ledger, ""),
        ):
            if needed in blocked:
                blocked[name] = blocked[needed]
                yield Check(name, "skipped", f"not tried; it needs {blocked[name]}.")
                continue
            check = await self._check(name, find)
            if check.status == "failed":
                blocked[name] = name
            yield check

    async def _check(self, name: str, find: Callable[[], Awaitable[str]]) -> Check:
        advice = _ADVICE_IN_TIME.get(name)
        try:
            async with asyncio.timeout(self.options.timeout if advice else None):
                return Check(name, "ok", await find())
        except _Skipped as skipped:
            return Check(name, "skipped", str(skipped))
        except _Problem as problem:
            return Check(name, "failed", *problem.args)
        except QSessionsError as error:
            found, todo = problem_of(error, "doctor"), advice_on(error, "doctor")
            return Check(name, "failed", found, todo, exit_code(error))
        except TimeoutError:
            return Check(name, "failed", "no answer in time.", advice, Exit.TIMEOUT)

    async def _ledger(self) -> str:
        return await use_ledger(self.settings.instance if self.settings else None)

    async def _credentials(self) -> str:
        """Find the credentials where the client would."""
        options = self.options
        found = resolve(
            None, options.base_url, account=options.account, account_file=options.account_file
        )
        source = "the environment"
        if isinstance(found, SettingsLoader):
            account = f"account {options.account!r}" if options.account else "the default account"
            source = f"{account} in {found.file}"
            found = await found.load()
        self.settings = found
        instance = f"instance {found.instance}"
        if found.lookup is not None:
            instance = "no CRN" + ", an instance's name" * found.lookup.has_name
        return f"from {source}: API key ***, {instance}"

    async def _instance(self) -> str:
        """Look the instance up where the client would, before the rest, which its region tells."""
        settings = self.settings
        if settings is None or settings.lookup is None:
            return "its CRN is given; nothing is looked up"
        lookup = settings.lookup
        async with self._attempts(settings.proxies, settings.insecure_hosts) as attempts:
            deadline = service.CLOCK.deadline(self.options.timeout)
            found = await lookup.find(attempts, deadline)
        self.settings = lookup.complete(found.crn)
        host = URL(lookup.directory.search_url).host
        return f"looked up at {host}: {found.name}, {found.plan}, {found.region}, {found.crn}"

    async def _base_url(self) -> str:
        """Find the service; it can be reached without credentials too."""
        settings = self.settings or resolve([], self.options.base_url)
        if isinstance(settings, SettingsLoader):
            settings = await settings.load()
        self.url, self.proxies = URL(settings.base_url), settings.proxies
        self.insecure_hosts = settings.insecure_hosts
        return settings.base_url

    async def _dns(self) -> str:
        host = self.url.raw_host or ""
        try:
            # Not on the event loop's threads, whose end waits for a look-up that hangs.
            answers = await Resolver(service.CLOCK).resolve(host)
        except OSError as error:
            if self.url.scheme in self.proxies:
                return f"{host} has no address here; a proxy is set, which looks it up itself"
            problem = f"{host} has no address: {error.strerror}."
            raise _Problem(problem, _CHECK_NETWORK, Exit.UNREACHABLE) from None
        addresses = dict.fromkeys(answer["host"] for answer in answers)
        is_address = [*addresses] == [host]
        return f"{host} is {'an address already' if is_address else ', '.join(addresses)}"

    async def _tls(self) -> str:
        """Read the versions, which needs no credentials, and check the connection."""
        operation = operations.versions()

        def read(answer: Response) -> list[ApiVersion]:
            self.answer = answer
            return operation.read(answer)

        try:
            async with self._attempts(self.proxies, self.insecure_hosts) as attempts:
                request = operation.request(str(self.url), {})
                self.versions = await attempts.run(
                    request, read, service.CLOCK.deadline(self.options.timeout), providers=()
                )
        except (ResponseError, ProtocolError) as error:
            # The answer isn't the service's, but the connection itself stands.
            self.refusal = error
        if self.url.scheme == "http":
            allowed = "stays on this machine"
            if not is_loopback(self.url.raw_host):
                allowed = f"{INSECURE_HOSTS} allows to {self.url.authority}"
            raise _Skipped(f"none: plain http, which {allowed}")
        return "the server's certificate is trusted"

    @asynccontextmanager
    async def _attempts(
        self, proxies: Mapping[str, str], insecure_hosts: InsecureHosts
    ) -> AsyncIterator[Attempts]:
        transport = AiohttpTransport(service.CLOCK)
        transport.proxies, transport.insecure_hosts = proxies, insecure_hosts
        try:
            yield Attempts(transport, retry=_ONCE, clock=service.CLOCK, observers=Observers())
        finally:
            await transport.aclose()

    async def _iam(self) -> str:
        """Make a call that needs a token. Report the token exchange; `_read` reports the call."""
        renewed: list[TokenRenewed] = []

        def observe(event: Event) -> None:
            if isinstance(event, TokenRenewed):
                renewed.append(event)

        options = dataclasses.replace(self.options, api_version=self._version())
        try:
            async with (
                connect(options, retry=_ONCE, observers=[observe]) as client,
                asyncio.timeout(options.timeout),
            ):
                first = await anext(client.workloads(mode="session", page_size=1), None)
                self.has_sessions = first is not None
        except QSessionsError as error:
            self.read_failure = error
        except TimeoutError:
            # Each page came in time, but there was no workload in them.
            problem = "no workload came in time."
            self.read_failure = CallTimeout(problem, operation="workloads", sent=True)
        if self.read_failure is not None and not renewed:
            raise self.read_failure
        minutes = renewed[0].expires_in / 60
        return f"{renewed[0].host} gave a token for {minutes:.0f} minutes"

    async def _read(self) -> str:
        if self.read_failure is not None:
            raise self.read_failure
        has = "has" if self.has_sessions else "has no"
        return f"the instance can be read; it {has} dedicated sessions"

    async def _clock(self) -> str:
        """Compare the local clock with the Date of the service's answer."""
        date = http_date(self.answer.header("Date") if self.answer else None)
        if date is None:
            raise _Skipped("not tried; it needs an answer with the service's date.")
        skew = service.CLOCK.wall() - date
        if abs(skew) <= _SKEW_S:
            return f"less than {_SKEW_S:.0f} s from the service's"
        problem = (
            f"this machine's clock is {abs(skew):.0f} s "
            f"{'ahead of' if skew > 0 else 'behind'} the service's."
        )
        raise _Problem(problem, "Set the clock, for example with NTP.", Exit.WRONG_USE)

    async def _api_version(self) -> str:
        """Find the version in use among those that the service lists."""
        if self.refusal is not None:
            raise self.refusal
        if not self.versions:
            raise _Skipped("not tried; it needs tls.")
        wanted, live = self._version(), self._live_versions()
        found = {item.version: item for item in self.versions}.get(wanted)
        choice = ", ".join(live or [item.version for item in self.versions])
        now = service.CLOCK.wall()
        today = datetime.fromtimestamp(now, UTC).date().isoformat()
        why = why_version(self.options.api_version, now)
        if self.options.api_version == operations.LATEST and not live:
            problem = "the service lists no live API version."
        elif found is None:
            problem = f"the service has no version {wanted}."
        elif found.sunset_date is None:
            return f"{wanted}, {found.status}, no sunset set: {why}"
        elif found.sunset_date > today:
            return f"{wanted}, {found.status}, served until {found.sunset_date}: {why}"
        else:
            problem = f"{wanted}, {found.status}, is no longer served since {found.sunset_date}."
        advice = f"Choose another with --api-version: {choice}."
        raise _Problem(problem, advice, Exit.WRONG_USE)

    def _live_versions(self) -> list[str]:
        return [item.version for item in self.versions if item.status == "live"]

    def _version(self) -> str:
        """Return the version that calls ask for.

        For "latest" without a live version it is the default, so that the read is tried anyway.
        """
        default = operations.default_version(service.CLOCK.wall())
        if self.options.api_version == operations.LATEST:
            return max(self._live_versions(), default=default)
        return self.options.api_version or default
