"""Service instances: each a service of its own, behind one address and one set of credentials.

The account's instances and their plans are also what the official client asks IBM Cloud's Global
Search and Global Catalog for, before it creates its first session, and qsessions where no CRN is
given. They ask the emulator where GLOBAL_SEARCH_URL and GLOBAL_CATALOG_URL hold its `iam_url`.
"""

import json
import math
import re
import uuid
from collections import deque
from collections.abc import Iterable, Mapping
from random import Random
from types import MappingProxyType
from typing import Any

import attrs

from qsessions.emulator.service.bodies import date_time
from qsessions.emulator.service.errors import TOO_MANY_REQUESTS, ServiceError, invalid
from qsessions.emulator.service.listing import Query
from qsessions.emulator.service.state import ServiceState
from qsessions.emulator.service.validation import Plan, Terms

# crn:version:cname:ctype:service:region:scope:instance:resource type:resource
_CRN = re.compile(r"crn:v1(:[^:\s]*){8}")

# The same for an instance of the emulator, with its account.
_EMULATED_CRN = re.compile(
    r"crn:v1:bluemix:public:quantum-computing:[a-z0-9][a-z0-9-]*:a/(emulated[a-z0-9]*):[\w-]+::",
    re.ASCII,
)
# They are replaced in what is recorded: shorter ones would turn up by chance, and other characters
# are written in several ways.
_SECRET = re.compile(r"[A-Za-z0-9._~-]{8,}")

_KEY_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"

# Display name and pricing type. The client knows a list of the second, and prefers instances by it.
PLANS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {"emulated-plan-open": ("Open", "free"), "emulated-plan-paid": ("Pay-as-you-go", "paygo")}
)


# What a plan allows in a period, in seconds: the open plan ten minutes in 28 days.
_ALLOCATIONS: Mapping[Plan, int] = MappingProxyType({"open": 600})
_PERIOD_SECONDS = 28 * 24 * 3600.0
_MINUTE = 60.0


class JobRate:
    """How many jobs a minute there may be.

    Args:
        most: How many; None for any number.

    Raises:
        ValueError: It is below one.
    """

    def __init__(self, most: int | None) -> None:
        if most is not None and most < 1:
            raise ValueError("jobs_per_minute must be at least 1")
        self._most = most
        self._taken: deque[float] = deque()

    def take(self, now: float) -> None:
        """Count a job. Raises ServiceError (429) where there were as many in the last minute."""
        if self._most is None:
            return
        while self._taken and self._taken[0] <= now - _MINUTE:
            self._taken.popleft()
        if len(self._taken) >= self._most:
            raise ServiceError(
                429,
                TOO_MANY_REQUESTS,
                f"There may be {self._most} jobs a minute.",
                "Send it again later.",
                retry_after=math.ceil(self._taken[0] + _MINUTE - now),
            )
        self._taken.append(now)


@attrs.frozen
class Instance:
    """One instance. What it holds is invisible to the others.

    Attributes:
        backends: How many qubits each backend has.
        rate: How many jobs it takes a minute.
    """

    crn: str
    name: str
    tags: tuple[str, ...]
    terms: Terms
    state: ServiceState
    backends: Mapping[str, int]
    rate: JobRate

    @property
    def allocation(self) -> int | None:
        """How many seconds its plan allows in a period; None for any number."""
        return _ALLOCATIONS.get(self.terms.plan)


def is_crn(text: str) -> bool:
    """Return whether a text has the form of a CRN."""
    return _CRN.fullmatch(text) is not None


def queue_length(instances: Iterable[Instance], now: float, backend: str) -> int:
    """Return how many jobs of all instances a backend has before it.

    Raises ServiceError (404) for an unknown backend.
    """
    return sum(instance.state.pending_jobs(now, backend) for instance in instances)


def new_key(random: Random, prefix: str) -> str:
    """Return a key of 44 characters, as real ones have, that begins with a prefix."""
    return prefix + "".join(random.choices(_KEY_LETTERS, k=44 - len(prefix)))


def checked_secret(secret: str, name: str) -> str:
    """Return a secret that a user chose. Raises ValueError, with its name, for one that is none."""
    if not _SECRET.fullmatch(secret):
        raise ValueError(f"{name} must be 8 or more letters, digits, or any of -._~")
    return secret


def emulated_account(crn: str) -> str:
    """Return the account in the CRN of an emulated instance.

    Raises ValueError for any other CRN, such as that of a real instance.
    """
    match = _EMULATED_CRN.fullmatch(crn)
    if match is None:
        raise ValueError(
            "crn must be one such as crn:v1:bluemix:public:quantum-computing:us-east:a/emulated:"
            "my-tests:: whose account begins with emulated, so that it is nobody's"
        )
    return match[1]


def new_account_id(random: Random) -> str:
    """Return an account id that no real account can have: real ones are hexadecimal."""
    return f"emulated{random.getrandbits(96):024x}"


