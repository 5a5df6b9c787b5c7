"""Lists in pages: which page comes next."""

from __future__ import annotations

from yarl import URL

from qsessions.api.codec import WorkloadPage
from qsessions.errors import ProtocolError

# The service's have about 100 characters.
_LONGEST_CURSOR = 2048
# A service may filter after it has cut a page, so one with nothing on it isn't the end.
_MOST_EMPTY = 10


class Paging:
    """Says which page of a list comes next. Pure: the pages are fetched elsewhere."""

    def __init__(self) -> None:
        self._seen: set[str] = set()
        self._empty = 0

    def cursor_after(self, page: WorkloadPage) -> str | None:
        """Return the cursor of the page after `page`, or None after the last one.

        Raises:
            ProtocolError: The links lead in a circle or nowhere, or too many empty pages follow
                each other.
        """
        cursor = next_cursor(page)
        if cursor is None:
            return None
        self._empty = 0 if page.workloads else self._empty + 1
        if self._empty == _MOST_EMPTY:
            raise endless(
                f"{_MOST_EMPTY} pages of workloads in a row with nothing on them lead to another"
            )
        if cursor in self._seen:
            raise endless("the pages of workloads lead in a circle")
        self._seen.add(cursor)
        return cursor


def next_cursor(page: WorkloadPage) -> str | None:
    """Return the cursor of the next page, from a page's link; None on the last page.

    Only the cursor is used: a link to another host must not take credentials there.

    Raises:
        ProtocolError: The link has no cursor, or one that is too long to be sent back.
    """
    if page.next_href is None:
        return None
    try:
        cursor = URL(page.next_href).query.get("next")
    except (ValueError, IndexError):  # yarl 1.25 raises the latter for "http://[]@"
        cursor = None
    if not cursor or len(cursor) > _LONGEST_CURSOR:
        problem = f"a cursor of more than {_LONGEST_CURSOR} characters" if cursor else "no cursor"
        raise endless(f"the link to the next page of workloads has {problem}")
    return cursor


def endless(problem: str, kind: str = "workloads", session_id: str | None = None) -> ProtocolError:
    """Return the error of a list of workloads or jobs whose pages lead nowhere."""
    return ProtocolError(
        f"{problem}, so the list can't be read to its end.",
        operation=kind,
        session_id=session_id,
        method="GET",
        path=f"/v1/{kind}",
    )
