"""The tables and statements of a ledger in PostgreSQL.

Times that decide are the database's `clock_timestamp()`. Each statement is carried out by itself,
so that a pooler may give each another connection.
"""

from __future__ import annotations

# Each is applied once, in this order; see `init`. One that has landed is never changed.
MIGRATIONS = (
    """
    CREATE TABLE qsessions.owners (
        id text PRIMARY KEY,
        host text NOT NULL,
        pid bigint NOT NULL,
        since double precision NOT NULL,
        heartbeat double precision NOT NULL,
        ttl double precision NOT NULL,
        delay double precision NOT NULL,
        epoch integer NOT NULL,
        beat bigint NOT NULL,
        renewed_at timestamptz NOT NULL DEFAULT clock_timestamp(),
        over_at timestamptz
    ) WITH (fillfactor = 50);
    CREATE INDEX ON qsessions.owners (over_at) WHERE over_at IS NOT NULL;
    CREATE TABLE qsessions.records (
        key text PRIMARY KEY,
        owner text NOT NULL REFERENCES qsessions.owners,
        session_id text,
        asked_at double precision NOT NULL,
        beat bigint NOT NULL,
        body text NOT NULL
    );
    CREATE INDEX ON qsessions.records (owner);
    CREATE INDEX ON qsessions.records (session_id);
    CREATE TABLE qsessions.living (
        number integer NOT NULL,
        counted_at timestamptz NOT NULL
    );
    INSERT INTO qsessions.living VALUES (1, '-infinity');
    """,
)

# They wait for each other, and for nobody else.
LOCK = "SELECT pg_advisory_xact_lock(hashtext('qsessions.migrations'))"
PREPARE = """
    CREATE SCHEMA IF NOT EXISTS qsessions;
    CREATE TABLE IF NOT EXISTS qsessions.migrations (
        number integer PRIMARY KEY,
        applied_at timestamptz NOT NULL DEFAULT clock_timestamp()
    );
"""
APPLIED = "SELECT coalesce(max(number), 0) AS applied FROM qsessions.migrations"
APPLY = "INSERT INTO qsessions.migrations (number) VALUES (%s)"
# What waits for a lock though the connection that sent it has given up. A pooler doesn't tell the
# number of its process.
TERMINATE = """
    SELECT pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE pid <> pg_backend_pid() AND usename = current_user
    AND wait_event_type = 'Lock' AND starts_with(query, %(mark)s)
"""

_BEGIN = """
    INSERT INTO qsessions.owners (id, host, pid, since, heartbeat, ttl, delay, epoch, beat)
    VALUES (
        %(id)s, %(host)s, %(pid)s, %(since)s, %(heartbeat)s, %(ttl)s, %(delay)s, %(epoch)s,
        %(beat)s
    )
    ON CONFLICT (id) DO UPDATE
    SET beat = excluded.beat, renewed_at = clock_timestamp()
    WHERE owners.epoch = excluded.epoch AND owners.over_at IS NULL AND owners.beat < excluded.beat
    RETURNING id
"""
_RENEW = """
    UPDATE qsessions.owners
    SET beat = %(beat)s, renewed_at = clock_timestamp()
    WHERE id = %(id)s AND epoch = %(epoch)s AND over_at IS NULL AND beat < %(beat)s
    RETURNING id
"""
# Counting takes a look at all owners, so only one owner does it at a time, once in a heartbeat.
_COUNTED = """
    UPDATE qsessions.living
    SET number = (
            SELECT count(*) FROM qsessions.owners
            WHERE over_at IS NULL AND renewed_at > clock_timestamp() - ttl * interval '1 second'
        ),
        counted_at = clock_timestamp()
    WHERE ctid = (
        SELECT ctid FROM qsessions.living
        WHERE counted_at < clock_timestamp() - %(heartbeat)s * interval '1 second'
        FOR UPDATE SKIP LOCKED
    )
"""
# A statement may arrive after later ones of its owner: a network may hold up what was given up. An
# owner that was deleted meanwhile is there again, as over: by it its records are found.
_WRITTEN = """
    fresh AS (
        SELECT WHERE EXISTS (SELECT FROM renewed)
        OR %(regardless)s AND NOT EXISTS (
            SELECT FROM qsessions.owners WHERE id = %(id)s AND beat >= %(beat)s
        )
    ), late AS (
        INSERT INTO qsessions.owners
            (id, host, pid, since, heartbeat, ttl, delay, epoch, beat, over_at)
        SELECT
            %(id)s, %(host)s, %(pid)s, %(since)s, %(heartbeat)s, %(ttl)s, %(delay)s, %(epoch)s,
            %(beat)s, clock_timestamp()
        FROM fresh WHERE NOT EXISTS (SELECT FROM renewed)
        ON CONFLICT (id) DO UPDATE SET beat = excluded.beat WHERE owners.beat < excluded.beat
    ), gone AS (
        DELETE FROM qsessions.records
        WHERE key = ANY(%(ended)s::text[]) AND EXISTS (SELECT FROM fresh)
    ), kept AS (
        INSERT INTO qsessions.records (key, owner, session_id, asked_at, beat, body)
        SELECT key, %(id)s, session_id, asked_at, %(beat)s, body
        FROM fresh, unnest(
            %(keys)s::text[], %(session_ids)s::text[], %(asked_at)s::float8[], %(bodies)s::text[]
        ) AS given (key, session_id, asked_at, body)
        ON CONFLICT (key) DO UPDATE
        SET owner = excluded.owner, session_id = excluded.session_id, beat = excluded.beat,
            body = excluded.body
        WHERE records.owner <> excluded.owner OR records.beat < excluded.beat
    ),
"""


