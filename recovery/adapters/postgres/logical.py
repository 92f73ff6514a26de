"""A logical recovery point: ``pg_dump`` of each database and, from the very same snapshot, what its tables hold."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

from psycopg.conninfo import make_conninfo

from recovery.adapters.postgres.binaries import PostgresBinaries
from recovery.adapters.postgres.connection import Connection, close_connection, literal, open_connection, translated
from recovery.adapters.postgres.fingerprint import (
    Checksum,
    LargeObjects,
    Table,
    read_content,
    read_large_objects,
    read_sequences,
    read_tables,
)
from recovery.adapters.postgres.identity import Identity, cluster_bytes, identify, read_collations, read_extensions
from recovery.adapters.process import Child, clean_environment, password_file
from recovery.domain.recovery_point import BackupKind, PostgresSource, TableFingerprint
from recovery.errors import BadInput, SourceFailed
from recovery.ports.postgres import PostgresLogin

GLOBALS_NAME = "globals.sql"
OLDEST_MAJOR = 15
READERS = 2  # sessions that read fingerprints at once, over all databases

_LOCK_WAIT_MILLISECONDS = 60_000
_V = TypeVar("_V")


def dump_name(database: str) -> str:
    """Name of the artefact that holds a database's dump."""
    return f"{database}.dump"


@dataclass
class _Snapshot:
    """One database as it is at one moment: a session keeps its snapshot exported."""

    database: str
    session: Connection
    identifier: str
    tables: list[Table]
    sequences: dict[str, int]
    large_objects: LargeObjects = field(default_factory=lambda: LargeObjects(0, None))
    extensions: list[str] = field(default_factory=list)
    collations: dict[str, str] = field(default_factory=dict)


class _Stream:
    def __init__(self, name: str, source: LogicalSource, arguments: list[str | Path], database: str) -> None:
        self.name = name
        self._source = source
        self._arguments = arguments
        self._database = database

    async def chunks(self) -> AsyncIterator[bytes]:
        async with contextlib.aclosing(self._source.output(self._arguments, self._database)) as output:
            async for chunk in output:
                yield chunk


