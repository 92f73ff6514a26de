"""Recovery points that are snapshots of a PostgreSQL at RDS: one snapshot, its copies, and no bytes of ours.

A point is its signed manifest at the locations; it names the snapshot and the regions that have it.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import structlog

from recovery.adapters.managed_validation import ManagedValidation
from recovery.adapters.managed_waiting import LOOK_EVERY, Patience, awaited_snapshot
from recovery.adapters.rds_snapshots import demand_account, point_of
from recovery.adapters.taken_snapshot import TakenSnapshot
from recovery.domain.group import GroupSnapshot
from recovery.domain.managed import (
    ManagedInstance,
    ManagedRule,
    ManagedSnapshot,
    SnapshotCopy,
    SnapshotSource,
    snapshot_name,
    snapshot_tags,
)
from recovery.domain.recovery_point import (
    BackupKind,
    CheckResult,
    Manifest,
    PostgresSource,
    RecoveryPoint,
    VerdictState,
)
from recovery.errors import (
    BadInput,
    Contended,
    NotFound,
    NotOurs,
    RecoveryError,
    Refused,
    SourceFailed,
    Transient,
    Unreachable,
)
from recovery.ports.managed_postgres import ManagedPostgres, ManagedReader, ManagedSnapshots
from recovery.ports.postgres import BackupSource, PointReader
from recovery.ports.recovery_points import BackupOrder, Progress

WITHIN_SECONDS = 4 * 3600.0 - 300.0
"""Of one attempt, whose step has four hours. RDS goes on with a snapshot, and the next attempt joins it; a copy that is
being made then is left to RDS, and the point completed without it."""
SILENCE_SECONDS = 900.0
"""Of a copy's region, before the point is completed without its copy: a region that is lost must not hold up every
backup for as long as an attempt may take."""
RUN_TAG = "recovery-plans-run"
GIB = 1024**3

Snapshots = Callable[[str], Awaitable[ManagedSnapshots]]
"""By group."""
Databases = Callable[[str], Awaitable[ManagedPostgres]]
"""By group."""

log = structlog.get_logger("recovery.points")


@dataclass
class ManagedPoints:
    """``recovery.ports.recovery_points.StorePoints`` and ``KeptElsewhere``."""

    snapshots: Snapshots
    databases: Databases
    reader: ManagedReader
    look_every: float = LOOK_EVERY
    within_seconds: float = WITHIN_SECONDS
    silence_seconds: float = SILENCE_SECONDS
    at_once: int = 1

    async def check_source(self, group: GroupSnapshot, region: str) -> list[CheckResult]:
        """See the port. Of each copy's region it is asked whether its API answers."""
        rule, source = rule_of(group), await self._instance(group, region)
        words = f"{source.name} is {source.status}, PostgreSQL {source.engine_version}, {source.gigabytes} GiB"
        checks = [CheckResult(name=f"{region} postgres", passed=source.is_available, detail=words)]
        api = await self.snapshots(group.name)
        for other in copied_to(rule, region):
            try:
                await api.snapshot(other, snapshot_name("nothing"))
                lacks = _lacking_key(rule, other, encrypted=source.encrypted)
            except RecoveryError as error:
                lacks = str(error)
            checks.append(CheckResult(name=f"{other} copy", passed=not lacks, detail=lacks or "can be asked for"))
        return checks

    @asynccontextmanager
    async def opened(self, order: BackupOrder, progress: Progress) -> AsyncIterator[BackupSource]:
        """See the port. The snapshot and its copies are made here. What an earlier attempt began is waited for; a
        copy that fails is left out, with its reason."""
        rule, instance = rule_of(order.group), await self._instance(order.group, order.region)
        patience, api = Patience.of(self.within_seconds, self.look_every), await self.snapshots(order.group.name)
        taking = _Taking(api, order, rule, patience, self.silence_seconds, progress)
        yield TakenSnapshot(BackupKind.SNAPSHOT, await taking.run(instance))

    async def discard(self, group: GroupSnapshot, region: str, point_id: str, manifest: Manifest | None) -> bool:
        """See the port: the snapshot and its copies, where they carry the point's tags."""
        api, made = await self.snapshots(group.name), {region, *rule_of(group).snapshot_copies}
        if manifest is not None:
            made = {*manifest.snapshot.copies, *manifest.snapshot.lacking}
        tags, gone = snapshot_tags(group.name, point_id), False
        failed: list[RecoveryError] = []
        for each in sorted(made):
            try:
                there = await api.delete(each, snapshot_name(point_id), tags)
                if not there and manifest is not None and each in manifest.snapshot.copies:
                    regions = dict.fromkeys([each, *rule_of(group).instances, *manifest.snapshot.copies])
                    await demand_account(api, list(regions), manifest.snapshot.copies[each].arn)
                gone = there or gone
            except Refused as error:
                if manifest is not None or isinstance(error, NotOurs):
                    failed.append(error)
                else:
                    log.warning("left: these credentials may not delete", snapshot=snapshot_name(point_id), region=each)
            except RecoveryError as error:  # one that is being made, say: it is not deleted yet
                failed.append(error)
        if failed:  # what is ours is gone from the other regions; another's counts only where nothing else is left
            raise min(failed, key=lambda error: isinstance(error, NotOurs))
        return gone

    async def discard_orphans(
        self, group: GroupSnapshot, points: Sequence[RecoveryPoint], named: Collection[str], before: datetime
    ) -> tuple[int, list[str]]:
        """See the port. A snapshot that is older than all points at the locations may be of a location that is not
        configured any more: it is named, and stays."""
        if group.managed is None:
            return 0, []
        api, rule = await self.snapshots(group.name), group.managed
        known = [each.manifest.snapshot.taken_at for each in points if each.manifest.kind is BackupKind.SNAPSHOT]
        removed, left = 0, []
        for region in sorted({*rule.instances, *rule.snapshot_copies}):
            try:
                found = await api.of_points(region, group.name)
            except RecoveryError as error:
                left.append(f"snapshots of no point were not looked for in {region}: {error}")
                continue
            for each in found:
                if point_of(each) in named or each.taken_at >= before:
                    continue
                if not known or each.taken_at < min(known):
                    left.append(
                        f"snapshot {each.name} in {region} is of no point that the locations hold, and older than all "
                        "of them: delete it, unless a location that is not configured any more holds its point"
                    )
                    continue
                try:
                    removed += await api.delete(region, each.name, snapshot_tags(group.name, point_of(each)))
                except RecoveryError as error:
                    left.append(f"snapshot {each.name} in {region} is of no point, and was not deleted: {error}")
        return removed, left

    async def validate(
        self,
        group: GroupSnapshot,
        reader: PointReader,
        scratch_folder: Path,
        progress: Callable[[int, int], None],
        run_id: str,
    ) -> tuple[VerdictState, str, list[CheckResult]]:
        """See the port."""
        try:
            validation = ManagedValidation(
                group,
                rule_of(group),
                reader.manifest,
                run_id,
                await self.snapshots(group.name),
                await self.databases(group.name),
                self.reader,
                self.look_every,
            )
        except RecoveryError as error:  # a credential that is not on this machine, say
            return VerdictState.FAILED, str(error), []
        return await validation.run(progress)

    async def _instance(self, group: GroupSnapshot, region: str) -> ManagedInstance:
        name = rule_of(group).instances.get(region)
        if name is None:
            raise NotFound(
                f"group {group.name} has no RDS instance in {region}: set groups.{group.name}.rds.instances.{region}"
            )
        found = await (await self.databases(group.name)).instance(region, name)
        if found is None:
            raise NotFound(f"RDS knows no instance {name} in {region}: compare it with the group's rds.instances")
        return found


