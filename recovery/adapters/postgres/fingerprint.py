"""What tables, sequences and large objects hold, as numbers that can be compared after a restore."""

from __future__ import annotations

from dataclasses import dataclass

import asyncpg

from recovery.adapters.postgres.connection import Connection, quoted
from recovery.domain.recovery_point import TableFingerprint

_VERSIONS = "sum(hashtextextended(x.ctid::text || ' ' || x.xmin::text COLLATE \"C\", 1))::text"
_DEFINING = (
    "pg_attribute", "pg_class", "pg_collation", "pg_enum", "pg_namespace", "pg_operator", "pg_proc", "pg_ts_config",
    "pg_ts_dict", "pg_type",
)  # fmt: skip
"""Catalogues that decide how a stored row reads as text, names of what reg* types point at included."""


@dataclass(frozen=True)
class Table:
    """A relation that stores rows. ``bytes`` includes TOAST."""

    oid: int
    database: str
    schema: str
    name: str
    kind: str  # pg_class.relkind: r, m
    persistence: str  # pg_class.relpersistence: p, u
    bytes: int
    filenode: int
    changes: int  # inserts + updates + deletes that statistics have counted
    populated: bool
    of_extension: bool

    @property
    def key(self) -> str:
        return f"{self.database}.{self.schema}.{self.name}"

    @property
    def sql(self) -> str:
        return f"{quoted(self.schema)}.{quoted(self.name)}"


@dataclass(frozen=True)
class Content:
    """``checksum`` is None when a row is too long to be written as text; ``versions`` sums the rows' ctid and xmin."""

    rows: int
    checksum: str | None
    versions: str = ""

    def fingerprint(self, table: Table) -> TableFingerprint:
        return TableFingerprint(table=table.key, rows=self.rows, checksum=self.checksum)


@dataclass(frozen=True)
class LargeObjects:
    count: int
    checksum: str | None


async def read_tables(connection: Connection, database: str, *, system: bool = False) -> list[Table]:
    """Ordinary tables (partitions included) and materialised views, the smallest first; without temporary ones.

    ``system``: only the tables of the system catalogue instead of the users' ones.
    """
    rows = await connection.fetch(
        f"""
        SELECT c.oid::bigint AS oid, n.nspname::text AS schema, c.relname::text AS name, c.relkind::text AS kind,
               c.relpersistence::text AS persistence, pg_table_size(c.oid) AS bytes,
               coalesce(pg_relation_filenode(c.oid), 0)::bigint AS filenode, c.relispopulated AS populated,
               pg_stat_get_tuples_inserted(c.oid) + pg_stat_get_tuples_updated(c.oid)
                   + pg_stat_get_tuples_deleted(c.oid) AS changes,
               EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid
                       AND d.deptype = 'e') AS of_extension
        FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE c.relkind IN ('r', 'm') AND c.relpersistence <> 't'
          AND {"" if system else "NOT"} (n.nspname IN ('pg_catalog', 'information_schema'))
          AND n.nspname !~ '^pg_toast'
        ORDER BY bytes, schema, name
        """
    )
    return [Table(database=database, **{key: row[key] for key in row.keys()}) for row in rows]  # noqa: SIM118


async def read_content(connection: Connection, table: Table, *, checksum: bool = True) -> Content:
    """Reads every column of every row, TOAST included. The checksum does not depend on the order of rows.

    Call it in a session with ``STABLE_TEXT``. Raises what the driver raises.
    """
    row_hash = 'sum(hashtextextended(ROW(x.*)::text COLLATE "C", 0))::text' if checksum else "NULL"
    try:
        async with connection.transaction():  # a savepoint where the caller is in a transaction
            row = await connection.fetchrow(
                f"SELECT count(*) AS rows, coalesce({row_hash}, '0') AS checksum, "
                f"coalesce({_VERSIONS}, '0') AS versions FROM ONLY {table.sql} x"
            )
    except (asyncpg.ProgramLimitExceededError, asyncpg.OutOfMemoryError, asyncpg.InternalServerError):
        if not checksum:
            raise
        return await _read_in_columns(connection, table)
    assert row is not None
    return Content(int(row["rows"]), row["checksum"] if checksum else None, row["versions"])


async def has_versions(connection: Connection, table: Table, content: Content) -> bool:
    """Whether the table consists of the row versions that ``content`` was read from.

    A version never changes once it is written, and its place is not used again by the same transaction: where
    ``read_definitions`` is the same as well, so is every value, and none of them has to be read for it.
    """
    row = await connection.fetchrow(
        f"SELECT count(*) AS rows, coalesce({_VERSIONS}, '0') AS versions FROM ONLY {table.sql} x"
    )
    assert row is not None
    return (int(row["rows"]), row["versions"]) == (content.rows, content.versions)


async def read_definitions(connection: Connection) -> str:
    """A number that changes with every definition by which stored rows become text: columns, types, names."""
    sources = [f"SELECT '{name}' AS source, ctid, xmin FROM pg_catalog.{name}" for name in _DEFINING]
    return str(
        await connection.fetchval(
            "SELECT sum(hashtextextended(source || ' ' || ctid::text || ' ' || xmin::text, 1))::text "
            "    || (SELECT ' ' || sum(hashtextextended(oid::text || ' ' || rolname::text, 1))::text FROM pg_roles) "
            f"FROM ({' UNION ALL '.join(sources)}) x"
        )
    )


async def _read_in_columns(connection: Connection, table: Table) -> Content:
    """For rows whose text would exceed 1 GB: every column is read on its own, and there is no checksum."""
    columns = await connection.fetch(
        "SELECT attname::text AS name FROM pg_attribute WHERE attrelid = $1 AND attnum > 0 AND NOT attisdropped",
        table.oid,
    )
    reads = ", ".join(f"count(octet_length({quoted(row['name'])}::text))" for row in columns)
    row = await connection.fetchrow(f"SELECT count(*) AS rows{', ' + reads if reads else ''} FROM ONLY {table.sql}")
    assert row is not None
    return Content(int(row["rows"]), None)


async def read_sequences(connection: Connection, database: str) -> dict[str, int]:
    """Last value of every ascending or descending sequence that does not wrap around.

    A sequence that was never used counts as one step before its start.
    """
    rows = await connection.fetch(
        """
        SELECT schemaname::text AS schema, sequencename::text AS name,
               coalesce(last_value, start_value - increment_by) AS value
        FROM pg_sequences WHERE NOT cycle ORDER BY 1, 2
        """
    )
    return {f"{database}.{row['schema']}.{row['name']}": int(row["value"]) for row in rows}


async def read_large_objects(connection: Connection) -> LargeObjects:
    """Their number, and a checksum over identity and content of all of them where the role may read them."""
    count = int(await connection.fetchval("SELECT count(*) FROM pg_largeobject_metadata") or 0)
    if not count:
        return LargeObjects(0, "0")
    try:
        async with connection.transaction():  # a savepoint where the caller is in a transaction
            checksum = await connection.fetchval(
                "SELECT sum(hashtextextended(oid::text || ' ' || encode(sha256(lo_get(oid)), 'hex'), 0))::text "
                "FROM pg_largeobject_metadata"
            )
    except (asyncpg.InsufficientPrivilegeError, asyncpg.ProgramLimitExceededError, asyncpg.InvalidParameterValueError):
        return LargeObjects(count, None)
    return LargeObjects(count, checksum)
