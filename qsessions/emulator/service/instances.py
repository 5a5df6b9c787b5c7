"""Service instances: each a service of its own, behind one address and one set of credentials."""

import math
import re
import uuid
from collections import deque
from collections.abc import Iterable, Mapping
from random import Random
from types import MappingProxyType

import attrs

from qsessions.emulator.service.bodies import date_time
from qsessions.emulator.service.errors import TOO_MANY_REQUESTS, ServiceError
from qsessions.emulator.service.state import ServiceState
from qsessions.emulator.service.values import Plan, Terms

# crn:version:cname:ctype:service:region:scope:instance:resource type:resource
_CRN = re.compile(r"crn:v1(:[^:\s]*){8}")

# The same for an instance of the emulator, with its account.
_EMULATED_CRN = re.compile(
    r"crn:v1:bluemix:public:quantum-computing:[a-z0-9][a-z0-9-]*:a/(emulated[a-z0-9]*):[\w-]+::",
    re.ASCII,
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
    def plan_id(self) -> str:
        """The id of its plan."""
        return f"emulated-plan-{self.terms.plan}"

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


def instance_body(instance: Instance) -> dict[str, object]:
    """Return what GET /v1/instance says of an instance."""
    allocation = instance.allocation
    return {
        "backends": list(instance.state.backends),
        "plan_id": instance.plan_id,
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
        "plan_id": instance.plan_id,
        "usage_period": {
            "start_time": date_time(now - _PERIOD_SECONDS),
            "end_time": date_time(now),
        },
        "usage_consumed_seconds": used,
        **limits,
    }
