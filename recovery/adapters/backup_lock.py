"""One backup of a kind at a time per PostgreSQL, held by PostgreSQL itself.

A session-level advisory lock ends with its session: a killed worker's lock is gone as soon as its connection is.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from recovery.adapters.postgres.connection import Connection, connected, literal
from recovery.errors import Contended, Refused
from recovery.ports.postgres import PostgresLogin

CLASS_KEY = 0x64726370  # "drcp": the first of the two keys of our advisory locks
NAME = "recovery-plans "

HOLDER = """
    SELECT a.application_name FROM pg_locks l JOIN pg_stat_activity a USING (pid)
     WHERE l.locktype = 'advisory' AND l.granted AND l.classid = $1
       AND l.objid::bigint = hashtext($2)::bigint & x'ffffffff'::bigint
"""


@asynccontextmanager
async def backup_lock(login: PostgresLogin, point_id: str, kind: str) -> AsyncIterator[None]:
    """Holds the lock of the kind of backup while the block runs.

    Raises:
        Refused: another backup of this kind runs; its point is named.
        Contended: the session of an earlier attempt at this very point has not ended yet.
        Unreachable, Refused, SourceFailed: the server does not answer, or refuses in its own words.
    """
    async with connected(login, "lock backups") as session:
        await session.execute(f"SET application_name = {literal(NAME + point_id)}")
        if not await session.fetchval("SELECT pg_try_advisory_lock($1, hashtext($2))", CLASS_KEY, kind):
            raise await _taken(session, point_id, kind)
        yield


async def _taken(session: Connection, point_id: str, kind: str) -> Exception:
    holder = str(await session.fetchval(HOLDER, CLASS_KEY, kind) or "").removeprefix(NAME)
    if holder == point_id:
        return Contended(f"an earlier attempt at {point_id} has not ended yet")
    return Refused(
        f"another {kind} backup of this PostgreSQL is running ({holder or 'its point is unknown'}): wait for it, or "
        "watch it with drctl status"
    )
