"""An aiohttp service that runs experiments, each in a session of its own, over one shared client.

Set QISKIT_IBM_TOKEN and QISKIT_IBM_INSTANCE, or start `qsessions emulator` and set what it prints.
`python aiohttp_service.py 8080`, then `curl -X POST localhost:8080/experiments`.
"""

import sys
from collections.abc import AsyncIterator

from aiohttp import web

from qsessions import AsyncSessionClient, NotFound, QSessionsError

CLIENT = web.AppKey("CLIENT", AsyncSessionClient)


async def share_client(app: web.Application) -> AsyncIterator[None]:
    """Share one client for the service's life. Its end closes what is still open."""
    async with AsyncSessionClient(application="aiohttp-service") as client:
        app[CLIENT] = client
        yield


async def run_experiment(request: web.Request) -> web.Response:
    """Run an experiment in a session, and answer when the session has closed."""
    client = request.app[CLIENT]
    # A client that hangs up doesn't end its experiment; the end of the service does.
    async with client.open(mode="dedicated", backend="ibm_fez", max_ttl="10m") as live:
        # Submit jobs here, such as with qiskit-ibm-runtime: Session.from_id(live.id, service)
        await live.drain()
        closed = await live.wait_until("closed", timeout="10m")
    return web.json_response({"session": closed.id, "usage_seconds": closed.elapsed_time})


async def show_session(request: web.Request) -> web.Response:
    """Show the state of a session."""
    try:
        session = await request.app[CLIENT].get(request.match_info["id"])
    except NotFound:
        raise web.HTTPNotFound from None
    except QSessionsError as error:
        raise web.HTTPBadGateway(text=f"{error.message} {error.solution or ''}") from None
    return web.json_response({"session": session.id, "state": session.state})


def make_app() -> web.Application:
    """Return the service."""
    app = web.Application()
    app.cleanup_ctx.append(share_client)
    app.router.add_post("/experiments", run_experiment)
    app.router.add_get("/sessions/{id}", show_session)
    return app


if __name__ == "__main__":
    # After SIGTERM requests have twice this time to end. Then they are cancelled, which closes
    # their sessions.
    web.run_app(make_app(), host="127.0.0.1", port=int(sys.argv[1]), shutdown_timeout=2)
