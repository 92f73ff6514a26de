"""Clients of a server whose place another one took: new ones are refused, old ones have a while to leave."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

from recovery.adapters.postgres.connection import CONNECTION_FAILURES, Connection, connected
from recovery.adapters.postgres.refusal import data_directory, let_clients_in, refuse_clients, take_down
from recovery.domain.replication import Drained
from recovery.errors import RecoveryError
from recovery.ports.postgres import PostgresLogin
from recovery.ports.standby import Refusing

MORE_SECONDS = 5.0  # after the grace, for those that are terminated
_POLL_SECONDS = 0.05

# A standby that is promoted meanwhile has nobody's old clients any more, but its own.
_CLIENTS = """
FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()
    AND application_name <> 'recovery-plans' AND NOT usename::text = ANY($1::text[]) AND pg_is_in_recovery() = $2
"""


async def drain(
    login: PostgresLogin,
    *,
    grace: float = 30.0,
    keep_users: Sequence[str] = (),
    refuse: Refusing = "never",
    progress: Callable[[int], None] | None = None,
) -> Drained:
    """Waits until no client is left, and terminates the rest after ``grace`` seconds, for up to 5 s more.

    ``progress`` is called with the number of clients that are left. A server that went away has none. See
    ``PostgresStandbys.drain`` for ``refuse``.
    """
    began = time.monotonic()
    found = left = 0
    terminated: set[int] = set()
    kept, why = list(keep_users), ""
    try:
        async with connected(login, "drain its clients") as connection:
            standby = bool(await connection.fetchval("SELECT pg_is_in_recovery()"))
            if refuse == "standby" and not standby:
                return Drained(found=0, terminated=0, left=0, seconds=0.0, why_not_refused="it accepts writes by right")
            async with _refusing(connection, wanted=refuse != "never", standby=standby) as why:
                found = left = await connection.fetchval(f"SELECT count(*) {_CLIENTS}", kept, standby)
                while left and time.monotonic() < began + grace + MORE_SECONDS:
                    if progress is not None:
                        progress(left)
                    if time.monotonic() >= began + grace:
                        rows = await connection.fetch(
                            f"SELECT pid, pg_terminate_backend(pid) {_CLIENTS}", kept, standby
                        )
                        terminated |= {row["pid"] for row in rows}
                    await asyncio.sleep(_POLL_SECONDS)
                    left = await connection.fetchval(f"SELECT count(*) {_CLIENTS}", kept, standby)
    except RecoveryError as error:
        # Asked on its own host: where nothing listens, the old primary is off, and its clients with it.
        if not found and not isinstance(error.__cause__, ConnectionRefusedError):
            raise
        left = 0
    seconds = time.monotonic() - began
    return Drained(found=found, terminated=len(terminated), left=left, seconds=seconds, why_not_refused=why)


@contextlib.asynccontextmanager
async def _refusing(connection: Connection, *, wanted: bool, standby: bool) -> AsyncIterator[str]:
    """Why new clients are not refused; empty while they are. What was a standby lets them in again at the end."""
    why = await refuse_clients(connection) if wanted else "another manager writes its pg_hba.conf"
    folder = await data_directory(connection) if standby and not why else None
    try:
        yield why
    finally:
        if folder is not None:
            await _let_in_again(connection, folder)


async def _let_in_again(connection: Connection, folder: Path) -> None:
    """A standby that went away meanwhile must not refuse its clients for good after its next start."""
    try:
        await let_clients_in(connection)
    except CONNECTION_FAILURES:
        await asyncio.to_thread(take_down, folder)
        raise
