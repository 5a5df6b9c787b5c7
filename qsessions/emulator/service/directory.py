"""Which service instances an account has, and on which plan: the part of IBM Cloud's Global Search and Global
Catalog that the official client asks before it makes its first session.

It goes to the emulator for both when GLOBAL_SEARCH_URL and GLOBAL_CATALOG_URL hold the emulator's `iam_url`.
"""

from collections.abc import Iterable, Mapping
from types import MappingProxyType

from qsessions.emulator.service.validation import Plan

# Display name and pricing type; the client prefers instances by the second, out of a list that it knows.
PLANS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {"emulated-plan-open": ("Open", "free"), "emulated-plan-paid": ("Pay-as-you-go", "paygo")}
)


def search_body(instances: Iterable[tuple[str, Plan]]) -> dict[str, object]:
    """An account's instances, given by CRN and plan: all of them, whatever was searched for."""
    return {
        "items": [
            {
                "crn": crn,
                "name": f"emulated-{number}",
                "service_plan_unique_id": f"emulated-plan-{plan}",
                "tags": [],
                # The client passes over an instance that no backend is allocated to.
                "doc": {"extensions": {"backends": "all"}},
            }
            for number, (crn, plan) in enumerate(instances, start=1)
        ]
    }


def plan_body(plan_id: str) -> dict[str, object]:
    """The catalog's entry of one of PLANS."""
    name, pricing = PLANS[plan_id]
    return {
        "id": plan_id,
        "kind": "plan",
        "overview_ui": {"en": {"display_name": name}},
        "metadata": {"pricing": {"type": pricing}},
    }
