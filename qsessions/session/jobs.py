"""The jobs of a session, from the instance's list."""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator

from qsessions.api.pages import endless
from qsessions.api.usage import jobs_page
from qsessions.caller import Caller
from qsessions.usage import Job


async def jobs(caller: Caller, session_id: str) -> AsyncGenerator[Job, None]:
    """Yield a session's jobs, oldest first, each page when it is needed.

    Raises:
        ProtocolError: The pages don't end.
        QSessionsError: A page can't be fetched.
    """
    seen: set[str] = set()
    offset = 0
    while True:
        page = await caller.call(jobs_page(session_id, offset))
        new = [job for job in page.jobs if job.id not in seen]
        if page.jobs and not new:
            raise endless("the pages of jobs lead in a circle", "jobs", session_id)
        for job in new:
            yield job
        seen.update(job.id for job in new)
        offset += len(page.jobs)
        if not page.jobs or offset >= (page.count or math.inf):
            return
