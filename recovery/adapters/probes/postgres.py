"""PostgreSQL as its clients need it: the owner's takes a write, any other one follows."""

from __future__ import annotations

import asyncpg

from recovery.adapters.postgres.connection import Connection, close_connection, open_connection, words_of
from recovery.adapters.probes.reach import Limits, framed, reach
from recovery.domain.health import Finding, Part
from recovery.ports.postgres import PostgresLogin

CHECK = "postgres"
HEARTBEAT_TABLE = "recovery_plans.heartbeat"

# Waiting for a synchronous standby is not what is asked here: with that standby down the primary is still well, and
# another region no better. A heartbeat is no data of anybody's.
_BEAT = f"""
    INSERT INTO {HEARTBEAT_TABLE} AS known (vantage, beat, beat_at) VALUES ($1, 1, clock_timestamp())
    ON CONFLICT (vantage) DO UPDATE SET beat = known.beat + 1, beat_at = clock_timestamp() RETURNING beat
"""
_CREATE = f"""
    CREATE SCHEMA IF NOT EXISTS recovery_plans;
    CREATE TABLE IF NOT EXISTS {HEARTBEAT_TABLE} (
        vantage text PRIMARY KEY, beat bigint NOT NULL, beat_at timestamptz NOT NULL
    ) WITH (fillfactor = 50);
"""
# The server is there and answers: that it does not let *us* in, or not write, is a mistake in our configuration, and no
# reason to leave a region.
_OURS = (
    asyncpg.InvalidAuthorizationSpecificationError,
    asyncpg.InvalidPasswordError,
    asyncpg.InsufficientPrivilegeError,
    asyncpg.InvalidCatalogNameError,
)
_STANDBY = """
    SELECT pg_is_in_recovery() AS is_standby,
           (SELECT status FROM pg_stat_wal_receiver) AS receiver,
           EXTRACT(EPOCH FROM clock_timestamp() - pg_last_xact_replay_timestamp())::float8 AS behind,
           pg_last_wal_receive_lsn() IS NOT DISTINCT FROM pg_last_wal_replay_lsn() AS replayed_all
"""


class PostgresProbe:
    """A new session for each look, as a client that comes now would need one.

    Args:
        vantage: key of the row that the write probe counts up.
    """

    def __init__(self, login: PostgresLogin, vantage: str, limits: Limits) -> None:
        self._login, self._vantage, self._limits = login, vantage, limits

    async def look(self, part: Part) -> list[Finding]:
        """See ``recovery.ports.health.StoreProbe``."""

        async def ask() -> Finding:
            await reach(self._login.host, self._login.port, self._limits)
            connection = await open_connection(self._login, timeout=self._limits.answer)
            try:
                found = await self._primary(connection) if part is Part.OWNER else await self._standby(connection)
            except BaseException:
                connection.terminate()  # polite words to a server that is silent would take two seconds more
                raise
            await close_connection(connection)
            return found

        try:
            return [await framed(CHECK, self._limits.answer, ask, (asyncpg.InterfaceError,))]
        except asyncpg.PostgresError as error:
            is_ours = isinstance(error, _OURS)
            detail = f"{words_of(error)}{' (check groups.<name>.postgres)' if is_ours else ''}"
            return [Finding(check=CHECK, passed=False, vital=not is_ours, detail=detail[:300])]

    async def _primary(self, connection: Connection) -> Finding:
        if await connection.fetchval("SELECT pg_is_in_recovery()"):
            return Finding(check=CHECK, passed=False, detail="it is a standby and takes no writes", is_standby=True)
        try:
            beat = await self._write(connection)
        except (asyncpg.UndefinedTableError, asyncpg.InvalidSchemaNameError):
            await self._create(connection)
            beat = await self._write(connection)
        return Finding(check=CHECK, passed=True, detail=f"primary, write {beat} took effect", is_standby=False)

    async def _write(self, connection: Connection) -> int:
        async with connection.transaction():
            await connection.execute("SET LOCAL synchronous_commit = local")
            beat: int = await connection.fetchval(_BEAT, self._vantage)
        return beat

    async def _create(self, connection: Connection) -> None:
        """Several vantage points may find at the same time that the table is missing: one of them makes it."""
        async with connection.transaction():
            await connection.execute("SET LOCAL synchronous_commit = local; SELECT pg_advisory_xact_lock(7_220_411)")
            await connection.execute(_CREATE)

    async def _standby(self, connection: Connection) -> Finding:
        row = await connection.fetchrow(_STANDBY)
        assert row is not None
        if not row["is_standby"]:
            return Finding(check=CHECK, passed=False, detail="it is a primary, and does not own the group")
        # Without a word from the primary nothing tells a standby how far it is behind but the age of the last commit.
        is_level = row["receiver"] == "streaming" and row["replayed_all"]
        lag = 0.0 if is_level else row["behind"]
        receiver = row["receiver"] or "receives nothing"
        behind = "" if lag is None else f", {max(lag, 0.0):.1f} s behind"
        return Finding(
            check=CHECK, passed=True, detail=f"standby, {receiver}{behind}", is_standby=True,
            lag_seconds=None if lag is None else max(float(lag), 0.0),
        )  # fmt: skip
