"""`qsessions doctor`: what stands between this machine and the service, a line for each thing, `ok` or what to do."""

from __future__ import annotations

import asyncio
import dataclasses
import socket
import time
from collections.abc import AsyncIterator, Coroutine, Mapping
from datetime import UTC, datetime
from typing import Any

import attrs
from attrs import define, field, frozen
from yarl import URL

from qsessions.api import operations
from qsessions.api.messages import Response, http_date
from qsessions.auth import ServiceCRN
from qsessions.cli.commands import connect, deadline
from qsessions.cli.failures import Exit, exit_code, what_happened, what_to_do
from qsessions.cli.options import Options
from qsessions.cli.output import Output
from qsessions.clock import Clock
from qsessions.config.settings import Settings, SettingsLoader, resolve
from qsessions.errors import CallTimeout, ProtocolError, QSessionsError, ResponseError
from qsessions.events import Event, Observers, TokenRenewed
from qsessions.http.attempts import Attempts
from qsessions.http.retry import RetryPolicy
from qsessions.http.transport import AiohttpTransport
from qsessions.models import ApiVersion, Workload

# What servers' clocks, a slow answer and the whole seconds of a Date header account for.
_SKEW_S = 60.0
# One look is enough, and what is seen must not be what a second look saw.
_ONCE = RetryPolicy(max_attempts=1)
_NETWORK = "Check the network, the proxy and the base URL."
# What to do about what takes too long.
_IN_TIME = {
    "credentials": "Check the account file and the file system that it is on.",
    "base_url": "Check the account file and the file system that it is on.",
    "dns": _NETWORK,
}


@frozen
class Check:
    """One line of the report.

    Attributes:
        check: What was looked at.
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


async def examine(options: Options) -> int:
    """Look at everything and print it; give the highest exit code of what isn't well."""
    output = Output(options)
    # What can't be right is told before anything is looked at.
    deadline(options)
    operations.checked_version(options.api_version or operations.LATEST)
    checks: list[Check] = []
    async for check in _Examination(options).checks():
        checks.append(check)
        if output.lines:
            output.record(_row(check))
        elif not output.as_json:
            advice = f" {check.advice}" if check.advice else ""
            output.line((f"{check.check:<11}", f"{check.status:<7}", check.found + advice))
    code = max(check.code for check in checks)
    if output.as_json and not output.lines:
        output.record({"ok": code == Exit.DONE, "checks": [_row(check) for check in checks]})
    return code


def _row(check: Check) -> dict[str, Any]:
    return attrs.asdict(check, filter=lambda attribute, _: attribute.name != "code")


def _failed(name: str, error: QSessionsError) -> Check:
    return Check(
        name,
        "failed",
        what_happened(error, "doctor"),
        what_to_do(error, "doctor"),
        exit_code(error),
    )


def _skipped(name: str, first: str) -> Check:
    return Check(name, "skipped", f"not tried; it needs {first}.")


