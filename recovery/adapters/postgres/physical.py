"""A physical recovery point: base backup over the replication protocol, canary, proof of unchanged tables."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections import deque
from collections.abc import AsyncIterator
from datetime import datetime
from types import TracebackType
from typing import Self

import asyncpg

from recovery.adapters.postgres.canary import lsn_number, write_canary
from recovery.adapters.postgres.connection import (
    DRIVER_FAILURES,
    Connection,
    close_connection,
    connected,
    open_connection,
    translated,
)
from recovery.adapters.postgres.identity import (
    Identity,
    cluster_bytes,
    identify,
    read_collations,
    read_extensions,
)
from recovery.adapters.postgres.replication import (
    OLDEST_MAJOR,
    ArchiveStart,
    BackupEnd,
    BackupHeader,
    Event,
    ManifestStart,
    ReplicationSession,
)
from recovery.adapters.postgres.standby_source import await_standby
from recovery.adapters.postgres.unchanged import FingerprintBudget, UnchangedTables, UnchangedTablesProof
from recovery.domain.chains import FIRST_MAJOR, POSTGRES_MANIFEST, no_incrementals
from recovery.domain.recovery_point import BackupKind, PostgresSource
from recovery.errors import RecoveryError, SourceFailed, Unreachable
from recovery.ports.postgres import FROM_THE_SERVER, BaseBackupOptions, IncrementalBase, PostgresLogin

_SAMPLE_SECONDS = 0.25


class _Stream:
    def __init__(self, name: str, source: PhysicalSource) -> None:
        self.name = name
        self._source = source

    async def chunks(self) -> AsyncIterator[bytes]:
        try:
            while (chunk := await self._source.next_data()) is not None:
                yield chunk
        except GeneratorExit:
            await self._source.abandon()
            raise


class PhysicalSource:
    """``BackupSource`` of one base backup: ``base.tar``, one ``<oid>.tar`` per tablespace, ``backup_manifest``.

    The server holds the WAL that the backup needs with a temporary slot of the same session: it vanishes with it.
    Nothing is read ahead of the consumer but one buffer of about 1 MiB.

    With ``options.standby`` that server streams the cluster, and ends the backup when it is promoted meanwhile. It
    accepts no writes and counts no changes: canary, fingerprints and identity are the primary's all the same. The
    backup's stop is where the standby's files are consistent, so what was read at the primary before counts only as
    far as it stands before that.
    """

    kind = BackupKind.PHYSICAL

    def __init__(
        self,
        login: PostgresLogin,
        point_id: str,
        *,
        fingerprints: FingerprintBudget | None = None,
        options: BaseBackupOptions = FROM_THE_SERVER,
    ) -> None:
        self._login = login
        self._point_id = point_id
        self._options = options
        self._budget = fingerprints or FingerprintBudget()
        self._streaming = options.standby or login
        self._replication = ReplicationSession(self._streaming)
        self._events: deque[Event] = deque()
        self._end: BackupEnd | None = None
        self._canaries: list[tuple[str, str]] = []  # value, LSN after its commit
        self._moments: list[tuple[datetime, int]] = []  # server's clock, LSN that was surely written by then
        self._notes = list(options.notes)
        self._fingerprinted_at = 0  # LSN that stands after all that the first fingerprints saw
        self._sampling: asyncio.Task[None] | None = None
        self._identity: Identity
        self._header: BackupHeader
        self._size = 0
        self._bases: list[str] = []  # what this one is incremental to

    @property
    def expected_bytes(self) -> int:
        return self._header.expected_bytes

    async def __aenter__(self) -> Self:
        try:
            await self._begin()
        except BaseException:
            await asyncio.shield(self._release())
            raise
        return self

    async def _begin(self) -> None:
        login = self._login
        with translated("start a base backup", login):
            self._session = await open_connection(login)
        self._identity = await identify(self._session, login, OLDEST_MAJOR)
        databases = sorted(self._identity.databases, key=lambda name: name != login.database)
        self._proof = UnchangedTablesProof(login, databases, self._budget)
        with translated("read what the tables hold", login):
            self._size = await cluster_bytes(self._session, databases)
            await self._proof.begin()
            await self._sample(self._session)
            self._fingerprinted_at = await self._position()
        await self._write_canary(self._point_id)
        if self._options.standby is not None:
            await self._await_standby(self._options.standby)
        self._header = await self._started()
        if self._options.standby is not None and self._header.timeline != self._identity.timeline:
            raise self._other_timeline(self._header.timeline, self._identity.timeline)
        # The second canary is younger than the start LSN: it is in the restored copy only if WAL was replayed.
        await self._write_canary(f"{self._point_id} during")
        self._sampling = asyncio.create_task(self._keep_sampling())

    async def _started(self) -> BackupHeader:
        """The incremental backup that was asked for; a full one where the server refuses it in its own words."""
        base = self._options.base
        if base is not None:
            try:
                header = await self._start(base)
            except SourceFailed as error:
                self._note(f"a full base backup, since an incremental one was refused: {error}")
                await self._replication.close()
                self._replication = ReplicationSession(self._streaming)
            else:
                self._bases = list(base.chain)
                return header
        return await self._start(None)

    async def _start(self, base: IncrementalBase | None) -> BackupHeader:
        await self._replication.open()
        await self._replication.query(
            f"CREATE_REPLICATION_SLOT recovery_plans_{secrets.token_hex(6)} TEMPORARY PHYSICAL RESERVE_WAL"
        )
        if base is not None:
            if self._identity.major < FIRST_MAJOR:
                raise SourceFailed(no_incrementals(self._login.address, self._identity.version))
            await self._replication.upload_manifest(base.manifest)
        return await self._replication.start_backup(
            f"recovery-plans {self._point_id}",
            checkpoint=self._options.checkpoint,
            incremental=base is not None,
        )

    async def _await_standby(self, standby: PostgresLogin) -> None:
        """Until it has what was read and written at the primary so far: its backup then ends after that."""
        with translated("read its position", self._login):
            position = str(await self._session.fetchval("SELECT pg_current_wal_flush_lsn()::text"))
        seconds = self._options.standby_seconds
        if not await await_standby(standby, self._identity.system_identifier, position, seconds):
            raise Unreachable(
                f"the standby at {standby.address} did not replay {position} within {seconds:g} s, or is none any more"
            )

    def _other_timeline(self, found: int, expected: int) -> SourceFailed:
        return SourceFailed(
            f"PostgreSQL at {self._streaming.address} is on timeline {found} in mid-backup, and the backup began on "
            f"timeline {expected}: a server was promoted meanwhile. This backup is not kept; take another one"
        )

    async def _write_canary(self, value: str) -> None:
        if self._identity.in_recovery:
            self._note("no canary was written: the source is a standby")
            return
        try:
            async with connected(self._login, "write the canary") as connection:
                self._canaries.append((value, await write_canary(connection, value)))
        except RecoveryError as error:
            self._note(f"no canary was written: {error}")

    def _note(self, text: str) -> None:
        if text not in self._notes:
            self._notes.append(text)

    async def _position(self) -> int:
        """LSN after all that a snapshot taken before shows."""
        position = "pg_last_wal_replay_lsn()" if self._identity.in_recovery else "pg_current_wal_insert_lsn()"
        return lsn_number(str(await self._session.fetchval(f"SELECT {position}::text")))

    async def _sample(self, connection: Connection) -> None:
        position = "pg_last_wal_replay_lsn()" if self._identity.in_recovery else "pg_current_wal_insert_lsn()"
        clock = "pg_last_xact_replay_timestamp()" if self._identity.in_recovery else "clock_timestamp()"
        # The clock is read first: what was committed by then stands before the position.
        row = await connection.fetchrow(f"SELECT moment, {position}::text AS lsn FROM (SELECT {clock} AS moment) m")
        if row is not None and row["moment"] is not None and row["lsn"] is not None:
            self._moments.append((row["moment"], lsn_number(row["lsn"])))

    async def _keep_sampling(self) -> None:
        with contextlib.suppress(asyncpg.PostgresError, *DRIVER_FAILURES):
            while True:
                await asyncio.sleep(_SAMPLE_SECONDS)
                await self._sample(self._session)

    async def artefacts(self) -> AsyncIterator[_Stream]:
        """The streams in the order in which the server sends them."""
        while (event := await self._next_event()) is not None:
            if isinstance(event, ArchiveStart):
                yield _Stream(event.name, self)
            elif isinstance(event, ManifestStart):
                yield _Stream(POSTGRES_MANIFEST, self)
            else:
                raise RuntimeError("a stream was not read to its end before the next one was asked for")

    async def _next_event(self) -> Event | None:
        """None at the end."""
        while not self._events:
            if self._end is not None:
                return None
            self._events.extend(await self._replication.events())
        event = self._events.popleft()
        if isinstance(event, BackupEnd):
            if event.timeline not in (0, self._header.timeline):
                raise self._other_timeline(event.timeline, self._header.timeline)
            self._end = event
            return None
        return event

    async def next_data(self) -> bytes | None:
        """The next buffer of the stream that is being read, None at its end."""
        event = await self._next_event()
        if event is None or isinstance(event, bytes):
            return event
        self._events.appendleft(event)
        return None

    async def abandon(self) -> None:
        """Ends the backup at the server: its consumer gave up."""
        await asyncio.shield(self._release())

    async def finish(self) -> PostgresSource:
        if self._end is None:
            raise RuntimeError("finish() before all streams were read")
        await self._stop_sampling()
        with translated("read what the tables hold after the backup", self._login):
            unchanged = await self._proof.conclude()
            extensions, collations = await self._per_database()
        return self._source(self._end, unchanged, extensions, collations)

    async def _per_database(self) -> tuple[list[str], dict[str, str]]:
        extensions: list[str] = []
        collations = dict(self._identity.collation_versions)
        for name in self._identity.databases:
            async with connected(self._login.at(name), "list extensions") as connection:
                extensions += await read_extensions(connection, name)
                collations |= await read_collations(connection, name)
        return extensions, collations

    def _source(
        self, end: BackupEnd, unchanged: UnchangedTables, extensions: list[str], collations: dict[str, str]
    ) -> PostgresSource:
        identity = self._identity
        stop = lsn_number(end.stop_lsn)
        if stop < self._fingerprinted_at:  # a standby's files may be consistent at an earlier place than it replayed
            unchanged = UnchangedTables(table_count=unchanged.table_count, large_objects=unchanged.large_objects)
            self._note("the standby's backup ends before the fingerprints were taken: none of them counts")
        if not identity.data_checksums:
            self._note("the source keeps no page checksums: damage that its disks did earlier cannot be noticed")
        canary = next((value for value, lsn in reversed(self._canaries) if lsn_number(lsn) <= stop), None)
        if canary is None and self._canaries:
            self._note("no canary is in this backup: the standby's backup ends before it was written")
        self._note(
            f"{len(unchanged.fingerprints)} of {unchanged.table_count} tables were the same before and after the backup"
            + (f"; {unchanged.left_out} were too large to be compared within the budget" if unchanged.left_out else "")
        )
        return PostgresSource(
            system_identifier=identity.system_identifier,
            server_version=identity.version,
            major=identity.major,
            timeline=self._header.timeline,
            start_lsn=self._header.start_lsn,
            stop_lsn=end.stop_lsn,
            databases=identity.databases,
            extensions=extensions,
            roles=identity.roles,
            collation_versions=collations,
            data_checksums=identity.data_checksums,
            cluster_bytes=self._size or self._header.expected_bytes,
            last_commit_at=max((moment for moment, lsn in self._moments if lsn <= stop), default=None),
            canary=canary,
            tables=unchanged.fingerprints,
            sequences=unchanged.sequences_before,
            sequences_after=unchanged.sequences_after,
            large_objects=unchanged.large_objects,
            large_object_checksums=unchanged.large_object_checksums,
            fingerprints_taken="unchanged-tables",
            superuser=identity.superuser,
            preload_libraries=identity.preload_libraries,
            settings=identity.settings,
            database_properties=identity.properties,
            tablespaces=self._header.tablespaces,
            bases=self._bases,
            streamed_from=self._streaming.address if self._options.standby is not None else None,
            table_count=unchanged.table_count,
            notes=self._notes,
        )

    async def _stop_sampling(self) -> None:
        if self._sampling is not None:
            self._sampling.cancel()
            await asyncio.gather(self._sampling, return_exceptions=True)
            self._sampling = None

    async def _release(self) -> None:
        await self._replication.close()
        await self._stop_sampling()
        if hasattr(self, "_proof"):
            await self._proof.close()
        if hasattr(self, "_session"):
            await close_connection(self._session)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.shield(self._release())
