"""Who a PostgreSQL cluster is, and what a restored copy must have."""

from __future__ import annotations

from dataclasses import dataclass, field

import asyncpg

from recovery.adapters.postgres.connection import Connection, translated, words_of
from recovery.domain.recovery_point import DatabaseProperties
from recovery.errors import SourceFailed
from recovery.ports.postgres import PostgresLogin

# Settings of these groups mean the same on every machine: they name no path, address or amount of memory of the source.
_PORTABLE_GROUPS = (
    "Autovacuum",
    "Client Connection Defaults / Statement Behavior",
    "Client Connection Defaults / Locale and Formatting",
    "Lock Management",
    "Query Tuning /",
    "Version and Platform Compatibility /",
)
_NOT_PORTABLE = {"default_tablespace", "temp_tablespaces", "default_transaction_read_only", "transaction_read_only"}


@dataclass
class Identity:
    """What the server says about itself at the beginning of a backup."""

    version: str
    major: int
    system_identifier: str
    timeline: int
    in_recovery: bool
    data_checksums: bool
    superuser: str
    databases: list[str]
    roles: list[str]
    properties: dict[str, DatabaseProperties]
    preload_libraries: list[str]
    settings: dict[str, str]
    collation_versions: dict[str, str] = field(default_factory=dict)


async def read_identity(connection: Connection) -> Identity:
    """Raises what the driver raises."""
    row = await connection.fetchrow(
        """
        SELECT current_setting('server_version') AS version,
               current_setting('server_version_num')::int / 10000 AS major,
               (SELECT system_identifier::text FROM pg_control_system()) AS system_identifier,
               (SELECT timeline_id FROM pg_control_checkpoint()) AS timeline,
               pg_is_in_recovery() AS in_recovery, current_setting('data_checksums') = 'on' AS data_checksums,
               (SELECT rolname::text FROM pg_roles WHERE oid = 10) AS superuser,
               (SELECT setting FROM pg_settings WHERE name = 'shared_preload_libraries') AS preload
        """
    )
    assert row is not None
    properties, collations = await _databases(connection)
    return Identity(
        version=str(row["version"]).split()[0],
        major=int(row["major"]),
        system_identifier=str(row["system_identifier"]),
        timeline=int(row["timeline"]),
        in_recovery=bool(row["in_recovery"]),
        data_checksums=bool(row["data_checksums"]),
        superuser=str(row["superuser"]),
        databases=list(properties),
        roles=await read_roles(connection),
        properties=properties,
        preload_libraries=[part.strip().strip('"') for part in str(row["preload"] or "").split(",") if part.strip()],
        settings=await _portable_settings(connection),
        collation_versions=collations,
    )


async def read_roles(connection: Connection) -> list[str]:
    """All roles but PostgreSQL's own (``pg_...``)."""
    rows = await connection.fetch("SELECT rolname::text AS name FROM pg_roles WHERE rolname !~ '^pg_' ORDER BY 1")
    return [row["name"] for row in rows]


async def read_extensions(connection: Connection, database: str) -> list[str]:
    """``database.name version`` of every extension in the database of this connection."""
    rows = await connection.fetch("SELECT extname::text AS name, extversion AS version FROM pg_extension ORDER BY 1")
    return [f"{database}.{row['name']} {row['version']}" for row in rows]


_USED_COLLATIONS = """
    SELECT DISTINCT c.collname::text AS name, {} AS version FROM pg_collation c
    WHERE c.collversion IS NOT NULL
      AND (EXISTS (SELECT FROM pg_attribute a WHERE a.attcollation = c.oid AND a.attrelid >= 16384)
           OR EXISTS (SELECT FROM pg_type t WHERE t.typcollation = c.oid AND t.oid >= 16384))
    ORDER BY 1
"""


async def read_collations(connection: Connection, database: str) -> dict[str, str]:
    """Recorded versions of the collations that columns, indexes or domains of this database use."""
    rows = await connection.fetch(_USED_COLLATIONS.format("c.collversion"))
    return {f"{database}.{row['name']}": row["version"] for row in rows}


