"""Restores of snapshots of RDS into new instances.

A restored instance lets in whoever may log in, as soon as it is available; but nobody knows its address before the plan
points the group's names at it. From ``open_writes`` on it carries a tag that says so, and no undo deletes it any more.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from recovery.adapters.managed_points import Databases, Snapshots, rule_of
from recovery.adapters.managed_validation import restore_order
from recovery.adapters.managed_waiting import LOOK_EVERY, Patience, awaited_instance
from recovery.adapters.rds_snapshots import demand_ours
from recovery.backup.catalogue import Catalogue
from recovery.domain.group import GroupSnapshot
from recovery.domain.managed import ManagedInstance, RestoreManaged, snapshot_tags
from recovery.domain.plan import RestoredServer
from recovery.domain.recovery_point import BackupKind, CheckResult, RecoveryPoint
from recovery.domain.words import listed
from recovery.errors import NotFound, NotOurs, RecoveryError, RestoreFailed
from recovery.ports.managed_postgres import ManagedPostgres, ManagedProbe
from recovery.ports.recovery_points import Progress, RestoreOrder

WITHIN_SECONDS = 2 * 3600.0 - 300.0
"""Of one attempt of ``Restore``, whose step has two hours. RDS goes on, and the next attempt joins it."""


@dataclass
class ManagedRestores:
    """``recovery.ports.recovery_points.Restores``."""

    catalogue: Callable[[GroupSnapshot], Catalogue]
    snapshots: Snapshots
    databases: Databases
    probe: ManagedProbe
    look_every: float = LOOK_EVERY

    async def verify_infrastructure(self, order: RestoreOrder) -> list[CheckResult]:
        """See the port."""
        point = await self._point(order)
        return [
            CheckResult(name="recovery point", passed=True, detail=f"{point.point_id} at {', '.join(point.locations)}"),
            await self._check_snapshot(order, point),
            await self._check_name(order),
            *await self._check_settings(order, point),
        ]

    async def restore(self, order: RestoreOrder, progress: Progress) -> RestoredServer:
        """See the port. What an earlier attempt began is waited for."""
        point, name = await self._point(order), instance_name(order)
        database = await self.databases(order.group.name)
        await database.restore(await self._as_ordered(database, order, point))
        made = await awaited_instance(
            database, order.region, name, order.restore_id, Patience.of(WITHIN_SECONDS, self.look_every),
            lambda words: progress(0, point.manifest.plain_bytes, words),
        )  # fmt: skip
        assert made.host is not None and made.port is not None, "an awaited instance has an address"
        at = order.group.region(order.region).postgres
        return RestoredServer(
            region=order.region,
            host=made.host,
            port=made.port,
            database=at.database if at is not None else "postgres",
            kind=BackupKind.SNAPSHOT,
            instance=name,
            restore_id=order.restore_id,
            point_id=order.point_id,
            restored_bytes=point.manifest.plain_bytes,
            last_commit_at=point.manifest.postgres.last_commit_at,
        )

    async def remove(self, order: RestoreOrder) -> bool:
        """See the port. Raises NotOurs once clients were let in, or where others made what is called so."""
        database, name = await self.databases(order.group.name), instance_name(order)
        found = await database.instance(order.region, name)
        if found is None or found.mark != order.restore_id:
            return False  # its restore was refused, for somebody else's has the name
        if found.opened is not None:
            raise NotOurs(f"instance {name} in {order.region} is in use since its restore was completed: it stays")
        return await database.remove(order.region, name, order.restore_id)

    async def verify(self, group: GroupSnapshot, restored: RestoredServer) -> list[CheckResult]:
        """See the port. Raises Unreachable: nobody can log in, so that nothing is known of the data."""
        point = await self.catalogue(group).point(group.name, restored.point_id)
        instance, wanted = await self._made(group, restored), point.manifest.postgres.server_version
        words = f"{instance.name} is {instance.status}, PostgreSQL {instance.engine_version}; the point is of {wanted}"
        fits = instance.is_available and instance.engine_version == wanted
        checks = [CheckResult(name="instance", passed=fits, detail=words)]
        return checks + await self.probe.tables(group, restored.region, restored.host, restored.port)

    async def open_writes(self, group: GroupSnapshot, restored: RestoredServer) -> None:
        """See the port: from here on this restore deletes the instance no more."""
        instance = await self._made(group, restored)
        if instance.opened is None:
            await (await self.snapshots(group.name)).note_opened(instance, restored.restore_id)

    async def accepts_writes(self, group: GroupSnapshot, restored: RestoredServer) -> bool:
        """See the port."""
        return (await self._made(group, restored)).opened is not None

    async def write_probe(self, group: GroupSnapshot, restored: RestoredServer, run_id: str) -> datetime:
        """See the port. The row stays: it is evidence, one per run."""
        return await self.probe.write(group, restored.region, restored.host, restored.port, run_id)

    # Parts of the above.

    async def _point(self, order: RestoreOrder) -> RecoveryPoint:
        return await self.catalogue(order.group).point(order.group.name, order.point_id)

    async def _check_snapshot(self, order: RestoreOrder, point: RecoveryPoint) -> CheckResult:
        source, region = point.manifest.snapshot, order.region
        try:
            found = await (await self.snapshots(order.group.name)).snapshot(region, source.name)
            if found is None:
                there = listed(sorted(source.copies))
                raise NotFound(f"{region} has no snapshot {source.name}: it was in {there}; copy it, or restore there")
            demand_ours(found, snapshot_tags(order.group.name, order.point_id))
        except RecoveryError as error:
            return CheckResult(name="snapshot", passed=False, detail=str(error))
        words = f"{found.name} in {region} is {found.status}, PostgreSQL {found.engine_version}, {found.gigabytes} GiB"
        return CheckResult(name="snapshot", passed=found.status == "available", detail=words)

    async def _check_name(self, order: RestoreOrder) -> CheckResult:
        name = instance_name(order)
        try:
            found = await (await self.databases(order.group.name)).instance(order.region, name)
        except RecoveryError as error:
            return CheckResult(name="empty target", passed=False, detail=str(error))
        if found is None or (found.mark == order.restore_id and found.opened is None):
            return CheckResult(name="empty target", passed=True, detail=f"{name} in {order.region} is to be made")
        words = f"there is an instance {name} in {order.region} already: delete or rename it, or name another one"
        return CheckResult(name="empty target", passed=False, detail=words)

    async def _check_settings(self, order: RestoreOrder, point: RecoveryPoint) -> list[CheckResult]:
        """What is left out is said, and keeps nothing from being restored."""
        try:
            left_out = (await self._as_ordered(await self.databases(order.group.name), order, point)).left_out
        except RecoveryError:  # the check of the name says it
            return []
        return [CheckResult(name="settings", passed=True, detail=left_out)] if left_out else []

    async def _as_ordered(self, database: ManagedPostgres, order: RestoreOrder, point: RecoveryPoint) -> RestoreManaged:
        rule, name = rule_of(order.group), instance_name(order)
        return await restore_order(database, rule, order.region, name, point.manifest.postgres, order.restore_id)

    async def _made(self, group: GroupSnapshot, restored: RestoredServer) -> ManagedInstance:
        database: ManagedPostgres = await self.databases(group.name)
        found = await database.instance(restored.region, restored.instance or "")
        if found is None or found.mark != restored.restore_id:
            raise RestoreFailed(f"the restored instance {restored.instance} is gone from {restored.region}")
        return found


def instance_name(order: RestoreOrder) -> str:
    """The name that was asked for or is configured; else one that nobody else has."""
    rule = rule_of(order.group)
    usual = rule.instances.get(order.region) or next(iter(rule.instances.values()), order.group.name)
    return order.target_instance or rule.restored_instance or f"{usual[:40].rstrip('-')}-{order.restore_id}".lower()
