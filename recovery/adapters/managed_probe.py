"""Looks at a managed PostgreSQL the way its clients do: by logging in."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime

from recovery.adapters.logins import Logins
from recovery.adapters.postgres.checks import check_readable, matches
from recovery.adapters.postgres.connection import connected, quoted
from recovery.adapters.postgres.observation import Scope, observe
from recovery.adapters.restores import PROBE_TABLE
from recovery.domain.group import GroupSnapshot
from recovery.domain.recovery_point import CheckResult
from recovery.errors import Refused, RestoreFailed, SourceFailed
from recovery.ports.postgres import PostgresLogin

STATEMENT_SECONDS = 30
FIND_TABLE = """
    SELECT n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
     WHERE c.relname = $1 AND ($2 = '' OR n.nspname = $2) AND c.relkind IN ('r', 'p')
       AND n.nspname NOT IN ('pg_catalog', 'information_schema')
"""


DATABASES = """
    SELECT datname::text AS name FROM pg_database
     WHERE datallowconn AND NOT datistemplate AND datname <> 'rdsadmin' ORDER BY 1
"""
NOT_PERMITTED = ("permission denied", "row-level security")  # how the server says that a table is not for this user
NAMED = 5


@dataclass
class SqlProbe:
    """``recovery.ports.managed_postgres.ManagedProbe`` and ``ManagedReader``."""

    logins: Logins

    async def write(self, group: GroupSnapshot, region: str, host: str, port: int, run_id: str) -> datetime:
        """See the port. The row stays: it is evidence, one per run."""
        async with connected(await self._login(group, region, host, port), "write a probe row") as session:
            await session.execute(PROBE_TABLE)
            moment: datetime = await session.fetchval(
                "INSERT INTO recovery_plans.probe VALUES ($1, clock_timestamp())"
                " ON CONFLICT (run_id) DO UPDATE SET at = recovery_plans.probe.at RETURNING at",
                run_id,
            )
            return moment

    async def replayed_until(self, group: GroupSnapshot, region: str, host: str, port: int) -> datetime | None:
        """See the port."""
        async with connected(await self._login(group, region, host, port), "ask how far it has replayed") as session:
            moment: datetime | None = await session.fetchval("SELECT pg_last_xact_replay_timestamp()")
            return moment

    async def tables(self, group: GroupSnapshot, region: str, host: str, port: int) -> list[CheckResult]:
        """See the port. One row of each is read: all of them could take hours."""
        login = await self._login(group, region, host, port)
        usual = group.logical_databases[0] if group.logical_databases else login.database
        return [await self._table(login, usual, name) for name in group.critical_tables]

    async def log_in(self, group: GroupSnapshot, region: str, host: str, port: int) -> None:
        """See the port."""
        login = replace(await self.logins.backup(group.name, region), host=host, port=port)
        async with connected(login, "log in", failure=RestoreFailed):
            pass

    async def contents(self, group: GroupSnapshot, region: str, host: str, port: int) -> list[CheckResult]:
        """See the port."""
        login = replace(await self.logins.backup(group.name, region), host=host, port=port)
        async with connected(login, "list its databases", failure=RestoreFailed) as session:
            names = [row["name"] for row in await session.fetch(DATABASES)]
        advice = "grant it pg_read_all_data, or name another one in postgres.backup_user"
        try:
            seen = await observe(login, {name: name for name in names}, Scope())
        except Refused as error:  # of a schema, or of what it holds
            raise Refused(f"{error}: {advice}") from error
        closed = sorted(name for name, words in seen.unreadable.items() if any(each in words for each in NOT_PERMITTED))
        if closed:
            more = f" and {len(closed) - NAMED} more" if len(closed) > NAMED else ""
            raise Refused(f"user {login.user} may not read {', '.join(closed[:NAMED])}{more}: {advice}")
        return [check_readable(seen), _critical(sorted(seen.tables), group.critical_tables)]

    async def _table(self, login: PostgresLogin, usual: str, name: str) -> CheckResult:
        *above, table = name.split(".")
        schema = above[-1] if above else ""
        database = above[0] if len(above) == 2 else usual
        try:
            async with connected(replace(login, database=database), f"read {name}") as session:
                await session.execute(f"SET statement_timeout = '{STATEMENT_SECONDS}s'")
                found = await session.fetch(FIND_TABLE, table, schema)
                if not found:
                    return CheckResult(name=name, passed=False, detail=f"is missing in database {database}")
                for row in found:
                    await session.fetch(f"SELECT * FROM {quoted(row[0])}.{quoted(row[1])} LIMIT 1")
        except SourceFailed as error:
            return CheckResult(name=name, passed=False, detail=str(error))
        return CheckResult(name=name, passed=True, detail="can be read")

    async def _login(self, group: GroupSnapshot, region: str, host: str, port: int) -> PostgresLogin:
        return replace(await self.logins.admin(group.name, region), host=host, port=port)


def _critical(tables: list[str], wanted: list[str]) -> CheckResult:
    missing = [name for name in wanted if not any(matches(table, name) for table in tables)]
    detail = f"missing: {', '.join(missing)}" if missing else f"all {len(wanted)} are there"
    return CheckResult(name="critical-tables", passed=not missing, detail=detail)
