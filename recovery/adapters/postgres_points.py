"""PostgreSQL's part in recovery points: which of its sources is opened as whom, and how its points are proven."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from recovery.adapters.backup_lock import backup_lock
from recovery.adapters.logins import Logins
from recovery.adapters.postgres.connection import connected
from recovery.domain.group import GroupSnapshot
from recovery.domain.recovery_point import BackupKind, CheckResult, VerdictState
from recovery.ports.postgres import BackupSource, Checkpoint, PointReader, PostgresRecovery
from recovery.ports.recovery_points import BackupOrder


@dataclass
class PostgresPoints:
    """``recovery.ports.recovery_points.StorePoints``."""

    postgres: Callable[[str, str], PostgresRecovery]  # (group, region)
    logins: Logins
    checkpoint: Callable[[str], Checkpoint]  # by group
    at_once: int = 1

    async def check_source(self, group: GroupSnapshot, region: str) -> list[CheckResult]:
        """See the port."""
        login = await self.logins.backup(group.name, region)
        async with connected(login, "connect") as session:
            version = await session.fetchval("SHOW server_version")
        return [CheckResult(name=f"{region} postgres", passed=True, detail=f"{login.address} is PostgreSQL {version}")]

    @asynccontextmanager
    async def opened(self, order: BackupOrder) -> AsyncIterator[BackupSource]:
        """See the port."""
        group = order.group.name
        login = await self.logins.backup(group, order.region)
        engine = self.postgres(group, order.region)
        if order.kind is BackupKind.PHYSICAL:
            opening = engine.physical_source(login, order.point_id, self.checkpoint(group))
        else:
            opening = engine.logical_source(login, order.point_id, order.group.logical_databases)
        async with backup_lock(login, order.point_id, order.kind), opening as source:
            yield source

    async def validate(
        self, group: GroupSnapshot, reader: PointReader, scratch_folder: Path, progress: Callable[[int, int], None]
    ) -> tuple[VerdictState, str, list[CheckResult]]:
        """See the port."""
        engine = self.postgres(group.name, reader.manifest.source_region)
        return await engine.validate(reader, scratch_folder, group.critical_tables, progress)
