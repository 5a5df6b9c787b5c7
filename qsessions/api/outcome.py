"""A create whose outcome is unknown."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

from qsessions.errors import QSessionsError

if TYPE_CHECKING:
    from qsessions.models import CreateSession, Workload

# So many candidates are listed in a message.
_LISTED = 5


class CreateOutcomeUnknown(QSessionsError):
    """A session may have been created: no answer came, or it can't be read.

    The request isn't repeated: the service has no idempotency key, so a repeat could create a
    second session that costs. `session_id` is set where the answer can't be read but has an id.

    Attributes:
        request: What was asked for.
        asked_at: When the call began, an aware time: by the service's clock where the search for
            candidates got its time, else by this machine's.
        candidates: The sessions or batches, newest first, that were created since then and fit the
            request, without those that this client created or that its ledger has for other
            creates. One of them may be the session. It may also be another user's, and a slow
            service may list it later. None without a search: the call's deadline had passed, the
            service could not be read, or `session_id` is known.
    """

    _more_facts = ("request", "asked_at", "candidates")
    hint = "Look through client.workloads() for a session that you don't know, and close it."

    def __init__(
        self,
        message: str,
        *,
        request: CreateSession | None = None,
        asked_at: datetime | None = None,
        candidates: tuple[Workload, ...] | None = None,
        **facts: Any,
    ) -> None:
        super().__init__(message, **facts)
        self.request = request
        self.asked_at = asked_at
        self.candidates = candidates

    def narrow(self, asked_at: datetime, candidates: tuple[Workload, ...]) -> None:
        """Set the candidates that a search through the workloads found."""
        self.asked_at, self.candidates = asked_at, candidates
        if candidates:
            ids = ", ".join(repr(candidate.id) for candidate in candidates[:_LISTED])
            more = f" and {len(candidates) - _LISTED} more" if len(candidates) > _LISTED else ""
            self.solution = (
                f"It may be {ids}{more}: close what was created since and that you don't know."
            )
        else:
            self.solution = f"None was listed just after. {self.hint}"
