"""Who acknowledges a PostgreSQL's commits, as it says itself, and whether one commit was acknowledged."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import asyncpg

from recovery.adapters.postgres.connection import Connection
from recovery.guard.synchronous import ENOUGH, Observed, Receiver, Weaker

NOT_ACKNOWLEDGED = "01000"
"""SQLSTATE of the warning with which a commit ends whose wait for the standbys was cancelled: PostgreSQL has no other
way to say it, and reports success (``INSERT 0 1``) all the same."""

_SERVER = """
SELECT current_setting('synchronous_standby_names') AS names, current_setting('fsync')::bool AS fsync,
       (pg_current_wal_lsn() - '0/0')::bigint AS position
"""
_RECEIVERS = """
SELECT application_name AS name, usename::text AS "user", state = 'streaming' AS streaming,
       replay_lsn IS NOT NULL AS replays, sync_state IN ('sync', 'quorum') AS acknowledges,
       coalesce(flush_lsn - '0/0', 0)::bigint AS flushed
FROM pg_stat_replication WHERE state <> 'backup' ORDER BY application_name, pid
"""
# reset_val and boot settings of this session are the server's own, as this session sets nothing.
_WEAKER = """
SELECT s.value, r.rolname AS role, d.datname AS database, NULL AS source
FROM pg_db_role_setting setting
     CROSS JOIN LATERAL (SELECT substr(one, 20) AS value FROM unnest(setting.setconfig) one
                         WHERE one LIKE 'synchronous\\_commit=%') s
     LEFT JOIN pg_roles r ON r.oid = setting.setrole LEFT JOIN pg_database d ON d.oid = setting.setdatabase
UNION ALL
SELECT setting, NULL, NULL, coalesce(applied.sourcefile, 'its start') FROM pg_file_settings applied
WHERE name = 'synchronous_commit' AND applied.applied
UNION ALL
SELECT setting, NULL, NULL, source FROM pg_settings WHERE name = 'synchronous_commit' AND source = 'command line'
ORDER BY 2, 3, 4
"""


async def observe_acknowledging(connection: Connection) -> Observed:
    """Everything that decides who acknowledges this primary's commits.

    Needs a superuser or pg_monitor with pg_read_all_settings; a standby is refused by PostgreSQL (SQLSTATE 55000).
    Raises what the driver raises.
    """
    async with connection.transaction(readonly=True):
        server = await connection.fetchrow(_SERVER)
        assert server is not None
        receivers = [Receiver(**dict(row)) for row in await connection.fetch(_RECEIVERS)]
        settings = [
            Weaker(row["value"], row["role"], row["database"], row["source"] or "")
            for row in await connection.fetch(_WEAKER)
        ]
    weaker = [one for one in settings if one.value not in ENOUGH]
    return Observed(server["names"], server["position"], receivers, weaker, server["fsync"])


async def acknowledged(connection: Connection, commit: Callable[[], Awaitable[Any]]) -> bool:
    """Runs ``commit``, whose transaction ends in it, and says whether its wait for the standbys was fulfilled.

    False when PostgreSQL reports success with WARNING 01000: the transaction is on the primary's disk alone, and a
    failover may lose it. Raises what ``commit`` raises.
    """
    with _warnings(connection) as heard:
        await commit()
    return NOT_ACKNOWLEDGED not in heard


@contextmanager
def _warnings(connection: Connection) -> Iterator[list[str]]:
    heard: list[str] = []

    def listen(_: object, message: asyncpg.PostgresLogMessage) -> None:
        heard.append(str(message.sqlstate))

    connection.add_log_listener(listen)
    try:
        yield heard
    finally:
        connection.remove_log_listener(listen)