def new_crn(random: Random, account: str, region: str = "us-east") -> str:
    """Return the CRN of a new instance of the account.

    Raises ValueError for a region that can't be part of a CRN.
    """
    guid = uuid.UUID(int=random.getrandbits(128), version=4)
    crn = f"crn:v1:bluemix:public:quantum-computing:{region}:a/{account}:{guid}::"
    if not region or not is_crn(crn):
        raise ValueError('region must be one such as "us-east"')
    return crn


def search_body(instances: Iterable[Instance], query: Query, body: bytes) -> dict[str, object]:
    """Return a page of Global Search's answer: all of the account's instances, for every search.

    It has `limit` of them, 10 by default, with the fields that the body asks for, or all.

    Raises ServiceError (400) for a body, a limit or a cursor that can't be read.
    """
    wanted = _read_search(body)
    limit = query.get("limit", ["10"])[0]
    if not limit.isdecimal() or not 1 <= int(limit) <= 1000:
        raise invalid("limit must be from 1 to 1000.")
    items = [
        {
            "crn": instance.crn,
            "name": instance.name,
            "service_plan_unique_id": _plan_id(instance),
            "tags": list(instance.tags),
            # Clients pass over an instance that no backend is allocated to.
            "doc": {"extensions": {"backends": "all"}},
        }
        for instance in instances
    ]
    first = int(wanted.get("search_cursor", "0"))
    last = first + int(limit)
    fields = {"crn", *wanted.get("fields", items[0] if items else ())}
    page = [{name: item[name] for name in item if name in fields} for item in items[first:last]]
    answer: dict[str, object] = {"items": page, "limit": int(limit)}
    if last < len(items):
        answer["search_cursor"] = str(last)
    return answer


def _read_search(body: bytes) -> dict[str, Any]:
    try:
        wanted = json.loads(body)
    except ValueError:
        wanted = None
    if not isinstance(wanted, dict):
        raise invalid("The body is not a JSON object.")
    fields, cursor = wanted.get("fields", []), wanted.get("search_cursor", "0")
    if not isinstance(fields, list) or not all(isinstance(name, str) for name in fields):
        raise invalid("fields is not a list of names.")
    if not isinstance(cursor, str) or not cursor.isdecimal():
        raise invalid("search_cursor is not one of an earlier page.")
    return wanted


def resources_body(instances: Iterable[Instance], query: Query) -> dict[str, object]:
    """Return the Resource Controller's list of instances, those of one name where it is asked for.

    Raises ServiceError (400) for another filter, which would be passed over in silence.
    """
    if unknown := sorted(set(query) - {"name", "limit"}):
        raise invalid(f"The emulator doesn't filter by {', '.join(unknown)}.")
    names = query.get("name")
    found = [instance for instance in instances if names is None or instance.name in names]
    return {
        "rows_count": len(found),
        "next_url": None,
        "resources": [resource_body(instance) for instance in found],
    }


def resource_body(instance: Instance) -> dict[str, object]:
    """Return the Resource Controller's entry of an instance."""
    return {
        "id": instance.crn,
        "crn": instance.crn,
        "guid": instance.crn.split(":")[7],
        "name": instance.name,
        "resource_plan_id": _plan_id(instance),
        "state": "active",
    }


def instance_body(instance: Instance) -> dict[str, object]:
    """Return what GET /v1/instance says of an instance."""
    allocation = instance.allocation
    return {
        "backends": list(instance.state.backends),
        "plan_id": _plan_id(instance),
        **({} if allocation is None else {"usage_allocation_seconds": str(allocation)}),
    }


def configuration_of_instance_body(instance: Instance) -> dict[str, object]:
    """Return what GET /v1/instances/configuration says: the limit, where there is one."""
    allocation = instance.allocation
    return {} if allocation is None else {"instance_limit": allocation}


def usage_body(instance: Instance, now: float, *, is_spent: bool) -> dict[str, object]:
    """Return what an instance has used, of what its plan allows.

    The emulator counts all that it has seen, and refuses nothing where the plan's allocation is
    spent: a client sees `usage_limit_reached`, and warns. All are whole seconds. With `is_spent` a
    limit of what was used so far is reached.
    """
    used = round(instance.state.usage(now))
    allocation = instance.allocation
    limits: dict[str, object] = {}
    if allocation is not None:
        limits = {
            "usage_allocation_seconds": allocation,
            "usage_limit_reached": used >= allocation,
        }
    if is_spent:
        limits |= {"usage_limit_seconds": used, "usage_limit_reached": True}
    return {
        "instance_id": instance.crn,
        "plan_id": _plan_id(instance),
        "usage_period": {
            "start_time": date_time(now - _PERIOD_SECONDS),
            "end_time": date_time(now),
        },
        "usage_consumed_seconds": used,
        **limits,
    }


def _plan_id(instance: Instance) -> str:
    return f"emulated-plan-{instance.terms.plan}"


def plan_body(plan_id: str) -> dict[str, object]:
    """Return Global Catalog's entry of one of PLANS."""
    name, pricing = PLANS[plan_id]
    return {
        "id": plan_id,
        "kind": "plan",
        "overview_ui": {"en": {"display_name": name}},
        "metadata": {"pricing": {"type": pricing}},
    }
