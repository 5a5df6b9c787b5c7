"""Service instances: each a service of its own, behind one address and one set of credentials.

The account's instances and their plans are also what the official client asks IBM Cloud's Global
Search and Global Catalog for, before it creates its first session. It asks the emulator where
GLOBAL_SEARCH_URL and GLOBAL_CATALOG_URL hold the emulator's `iam_url`.
"""

import re
import uuid
from collections.abc import Iterable, Mapping
from random import Random
from types import MappingProxyType

import attrs

from qsessions.emulator.service.state import ServiceState
from qsessions.emulator.service.validation import Terms

# crn:version:cname:ctype:service:region:scope:instance:resource type:resource
_CRN = re.compile(r"crn:v1(:[^:\s]*){8}")

# Display name and pricing type. The client knows a list of the second, and prefers instances by it.
PLANS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {"emulated-plan-open": ("Open", "free"), "emulated-plan-paid": ("Pay-as-you-go", "paygo")}
)


@attrs.frozen
class Instance:
    """One instance. What it holds is invisible to the others."""

    crn: str
    terms: Terms
    state: ServiceState


def is_crn(text: str) -> bool:
    """Return whether a text has the form of a CRN."""
    return _CRN.fullmatch(text) is not None


def queue_length(instances: Iterable[Instance], now: float, backend: str) -> int:
    """Return how many jobs of all instances a backend has before it.

    Raises ServiceError (404) for an unknown backend.
    """
    return sum(instance.state.pending_jobs(now, backend) for instance in instances)


def new_account_id(random: Random) -> str:
    """Return an account id that no real account can have: real ones are hexadecimal."""
    return f"emulated{random.getrandbits(96):024x}"


def new_crn(random: Random, account: str) -> str:
    """Return the CRN of a new instance of the account, in the service's default region."""
    guid = uuid.UUID(int=random.getrandbits(128), version=4)
    return f"crn:v1:bluemix:public:quantum-computing:us-east:a/{account}:{guid}::"


def search_body(instances: Iterable[Instance]) -> dict[str, object]:
    """Return Global Search's answer: all of the account's instances, for every search."""
    return {
        "items": [
            {
                "crn": instance.crn,
                "name": f"emulated-{number}",
                "service_plan_unique_id": f"emulated-plan-{instance.terms.plan}",
                "tags": [],
                # The client passes over an instance that no backend is allocated to.
                "doc": {"extensions": {"backends": "all"}},
            }
            for number, instance in enumerate(instances, start=1)
        ]
    }


def plan_body(plan_id: str) -> dict[str, object]:
    """Return Global Catalog's entry of one of PLANS."""
    name, pricing = PLANS[plan_id]
    return {
        "id": plan_id,
        "kind": "plan",
        "overview_ui": {"en": {"display_name": name}},
        "metadata": {"pricing": {"type": pricing}},
    }
