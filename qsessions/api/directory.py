"""IBM Cloud's Global Search and Global Catalog, as far as they know the service's instances."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote

from attrs import frozen

from qsessions.api.codec import decode
from qsessions.api.operations import Operation

_QUERY = {
    "query": "service_name:quantum-computing",
    "fields": ["crn", "service_plan_unique_id", "name", "doc", "tags"],
}


@frozen(eq=False, repr=False)
class _Document:
    extensions: Any = None


@frozen(eq=False, repr=False)
class ListedInstance:
    """One item of Global Search's answer; `doc` says which backends the instance has."""

    crn: str
    name: str = ""
    service_plan_unique_id: str = ""
    tags: tuple[str, ...] = ()
    doc: _Document = _Document()


@frozen(eq=False, repr=False)
class InstancePage:
    """One page of Global Search's answer, and the cursor of the next, or None."""

    items: tuple[ListedInstance, ...]
    search_cursor: str | None = None


@frozen(eq=False, repr=False)
class _English:
    display_name: str = "unknown"


@frozen(eq=False, repr=False)
class _Overview:
    en: _English = _English()


@frozen(eq=False, repr=False)
class CatalogEntry:
    """A plan in the Global Catalog. One that it doesn't name has the official client's word."""

    overview_ui: _Overview = _Overview()

    @property
    def name(self) -> str:
        """The plan's display name, in lower case as the official client has it."""
        return self.overview_ui.en.display_name.lower()


def search(cursor: str | None) -> Operation[InstancePage]:
    """POST /v3/resources/search: one page of the account's instances.

    It changes nothing. The official client asks the same, for 100 at a time; an answer of ours is
    at most 1 MiB large.
    """
    return Operation(
        "instances",
        "POST",
        "/v3/resources/search?limit=50",
        lambda answer: decode(answer.body, InstancePage),
        body=json.dumps(_QUERY if cursor is None else {**_QUERY, "search_cursor": cursor}).encode(),
    )


def plan(plan_id: str) -> Operation[CatalogEntry]:
    """GET /{id}: a plan."""
    return Operation(
        "instances",
        "GET",
        f"/{quote(plan_id, safe='')}",
        lambda answer: decode(answer.body, CatalogEntry),
    )
