"""What a watched session's change is, in words and as JSON."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import attrs
from attrs import frozen

from qsessions.jsonable import time_text
from qsessions.models import Session

# They run all the time.
_METERS = frozenset({"elapsed_time", "active_ttl"})


@frozen
class Change:
    """A session as it was first read, or as it was read after a change.

    Attributes:
        id: The id that is watched.
        seen_at: When it was read, in seconds since 1970, by this machine's clock.
        before: How it was before, or None where this is the first read.
        session: How it is.
    """

    id: str
    seen_at: float
    before: Session | None
    session: Session

    @property
    def time(self) -> datetime:
        """When it was read."""
        return datetime.fromtimestamp(self.seen_at, UTC)

    @property
    def fields(self) -> list[str]:
        """The names of the fields that have changed; none at the first read."""
        if self.before is None:
            return []
        return [
            name
            for name in attrs.fields_dict(Session)
            if name not in _METERS and getattr(self.before, name) != getattr(self.session, name)
        ]

    @property
    def happened_at(self) -> float:
        """When it happened by the service, else when it was seen, in seconds since 1970."""
        return max((at.timestamp() for at, _ in self._events()), default=self.seen_at)

    @property
    def news(self) -> str:
        """What has happened, in words; at the first read what happened last."""
        events = [what for _, what in sorted(self._events(), key=lambda event: event[0])]
        if self.before is None:
            return events[-1] if events else state_of(self.session)
        if not events and self.before.state != self.session.state:
            events = [str(self.session.state)]
        if self.before.is_draining != self.session.is_draining and not self.session.is_final:
            events.append("draining" if self.session.is_draining else "accepts jobs again")
        if self.before.backend_name is None and self.session.backend_name is not None:
            events.append(f"on {self.session.backend_name}")
        return ", ".join(events or self.fields)

    @property
    def line(self) -> str:
        """The same for a list of changes: the first one says what the session is."""
        if self.before is not None:
            return self.news
        session = self.session
        what = [
            state_of(session),
            session.mode,
            session.backend_name and f"on {session.backend_name}",
        ]
        return ", ".join(str(part) for part in what if part)

    def to_dict(self) -> dict[str, Any]:
        """Return it as `qsessions watch --jsonl` prints it."""
        return {
            "id": self.id,
            "seen_at": time_text(self.time),
            "changed": self.fields,
            "session": self.session.to_dict(),
        }

    def _events(self) -> Iterator[tuple[datetime, str]]:
        """Yield what has happened since the read before, as far as the service says when."""
        before, session = self.before or Session(id=self.id), self.session
        for entry in session.timestamps:
            if entry not in before.timestamps:
                yield entry.timestamp, str(entry.status)
        for name, what in (
            ("last_job_started", "job started"),
            ("last_job_completed", "job ended"),
        ):
            at = getattr(session, name)
            if at is not None and at != getattr(before, name):
                yield at, what


def state_of(session: Session | None) -> str:
    """Return a session's state in one word, which for one that drains is that."""
    if session is None or session.state is None:
        return "-"
    return "draining" if session.is_draining else str(session.state)
