"""Finds the instance of a key whose CRN isn't given, as the official client does.

IBM Cloud's Global Search lists the account's instances, and the Global Catalog names their plans.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, ClassVar, TypeVar

from attrs import frozen

from qsessions.api.addresses import InsecureHosts, service_url
from qsessions.api.directory import CatalogEntry, ListedInstance, plan, search
from qsessions.api.messages import AuthProvider, SecretHeaders, leftover_problem
from qsessions.api.operations import Operation
from qsessions.auth import IBMCloudAuth
from qsessions.auth.static import region_of
from qsessions.clock import Deadline
from qsessions.config.account_file import Account, quote
from qsessions.config.checks import refuse_emulator
from qsessions.errors import (
    CallTimeout,
    ClientClosed,
    ConfigurationError,
    ConnectionFailed,
    InstanceLookupFailed,
    ProtocolError,
    QSessionsError,
    ResponseError,
    copy_error,
    one_line,
)
from qsessions.http.attempts import Attempts
from qsessions.models import Instance

if TYPE_CHECKING:
    from qsessions.config.settings import Settings

T = TypeVar("T")

SEARCH_URL = "GLOBAL_SEARCH_URL"
CATALOG_URL = "GLOBAL_CATALOG_URL"

# An instance's "name" that stands for any.
AUTO = "auto"
# What to do about a look-up besides.
GIVE_CRN = "Or give the instance's CRN: then nothing is looked up."
# How many instances a message lists.
_MAX_LISTED = 10


@frozen(eq=False, repr=False)
class Directory:
    """Where the instances of a key's account are listed.

    Attributes:
        auth: The key.
        search_url: Global Search's base URL.
        catalog_url: The Global Catalog's base URL.
    """

    auth: IBMCloudAuth
    search_url: str
    catalog_url: str

    async def instances(self, attempts: Attempts, deadline: Deadline) -> list[Instance]:
        """Return the account's instances that have a backend, in Global Search's order.

        Raises:
            InstanceLookupFailed: Global Search refused or failed.
            QSessionsError: There is no token, or no answer.
        """
        listed: dict[str, ListedInstance] = {}
        cursor = None
        while True:
            page = await self._ask(attempts, deadline, self.search_url, search(cursor))
            new = {item.crn: item for item in page.items if item.crn not in listed}
            listed |= new
            cursor = page.search_cursor
            # Its last page may have a cursor too. A page that brings nothing new is the last.
            if cursor is None or not new:
                break
        plans = {"": CatalogEntry().name}
        found = []
        for item in listed.values():
            region, plan_id = region_of(item.crn), item.service_plan_unique_id
            # No call could reach the others, or they have no backend.
            if region is None or not item.doc.extensions:
                continue
            if plan_id not in plans:
                plans[plan_id] = await self._plan(attempts, deadline, plan_id)
            found.append(
                Instance(
                    name=item.name,
                    crn=item.crn,
                    plan=plans[plan_id],
                    region=region,
                    tags=item.tags,
                )
            )
        return found

    async def _plan(self, attempts: Attempts, deadline: Deadline, plan_id: str) -> str:
        entry = CatalogEntry()
        # The catalogue refuses entries that are archived.
        with suppress(InstanceLookupFailed, ProtocolError):
            entry = await self._ask(attempts, deadline, self.catalog_url, plan(plan_id))
        return entry.name

    async def _ask(
        self, attempts: Attempts, deadline: Deadline, base_url: str, operation: Operation[T]
    ) -> T:
        # The user's own headers are for the service.
        request = operation.request(base_url, SecretHeaders())
        # The call that needs the instance may be about to end a session.
        request.urgent = True
        try:
            return await attempts.run(request, operation.read, deadline, providers=(self.auth,))
        except QSessionsError as error:
            if error.operation != operation.name:
                # It has no token.
                raise
            failure = error
        message = f"the search for instances at {request.url.host}: {failure.message}"
        if isinstance(failure, ResponseError):
            # Not as its own class: that would speak of the service and its sessions.
            raise InstanceLookupFailed.from_failure(failure, message)
        raise failure.reworded(message)


@frozen(kw_only=True, eq=False, repr=False)
class InstanceLookup:
    """Looks the instance up for settings that lack it.

    Attributes:
        directory: Where.
        account: What is asked of the instance: a name; else, where there is none or it is "auto",
            the region, the plans and the tags.
        name_source: What messages call the place of the name.
        source: What messages call the account.
        complete: Returns the settings with an instance's CRN.
    """

    activity: ClassVar[str] = "looking up the instance"

    directory: Directory
    account: Account
    name_source: str
    source: str
    complete: Callable[[str], Settings]

    @property
    def has_name(self) -> bool:
        """Whether the account names the instance."""
        return self.account.instance not in {None, "", AUTO}

    async def load(self, attempts: Attempts, deadline: Deadline) -> Settings:
        """Look the instance up and return the settings with it; see `find`."""
        return self.complete((await self.find(attempts, deadline)).crn)

    async def find(self, attempts: Attempts, deadline: Deadline) -> Instance:
        """Return the only instance that is as it was asked for.

        The official client takes several: the first that has the backend.

        Raises:
            ConfigurationError: There is none, or there are several; the message lists them.
            QSessionsError: See `Directory.instances`.
        """
        try:
            instances = await self.directory.instances(attempts, deadline)
        except QSessionsError as error:
            # Not where there is no token, which each call needs.
            if error.operation == "instances" and error.solution:
                error.solution += f" {GIVE_CRN}"
            raise
        if self.has_name:
            # It isn't repeated: it may be the API key, in the wrong place.
            asked = f"the name in {self.name_source}"
            found = [each for each in instances if each.name == self.account.instance]
        else:
            asked = _filters(self.account, self.source)
            found = [each for each in instances if _fits(each, self.account)]
        if len(found) == 1:
            return found[0]
        solution = (
            "Put the CRN of one into QISKIT_IBM_INSTANCE or the account, or pass it to the client."
        )
        if found:
            have = (
                f"{len(found)} instances have {asked}" if asked else "the key has several instances"
            )
            problem = f"{have}: {_listed(found)}"
        elif instances:
            problem = f"no instance has {asked}; the key has {_listed(instances)}"
        else:
            problem = "the key has no instance"
            solution = "Check that the key is of the account with the instance, and may see it."
        raise ConfigurationError(f"{problem}.", solution=solution)


def may_be_name(instance: str) -> bool:
    """Return whether an account's instance may be a name, or none at all.

    What resembles a CRN is one, perhaps damaged, and a placeholder or quoted text is a mistake.
    """
    return "crn:" not in instance and leftover_problem(instance) is None


def key_of(providers: Iterable[AuthProvider]) -> IBMCloudAuth | None:
    """Return the provider that has an API key, or an IAM token, or None."""
    return next((each for each in providers if isinstance(each, IBMCloudAuth)), None)


def directory_of(
    key: IBMCloudAuth | None,
    search_url: str | None,
    catalog_url: str | None,
    insecure_hosts: InsecureHosts,
    cloud_host: Callable[[str], str] | None,
) -> Directory | ConfigurationError:
    """Return where a key's instances are listed, or why they can't be.

    No key of an emulator goes to the cloud this way, and none of the cloud's to an emulator.

    Args:
        key: The key.
        search_url: What GLOBAL_SEARCH_URL holds.
        catalog_url: What GLOBAL_CATALOG_URL holds.
        insecure_hosts: Where plain http may go besides this machine.
        cloud_host: Returns the URL of a host in the cloud of the base URL, by how it begins; None
            where the base URL isn't derived from the cloud's address.
    """
    if key is None:
        return ConfigurationError(
            "instances are looked up with an API key, and there is none.",
            solution="Pass IBMCloudAuth(api_key).",
            argument="auth",
        )
    try:
        search_url = _checked(search_url, SEARCH_URL)
        catalog_url = _checked(catalog_url, CATALOG_URL)
        if cloud_host is not None:
            refuse_emulator(search_url, SEARCH_URL, insecure_hosts)
            refuse_emulator(catalog_url, CATALOG_URL, insecure_hosts)
            search_url = search_url or cloud_host("api.global-search-tagging.")
            catalog_url = catalog_url or cloud_host("globalcatalog.") + "/api/v1"
    except ConfigurationError as error:
        return error.with_traceback(None)
    if search_url is None or catalog_url is None:
        return ConfigurationError(
            "the base URL doesn't say where instances are listed.",
            solution=f"Set {SEARCH_URL} and {CATALOG_URL}.",
        )
    return Directory(key, search_url, catalog_url)


def _checked(url: str | None, variable: str) -> str | None:
    return service_url(url, variable, solution=f"Correct or unset {variable}.") if url else None


def _fits(instance: Instance, account: Account) -> bool:
    plans = [plan.lower() for plan in account.plans_preference]
    return (
        account.region in {None, instance.region}
        and (not plans or instance.plan in plans)
        and all(tag.lower() in instance.tags for tag in account.tags)
    )


def _filters(account: Account, source: str) -> str:
    values = {
        "the region": [account.region] if account.region else [],
        "a plan of": account.plans_preference,
        "the tags": account.tags,
    }
    texts = [f"{name} {', '.join(map(quote, value))}" for name, value in values.items() if value]
    return f"{' and '.join(texts)} that {source} asks for" if texts else ""


def _listed(instances: Sequence[Instance]) -> str:
    texts = [
        f"{quote(each.name)} (plan {one_line(each.plan)}, region {each.region}, {each.crn})"
        for each in instances[:_MAX_LISTED]
    ]
    more = len(instances) - _MAX_LISTED
    rest = f" and {more} more, which `qsessions instances` lists" if more > 0 else ""
    return ", ".join(texts) + rest


def loading_failure(
    loading: asyncio.Task[QSessionsError | None], doing: str, operation: str, last_failure: str
) -> QSessionsError | None:
    """Return why the settings aren't there after the wait for them, or None."""
    if not loading.done():
        return CallTimeout(
            f"the call's deadline passed {doing}", operation=operation, sent=False
        ).after(last_failure)
    if loading.cancelled():
        return ClientClosed(f"the client was closed {doing}", operation=operation)
    if (error := loading.result()) is None:
        return None
    failure = copy_error(error)
    if isinstance(failure, ConnectionFailed | CallTimeout):
        failure.sent = False
    if failure.operation is not None:
        failure.add_note(f"{operation} needed the instance; nothing was sent to the service.")
    return failure