class LogicalSource:
    """``BackupSource`` of ``globals.sql`` and one ``<database>.dump`` (custom format, uncompressed) per database."""

    kind = BackupKind.LOGICAL

    def __init__(
        self,
        login: PostgresLogin,
        point_id: str,
        databases: Sequence[str],
        binaries: PostgresBinaries,
        *,
        readers: int = READERS,
    ) -> None:
        self._login = login
        self._point_id = point_id
        self._wanted = list(dict.fromkeys(databases)) or [login.database]
        self._binaries = binaries
        self._readers = asyncio.Semaphore(readers)
        self._snapshots: list[_Snapshot] = []
        self._reading: list[asyncio.Task[list[TableFingerprint]]] = []
        self._child: Child | None = None
        self._notes: list[str] = []
        self._identity: Identity
        self._size = 0
        self._moment: datetime | None = None
        self._lsn: str | None = None

    @property
    def expected_bytes(self) -> int:
        return sum(table.bytes for snapshot in self._snapshots for table in snapshot.tables if table.kind == "r")

    async def __aenter__(self) -> Self:
        try:
            await self._begin()
        except BaseException:
            await asyncio.shield(self._release())
            raise
        return self

    async def _begin(self) -> None:
        login = self._login
        with translated("start a logical backup", login):
            session = await open_connection(login)
        try:
            self._identity = await identify(session, login, OLDEST_MAJOR)
            if missing := [name for name in self._wanted if name not in self._identity.databases]:
                known = ", ".join(self._identity.databases)
                raise BadInput(f"PostgreSQL at {login.address} has no database {missing[0]!r}: it has {known}")
            with translated("export a snapshot", login):
                self._size = await cluster_bytes(session, self._wanted)
                position = "pg_last_wal_replay_lsn" if self._identity.in_recovery else "pg_current_wal_insert_lsn"
                self._lsn = await session.fetchval(f"SELECT {position}()::text")
                clock = "pg_last_xact_replay_timestamp" if self._identity.in_recovery else "clock_timestamp"
                self._moment = await session.fetchval(f"SELECT {clock}()")
                for database in self._wanted:
                    await self._export(database)
            self._passwords = bool(
                await session.fetchval("SELECT has_table_privilege('pg_catalog.pg_authid', 'SELECT')")
            )
        finally:
            await close_connection(session)
        if not self._passwords:
            self._note(f"globals.sql has no passwords of roles: user {login.user} may not read pg_authid")
        for snapshot in self._snapshots:
            self._reading += [
                asyncio.create_task(self._read(snapshot, part)) for part in _dealt(self._readable(snapshot))
            ]

    async def _export(self, database: str) -> None:
        session = await open_connection(self._login.at(database), stable_text=True)
        snapshot = _Snapshot(database, session, "", [], {})
        self._snapshots.append(snapshot)
        # Read before the snapshot: the dump reads each sequence later, so it never finds less.
        snapshot.sequences = await read_sequences(session, database)
        await session.transaction(isolation="repeatable_read", readonly=True).start()
        snapshot.identifier = str(await session.fetchval("SELECT pg_export_snapshot()"))
        snapshot.tables = await read_tables(session, database)
        snapshot.extensions = await read_extensions(session, database)
        snapshot.collations = await read_collations(session, database)

    def _readable(self, snapshot: _Snapshot) -> list[Table]:
        # A materialised view is filled anew by a restore; an extension's tables come from its script; a standby has no
        # rows of unlogged tables.
        return [
            table
            for table in snapshot.tables
            if table.kind == "r"
            and not table.of_extension
            and not (self._identity.in_recovery and table.persistence == "u")
        ]

    async def _read(self, snapshot: _Snapshot, tables: list[Table]) -> list[TableFingerprint]:
        async with self._readers:
            session = await open_connection(self._login.at(snapshot.database), stable_text=True)
            try:
                async with session.transaction(isolation="repeatable_read", readonly=True):
                    await session.execute(f"SET TRANSACTION SNAPSHOT {literal(snapshot.identifier)}")
                    contents = [await read_content(session, table, Checksum.TEXT) for table in tables]
                    found = [content.fingerprint(table) for table, content in zip(tables, contents, strict=True)]
                    if not tables:
                        snapshot.large_objects = await read_large_objects(session)
                    return found
            finally:
                await close_connection(session)

    def _note(self, text: str) -> None:
        self._notes.append(text)

    async def artefacts(self) -> AsyncIterator[_Stream]:
        major = self._identity.major
        login = self._login
        arguments: list[str | Path] = [
            await self._binaries.tool(major, "pg_dumpall"),
            "--globals-only",
            "--no-password",
        ]
        arguments += [] if self._passwords else ["--no-role-passwords"]
        yield _Stream(GLOBALS_NAME, self, [*arguments, f"--dbname={_conninfo(login)}"], login.database)
        for snapshot in self._snapshots:
            arguments = [
                await self._binaries.tool(major, "pg_dump"),
                "--format=custom",
                "--compress=0",  # the pipeline compresses
                "--no-password",
                f"--lock-wait-timeout={_LOCK_WAIT_MILLISECONDS}",
                f"--snapshot={snapshot.identifier}",
                f"--dbname={_conninfo(login.at(snapshot.database))}",
                *(["--no-unlogged-table-data"] if self._identity.in_recovery else []),
            ]
            yield _Stream(dump_name(snapshot.database), self, arguments, snapshot.database)

    async def output(self, arguments: list[str | Path], database: str) -> AsyncGenerator[bytes, None]:
        """What a dump program writes, to its end.

        Raises:
            SourceFailed: it failed, in its own words.
        """
        tool = Path(arguments[0]).name
        with password_file(self._login) as (extra, descriptors):
            environment = clean_environment(self._login) | extra
            async with Child(arguments, environment=environment, descriptors=descriptors) as child:
                self._child = child
                async for chunk in child.chunks():
                    yield chunk
                code = await child.wait()
                if code != 0:
                    words = child.stderr or f"it ended with code {code}"
                    raise SourceFailed(f"{tool} of database {database} at {self._login.address} failed: {words}")
                if child.stderr:
                    self._note(f"{tool} of {database}: {' '.join(child.stderr.split())}")

    async def finish(self) -> PostgresSource:
        identity = self._identity
        with translated("read what the tables hold", self._login):
            parts = await asyncio.gather(*self._reading)
            sequences_after: dict[str, int] = {}
            for snapshot in self._snapshots:
                await snapshot.session.execute("SELECT 1")  # it was there until the end, and so was its snapshot
                # A session without a snapshot: a sequence that was dropped meanwhile cannot be read in the old one.
                fresh = await open_connection(self._login.at(snapshot.database))
                try:
                    sequences_after |= await read_sequences(fresh, snapshot.database)
                finally:
                    await close_connection(fresh)
        objects = {snapshot.database: snapshot.large_objects for snapshot in self._snapshots}
        return PostgresSource(
            system_identifier=identity.system_identifier,
            server_version=identity.version,
            major=identity.major,
            timeline=identity.timeline,
            start_lsn=self._lsn,
            stop_lsn=None,
            databases=self._wanted,
            extensions=[name for snapshot in self._snapshots for name in snapshot.extensions],
            roles=identity.roles,
            collation_versions=_merged([identity.collation_versions, *(s.collations for s in self._snapshots)]),
            data_checksums=identity.data_checksums,
            cluster_bytes=self._size,
            last_commit_at=self._moment,
            tables=sorted((entry for part in parts for entry in part), key=lambda entry: entry.table),
            sequences=_merged([snapshot.sequences for snapshot in self._snapshots]),
            sequences_after=sequences_after,
            large_objects=sum(found.count for found in objects.values()),
            large_object_checksums={
                name: found.checksum for name, found in objects.items() if found.checksum is not None
            },
            fingerprints_taken="same-snapshot",
            fingerprint_lsn=self._lsn,
            superuser=identity.superuser,
            preload_libraries=identity.preload_libraries,
            settings=identity.settings,
            database_properties={name: identity.properties[name] for name in self._wanted},
            table_count=sum(len(self._readable(snapshot)) for snapshot in self._snapshots),
            notes=self._notes,
        )

    async def _release(self) -> None:
        for task in self._reading:
            task.cancel()
        await asyncio.gather(*self._reading, return_exceptions=True)
        if self._child is not None:
            await self._child.__aexit__(None, None, None)
        for snapshot in self._snapshots:
            await close_connection(snapshot.session)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.shield(self._release())


def _conninfo(login: PostgresLogin) -> str:
    return make_conninfo(host=login.host, port=login.port, user=login.user, dbname=login.database)


def _dealt(tables: list[Table]) -> list[list[Table]]:
    """One part per reader with about as many bytes each, and an empty part, which stands for the large objects."""
    parts: list[list[Table]] = [[] for _ in range(READERS)]
    sizes = [0] * READERS
    for table in sorted(tables, key=lambda table: -table.bytes):
        smallest = sizes.index(min(sizes))
        parts[smallest].append(table)
        sizes[smallest] += table.bytes
    return [part for part in parts if part] + [[]]


def _merged(parts: Sequence[dict[str, _V]]) -> dict[str, _V]:
    return {name: value for part in parts for name, value in part.items()}
