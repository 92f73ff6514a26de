"""Transactions in the output of ``pg_waldump``: commit, relations touched, and whether they were anybody's."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import asyncpg

from recovery.adapters.postgres.canary import SCHEMA
from recovery.adapters.postgres.connection import connected
from recovery.domain.divergence import LISTED, LostTransaction
from recovery.ports.postgres import PostgresLogin

FileNode = tuple[int, int, int]
"""Tablespace, database and file of a relation."""

_RECORD = re.compile(
    r"^rmgr: (\S+)\s+len \(rec/tot\):\s*\d+/\s*\d+, tx:\s*(\d+), lsn: ([0-9A-F]+/[0-9A-F]+), .*?desc: (.*)$"
)
_COMMIT = re.compile(r"COMMIT(?:_PREPARED)? (?:(\d+): )?(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d)(\.\d+)? ")
_SUBTRANSACTIONS = re.compile(r"; subxacts: ((?:\d+ ?)+)")
_RELATION = re.compile(r"\brel (\d+)/(\d+)/(\d+)")

# Written by ANALYZE, which autovacuum runs: pg_statistic and pg_statistic_ext_data with TOAST and indexes.
_STATISTICS = {2619, 2696, 2840, 2841, 3429, 3430, 3431, 3433}
_STATISTIC_NAMES = ("pg_catalog.pg_statistic", "pg_catalog.pg_statistic_ext_data")
_BESIDE = {"pg_catalog.pg_class", "pg_catalog.pg_database"}


@dataclass
class _Open:
    relations: set[FileNode] = field(default_factory=set)
    records: int = 0
    only_in_place: bool = True


@dataclass(frozen=True)
class _Committed:
    xid: int
    at: datetime
    lsn: str
    work: _Open


class TransactionReader:
    """Takes the lines one by one; keeps the first 10,000 commits and counts the others as the user's."""

    def __init__(self) -> None:
        self._open: dict[int, _Open] = {}
        self._committed: list[_Committed] = []
        self._more = 0
        self._last: datetime | None = None

    @property
    def filenodes(self) -> set[FileNode]:
        """Of the listed transactions."""
        return {node for each in self._committed for node in each.work.relations}

    def read(self, line: str) -> None:
        match = _RECORD.match(line)
        if match is None:
            return
        manager, xid, lsn, description = match[1], int(match[2]), match[3], match[4]
        if manager == "Transaction":
            self._transaction(xid, lsn, description)
        elif xid:
            work = self._open.setdefault(xid, _Open())
            work.records += 1
            work.only_in_place = work.only_in_place and description.startswith("INPLACE")
            work.relations |= {(int(m[1]), int(m[2]), int(m[3])) for m in _RELATION.finditer(description)}

    def _transaction(self, xid: int, lsn: str, description: str) -> None:
        match = _COMMIT.match(description)
        if match is None:
            if description.startswith("ABORT"):
                self._open.pop(xid, None)
            return
        xid = int(match[1]) if match[1] else xid
        work = self._open.pop(xid, _Open(only_in_place=False))
        found = _SUBTRANSACTIONS.search(description)
        for sub in found[1].split() if found else []:
            part = self._open.pop(int(sub), None)
            if part is not None:
                work.relations |= part.relations
                work.records += part.records
                work.only_in_place = work.only_in_place and part.only_in_place
        at = datetime.fromisoformat(f"{match[2]}{(match[3] or '')[:7]}").replace(tzinfo=UTC)
        self._last = at
        if len(self._committed) < LISTED:
            self._committed.append(_Committed(xid, at, lsn, work))
        else:
            self._more += 1

    def summary(self, names: Mapping[FileNode, str]) -> dict[str, Any]:
        """Fields of ``Divergence``."""
        listed = [_listed(each, names) for each in self._committed]
        users = [each for each in listed if not each.maintenance]
        return {
            "transactions": listed,
            "count": len(users) + self._more,
            "maintenance_count": len(listed) - len(users),
            "first_commit_at": users[0].committed_at if users else None,
            "last_commit_at": self._last if self._more else users[-1].committed_at if users else None,
        }


