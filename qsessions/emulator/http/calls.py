"""A request as the operations see it."""

from collections.abc import Awaitable, Callable, Mapping
from contextvars import ContextVar
from urllib.parse import parse_qs

import attrs
from aiohttp import web

from qsessions.emulator.fault_kinds import FaultKind
from qsessions.emulator.faults import Fault
from qsessions.emulator.programs.runner import ProgramRunner
from qsessions.emulator.service.instances import Instance
from qsessions.emulator.service.listing import Query


@attrs.define
class Exchange:
    """What the middleware and an operation tell each other about one request.

    Attributes:
        faults: The faults that it met.
        session_id: The session that it is about, where that is known.
    """

    faults: tuple[Fault, ...] = ()
    session_id: str | None = None


exchange: ContextVar[Exchange] = ContextVar("exchange")
"""That of the request that is served."""


@attrs.frozen
class ApiCall:
    """A request with its body and its time in unix seconds."""

    request: web.Request
    body: bytes
    now: float

    @property
    def id(self) -> str:
        """The id or name in the path."""
        return self.request.match_info["id"]

    @property
    def query(self) -> Query:
        """The query: all values of each name."""
        return parse_qs(self.request.rel_url.raw_query_string, keep_blank_values=True)


@attrs.frozen
class InstanceCall(ApiCall):
    """A request with checked credentials, and what it is about.

    Attributes:
        instance: The instance that it is for.
        instances: All instances of the account.
        programs: What runs the programs of jobs.
        exchange: What the middleware knows, and records.
    """

    instance: Instance
    instances: Mapping[str, Instance]
    programs: ProgramRunner
    exchange: Exchange

    def fault(self, *kinds: FaultKind) -> Fault | None:
        """Return a fault of these kinds that the request met, of the first kind first, or None."""
        met = self.exchange.faults
        return next((fault for kind in kinds for fault in met if fault.kind == kind), None)


Answer = Callable[[InstanceCall], web.Response | Awaitable[web.Response]]
"""What answers a request. Only one that waits for something is awaited."""

Route = tuple[str, str, str, Answer]
"""An operation: its name in a fault plan, its method, its path, and what answers it."""