async def read_actual_collations(connection: Connection, database: str) -> dict[str, str | None]:
    """The versions by which this server sorts now: of the database, and of the collations that ``read_collations``
    names. None: this machine knows none."""
    found = {
        database: await connection.fetchval(
            "SELECT pg_database_collation_actual_version(oid) FROM pg_database WHERE datname = current_database()"
        )
    }
    try:
        rows = await connection.fetch(_USED_COLLATIONS.format("pg_collation_actual_version(c.oid)"))
    except asyncpg.PostgresConnectionError:
        raise
    except asyncpg.PostgresError:  # a locale of theirs is not installed here: none of them is vouched for
        rows = await connection.fetch(_USED_COLLATIONS.format("NULL::text"))
    return found | {f"{database}.{row['name']}": row["version"] for row in rows}


async def _databases(connection: Connection) -> tuple[dict[str, DatabaseProperties], dict[str, str]]:
    # Names of columns differ: 15 and 16 have daticulocale, 17 and later datlocale.
    rows = await connection.fetch(
        """
        SELECT d.datname::text AS name, pg_get_userbyid(d.datdba)::text AS owner,
               pg_encoding_to_char(d.encoding)::text AS encoding,
               d.datcollate::text AS collate, d.datctype::text AS ctype,
               d.datlocprovider::text AS provider,
               coalesce(to_jsonb(d) ->> 'datlocale', to_jsonb(d) ->> 'daticulocale') AS locale,
               d.datcollversion AS version, d.datacl::text[] AS privileges,
               (SELECT setconfig FROM pg_db_role_setting s WHERE s.setdatabase = d.oid AND s.setrole = 0) AS settings
        FROM pg_database d WHERE d.datallowconn AND NOT d.datistemplate ORDER BY 1
        """
    )
    properties = {
        row["name"]: DatabaseProperties(
            owner=row["owner"],
            encoding=row["encoding"],
            collate=row["collate"],
            ctype=row["ctype"],
            provider=row["provider"],
            locale=row["locale"],
            settings=list(row["settings"] or []),
            privileges=list(row["privileges"] or []),
        )
        for row in rows
    }
    return properties, {row["name"]: row["version"] for row in rows if row["version"]}


async def _portable_settings(connection: Connection) -> dict[str, str]:
    rows = await connection.fetch(
        """
        SELECT name, category, current_setting(name) AS value FROM pg_settings
        WHERE source IN ('configuration file', 'command line')
          AND context IN ('user', 'superuser', 'sighup', 'postmaster')
        ORDER BY name
        """
    )
    return {
        row["name"]: row["value"]
        for row in rows
        if row["category"].startswith(_PORTABLE_GROUPS)
        and row["name"] not in _NOT_PORTABLE
        and not row["name"].startswith("lc_")
    }


async def cluster_bytes(connection: Connection, databases: list[str]) -> int:
    """Sum of the sizes of the named databases; 0 when the role may not see one of them."""
    try:
        size = await connection.fetchval(
            "SELECT sum(pg_database_size(datname)) FROM pg_database WHERE datname = ANY($1::text[])", databases
        )
    except asyncpg.InsufficientPrivilegeError:
        return 0
    return int(size or 0)


async def identify(connection: Connection, login: PostgresLogin, oldest_major: int) -> Identity:
    """Raises SourceFailed for a server that is too old."""
    with translated("read the identity of PostgreSQL", login):
        try:
            identity = await read_identity(connection)
        except asyncpg.UndefinedColumnError as error:  # pg_database of versions before 15
            raise SourceFailed(_too_old(login, words_of(error), oldest_major)) from error
    if identity.major < oldest_major:
        raise SourceFailed(_too_old(login, identity.version, oldest_major))
    return identity


def _too_old(login: PostgresLogin, found: str, oldest_major: int) -> str:
    return f"PostgreSQL at {login.address} is too old ({found}): version {oldest_major} or later is needed. Upgrade it."
