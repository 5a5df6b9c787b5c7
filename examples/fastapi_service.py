"""A FastAPI service that holds sessions for its callers, over one shared client.

Set QISKIT_IBM_TOKEN and QISKIT_IBM_INSTANCE, or start `qsessions emulator` and set what it prints.
`uvicorn fastapi_service:app --timeout-graceful-shutdown 5`, then
`curl -X POST localhost:8000/sessions`.
"""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Annotated

from fastapi import Depends, FastAPI, HTTPException, Request
from fastapi.responses import JSONResponse

from qsessions import AsyncSessionClient, NotFound, QSessionsError


class Sessions:
    """The sessions that the service holds, each until it is given back or the service ends."""

    def __init__(self, client: AsyncSessionClient) -> None:
        self.client = client
        self._held: dict[str, AsyncExitStack] = {}

    async def open(self) -> str:
        """Open a session, and return its id."""
        held = AsyncExitStack()
        live = await held.enter_async_context(
            self.client.open(mode="dedicated", backend="ibm_fez", max_ttl="10m")
        )
        self._held[live.id] = held
        return live.id

    async def end(self, session_id: str) -> None:
        """End a session as a clean block does: its queued jobs finish."""
        if (held := self._held.pop(session_id, None)) is None:
            raise HTTPException(404)
        await held.aclose()


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Share one client for the service's life. Its end ends every session that is still held."""
    async with AsyncSessionClient(application="fastapi-service") as client:
        app.state.sessions = Sessions(client)
        yield


def sessions_of(request: Request) -> Sessions:
    """Return the service's sessions."""
    sessions: Sessions = request.app.state.sessions
    return sessions


Shared = Annotated[Sessions, Depends(sessions_of)]
app = FastAPI(lifespan=lifespan)


@app.exception_handler(QSessionsError)
async def refuse(_: Request, error: QSessionsError) -> JSONResponse:
    """Answer with what is wrong."""
    return JSONResponse(error.to_dict(), 404 if isinstance(error, NotFound) else 502)


@app.post("/sessions", status_code=201)
async def open_session(sessions: Shared) -> dict[str, str]:
    """Open a session that any later request can use."""
    return {"session": await sessions.open()}


@app.get("/sessions/{session_id}")
async def show_session(
    session_id: str, sessions: Shared, *, wait: bool = False
) -> dict[str, object]:
    """Show a session; with `wait` once it has closed."""
    live = sessions.client.attach(session_id)
    session = await (live.wait_until("closed", timeout="10m") if wait else live.refresh())
    return {"session": session.id, "state": session.state, "usage_seconds": session.elapsed_time}


@app.delete("/sessions/{session_id}", status_code=204)
async def end_session(session_id: str, sessions: Shared) -> None:
    """End a session."""
    await sessions.end(session_id)
