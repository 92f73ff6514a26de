"""Validation of a snapshot of RDS: it is looked at wherever it is, and restored into an instance that is deleted again.

The instance is named after the recovery point and the run: another run's validation of the same point has one of its
own, and neither deletes what the other reads. Another attempt of the run, whose worker is not the one that was lost,
goes on with it, and takes it from the one before by a tag: an attempt that was only held up deletes nothing when it
wakes. What nobody went on with is deleted by a later validation.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import structlog

from recovery.adapters.managed_waiting import Patience, await_absence, awaited_instance
from recovery.adapters.rds_snapshots import account_of, demand_account, demand_ours
from recovery.backup.bounded import finish_within
from recovery.domain.group import GroupSnapshot
from recovery.domain.managed import (
    ManagedInstance,
    ManagedRule,
    ManagedSnapshot,
    RestoreManaged,
    SnapshotSource,
    snapshot_tags,
)
from recovery.domain.recovery_point import CheckResult, Manifest, PostgresSource, VerdictState
from recovery.domain.words import moment
from recovery.errors import Corrupt, NotFound, NotOurs, RecoveryError, Refused, RestoreFailed, Unreachable
from recovery.ports.managed_postgres import ManagedPostgres, ManagedReader, ManagedSnapshots

WITHIN_SECONDS = 5 * 3600.0
"""For the instance to be there: a validation's step has six hours."""
LEFT_AFTER = timedelta(hours=9)
"""After which an instance of a validation is what a lost worker left; the step has eight hours with every attempt."""
REMOVE_SECONDS = 60.0
LOGIN_TRIES = 6
SAME_MOMENT = timedelta(minutes=1)  # more than an API's rounding, and less than a snapshot takes

Outcome = tuple[VerdictState, str, list[CheckResult]]

log = structlog.get_logger("recovery.points")


