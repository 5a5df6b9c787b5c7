"""A request as the operations see it."""

from collections.abc import Awaitable, Callable, Mapping
from urllib.parse import parse_qs

import attrs
from aiohttp import web

from qsessions.emulator.programs.runner import ProgramRunner
from qsessions.emulator.service.instances import Instance
from qsessions.emulator.service.listing import Query


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
    """

    instance: Instance
    instances: Mapping[str, Instance]
    programs: ProgramRunner


Answer = Callable[[InstanceCall], web.Response | Awaitable[web.Response]]
"""What answers a request. Only one that waits for something is awaited."""

Route = tuple[str, str, str, Answer]
"""An operation: its name in a fault plan, its method, its path, and what answers it."""
