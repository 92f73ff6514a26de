"""One backup of a kind at a time per PostgreSQL, held by PostgreSQL itself.

A session-level advisory lock ends with its session: a killed worker's lock is gone as soon as its connection is.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from recovery.adapters.postgres.connection import Connection, connected, literal
from recovery.errors import Contended, Refused
from recovery.ports.postgres import PostgresLogin

CLASS_KEY = 0x64726370  # "drcp": the first of the two keys of our advisory locks
NAME = "recovery-plans "

HOLDER = """
    SELECT a.pid, a.application_name AS name FROM pg_locks l JOIN pg_stat_activity a USING (pid)
     WHERE l.locktype = 'advisory' AND l.granted AND l.classid = $1
       AND l.objid::bigint = hashtext($2)::bigint & x'ffffffff'::bigint
"""


FREED_SECONDS = 5.0  # a session that was told to end needs moments


@asynccontextmanager
async def backup_lock(login: PostgresLogin, point_id: str, kind: str) -> AsyncIterator[None]:
    """Holds the lock of the kind of backup while the block runs.

    An earlier attempt at this very point that still holds it belongs to a worker that hangs, for else Temporal would
    not have begun another one: its session is ended. What it may still write has no manifest, and only one attempt's
    manifest is ever taken.

    Raises:
        Refused: another backup of this kind runs; its point is named.
        Contended: the session of an earlier attempt at this very point does not end.
        Unreachable, Refused, SourceFailed: the server does not answer, or refuses in its own words.
    """
    async with connected(login, "lock backups") as session:
        await session.execute(f"SET application_name = {literal(NAME + point_id)}")
        await _acquire(session, point_id, kind)
        yield


async def _acquire(session: Connection, point_id: str, kind: str) -> None:
    deadline = asyncio.get_running_loop().time() + FREED_SECONDS
    while not await session.fetchval("SELECT pg_try_advisory_lock($1, hashtext($2))", CLASS_KEY, kind):
        holder = await session.fetchrow(HOLDER, CLASS_KEY, kind)
        await asyncio.sleep(0.05)
        if holder is None:
            continue  # released between the two questions
        name = str(holder["name"] or "").removeprefix(NAME)
        if name != point_id:
            raise Refused(
                f"another {kind} backup of this PostgreSQL is running ({name or 'its point is unknown'}): wait for "
                "it, or watch it with drctl status"
            )
        if asyncio.get_running_loop().time() > deadline:
            raise Contended(f"an earlier attempt at {point_id} has not ended yet")
        await session.execute("SELECT pg_terminate_backend($1)", holder["pid"])
