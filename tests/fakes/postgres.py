"""A PostgreSQL site in memory: servers, databases and points without a process. The contract suite holds it true."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from recovery.domain.recovery_point import BackupKind, CheckResult, Manifest, PostgresSource, VerdictState
from recovery.errors import BadInput, Corrupt, RecoveryError, Refused, RestoreFailed
from recovery.ports.postgres import (
    FROM_THE_SERVER,
    BackupSource,
    BaseBackupOptions,
    PointReader,
    PostgresLogin,
    PostgresPlace,
    Progress,
    Restored,
    RestoredDatabase,
    RestoreOptions,
)

MAJOR = 16
CONTENT = {
    BackupKind.PHYSICAL: {"base.tar": b"base" * 200_000, "backup_manifest": b"{}"},
    BackupKind.LOGICAL: {"globals.sql": b"CREATE ROLE clerk;", "shop.dump": b"PGDMP" * 160_000},
}


def source_identity(kind: BackupKind) -> PostgresSource:
    return PostgresSource(
        system_identifier="7300000000000000001",
        server_version="16.14",
        major=MAJOR,
        timeline=1,
        start_lsn="0/2000028",
        stop_lsn="0/2000100" if kind is BackupKind.PHYSICAL else None,
        databases=["shop"],
        roles=["postgres", "clerk"],
        canary="point during" if kind is BackupKind.PHYSICAL else None,
        table_count=1,
    )


@dataclass
class _Stream:
    name: str
    body: bytes

    async def chunks(self) -> AsyncIterator[bytes]:
        yield self.body


class FakeSource:
    """Gives ``CONTENT``; ``open`` counts the running ones."""

    def __init__(self, kind: BackupKind, site: FakePostgres) -> None:
        self.kind = kind
        self._site = site
        self._read = False

    @property
    def expected_bytes(self) -> int:
        return sum(len(body) for body in CONTENT[self.kind].values())

    async def __aenter__(self) -> Self:
        self._site.open_sources += 1
        return self

    async def artefacts(self) -> AsyncIterator[_Stream]:
        for name, body in CONTENT[self.kind].items():
            yield _Stream(name, body)
        self._read = True

    async def finish(self) -> PostgresSource:
        if not self._read:
            raise RuntimeError("finish() before all streams were read")
        return source_identity(self.kind)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._site.open_sources -= 1


@dataclass
class FakeServer:
    restore_id: str
    restored: Restored
    read_only: bool


class FakeHost:
    def __init__(self, site: FakePostgres) -> None:
        self._site = site

    async def majors(self) -> dict[int, str]:
        return {MAJOR: "16.14"}

    async def extensions(self, major: int) -> set[str] | None:
        return {"plpgsql"}

    async def free_bytes(self, path: Path) -> int:
        return self._site.free

    async def is_empty(self, place: PostgresPlace) -> bool:
        return place.data_directory not in self._site.servers

    async def is_running(self, place: PostgresPlace) -> bool:
        return place.data_directory in self._site.running

    async def start(self, place: PostgresPlace, *, timeout: float = 60.0) -> None:
        if place.data_directory not in self._site.servers:
            raise Refused(f"{place.data_directory} is not a PostgreSQL data directory")
        self._site.running.add(place.data_directory)

    async def stop(self, place: PostgresPlace, *, patience: float = 10.0) -> None:
        self._site.running.discard(place.data_directory)


@dataclass
class FakePostgres:
    """``PostgresRecovery``. Set ``failing_checks`` to make checks of these names fail."""

    free: int = 1 << 40
    failing_checks: set[str] = field(default_factory=set)
    servers: dict[Path, FakeServer] = field(default_factory=dict)
    running: set[Path] = field(default_factory=set)
    databases: dict[str, tuple[str, bool]] = field(default_factory=lambda: {"shop": ("", False)})
    open_sources: int = 0

    @property
    def host(self) -> FakeHost:
        return FakeHost(self)

    def physical_source(
        self, login: PostgresLogin, point_id: str, options: BaseBackupOptions = FROM_THE_SERVER
    ) -> AbstractAsyncContextManager[BackupSource]:
        return FakeSource(BackupKind.PHYSICAL, self)

    def logical_source(
        self, login: PostgresLogin, point_id: str, databases: Sequence[str]
    ) -> AbstractAsyncContextManager[BackupSource]:
        return FakeSource(BackupKind.LOGICAL, self)

    async def restore_physical(
        self, reader: PointReader, place: PostgresPlace, options: RestoreOptions, progress: Progress | None = None
    ) -> Restored:
        _needs(reader.manifest, BackupKind.PHYSICAL)
        earlier = self.servers.get(place.data_directory)
        if earlier is not None and earlier.restore_id == options.restore_id:
            self.running.add(place.data_directory)
            return earlier.restored
        if reader.manifest.postgres.major != MAJOR:
            raise Refused(f"the point is of PostgreSQL {reader.manifest.postgres.major}, and this machine has {MAJOR}")
        if earlier is not None:
            raise Refused(f"{place.data_directory} is not empty: a restore overwrites nothing")
        done = await _read(reader, progress)
        restored = Restored(place, done, reader.manifest.postgres.last_commit_at)
        self.servers[place.data_directory] = FakeServer(options.restore_id, restored, options.read_only)
        self.running.add(place.data_directory)
        return restored

    async def remove_restored(self, place: PostgresPlace, restore_id: str) -> bool:
        server = self.servers.get(place.data_directory)
        if server is None:
            return False
        if server.restore_id != restore_id:
            raise Refused(f"{place.data_directory} belongs to restore {server.restore_id}")
        del self.servers[place.data_directory]
        self.running.discard(place.data_directory)
        return True

    async def restore_logical(
        self,
        reader: PointReader,
        login: PostgresLogin,
        options: RestoreOptions,
        *,
        source_database: str,
        database: str | None = None,
        progress: Progress | None = None,
    ) -> RestoredDatabase:
        _needs(reader.manifest, BackupKind.LOGICAL)
        name = database or source_database
        if source_database not in reader.manifest.postgres.databases:
            raise BadInput(f"the point holds no database {source_database!r}")
        if self.databases.get(name, ("", False))[0] == options.restore_id:
            return RestoredDatabase(name, reader.manifest.plain_bytes)
        if name in self.databases:
            raise Refused(f"database {name!r} is not empty: a restore overwrites nothing")
        done = await _read(reader, progress)
        self.databases[name] = (options.restore_id, options.read_only)
        return RestoredDatabase(name, done)

    async def remove_restored_database(self, login: PostgresLogin, database: str, restore_id: str) -> bool:
        if database not in self.databases:
            return False
        if self.databases[database][0] != restore_id:
            raise Refused(f"database {database!r} is not the work of restore {restore_id}")
        del self.databases[database]
        return True

    async def set_read_only(self, place: PostgresPlace, read_only: bool) -> None:
        if place.data_directory not in self.servers:
            raise Refused(f"{place.data_directory} was not restored by recovery-plans")
        self.servers[place.data_directory].read_only = read_only

    async def set_database_read_only(self, login: PostgresLogin, database: str, read_only: bool) -> None:
        if database not in self.databases:
            raise RestoreFailed(f"there is no database {database!r}")
        self.databases[database] = (self.databases[database][0], read_only)

    async def verify_restored(
        self,
        manifest: Manifest,
        login: PostgresLogin,
        critical_tables: Sequence[str],
        *,
        database: str | None = None,
        everything: bool = False,
    ) -> list[CheckResult]:
        return self._checks()

    async def validate(
        self,
        reader: PointReader,
        scratch_folder: Path,
        critical_tables: Sequence[str],
        progress: Progress | None = None,
    ) -> tuple[VerdictState, str, list[CheckResult]]:
        try:
            await _read(reader, progress)
        except Corrupt as error:
            return VerdictState.CORRUPT, str(error), []
        except RecoveryError as error:
            return VerdictState.FAILED, str(error), []
        checks = self._checks()
        failed = [check.name for check in checks if not check.passed]
        if failed:
            return VerdictState.RESTORE_FAILED, f"check {failed[0]}", checks
        return VerdictState.VALID, "restored, and all checks passed", checks

    def _checks(self) -> list[CheckResult]:
        names = ("tables-readable", "critical-tables", "fingerprints", "sequences", "large-objects", "roles")
        return [CheckResult(name=name, passed=name not in self.failing_checks) for name in names]


def _needs(manifest: Manifest, kind: BackupKind) -> None:
    if manifest.kind is not kind:
        raise BadInput(f"{manifest.point_id} is a {manifest.kind} point")


async def _read(reader: PointReader, progress: Progress | None) -> int:
    done = 0
    for artefact in reader.manifest.artefacts:
        async for chunk in reader.stream(artefact.name):
            done += len(chunk)
            if progress is not None:
                progress(done, reader.manifest.plain_bytes)
    return done
