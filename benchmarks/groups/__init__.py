"""The groups of the benchmark, in the order of the table."""

from __future__ import annotations

from collections.abc import Mapping

from benchmarks.groups import (
    async_get,
    cold_start,
    create,
    facade,
    many_callers,
    start_up,
    threads,
    tls,
    workloads,
)
from benchmarks.rows import Group

GROUPS: Mapping[str, Group] = {
    "get": async_get.run,
    "callers": many_callers.run,
    "create": create.run,
    "facade": facade.run,
    "threads": threads.run,
    "tls": tls.run,
    "start-up": start_up.run,
    "workloads": workloads.run,
    "cold": cold_start.run,
}
