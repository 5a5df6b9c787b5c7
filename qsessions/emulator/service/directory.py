"""IBM Cloud's directory: Global Search, the Resource Controller and Global Catalog.

The official client asks there for the account's instances and their plans before it creates its
first session, and qsessions where no CRN is given. They ask the emulator where GLOBAL_SEARCH_URL
and GLOBAL_CATALOG_URL hold its `iam_url`.
"""

import re
from collections.abc import Iterable, Mapping
from types import MappingProxyType

from qsessions.emulator.service.errors import invalid, invalid_body
from qsessions.emulator.service.instances import Instance
from qsessions.emulator.service.listing import Query, read_whole
from qsessions.emulator.service.validation import read_object

_CURSOR = re.compile(r"[0-9]{1,9}")

# Display name and pricing type. The client knows a list of the second, and prefers instances by it.
PLANS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {"emulated-plan-open": ("Open", "free"), "emulated-plan-paid": ("Pay-as-you-go", "paygo")}
)


def search_body(instances: Iterable[Instance], query: Query, body: bytes) -> dict[str, object]:
    """Return a page of Global Search's answer: all of the account's instances, for every search.

    It has `limit` of them, 10 by default, with the fields that the body asks for, or all.

    Raises ServiceError (400) for a body, a limit or a cursor that can't be read.
    """
    wanted = read_object(body)
    fields, cursor = wanted.get("fields", []), wanted.get("search_cursor", "0")
    if not isinstance(fields, list) or not all(isinstance(name, str) for name in fields):
        raise invalid_body("fields must be a list of names.")
    if not isinstance(cursor, str) or not _CURSOR.fullmatch(cursor):
        raise invalid_body("search_cursor must be one of an earlier page.")
    limit = read_whole(query, "limit", 10)
    if not 1 <= limit <= 1000:
        raise invalid("limit must be from 1 to 1000.")
    found = list(instances)
    first, last = int(cursor), int(cursor) + limit
    items = [_search_item(instance) for instance in found[first:last]]
    if "fields" in wanted:
        shown = {"crn", *fields}
        items = [{name: item[name] for name in item if name in shown} for item in items]
    following = {"search_cursor": str(last)} if last < len(found) else {}
    return {"items": items, "limit": limit, **following}


def _search_item(instance: Instance) -> dict[str, object]:
    return {
        "crn": instance.crn,
        "name": instance.name,
        "service_plan_unique_id": instance.plan_id,
        "tags": list(instance.tags),
        # Clients pass over an instance that no backend is allocated to.
        "doc": {"extensions": {"backends": "all"}},
    }


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
        "resource_plan_id": instance.plan_id,
        "state": "active",
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
