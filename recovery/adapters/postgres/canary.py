"""The canary: a row that is written while a base backup runs and must be there after its restore."""

from __future__ import annotations

from recovery.adapters.postgres.connection import Connection

SCHEMA = "recovery_plans"
TABLE = "recovery_plans.canary"
KEPT = 100

OWN_SCHEMA = f"""
    CREATE SCHEMA IF NOT EXISTS {SCHEMA};
    CREATE TABLE IF NOT EXISTS {TABLE} (
        value text PRIMARY KEY, written_at timestamptz NOT NULL DEFAULT clock_timestamp()
    );
    COMMENT ON TABLE {TABLE} IS 'One row per base backup, written before its end. A restored backup must hold it.';
    DO $grant$
    DECLARE who name;
    BEGIN
        FOR who IN
            SELECT keeper.rolname FROM pg_roles keeper, pg_roles reader
             WHERE keeper.rolreplication AND NOT keeper.rolsuper AND reader.rolname = 'pg_read_all_data'
               AND pg_has_role(keeper.oid, reader.oid, 'MEMBER')
               AND NOT has_table_privilege(keeper.oid, '{TABLE}', 'INSERT')
        LOOP
            EXECUTE format('GRANT USAGE ON SCHEMA {SCHEMA} TO %I', who);
            EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON {TABLE} TO %I', who);
        END LOOP;
    END $grant$;
"""
"""Our schema, by whichever role comes first: a monitor, a plan, or a backup. Roles that back up (REPLICATION and
pg_read_all_data) may write the canary in it, whoever owns it. Safe to repeat."""


async def write_canary(connection: Connection, value: str) -> str:
    """Writes the row and returns the LSN after its commit. Only the newest 100 rows are kept.

    Does not wait for a synchronous standby, and gives up after 10 s. Raises what the driver raises.
    """
    await connection.execute("SET statement_timeout = '10s'; SET lock_timeout = '5s'; SET synchronous_commit = local")
    if await connection.fetchval("SELECT to_regclass($1)", TABLE) is None:
        await connection.execute(OWN_SCHEMA)
    await connection.execute(
        f"INSERT INTO {TABLE} (value) VALUES ($1) ON CONFLICT (value) DO UPDATE SET written_at = clock_timestamp()",
        value,
    )
    await connection.execute(
        f"DELETE FROM {TABLE} WHERE written_at < (SELECT min(written_at) FROM "
        f"(SELECT written_at FROM {TABLE} ORDER BY written_at DESC LIMIT {KEPT}) newest)"
    )
    return str(await connection.fetchval("SELECT pg_current_wal_insert_lsn()::text"))


async def read_canaries(connection: Connection) -> set[str]:
    """All values in the table; empty also when there is none."""
    if await connection.fetchval("SELECT to_regclass($1)", TABLE) is None:
        return set()
    return {row["value"] for row in await connection.fetch(f"SELECT value FROM {TABLE}")}


def lsn_number(lsn: str) -> int:
    """An LSN like ``16/B374D848`` as a number that can be compared."""
    high, low = lsn.split("/")
    return (int(high, 16) << 32) | int(low, 16)
