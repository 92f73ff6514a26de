"""PostgreSQL's part in recovery points: which of its sources is opened as whom, and how its points are proven."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from recovery.adapters.backup_lock import backup_lock
from recovery.adapters.logins import Logins
from recovery.adapters.postgres.connection import connected
from recovery.adapters.postgres.standby_source import ChosenStandby, choose_standby
from recovery.adapters.postgres_chains import PostgresChains
from recovery.domain.group import GroupSnapshot, RegionPlan
from recovery.domain.recovery_point import BackupKind, CheckResult, VerdictState
from recovery.errors import RecoveryError
from recovery.ports.postgres import (
    BackupSource,
    BaseBackupOptions,
    Checkpoint,
    PointReader,
    PostgresLogin,
    PostgresRecovery,
)
from recovery.ports.recovery_points import BackupOrder, Progress

CHECK_SECONDS = 5.0
"""For a standby's replay while the source is checked; a backup waits as long as it is configured to."""

Choose = Callable[[PostgresLogin, Mapping[str, PostgresLogin], float], Awaitable[ChosenStandby]]


@dataclass
class PostgresPoints:
    """``recovery.ports.recovery_points.StorePoints``."""

    postgres: Callable[[str, str], PostgresRecovery]  # (group, region)
    logins: Logins
    checkpoint: Callable[[str], Checkpoint]  # by group
    at_once: int = 1
    choose: Choose = choose_standby
    chains: PostgresChains | None = None  # None: every base backup is a full one

    async def check_source(self, group: GroupSnapshot, region: str) -> list[CheckResult]:
        """See the port."""
        login = await self.logins.backup(group.name, region)
        async with connected(login, "connect") as session:
            version = await session.fetchval("SHOW server_version")
        checks = [
            CheckResult(name=f"{region} postgres", passed=True, detail=f"{login.address} is PostgreSQL {version}")
        ]
        if group.base_backup.from_standby and BackupKind.PHYSICAL in group.backup_kinds:
            chosen = await self._standby(group, region, login, CHECK_SECONDS)
            detail = f"base backups are streamed from {chosen.name}" if chosen.login else _primary_instead(chosen)
            checks.append(CheckResult(name=f"{region} standby", passed=chosen.login is not None, detail=detail))
            login = chosen.login or login
        if group.base_backup.incrementals and self.chains is not None and BackupKind.PHYSICAL in group.backup_kinds:
            obstacle = await self.chains.obstacle(login)
            checks.append(
                CheckResult(
                    name=f"{region} incremental backups",
                    passed=not obstacle,
                    detail=obstacle or f"up to {group.base_backup.incrementals} after a full one",
                )
            )
        return checks

    @asynccontextmanager
    async def opened(self, order: BackupOrder, progress: Progress) -> AsyncIterator[BackupSource]:
        """See the port."""
        group = order.group.name
        login = await self.logins.backup(group, order.region)
        engine = self.postgres(group, order.region)
        async with backup_lock(login, order.point_id, order.kind):
            if order.kind is BackupKind.PHYSICAL:
                opening = engine.physical_source(login, order.point_id, await self._options(order, login))
            else:
                opening = engine.logical_source(login, order.point_id, order.group.logical_databases)
            async with opening as source:
                yield source

    async def _options(self, order: BackupOrder, login: PostgresLogin) -> BaseBackupOptions:
        rule = order.group.base_backup
        options = BaseBackupOptions(self.checkpoint(order.group.name))
        if rule.from_standby:
            seconds = rule.standby_lag.total_seconds()
            chosen = await self._standby(order.group, order.region, login, seconds)
            notes = () if chosen.login is not None else (_primary_instead(chosen),)
            options = replace(options, standby=chosen.login, standby_seconds=seconds, notes=notes)
        if rule.incrementals and self.chains is not None:
            base, why_full = await self.chains.base_for(order.group, options.standby or login)
            notes = (f"a full base backup: {why_full}",) if base is None else ()
            options = replace(options, base=base, notes=options.notes + notes)
        return options

    async def _standby(self, group: GroupSnapshot, region: str, login: PostgresLogin, seconds: float) -> ChosenStandby:
        """Of the servers of the other regions: those of the same site first, then by priority."""
        others = [other for other in group.regions if other.name != region and other.postgres is not None]
        others.sort(key=lambda other: (not group.same_site(other.name, region), -_priority(group, other)))
        candidates: dict[str, PostgresLogin] = {}
        passed_over: dict[str, str] = {}
        for other in others:
            try:
                candidates[other.name] = await self.logins.backup(group.name, other.name)
            except RecoveryError as error:  # its secret is not on this machine
                passed_over[other.name] = str(error)
        chosen = await self.choose(login, candidates, seconds)
        return replace(chosen, passed_over=passed_over | chosen.passed_over)

    async def validate(
        self,
        group: GroupSnapshot,
        reader: PointReader,
        scratch_folder: Path,
        progress: Callable[[int, int], None],
        run_id: str,
    ) -> tuple[VerdictState, str, list[CheckResult]]:
        """See the port."""
        engine = self.postgres(group.name, reader.manifest.source_region)
        return await engine.validate(reader, scratch_folder, group.critical_tables, progress)


def _priority(group: GroupSnapshot, region: RegionPlan) -> int:
    rule = group.replica_rule(region.name)
    return region.priority if rule is None else rule.priority


def _primary_instead(chosen: ChosenStandby) -> str:
    reasons = "; ".join(f"{name}: {reason}" for name, reason in chosen.passed_over.items())
    return f"no standby was close enough, so the primary itself is backed up ({reasons or 'the group has no other'})"
