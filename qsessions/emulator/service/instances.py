"""Service instances: each a service of its own, behind one address and one set of credentials.

The account's instances and their plans are also what the official client asks IBM Cloud's Global
Search and Global Catalog for, before it creates its first session, and qsessions where no CRN is
given. They ask the emulator where GLOBAL_SEARCH_URL and GLOBAL_CATALOG_URL hold its `iam_url`.
"""

import json
import re
import uuid
from collections.abc import Iterable, Mapping
from random import Random
from types import MappingProxyType
from typing import Any

import attrs

from qsessions.emulator.service.errors import invalid
from qsessions.emulator.service.listing import Query
from qsessions.emulator.service.state import ServiceState
from qsessions.emulator.service.validation import Terms

# crn:version:cname:ctype:service:region:scope:instance:resource type:resource
_CRN = re.compile(r"crn:v1(:[^:\s]*){8}")

_KEY_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"

# Display name and pricing type. The client knows a list of the second, and prefers instances by it.
PLANS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {"emulated-plan-open": ("Open", "free"), "emulated-plan-paid": ("Pay-as-you-go", "paygo")}
)


@attrs.frozen
class Instance:
    """One instance. What it holds is invisible to the others."""

    crn: str
    name: str
    tags: tuple[str, ...]
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


def new_key(random: Random, prefix: str) -> str:
    """Return a key of 44 characters, as real ones have, that begins with a prefix."""
    return prefix + "".join(random.choices(_KEY_LETTERS, k=44 - len(prefix)))


def new_account_id(random: Random) -> str:
    """Return an account id that no real account can have: real ones are hexadecimal."""
    return f"emulated{random.getrandbits(96):024x}"


def new_crn(random: Random, account: str, region: str) -> str:
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
            "service_plan_unique_id": f"emulated-plan-{instance.terms.plan}",
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


def plan_body(plan_id: str) -> dict[str, object]:
    """Return Global Catalog's entry of one of PLANS."""
    name, pricing = PLANS[plan_id]
    return {
        "id": plan_id,
        "kind": "plan",
        "overview_ui": {"en": {"display_name": name}},
        "metadata": {"pricing": {"type": pricing}},
    }