def renewal(*, begins: bool, writes: bool) -> str:
    """Return the statement that renews a lease; see `Database.renew`.

    Its row has how many leases are good. Without a row there was no lease to renew.

    Args:
        begins: Whether the owner may not be there.
        writes: Whether there are records.
    """
    return (
        f"WITH renewed AS ({_BEGIN if begins else _RENEW}), "  # noqa: S608 - constants
        f"{_WRITTEN if writes else ''} counted AS ({_COUNTED}) "
        "SELECT greatest((SELECT max(number) FROM qsessions.living), 1) AS living FROM renewed"
    )


RELEASE = """
    WITH gone AS (
        DELETE FROM qsessions.owners
        WHERE id = %(id)s AND epoch = %(epoch)s
        AND NOT EXISTS (SELECT FROM qsessions.records WHERE owner = %(id)s)
    )
    UPDATE qsessions.owners SET over_at = clock_timestamp()
    WHERE id = %(id)s AND epoch = %(epoch)s AND over_at IS NULL
    AND EXISTS (SELECT FROM qsessions.records WHERE owner = %(id)s)
"""

_OWNER = """
    owners.host, owners.pid, owners.since, owners.heartbeat, owners.ttl, owners.delay,
    owners.epoch, owners.beat,
    extract(epoch FROM clock_timestamp() - owners.renewed_at)::float8 AS age,
    owners.over_at IS NOT NULL AS is_over
"""
OWNERS = (
    f"SELECT owners.id AS owner, {_OWNER} FROM qsessions.owners "  # noqa: S608 - constants
    "WHERE over_at IS NULL"
)

# Another process that renews or takes over one of them at the same time has a lock on it.
TAKE_OVER = """
    UPDATE qsessions.owners SET epoch = epoch + 1, over_at = clock_timestamp()
    WHERE id IN (
        SELECT id
        FROM qsessions.owners
        JOIN unnest(%(ids)s::text[], %(epochs)s::int[], %(beats)s::bigint[])
            AS seen (id, epoch, beat)
            USING (id, epoch, beat)
        WHERE over_at IS NULL
        AND renewed_at + (ttl + delay) * interval '1 second' <= clock_timestamp()
        FOR UPDATE OF owners SKIP LOCKED
    )
"""

ENTRIES = f"""
    SELECT records.body, records.owner, {_OWNER}
    FROM qsessions.records JOIN qsessions.owners ON owners.id = records.owner
    ORDER BY records.asked_at, records.key
"""  # noqa: S608 - constants
# OFFSET 0 keeps each lookup to its index. Else the planner, which can't know how few owners that
# are over have records, would read all records.
ORPHANS = f"""
    WITH orphans AS (
        SELECT key, session_id
        FROM qsessions.owners CROSS JOIN LATERAL (
            SELECT key, session_id FROM qsessions.records
            WHERE records.owner = owners.id OFFSET 0
        ) AS records
        WHERE over_at IS NOT NULL
    )
    SELECT DISTINCT ON (records.asked_at, records.key) records.body, records.owner, {_OWNER}
    FROM orphans CROSS JOIN LATERAL (
        SELECT * FROM qsessions.records
        WHERE records.key = orphans.key OR records.session_id = orphans.session_id OFFSET 0
    ) AS records
    CROSS JOIN LATERAL (
        SELECT * FROM qsessions.owners WHERE owners.id = records.owner OFFSET 0
    ) AS owners
    ORDER BY records.asked_at, records.key
"""  # noqa: S608 - constants

AMEND = """
    WITH given AS (
        SELECT * FROM unnest(
            %(keys)s::text[], %(owners)s::text[], %(seen)s::text[], %(session_ids)s::text[],
            %(bodies)s::text[], %(ended)s::bool[]
        ) AS given (key, owner, seen, session_id, body, is_ended)
    ), open AS (
        SELECT given.*
        FROM given JOIN qsessions.records USING (key, owner)
        JOIN qsessions.owners ON owners.id = owner
        WHERE owners.over_at IS NOT NULL
    ), gone AS (
        DELETE FROM qsessions.records USING open
        WHERE records.key = open.key AND open.is_ended
        AND records.session_id IS NOT DISTINCT FROM open.seen
        RETURNING records.key
    ), kept AS (
        UPDATE qsessions.records SET session_id = open.session_id, body = open.body
        FROM open
        WHERE records.key = open.key AND NOT open.is_ended
        AND records.session_id IS NOT DISTINCT FROM open.seen
        RETURNING records.key
    ), tidied AS (
        DELETE FROM qsessions.owners
        WHERE over_at < clock_timestamp() - interval '1 hour'
        AND NOT EXISTS (SELECT FROM qsessions.records WHERE records.owner = owners.id)
    )
    SELECT key FROM gone UNION ALL SELECT key FROM kept
"""
