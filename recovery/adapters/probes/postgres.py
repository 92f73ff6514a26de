"""PostgreSQL as its clients need it: the owner's takes a write, any other one follows."""

from __future__ import annotations

from urllib.parse import urlencode

import asyncpg

from recovery.adapters.postgres.connection import DRIVER_FAILURES, Connection, literal, words_of
from recovery.adapters.postgres.replication_state import SETUP, TABLE
from recovery.adapters.probes.kept import GIVEN_UP_AFTER, KeptSession
from recovery.adapters.probes.reach import Limits, framed, reach
from recovery.domain.health import Finding, Part
from recovery.ports.postgres import PostgresLogin

CHECK = "postgres"
TLS = "groups.<name>.postgres.sslmode"

_BEAT = f"""
    INSERT INTO {TABLE} AS known (vantage) VALUES ({{vantage}})
    ON CONFLICT (vantage) DO UPDATE SET beat = known.beat + 1, written_at = clock_timestamp()
"""
# Several vantage points may find at the same time that the table is missing: one of them makes it.
_CREATE = f"BEGIN; SELECT pg_advisory_xact_lock(7220411); {SETUP} COMMIT"
# Without a word from the primary nothing tells a standby how far it is behind but the age of the last commit.
_STANDBY = """
    SELECT pg_is_in_recovery() AS is_standby,
           (SELECT status FROM pg_stat_wal_receiver) AS receiver,
           EXTRACT(EPOCH FROM clock_timestamp() - pg_last_xact_replay_timestamp())::float8 AS behind,
           pg_last_wal_receive_lsn() IS NOT DISTINCT FROM pg_last_wal_replay_lsn() AS replayed_all
"""
# The server is there and answers: that it does not let *us* in, or not write, is a mistake in our configuration, and no
# reason to leave a region.
_OURS = (
    asyncpg.InvalidAuthorizationSpecificationError,
    asyncpg.InvalidPasswordError,
    asyncpg.InsufficientPrivilegeError,
    asyncpg.InvalidCatalogNameError,
)


class PostgresProbe:
    """Each look knocks at the port anew, and asks one question in a session that is kept.

    Args:
        vantage: key of the row that the write probe counts up.
    """

    def __init__(self, login: PostgresLogin, vantage: str, limits: Limits) -> None:
        self._login, self._limits = login, limits
        self._beat = _BEAT.format(vantage=literal(vantage))
        self._session = KeptSession(self._open, self._ask, _drop, limits.answer)

    async def look(self, part: Part) -> list[Finding]:
        """See ``recovery.ports.health.StoreProbe``."""

        async def ask() -> Finding:
            await reach(self._login.host, self._login.port, self._limits)
            return await self._session.answer(part)

        try:
            return [await framed(CHECK, self._limits.answer, ask, DRIVER_FAILURES, tls=TLS)]
        except asyncpg.PostgresError as error:
            is_ours = isinstance(error, _OURS)
            detail = f"{words_of(error)}{' (check groups.<name>.postgres)' if is_ours else ''}"
            return [Finding(check=CHECK, passed=False, vital=not is_ours, detail=detail[:300])]

    async def close(self) -> None:
        await self._session.close()

    async def _open(self) -> Connection:
        """Waiting for a synchronous standby is not what is asked: with that standby down the primary is still well, and
        another region no better. A heartbeat is no data of anybody's.
        """
        login = self._login
        query = {"sslmode": login.sslmode} | ({"sslrootcert": login.sslrootcert} if login.sslrootcert else {})
        connection: Connection = await asyncpg.connect(
            dsn=f"postgresql://?{urlencode(query)}",
            host=login.host,
            port=login.port,
            user=login.user,
            database=login.database,
            password=login.password if login.password is not None else "",
            timeout=self._limits.answer * GIVEN_UP_AFTER,
            statement_cache_size=0,
            server_settings={"application_name": "recovery-plans", "synchronous_commit": "local"},
        )
        return connection

    async def _ask(self, connection: Connection, part: Part) -> Finding:
        return await self._write(connection) if part is Part.OWNER else await self._standby(connection)

    async def _write(self, connection: Connection) -> Finding:
        """One round: the statement goes out in a simple query, which commits by itself."""
        try:
            await connection.execute(self._beat)
        except (asyncpg.UndefinedTableError, asyncpg.InvalidSchemaNameError):
            await connection.execute(_CREATE)
            await connection.execute(self._beat)
        except asyncpg.ReadOnlySQLTransactionError as error:
            return Finding(check=CHECK, passed=False, detail=f"it takes no writes: {words_of(error)}")
        return Finding(check=CHECK, passed=True, detail="primary, a write took effect", is_standby=False)

    async def _standby(self, connection: Connection) -> Finding:
        row = await connection.fetchrow(_STANDBY)
        assert row is not None
        if not row["is_standby"]:
            return Finding(check=CHECK, passed=False, detail="it is a primary, and does not own the group")
        is_level = row["receiver"] == "streaming" and row["replayed_all"]
        lag = 0.0 if is_level else row["behind"]
        receiver = row["receiver"] or "receives nothing"
        behind = "" if lag is None else f", {max(lag, 0.0):.1f} s behind"
        return Finding(
            check=CHECK, passed=True, detail=f"standby, {receiver}{behind}", is_standby=True,
            lag_seconds=None if lag is None else max(float(lag), 0.0),
        )  # fmt: skip


async def _drop(connection: Connection) -> None:
    connection.terminate()