@dataclass
class ManagedValidation:
    """One validation of one recovery point."""

    group: GroupSnapshot
    rule: ManagedRule
    manifest: Manifest
    run_id: str
    api: ManagedSnapshots
    database: ManagedPostgres
    reader: ManagedReader
    look_every: float
    checks: list[CheckResult] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    attempt: str = field(default_factory=lambda: secrets.token_hex(8))

    async def run(self, progress: Callable[[int, int], None]) -> Outcome:
        """Verdict, its reason in a sentence, and the checks.

        ``VALID``: restored, and every table read to its end by a login. ``CORRUPT``: a snapshot is gone or not what was
        taken. ``RESTORE_FAILED``: RDS could not restore it, or what it restored cannot be read. ``FAILED``: we were
        kept from finding out; an instance that nobody could log in to proves too little to be called valid.
        """
        try:
            region = await self._looked()
            await self._sweep(region)
            restored = await self._restored(region, progress)
        except Corrupt as error:
            return VerdictState.CORRUPT, str(error), self.checks
        except RestoreFailed as error:
            return VerdictState.RESTORE_FAILED, str(error), self.checks
        except RecoveryError as error:
            return VerdictState.FAILED, "; ".join([str(error), *self.notes]), self.checks
        failed = [check for check in self.checks if not check.passed]
        if failed:
            words = "; ".join(f"check {check.name}: {check.detail}" for check in failed)
            return VerdictState.RESTORE_FAILED, words, self.checks
        return VerdictState.VALID, "; ".join([restored, *self.notes]), self.checks

    # The snapshot itself.

    async def _looked(self) -> str:
        """A region from which it can be restored: the one that took it, where it answers. Raises Corrupt, NotFound."""
        source, found = self.manifest.snapshot, ""
        for region in sorted(source.copies, key=lambda region: region != self.manifest.source_region):
            began = time.monotonic()
            try:
                seen = await self.api.snapshot(region, source.name)
            except RecoveryError as error:
                self.notes.append(f"not looked at in {region}: {error}")
                continue
            if seen is None:
                regions = dict.fromkeys([region, *self.rule.instances, *source.copies])
                await demand_account(self.api, list(regions), source.copies[region].arn)
            self._demand_same(region, source, seen)
            words = f"{source.name} is available: {source.engine} {self.manifest.postgres.server_version}, " + (
                "encrypted" if source.encrypted else "not encrypted"
            )
            self.checks.append(
                CheckResult(name=f"snapshot in {region}", passed=True, detail=words, seconds=_since(began))
            )
            found = found or region
        for region in sorted(source.lacking):
            if await self._came_later(region, source):
                found = found or region
        if not found:
            raise Unreachable("no region that has the snapshot answers")
        return found

    async def _came_later(self, region: str, source: SnapshotSource) -> bool:
        """A copy that was still being made when the point was completed. That there is none proves nothing."""
        began = time.monotonic()
        try:
            seen = await self.api.snapshot(region, source.name)
            if seen is None or seen.status != "available":
                self.notes.append(f"there is no copy in {region}" + (f" yet: it is {seen.status}" if seen else ""))
                return False
            self._demand_same(region, source, seen)
        except RecoveryError as error:
            self.notes.append(f"no copy is counted on in {region}: {error}")
            return False
        words = f"{source.name} is available: its copy was completed after the backup"
        self.checks.append(CheckResult(name=f"snapshot in {region}", passed=True, detail=words, seconds=_since(began)))
        return True

    def _demand_same(self, region: str, source: SnapshotSource, seen: ManagedSnapshot | None) -> None:
        if seen is None:
            raise Corrupt(f"{region} has no snapshot {source.name} any more")
        recorded = source.copies[region].arn if region in source.copies else ""
        if recorded and account_of(seen.arn) != account_of(recorded):
            raise Refused(f"{source.name} in {region} is {seen.arn}, and the point's is {recorded}: another account's")
        try:
            demand_ours(seen, snapshot_tags(self.group.name, self.manifest.point_id))
        except NotOurs as error:
            raise Corrupt(str(error)) from error
        wrong = [
            f"its {what} is {there or 'unknown'} instead of {taken or 'unknown'}"
            for what, there, taken in (
                ("state", seen.status, "available"),
                ("engine", seen.engine, source.engine),
                ("engine version", seen.engine_version, self.manifest.postgres.server_version),
                ("size", f"{seen.gigabytes} GiB", f"{source.gigabytes} GiB"),
                ("instance", seen.instance, source.instance),
                ("ARN", seen.arn, recorded or seen.arn),
            )
            if there != taken
        ]
        if abs(seen.taken_at - source.taken_at) > SAME_MOMENT:
            wrong.append(f"it was taken {moment(seen.taken_at)} instead of {moment(source.taken_at)}")
        if source.encrypted and not seen.encrypted:
            wrong.append("it is not encrypted, and was")
        if wrong:
            raise Corrupt(f"snapshot {source.name} in {region} is not what was taken: {'; '.join(wrong)}")

    # A restore of it.

    async def _restored(self, region: str, progress: Callable[[int, int], None]) -> str:
        began, mark = time.monotonic(), self._mark
        name = validation_name(self.manifest.point_id, self.run_id)
        order = await restore_order(self.database, self.rule, region, name, self.manifest.postgres, mark)
        self.notes += [order.left_out] if order.left_out else []
        order = order.model_copy(update={"like": order.like and order.like.model_copy(update={"multi_az": False})})
        patience = Patience.of(WITHIN_SECONDS, self.look_every)
        await await_absence(self.database, region, name, patience)  # of an earlier attempt
        try:
            await self.database.restore(order)
            await self._take_on(region, name)
            instance = await awaited_instance(
                self.database, region, name, mark, patience,
                lambda words: progress(0, self.manifest.plain_bytes),
            )  # fmt: skip
            words = f"{name} in {region} became available as PostgreSQL {instance.engine_version}"
            self.checks.append(CheckResult(name="restore", passed=True, detail=words, seconds=_since(began)))
            if instance.engine_version != self.manifest.postgres.server_version:
                raise RestoreFailed(f"{words}, and the point is of {self.manifest.postgres.server_version}")
            self.checks += await self._read(instance)
        finally:
            await finish_within(REMOVE_SECONDS, self._remove(region, name))
        read = "; ".join(check.detail for check in self.checks if check.name == "tables-readable")
        return f"restored at RDS in {region}: {read}"

    async def _read(self, instance: ManagedInstance) -> list[CheckResult]:
        """Its name need not be known to every resolver at once. Raises Unreachable, Refused, RestoreFailed."""
        assert instance.host is not None and instance.port is not None, "an awaited instance has an address"
        patience, let_in = Patience.of(LOGIN_TRIES * self.look_every, self.look_every), False
        at = self.group, instance.region, instance.host, instance.port
        while True:
            try:
                if not let_in:
                    await self.reader.log_in(*at)
                let_in = True
                return await self.reader.contents(*at)
            except Unreachable as error:
                why = (
                    f"RDS restored it, and nobody could log in to {instance.name} from here, so that nothing of its "
                    f"content was read ({error}): see rds.security_groups and rds.subnet_groups"
                )
                if let_in:
                    why = f"RDS restored it, and the connection to {instance.name} was lost while it was read: {error}"
            try:
                await patience.rest(instance.name)
            except Unreachable:
                raise Unreachable(why) from None

    async def _take_on(self, region: str, name: str) -> None:
        instance = await self.database.instance(region, name)
        if instance is not None and instance.mark == self._mark:  # else the wait for it says so
            await self.api.take_on(instance, self.attempt)

    async def _remove(self, region: str, name: str) -> None:
        """Unless a later attempt goes on with it: this one was held up, and is not the last any more."""
        try:
            found = await self.database.instance(region, name)
            if found is not None and found.taken_on not in (None, self.attempt):
                log.info("left: another attempt goes on with it", instance=name, region=region)
                return
            await self.database.remove(region, name, self._mark)
        except RecoveryError as error:
            self.notes.append(f"{name} in {region} is not deleted yet, which a later validation does: {error}")
            log.warning("what a validation restored was not removed", instance=name, region=region, reason=str(error))

    async def _sweep(self, region: str) -> None:
        """What validations of this group left whose worker was lost. It keeps none from going on."""
        try:
            for left in await self.api.restored(region, validations_of(self.group.name)):
                young = left.created_at is None or datetime.now(UTC) - left.created_at < LEFT_AFTER
                if young or left.mark == self._mark or left.mark is None:
                    continue
                await self.database.remove(region, left.name, left.mark)
                self.notes.append(f"{left.name} in {region}, which an earlier validation left, is deleted")
        except RecoveryError as error:
            log.warning("what validations left was not removed", region=region, reason=str(error))

    @property
    def _mark(self) -> str:
        return validation_mark(self.group.name, self.manifest.point_id, self.run_id)


