"""The jobs of a session, from the instance's list."""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator

from qsessions.api.usage import jobs_page
from qsessions.caller import Caller
from qsessions.errors import ProtocolError
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
        operation = jobs_page(session_id, offset)
        page = await caller.call(operation)
        new = [job for job in page.jobs if job.id not in seen]
        if page.jobs and not new:
            raise ProtocolError(
                "the pages of jobs lead in a circle, so the list can't be read to its end.",
                operation=operation.name,
                session_id=session_id,
                method=operation.method,
                path="/v1/jobs",
            )
        for job in new:
            yield job
        seen.update(job.id for job in new)
        offset += len(page.jobs)
        if not page.jobs or offset >= (page.count or math.inf):
            return