def _listed(each: _Committed, names: Mapping[FileNode, str]) -> LostTransaction:
    shown = {names.get(node, f"{node[1]}/{node[2]}") for node in each.work.relations}
    return LostTransaction(
        xid=each.xid,
        committed_at=each.at,
        lsn=each.lsn,
        relations=sorted(_users(shown) or shown),
        records=each.work.records,
        maintenance=_is_maintenance(each.work, names),
    )


def _users(shown: set[str]) -> set[str]:
    return {name for name in shown if ".pg_catalog." not in name}


def _is_maintenance(work: _Open, names: Mapping[FileNode, str]) -> bool:
    """ANALYZE's writes, or our own probe's. What is not known is taken for the user's."""
    if not work.relations:
        return False
    kinds = {_kind(node, names) for node in work.relations}
    ours = all(kind.startswith(f"{SCHEMA}.") for kind in kinds)
    statistics = bool(kinds & set(_STATISTIC_NAMES)) and kinds <= {*_STATISTIC_NAMES, *_BESIDE}
    return ours or statistics or (work.only_in_place and kinds <= _BESIDE)


def _kind(node: FileNode, names: Mapping[FileNode, str]) -> str:
    if node in names:
        return names[node].partition(".")[2]
    if node[2] in _STATISTICS:
        return _STATISTIC_NAMES[0]
    return f"{node[1]}/{node[2]}"


async def name_relations(nodes: Collection[FileNode], login: PostgresLogin) -> dict[FileNode, str]:
    """``database.schema.table`` of the files, as the new primary knows them: it is a copy of the same cluster.

    Of indexes and TOAST tables the name of their table. A table that was made or rewritten after the fork has none.

    Raises:
        Unreachable, Refused: it cannot be asked.
    """
    async with connected(login, "name relations") as connection:
        rows = await connection.fetch("SELECT oid::int8, datname::text FROM pg_database WHERE datallowconn")
    found: dict[FileNode, str] = {}
    shared = {node for node in nodes if node[1] == 0}
    for oid, database in rows:
        wanted = [node for node in nodes if node[1] == oid]
        if shared and database == login.database:
            wanted += shared
        if wanted:
            found |= await _names_in(login.at(database), wanted)
    return found


_NAMES = """
WITH node AS (SELECT * FROM unnest($1::int8[], $2::int8[], $3::int8[]) AS n(space, base, file)),
relation AS (
    SELECT node.*, pg_filenode_relation(
        CASE WHEN space = (SELECT oid FROM pg_tablespace WHERE spcname = 'pg_default') THEN 0 ELSE space END::oid,
        file::oid)::oid AS oid FROM node
), owned AS (
    SELECT space, base, file, coalesce(toast.oid, indexed.oid, held.oid, relation.oid) AS oid FROM relation
    LEFT JOIN pg_index ON indexrelid = relation.oid
    LEFT JOIN pg_class indexed ON indexed.oid = indrelid
    LEFT JOIN pg_class held ON held.reltoastrelid = relation.oid
    LEFT JOIN pg_class toast ON toast.reltoastrelid = indexed.oid
)
SELECT space, base, file, nspname || '.' || relname AS name
FROM owned JOIN pg_class c ON c.oid = owned.oid JOIN pg_namespace n ON n.oid = relnamespace
"""


async def _names_in(login: PostgresLogin, nodes: Collection[FileNode]) -> dict[FileNode, str]:
    spaces, bases, numbers = ([node[part] for node in nodes] for part in range(3))
    async with connected(login, "name relations") as connection:
        try:
            rows = await connection.fetch(_NAMES, spaces, bases, numbers)
        except asyncpg.UndefinedFunctionError:
            return {}
    return {(row["space"], row["base"], row["file"]): f"{login.database}.{row['name']}" for row in rows}
