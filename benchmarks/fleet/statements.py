"""What the statements of a shared ledger take on a real PostgreSQL, by the number of owners."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Awaitable, Callable
from functools import partial
from statistics import median

from attrs import frozen

from benchmarks.payloads import CRN
from qsessions import CreateSession, LedgerRecord
from qsessions.ledger import postgres_schema as sql
from qsessions.ledger.lines import record_line
from qsessions.ledger.postgres import PostgresDatabase
from tests.support.postgres import Cluster, cluster

_SESSIONS = 10
# The owners that are over: those of the last hour, for each that lives. So many still have records.
_OVER, _ORPHANED = 0.6, 0.0017
_ROUNDS = 7
# As many as a pooler lets through.
_CONNECTIONS = 20
_EACH = 1000
_FILL = """
    TRUNCATE qsessions.owners, qsessions.records;
    INSERT INTO qsessions.owners (id, host, pid, since, heartbeat, ttl, delay, epoch, beat, over_at)
    SELECT md5(i::text), 'host-' || i, i, 1.78e9, 10, 45, 60, 1, 1,
        CASE WHEN i > %(owners)s THEN clock_timestamp() END
    FROM generate_series(1, %(all)s) AS i;
    INSERT INTO qsessions.records
    SELECT md5(i || '-' || j), md5(i::text), md5('s' || i || '-' || j), 1.78e9, 1, %(body)s
    FROM generate_series(1, %(recorded)s) AS i, generate_series(1, %(sessions)s) AS j;
"""
_COUNT = """
    SELECT count(*) FROM qsessions.owners
    WHERE over_at IS NULL AND renewed_at > clock_timestamp() - ttl * interval '1 second'
"""
_RECORD = LedgerRecord.intent(
    CreateSession("batch", backend="ibm_fez", max_ttl=28_800),
    base_url="https://quantum.cloud.ibm.com/api",
    instance=CRN,
    now=1.78e9,
)
_SETTINGS = {"fsync": "on", "full_page_writes": "on", "shared_buffers": "1GB"}


@frozen
class Measured:
    """Seconds that statements take, and how many a second there can be.

    Attributes:
        owners: How many owners there are, each with ten sessions.
        owners_s: Reading all owners.
        orphans_s: Reading the records of owners that are over.
        count_s: Counting the owners that live.
        renewals: How many leases are renewed a second at most.
    """

    owners: int
    owners_s: float
    orphans_s: float
    count_s: float
    renewals: float


def measure(sizes: tuple[int, ...]) -> list[Measured]:
    """Measure each number of owners."""
    import psycopg

    with (
        cluster(**_SETTINGS) as server,
        psycopg.connect(server.url(), autocommit=True) as connection,
    ):
        for statement in (sql.PREPARE, *sql.MIGRATIONS):
            connection.execute(statement.encode())
        connection.execute(sql.APPLY, [len(sql.MIGRATIONS)])

        def measure_one(owners: int) -> Measured:
            values = {
                "owners": owners,
                "sessions": _SESSIONS,
                "body": record_line(_RECORD).decode(),
                "all": round(owners * (1 + _OVER)),
                "recorded": round(owners * (1 + _ORPHANED)),
            }
            connection.execute(psycopg.ClientCursor(connection).mogrify(_FILL, values).encode())
            connection.execute("VACUUM ANALYZE")
            leases, orphans = asyncio.run(_reads(server.url()))
            began = time.perf_counter()
            connection.execute(_COUNT)
            living = time.perf_counter() - began
            return Measured(owners, leases, orphans, living, _renewals(server, owners))

        return [measure_one(owners) for owners in sizes]


async def _reads(url: str) -> tuple[float, float]:
    """Return what reading all leases and reading the records of the dead take."""
    database = PostgresDatabase(url)

    async def seconds(read: Callable[[], Awaitable[object]]) -> float:
        times = []
        for _ in range(_ROUNDS):
            began = time.perf_counter()
            await read()
            times.append(time.perf_counter() - began)
        return median(times)

    leases = await seconds(database.owners)
    orphans = await seconds(partial(database.entries, only_orphans=True))
    await database.aclose()
    return leases, orphans


def _renewals(server: Cluster, owners: int) -> float:
    """Return how many leases PostgreSQL renews a second, over as many connections as it likes."""
    values = {
        "id": "md5(:number::text)",
        "epoch": "1",
        "beat": "(extract(epoch FROM clock_timestamp()) * 1e6)::bigint",
        "heartbeat": "10",
    }
    statement = re.sub(
        r"%\((\w+)\)s", lambda match: values[match[1]], sql.renewal(begins=False, writes=False)
    )
    script = server.folder / "renewal.sql"
    script.write_text(f"\\set number random(1, {owners})\n" + " ".join(statement.split()) + ";\n")
    script.chmod(0o644)
    options = ["-n", "-f", str(script), "-c", str(_CONNECTIONS), "-j", "2", "-t", str(_EACH)]
    began = time.perf_counter()
    server.run("pgbench", *options, server.url())
    return _CONNECTIONS * _EACH / (time.perf_counter() - began)
