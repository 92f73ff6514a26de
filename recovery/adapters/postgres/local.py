"""All of it behind one port, for the composition root."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path

from recovery.adapters.postgres import restore, restore_logical, validation
from recovery.adapters.postgres.binaries import PostgresBinaries
from recovery.adapters.postgres.host import LocalPostgresHost
from recovery.adapters.postgres.logical import LogicalSource
from recovery.adapters.postgres.physical import PhysicalSource
from recovery.adapters.postgres.read_only import set_read_only
from recovery.adapters.postgres.unchanged import FingerprintBudget
from recovery.domain.recovery_point import CheckResult, Manifest, VerdictState
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


class LocalPostgres:
    """``PostgresRecovery`` with the PostgreSQL programs of this machine.

    ``run_as``: the servers' user when we are root (default: ``postgres``, else ``nobody``). ``fingerprints`` bounds
    what a physical backup reads of the source's tables.
    """

    def __init__(
        self,
        binaries: PostgresBinaries | None = None,
        *,
        run_as: str | None = None,
        fingerprints: FingerprintBudget | None = None,
    ) -> None:
        self._host = LocalPostgresHost(binaries, run_as=run_as)
        self._fingerprints = fingerprints

    @property
    def host(self) -> LocalPostgresHost:
        return self._host

    def physical_source(
        self, login: PostgresLogin, point_id: str, options: BaseBackupOptions = FROM_THE_SERVER
    ) -> AbstractAsyncContextManager[BackupSource]:
        return PhysicalSource(login, point_id, fingerprints=self._fingerprints, options=options)

    def logical_source(
        self, login: PostgresLogin, point_id: str, databases: Sequence[str]
    ) -> AbstractAsyncContextManager[BackupSource]:
        return LogicalSource(login, point_id, databases, self._host.binaries)

    async def restore_physical(
        self, reader: PointReader, place: PostgresPlace, options: RestoreOptions, progress: Progress | None = None
    ) -> Restored:
        return await restore.restore_physical(self._host, reader, place, options, progress)

    async def remove_restored(self, place: PostgresPlace, restore_id: str) -> bool:
        return await restore.remove_restored(place, restore_id)

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
        return await restore_logical.restore_logical(
            self._host.binaries,
            reader,
            login,
            options,
            source_database=source_database,
            database=database,
            progress=progress,
        )

    async def remove_restored_database(self, login: PostgresLogin, database: str, restore_id: str) -> bool:
        return await restore_logical.remove_restored_database(login, database, restore_id)

    async def set_read_only(self, place: PostgresPlace, read_only: bool) -> None:
        await set_read_only(self._host, place, read_only)

    async def set_database_read_only(self, login: PostgresLogin, database: str, read_only: bool) -> None:
        await restore_logical.set_database_read_only(login, database, read_only)

    async def verify_restored(
        self,
        manifest: Manifest,
        login: PostgresLogin,
        critical_tables: Sequence[str],
        *,
        database: str | None = None,
        everything: bool = False,
    ) -> list[CheckResult]:
        return await validation.verify_restored(
            manifest, login, critical_tables, database=database, everything=everything
        )

    async def validate(
        self,
        reader: PointReader,
        scratch_folder: Path,
        critical_tables: Sequence[str] = (),
        progress: Progress | None = None,
    ) -> tuple[VerdictState, str, list[CheckResult]]:
        return await validation.validate_point(self._host, reader, scratch_folder, critical_tables, progress)
