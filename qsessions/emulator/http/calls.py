"""A request as the operations see it."""

from collections.abc import Mapping
from urllib.parse import parse_qs

import attrs
from aiohttp import web

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
    """A request with checked credentials, the instance that it is for, and the account's all."""

    instance: Instance
    instances: Mapping[str, Instance]