def validation_name(point_id: str, run_id: str) -> str:
    """RDS takes 63 letters, digits and hyphens: a run's id of any kind is hashed."""
    return f"validation-{point_id.lower()}-{hashlib.sha256(run_id.encode()).hexdigest()[:8]}"


def validation_mark(group: str, point_id: str, run_id: str) -> str:
    return f"{validations_of(group)}{point_id}/{run_id}"


def validations_of(group: str) -> str:
    """How the marks of all of a group's begin."""
    return f"validation/{group}/"


async def restore_order(
    database: ManagedPostgres, rule: ManagedRule, region: str, name: str, source: PostgresSource, mark: str
) -> RestoreManaged:
    """A new instance with the network and settings of the group's own one in that region, where there is one."""
    assert source.snapshot is not None, "a point of RDS is a snapshot"
    like: ManagedInstance | None = None
    if region in rule.instances:
        try:
            like = await database.instance(region, rule.instances[region])
        except NotFound:
            like = None
    subnets = rule.subnet_groups.get(region)
    if subnets is not None:
        like = like or ManagedInstance(region=region, name=name, status="")
        like = like.model_copy(update={"subnet_group": subnets})
    return RestoreManaged(
        region=region,
        instance=name,
        snapshot=source.snapshot.name,
        instance_class=rule.instance_class,
        mark=mark,
        security_groups=rule.security_groups.get(region) or (like.security_groups if like is not None else []),
        like=like,
        engine_version=source.server_version,
    )


def _since(began: float) -> float:
    return round(time.monotonic() - began, 3)
