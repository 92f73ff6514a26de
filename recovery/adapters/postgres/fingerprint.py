"""What tables, sequences and large objects hold, as numbers that can be compared after a restore."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import asyncpg

from recovery.adapters.postgres.connection import Connection, quoted
from recovery.domain.recovery_point import TableFingerprint


def _summed(columns: str, rows: str, seed: int) -> str:
    """A query for the number of ``rows``, and for ``values``: what moves with each value, and with the row it is in.

    ``hash_record_extended`` adds up the hashes of a row's columns, each times a power of 31 (``rowtypes.c``). Where two
    rows swap a value, one row's hash gains what the other one loses: the sum may stay, so it is written beside their
    exclusive or, which would stay once in 2^63. Alone that would not see a row that is there twice, or not at all.
    ``OFFSET 0`` keeps the planner from hashing each row for each of the two.
    """
    return (
        "SELECT count(*) AS rows, sum(hash)::text || '/' || bit_xor(hash)::text AS values "
        f"FROM (SELECT hash_record_extended(ROW({columns}), {seed}) AS hash FROM {rows} OFFSET 0) hashes"
    )


_HASHED = ("bool", "bytea", "date", "int2", "int4", "name", "oid", "text", "uuid", "varchar")
"""Types whose hash is one of all that is stored, and not of what counts as equal."""
_SENT = {
    "float4": "float4send", "float8": "float8send", "int8": "int8send", "interval": "interval_send",
    "numeric": "numeric_send", "time": "time_send", "timestamp": "timestamp_send", "timestamptz": "timestamptz_send",
}  # fmt: skip
"""Types whose bytes are hashed, since their own hash is narrower: 1.0 and 1.00 are the same numeric, and 64 bits are
folded into 32."""
_TEXT_HASH = 'hashtextextended(ROW(x.*)::text COLLATE "C", 0)'
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
    hashed: list[str]  # expressions over columns: PostgreSQL hashes all that is stored
    worded: list[str]  # the other columns: they count with their text

    @property
    def key(self) -> str:
        return f"{self.database}.{self.schema}.{self.name}"

    @property
    def sql(self) -> str:
        return f"{quoted(self.schema)}.{quoted(self.name)}"


class Checksum(Enum):
    """What is summed over a table's rows.

    ``TEXT``: hashes of their text: the same wherever the rows are, object identifiers included.
    ``VALUES``: hashes of their values, which takes a fraction of the time: for servers of one major version.
    """

    NONE = "none"
    TEXT = "text"
    VALUES = "values"


@dataclass(frozen=True)
class Content:
    """``checksum`` (of text), ``values`` are None when they were not asked for, or when a row is too long for them."""

    rows: int
    checksum: str | None
    values: str | None = None

    def fingerprint(self, table: Table) -> TableFingerprint:
        return TableFingerprint(table=table.key, rows=self.rows, checksum=self.checksum, hashes=self.values)


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
                       AND d.deptype = 'e') AS of_extension,
               {_columns()}
        FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE c.relkind IN ('r', 'm') AND c.relpersistence <> 't'
          AND {"" if system else "NOT"} (n.nspname IN ('pg_catalog', 'information_schema'))
          AND n.nspname !~ '^pg_toast'
        ORDER BY bytes, schema, name
        """
    )
    return [Table(database=database, **{key: row[key] for key in row.keys()}) for row in rows]  # noqa: SIM118


def _columns() -> str:
    """Two arrays of expressions: what can be hashed as it is, and the columns that have to become text before."""
    bytes_of = " ".join(
        f"WHEN 'pg_catalog.{kind}'::regtype THEN format('{send}(x.%I)', attname)" for kind, send in _SENT.items()
    )
    exact = ", ".join(f"'pg_catalog.{kind}'::regtype" for kind in (*_HASHED, *_SENT))
    columns = f"""
        SELECT a.attnum, a.attname, a.atttypid, a.atttypid IN ({exact})
               AND coalesce(l.collisdeterministic, t.typcollation = 0) AS exact
        FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid LEFT JOIN pg_collation l ON l.oid = a.attcollation
        WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
    """
    return f"""
        ARRAY(SELECT CASE atttypid {bytes_of} ELSE format('x.%I', attname) END
              FROM ({columns}) each WHERE exact ORDER BY attnum) AS hashed,
        ARRAY(SELECT format('x.%I', attname) FROM ({columns}) each WHERE NOT exact ORDER BY attnum) AS worded
    """


async def read_content(connection: Connection, table: Table, checksum: Checksum) -> Content:
    """Reads every row; with a checksum every column of it, TOAST included. No checksum depends on the order of rows.

    Call it in a session with ``STABLE_TEXT``. Raises what the driver raises.
    """
    rows = f"ONLY {table.sql} x"
    query = {
        Checksum.NONE: f"SELECT count(*) AS rows FROM {rows}",
        Checksum.TEXT: f"SELECT count(*) AS rows, sum({_TEXT_HASH})::text AS checksum FROM {rows}",
        Checksum.VALUES: _summed(_values(table), rows, 0),
    }[checksum]
    try:
        async with connection.transaction():  # a savepoint where the caller is in a transaction
            row = await connection.fetchrow(query)
    except (asyncpg.ProgramLimitExceededError, asyncpg.OutOfMemoryError, asyncpg.InternalServerError):
        if checksum is Checksum.NONE:
            raise
        return await _read_in_columns(connection, table)
    assert row is not None
    nothing = "0" if row["rows"] == 0 else None  # the sum over no rows
    return Content(
        int(row["rows"]),
        (row["checksum"] or nothing) if checksum is Checksum.TEXT else None,
        (row["values"] or nothing) if checksum is Checksum.VALUES else None,
    )


def _values(table: Table) -> str:
    words = [f'ROW({", ".join(table.worded)})::text COLLATE "C"'] if table.worded else []
    return ", ".join([*table.hashed, *words])


async def read_horizon(connection: Connection) -> int:
    """The oldest transaction (xid8) that had not ended in this session's snapshot, or the next one that will begin.

    A row version that the snapshot does not show, and a later one does, was written by it or by a later one.
    """
    return int(await connection.fetchval("SELECT pg_snapshot_xmin(pg_current_snapshot())::text"))


async def count_versions(connection: Connection, table: Table, horizon: int) -> tuple[int, int]:
    """Rows, and how many of them a snapshot with ``horizon`` need not have shown.

    Where there is none of those and there are as many rows as before, they are the same row versions: versions never
    change, so none of their values has to be read for it where ``read_definitions`` is the same as well. Versions that
    were frozen for longer than ids of transactions last may count although they are old.
    """
    row = await connection.fetchrow(
        f"SELECT count(*) AS rows, count(*) FILTER (WHERE age(x.xmin) <= age('{horizon}'::xid8::xid)) AS later "
        f"FROM ONLY {table.sql} x"
    )
    assert row is not None
    return int(row["rows"]), int(row["later"])


async def read_definitions(connection: Connection) -> str:
    """A number that changes with every definition by which stored rows become text: columns, types, names."""
    sources = [f"SELECT '{name}' AS source, ctid, xmin FROM pg_catalog.{name}" for name in _DEFINING]
    defined = f"({' UNION ALL '.join(sources)}) x"
    queries = (_summed("source, ctid, xmin", defined, 1), _summed("oid, rolname", "pg_roles", 1))
    return " ".join([str(await connection.fetchval(f"SELECT values FROM ({query}) x")) for query in queries])


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