@dataclass
class _Taking:
    """One attempt."""

    api: ManagedSnapshots
    order: BackupOrder
    rule: ManagedRule
    patience: Patience
    silence_seconds: float
    progress: Progress

    async def run(self, instance: ManagedInstance) -> PostgresSource:
        began = datetime.now(UTC)
        taken = await self._taken(instance)
        regions = copied_to(self.rule, self.order.region)
        outcomes = await asyncio.gather(*(self._copied(taken, region) for region in regions))
        copies = {self.order.region: _copy(taken)}
        copies |= {each.region: _copy(each) for each in outcomes if isinstance(each, ManagedSnapshot)}
        found = SnapshotSource(
            name=taken.name,
            instance=instance.name,
            instance_class=instance.instance_class,
            engine=taken.engine,
            encrypted=taken.encrypted,
            gigabytes=taken.gigabytes,
            began_at=min(began, taken.taken_at),
            taken_at=taken.taken_at,
            copies=copies,
            lacking={region: each for region, each in zip(regions, outcomes, strict=True) if isinstance(each, str)},
        )
        return _source(taken, found)

    async def _taken(self, instance: ManagedInstance) -> ManagedSnapshot:
        region, name = self.order.region, self._name
        if await self.api.snapshot(region, name) is None:
            await self.api.take(region, instance.name, name, self._tags)
        try:
            return await awaited_snapshot(self.api, region, name, self._own, self.patience, self._tell("snapshot"))
        except SourceFailed as error:
            raise SourceFailed(f"{error}{await self._delete(region)}") from error

    async def _copied(self, taken: ManagedSnapshot, region: str) -> ManagedSnapshot | str:
        """The copy, or why there is none: the point is worth keeping without it. What passes is waited for."""
        heard, telling = time.monotonic(), self._tell(f"copy to {region}")

        def tell(now: ManagedSnapshot) -> None:
            nonlocal heard
            heard = time.monotonic()
            telling(now)

        while True:
            try:
                if await self.api.snapshot(region, self._name) is None:
                    if lacking := _lacking_key(self.rule, region, encrypted=taken.encrypted):
                        return lacking
                    await self.api.copy(taken, region, self._tags, self.rule.kms_keys.get(region))
                return await awaited_snapshot(self.api, region, self._name, self._own, self.patience, tell)
            except SourceFailed as error:
                return f"{error}{await self._delete(region)}"
            except Contended as error:  # RDS answers: other copies are being made, each for as long as it takes
                said, heard = str(error), time.monotonic()
            except Transient as error:
                said = str(error)
            except RecoveryError as error:
                return str(error)
            try:
                if time.monotonic() - heard > self.silence_seconds:
                    return said
                await self.patience.rest(f"the copy to {region}")
            except Unreachable:
                return f"it was not completed in the time of the backup, and a validation looks for it again: {said}"

    async def _delete(self, region: str) -> str:
        """So that it can be made again; what to add to the error where it stays."""
        with contextlib.suppress(RecoveryError):  # these credentials may not delete, say
            await self.api.delete(region, self._name, self._own)
            return ""
        return f". It is still in {region}: delete it"

    def _tell(self, what: str) -> Callable[[ManagedSnapshot], None]:
        def tell(now: ManagedSnapshot) -> None:
            expected = now.gigabytes * GIB
            self.progress(expected * now.percent // 100, expected, f"{what}, {now.percent} %")

        return tell

    @property
    def _name(self) -> str:
        return snapshot_name(self.order.point_id)

    @property
    def _own(self) -> dict[str, str]:
        return snapshot_tags(self.order.group.name, self.order.point_id)

    @property
    def _tags(self) -> dict[str, str]:
        return self._own | {RUN_TAG: self.order.run_id}


def rule_of(group: GroupSnapshot) -> ManagedRule:
    """Raises BadInput: RDS runs no PostgreSQL of this group."""
    if group.managed is None:
        raise BadInput(
            f"group {group.name} has no managed PostgreSQL: set groups.{group.name}.rds in the configuration"
        )
    return group.managed


def copied_to(rule: ManagedRule, region: str) -> list[str]:
    """The regions that get a copy of a snapshot which ``region`` takes."""
    return [each for each in rule.snapshot_copies if each != region]


def _lacking_key(rule: ManagedRule, region: str, *, encrypted: bool) -> str:
    if not encrypted or region in rule.kms_keys:
        return ""
    return f"an encrypted snapshot is copied with a key of the other region only: set rds.kms_keys.{region}"


def _copy(found: ManagedSnapshot) -> SnapshotCopy:
    return SnapshotCopy(arn=found.arn, kms_key=found.kms_key)


def _source(taken: ManagedSnapshot, found: SnapshotSource) -> PostgresSource:
    version = taken.engine_version
    major = version.partition(".")[0]
    return PostgresSource(
        system_identifier=taken.resource_id or taken.instance,
        server_version=version,
        major=int(major) if major.isdigit() else 0,
        timeline=0,
        cluster_bytes=taken.gigabytes * GIB,
        last_commit_at=found.began_at,
        snapshot=found,
        notes=[f"no copy in {region}: {reason}" for region, reason in found.lacking.items()],
    )
