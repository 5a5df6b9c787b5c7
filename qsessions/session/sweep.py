"""Sweeps over the list of open workloads, which show the starts and ends of many sessions."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from itertools import count
from operator import attrgetter
from typing import TypeAlias

from attrs import Factory, define

from qsessions.api import operations
from qsessions.api.codec import WorkloadPage
from qsessions.api.messages import Progress
from qsessions.api.operations import MAX_PAGE, OPEN_STATUSES
from qsessions.api.pages import Paging
from qsessions.caller import Caller
from qsessions.clock import Clock
from qsessions.models import SessionState
from qsessions.session.live import PolledSession

# Fewer sessions are only read one by one.
_FEW = 40
# After how many seconds a page is fetched again if the rate allows. Then a change is seen, and the
# session is read: 15 s in all.
_SWEEP_S = 13.0
# How many seconds there are no pages after an error, or when nothing was found.
_PAUSE_S = 60.0
# The list may be full of other people's sessions. It isn't followed for more than this many pages,
# or a tenth of the requests for reading the sessions one by one, if that is more; as many as these
# until some were found.
_MOST_PAGES = 20
_MOST_SHARE = 10
# The pages of a list come one after another, since each names the next. So a long list is cut into
# stretches by creation time, and slow answers don't slow down a sweep.
_STRETCH = 25 * MAX_PAGE - 25
# How often in a row a session is read for the same word of the list, which may be ahead of the
# session's own page, or may not mean what we think.
_MOST_CHECKS = 3
# How much later than the newest session that is listed another may have been created, which the
# list doesn't have yet.
_LISTED_WITHIN = timedelta(minutes=10)
# The list's times are whole milliseconds.
_MOMENT = timedelta(milliseconds=1)

# A workload's status, and whether it accepts jobs.
_Listed: TypeAlias = tuple[str | None, bool | None]
# Of a session that was on the list of open ones and is no more.
_GONE: _Listed = ("gone", None)
_LONG_AGO = datetime.min.replace(tzinfo=UTC)


@define(eq=False, repr=False)
class Watched(PolledSession):
    """A session among many that are watched.

    Attributes:
        listed: What the list said of it last, or None where it never had it.
        created: When it was created, by the list.
        number: The number of the time that the list last had it; see `Stretch`.
        checks: How often in a row it was to be read for what the list says.
        turn: The turn that it waits for, or 0 while it is being read.
        is_urgent: Whether it is to be read before its turn.
    """

    listed: _Listed | None = None
    created: datetime = _LONG_AGO
    number: int = 0
    checks: int = 0
    turn: int = 0
    is_urgent: bool = False

    def must_be_read(self, listed: _Listed) -> bool:
        """Record what the list says, and return whether the session has to be read for it."""
        is_news = self.listed not in {None, listed}
        if listed != self.listed:
            self.listed, self.checks = listed, 0
        status, accepting_jobs = listed
        if status not in OPEN_STATUSES:
            differs = True
        elif self.snapshot is None:
            # Its first read comes anyway; a change does not wait for it.
            differs = is_news
        else:
            known = self.snapshot.accepting_jobs
            differs = (status == "in_progress" and self.snapshot.state == SessionState.OPEN) or (
                None not in {accepting_jobs, known} and accepting_jobs != known
            )
        self.checks += differs
        return differs and self.checks <= _MOST_CHECKS


@define(eq=False, repr=False)
class Stretch:
    """A part of the list, whose pages are fetched one after another, again and again.

    Attributes:
        sweep: The sweep that it belongs to.
        number: Which time this is, counted over all stretches.
        after: After when its workloads were created, or None for no limit.
        before: Before when they were created, or None for no limit.
        expected: The sessions of the last time that weren't passed yet, newest first.
        last_times: When each of its pages was fetched the last time.
        found: The sessions of this time, and those that it missed.
        times: When each page was fetched this time.
        cursor: The next page's cursor; None for the first page, and after the last.
        is_busy: Whether a page is being fetched.
    """

    sweep: Sweep
    number: int
    after: datetime | None = None
    before: datetime | None = None
    expected: deque[Watched] = Factory(deque)
    last_times: list[float] = Factory(list)
    found: list[Watched] = Factory(list)
    times: list[float] = Factory(list)
    cursor: str | None = None
    is_busy: bool = False
    _paging: Paging = Factory(Paging)

    @property
    def due(self) -> float:
        """When to fetch the next page; infinity while one is being fetched."""
        if self.is_busy:
            return math.inf
        if not self.last_times:
            return -math.inf
        return self.last_times[min(len(self.times), len(self.last_times) - 1)] + _SWEEP_S

    async def fetch(self, caller: Caller, progress: Progress) -> WorkloadPage:
        """Fetch the next page; `progress` follows the request.

        Raises:
            QSessionsError: It can't be fetched.
        """
        query = operations.workloads_query(
            mode=self.sweep.mode,
            status=OPEN_STATUSES,
            created_after=self.after,
            created_before=self.before,
            newest_first=True,
        )
        page = await caller.call(operations.workloads(query, self.cursor), progress=progress)
        self.cursor = self._paging.cursor_after(page)
        return page

    def is_past(self, watched: Watched, page: WorkloadPage) -> bool:
        """Return whether a session would have come by now."""
        oldest = page.workloads[-1].created if page.workloads else None
        return self.cursor is None or (oldest is not None and watched.created > oldest)


class Sweep:
    """Goes through the open workloads of one mode again and again, newest first.

    The list is ordered by creation, which never changes. So a watched session that was found the
    last time, and that was passed this time without being found, has ended, or has slipped through
    between two pages: either way it is read. The cost follows the open sessions: those that have
    ended aren't listed, nor those that are older or newer than the watched ones.

    Args:
        mode: The workloads' mode.
        sessions: The watched sessions that aren't closed, by id.
        clock: The time.
    """

    def __init__(self, mode: str, sessions: Mapping[str, Watched], clock: Clock) -> None:
        self.mode = mode
        self._sessions = sessions
        self._clock = clock
        self._numbers = count(1)
        self._stretches = [Stretch(self, next(self._numbers))]
        self._resume_at = -math.inf

    @property
    def due(self) -> float:
        """When to fetch the next page, on the monotonic clock; infinity for not now."""
        if len(self._sessions) < _FEW:
            return math.inf
        return max(min(stretch.due for stretch in self._stretches), self._resume_at)

    def begin(self) -> Stretch:
        """Return the stretch whose next page is to be fetched now."""
        stretch = min(self._stretches, key=attrgetter("due"))
        stretch.is_busy = True
        stretch.times.append(self._clock.monotonic())
        return stretch

    def keep(self, stretch: Stretch, page: WorkloadPage | Exception) -> list[Watched]:
        """Record a page, or why there is none; return the sessions that must be read for it."""
        stretch.is_busy = False
        if isinstance(page, Exception):
            self._renew(stretch, has_failed=True)
            return []
        heard: list[tuple[Watched, _Listed]] = []
        for workload in page.workloads:
            watched = self._sessions.get(workload.id)
            if watched is not None and workload.created is not None:
                watched.number, watched.created = stretch.number, workload.created
                heard.append((watched, (workload.status, workload.accepting_jobs)))
        while stretch.expected and stretch.is_past(stretch.expected[0], page):
            watched = stretch.expected.popleft()
            if watched.number < stretch.number and watched.session_id in self._sessions:
                heard.append((watched, _GONE))
        stretch.found += [watched for watched, _ in heard]
        share = 1 if stretch.after is None else _MOST_SHARE * len(self._stretches)
        most = max(_MOST_PAGES, len(self._sessions) // share)
        if stretch.cursor is None or len(stretch.times) >= most:
            self._renew(stretch)
        return [watched for watched, listed in heard if watched.must_be_read(listed)]

    def _renew(self, stretch: Stretch, *, has_failed: bool = False) -> None:
        """Have a stretch begin anew, cut into several where it is long."""
        known = [
            watched
            for watched in {*stretch.found, *stretch.expected}
            if watched.session_id in self._sessions
        ]
        known.sort(key=attrgetter("created"), reverse=True)
        place = self._stretches.index(stretch)
        del self._stretches[place]
        if has_failed or not (known or self._stretches):
            self._resume_at = self._clock.monotonic() + _PAUSE_S
        elif known:
            # What is older or newer than the watched sessions is left out.
            stretch.after = stretch.after or known[-1].created - _MOMENT
            stretch.before = stretch.before or known[0].created + _LISTED_WITHIN
        parts: list[list[Watched]] = [[]] if known or not self._stretches else []
        for watched in known:
            if len(parts[-1]) >= _STRETCH and watched.created < parts[-1][-1].created:
                parts.append([])
            parts[-1].append(watched)
        pages = math.ceil(len(stretch.times) / max(1, len(parts)))
        for number, part in enumerate(parts):
            new = Stretch(self, next(self._numbers), expected=deque(part))
            new.after = part[-1].created - _MOMENT if part is not parts[-1] else stretch.after
            new.before = part[0].created + _MOMENT if number else stretch.before
            new.last_times = stretch.times[number * pages :][:pages]
            self._stretches.insert(place + number, new)
