"""A create whose outcome nobody can tell: what is known of it."""

from __future__ import annotations

from datetime import datetime

from qsessions.errors import QSessionsError
from qsessions.models import CreateSession, Workload

# A message is no place for a long list.
_LISTED = 5


class CreateOutcomeUnknown(QSessionsError):
    """A session may have been created, and nobody can tell from the answer: none came, or it can't be read.

    qsessions doesn't repeat such a request: the service has no idempotency key, so a repeat could be a second session that costs.
    `session_id` is set in the one case that the answer can't be read but holds an id.

    Attributes:
        request: What was asked for.
        asked_at: When the call began, an aware time: by the service's clock where the look for candidates told it, else by this machine's.
        candidates: The sessions or batches, newest first, that were created since then and fit the request, so that one of them may be the
            one. It may also be somebody else's, and a service that was slow may list it later. None where nobody could look: no time was
            left of the call's deadline, the service could not be read, or `session_id` is known.
    """

    hint = "Look through client.workloads() for a session that you don't know, and close it."

    def __init__(
        self,
        message: str,
        *,
        request: CreateSession | None = None,
        asked_at: datetime | None = None,
        candidates: tuple[Workload, ...] | None = None,
        **facts: object,
    ) -> None:
        super().__init__(message, **facts)  # type: ignore[arg-type]  # the facts are the base class's
        self.request = request
        self.asked_at = asked_at
        self.candidates = candidates

    def narrow(self, asked_at: datetime, candidates: tuple[Workload, ...]) -> None:
        """Take note of what a look through the workloads found."""
        self.asked_at, self.candidates = asked_at, candidates
        if candidates:
            ids = ", ".join(repr(candidate.id) for candidate in candidates[:_LISTED])
            more = f" and {len(candidates) - _LISTED} more" if len(candidates) > _LISTED else ""
            self.solution = (
                f"It may be {ids}{more}: close what was created since and that you don't know."
            )
        else:
            self.solution = f"None was listed just after. {self.hint}"