@define
class _Examination:
    """What is found out on the way; later checks rest on it."""

    options: Options
    url: URL = field(factory=URL)
    proxies: Mapping[str, str] = field(factory=dict)
    settings: Settings | None = None
    answer: Response | None = None
    listed: list[ApiVersion] | None = None
    refusal: QSessionsError | None = None

    async def checks(self) -> AsyncIterator[Check]:
        """Give one check after the other."""
        yield await self.in_time("credentials", self.credentials())
        yield (located := await self.in_time("base_url", self.base_url()))
        if located.status == "ok":
            yield (resolved := await self.in_time("dns", self.dns()))
            yield await self.tls() if resolved.status == "ok" else _skipped("tls", "dns")
        else:
            yield _skipped("dns", "base_url")
            yield _skipped("tls", "base_url")
        for check in await self.iam_and_read():
            yield check
        yield self.clock()
        yield self.api_version()

    async def in_time(self, name: str, looking: Coroutine[Any, Any, Check]) -> Check:
        """Give a check, or the one that it took too long."""
        try:
            async with asyncio.timeout(deadline(self.options)):
                return await looking
        except TimeoutError:
            return Check(name, "failed", "no answer in time.", _IN_TIME[name], Exit.TIMEOUT)

    async def credentials(self) -> Check:
        """Find the credentials where the client would."""
        options = self.options
        try:
            found = resolve(
                None, options.base_url, account=options.account, account_file=options.account_file
            )
            source = "the environment"
            if isinstance(found, SettingsLoader):
                source = f"{f'account {options.account!r}' if options.account else 'the default account'} in {found.file}"
                found = await found.load()
        except QSessionsError as error:
            return _failed("credentials", error)
        self.settings = found
        crns = [provider.crn for provider in found.providers if isinstance(provider, ServiceCRN)]
        return Check("credentials", "ok", f"from {source}: API key ***, instance {', '.join(crns)}")

    async def base_url(self) -> Check:
        """Find the service; it can be looked at without credentials too."""
        try:
            found = self.settings or resolve([], self.options.base_url)
            settings = found if isinstance(found, Settings) else await found.load()
        except QSessionsError as error:
            return _failed("base_url", error)
        self.url = URL(settings.base_url)
        self.proxies = settings.proxies
        return Check("base_url", "ok", settings.base_url)

    async def dns(self) -> Check:
        host = self.url.raw_host or ""
        try:
            answers = await asyncio.get_running_loop().getaddrinfo(
                host, self.url.port, type=socket.SOCK_STREAM
            )
        except OSError as error:
            if self.url.scheme in self.proxies:
                return Check(
                    "dns",
                    "ok",
                    f"{host} has no address here; a proxy is set, which looks it up itself",
                )
            return Check(
                "dns",
                "failed",
                f"{host} has no address: {error.strerror}.",
                _NETWORK,
                Exit.UNREACHABLE,
            )
        addresses = dict.fromkeys(str(address[0]) for *_, address in answers)
        found = "an address already" if [*addresses] == [host] else ", ".join(addresses)
        return Check("dns", "ok", f"{host} is {found}")

    async def tls(self) -> Check:
        """Ask for the versions, which takes no credentials, and see what the connection is worth."""
        operation = operations.versions()

        def read(answer: Response) -> list[ApiVersion]:
            self.answer = answer
            return operation.read(answer)

        transport = AiohttpTransport()
        transport.proxies = self.proxies
        attempts = Attempts(transport, retry=_ONCE, clock=Clock(), observers=Observers())
        try:
            request = operation.request(str(self.url), {})
            self.listed = await attempts.run(
                request,
                read,
                Clock().deadline(deadline(self.options)),
                authenticated=False,
            )
        except (ResponseError, ProtocolError) as error:
            # What answers isn't what it should be; the connection itself stands.
            self.refusal = error
        except QSessionsError as error:
            return _failed("tls", error)
        finally:
            await transport.aclose()
        if self.url.scheme == "http":
            return Check("tls", "skipped", "none: plain http, which stays on this machine")
        return Check("tls", "ok", "the server's certificate is trusted")

    async def iam_and_read(self) -> tuple[Check, Check]:
        """Make one call that needs a token, and tell the exchange from the read."""
        if self.settings is None:
            return _skipped("iam", "credentials"), _skipped("read", "credentials")
        renewed: list[TokenRenewed] = []

        def keep(event: Event) -> None:
            if isinstance(event, TokenRenewed):
                renewed.append(event)

        failure: QSessionsError | None = None
        first: Workload | None = None
        options = dataclasses.replace(self.options, api_version=self._version())
        try:
            async with (
                connect(options, retry=_ONCE, observers=[keep]) as client,
                asyncio.timeout(deadline(options)),
            ):
                first = await anext(client.workloads(mode="session", page_size=1), None)
        except QSessionsError as error:
            failure = error
        except TimeoutError:
            # Each page has been in time.
            failure = CallTimeout("no workload came in time.", operation="workloads", sent=True)
        if failure is not None and not renewed:
            return _failed("iam", failure), _skipped("read", "iam")
        iam = Check(
            "iam",
            "ok",
            f"{renewed[0].host} gave a token for {renewed[0].expires_in / 60:.0f} minutes",
        )
        if failure is not None:
            return iam, _failed("read", failure)
        return iam, Check(
            "read",
            "ok",
            f"the instance can be read; it {'has no' if first is None else 'has'} dedicated sessions",
        )

    def clock(self) -> Check:
        """Compare the local clock with the Date of the service's answer."""
        theirs = http_date(self.answer.header("Date") if self.answer else None)
        if theirs is None:
            return _skipped("clock", "an answer with the service's date")
        skew = time.time() - theirs
        if abs(skew) <= _SKEW_S:
            return Check("clock", "ok", f"less than {_SKEW_S:.0f} s from the service's")
        direction = "ahead of" if skew > 0 else "behind"
        found = f"this machine's clock is {abs(skew):.0f} s {direction} the service's."
        return Check(
            "clock", "failed", found, "Set the clock, for example with NTP.", Exit.WRONG_USE
        )

    def api_version(self) -> Check:
        """Find the version in use among those that the service lists."""
        if self.refusal is not None:
            return _failed("api_version", self.refusal)
        if not self.listed:
            return _skipped("api_version", "tls")
        wanted, live = self._version(), self._live()
        advice = f"Choose another with --api-version: {', '.join(live or [item.version for item in self.listed])}."
        if self.options.api_version == operations.LATEST and not live:
            told = "the service lists no live API version."
            return Check("api_version", "failed", told, advice, Exit.WRONG_USE)
        found = next((version for version in self.listed if version.version == wanted), None)
        if found is None:
            told = f"the service has no version {wanted}."
            return Check("api_version", "failed", told, advice, Exit.WRONG_USE)
        if found.sunset_date is None:
            return Check("api_version", "ok", f"{wanted}, {found.status}, no sunset set")
        if found.sunset_date <= datetime.now(UTC).date().isoformat():
            told = f"{wanted}, {found.status}, is no longer served since {found.sunset_date}."
            return Check("api_version", "failed", told, advice, Exit.WRONG_USE)
        return Check(
            "api_version", "ok", f"{wanted}, {found.status}, served until {found.sunset_date}"
        )

    def _live(self) -> list[str]:
        return [version.version for version in self.listed or () if version.status == "live"]

    def _version(self) -> str:
        """Give the version that calls ask for; for "latest" without a live one, the default, so that the read is tried all the same."""
        given = self.options.api_version
        default = operations.default_version(time.time())
        return (
            max(self._live(), default=default) if given == operations.LATEST else given or default
        )
