"""Steps that take, find and expire recovery points."""

from __future__ import annotations

from datetime import UTC, datetime

from temporalio import activity
from temporalio.common import WorkflowIDConflictPolicy, WorkflowIDReusePolicy

from activities.boundary import step, told_as
from activities.set_choice import SetChoice, database_point
from recovery.domain.chains import bases_of
from recovery.domain.group import GroupSnapshot
from recovery.domain.plan import Facts, PlanContext, StepOutcome
from recovery.domain.recovery_point import (
    BackupKind,
    DataStore,
    RecoveryPoint,
    kind_taken,
    kinds_of,
)
from recovery.domain.recovery_set import RecoverySet
from recovery.domain.recovery_target import ChosenRecovery, RecoveryTarget, likeliest
from recovery.domain.words import duration, size
from recovery.errors import (
    BadInput,
    Corrupt,
    DamagedPages,
    NotFound,
    RecoveryError,
    Refused,
    SeveralTimelines,
    SourceFailed,
)
from recovery.ports.measurements import Measurements
from recovery.ports.recovery_points import BackupOrder, RecoveryPoints, RecoveryTargets, TakenPoint

GROUP_MEMO = "recovery-plans.group"
"""A run's memo names its group, so that a list of runs need not read each one's input."""


class RecoveryPointSteps:
    def __init__(
        self, points: RecoveryPoints, measurements: Measurements, targets: RecoveryTargets | None = None
    ) -> None:
        self._points = points
        self._measurements = measurements
        self._targets = targets  # None: recoveries end where their recovery points do

    @step("points.check_source")
    async def check_source(self, context: PlanContext) -> StepOutcome:
        """Connects, and says what stands in the way of a backup or weakens it."""
        region = context.facts.source_region or context.group.home_region
        stores = list(dict.fromkeys(kind.store for kind in BackupKind if context.wants(kind)))
        if not stores:
            raise BadInput(
                f"nothing of group {context.group.name} is to be backed up: expected kinds of its stores in "
                f"groups.{context.group.name}.backup.kinds"
            )
        checks = await self._points.check_source(context.group, region, stores)
        warnings = [f"{check.name}: {check.detail}" for check in checks if not check.passed]
        return StepOutcome(
            summary=f"{region}: {len(checks) - len(warnings)} of {len(checks)} checks passed",
            checks=checks,
            warnings=warnings,
        )

    @step("points.take_physical_backup")
    async def take_physical_backup(self, context: PlanContext) -> StepOutcome:
        """Streams a base backup to every location; of a PostgreSQL at RDS, has RDS take a snapshot and copy it."""
        return await self._take(context, _whole_cluster(context))

    @step("points.take_logical_backup")
    async def take_logical_backup(self, context: PlanContext) -> StepOutcome:
        """Streams a dump in custom format, and the globals, to every location."""
        return await self._take(context, BackupKind.LOGICAL)

    @step("points.take_streams_backup")
    async def take_streams_backup(self, context: PlanContext) -> StepOutcome:
        """Streams the snapshots of the group's JetStream streams to every location, several at once."""
        return await self._take(context, BackupKind.STREAMS)

    @step("points.take_redis_backup")
    async def take_redis_backup(self, context: PlanContext) -> StepOutcome:
        """Streams the dump of Redis, from a replica where one follows closely, to every location."""
        return await self._take(context, BackupKind.RDB)

    @step("points.take_search_backup")
    async def take_search_backup(self, context: PlanContext) -> StepOutcome:
        """Has the search engine take a snapshot into its own repository, and waits for it."""
        return await self._take(context, BackupKind.SEARCH)

    @step("points.judge_backup")
    async def judge_backup(self, context: PlanContext) -> StepOutcome:
        """Fails where a store has no new point. The points of the others stay."""
        missing = context.kinds_missing
        if missing:
            kept = ", ".join(context.facts.points_written) or "none"
            raise SourceFailed(
                f"there is no new recovery point of kind {', '.join(missing)}: the step that takes it says why. "
                f"Taken and kept: {kept}"
            )
        return StepOutcome(summary="every store has its point")

    @step("points.remove_unfinished")
    async def remove_unfinished(self, context: PlanContext) -> StepOutcome:
        """Undo of a backup: what has no manifest is removed. A point that was completed stays."""
        kind = kind_taken(context.step)
        assert kind is not None, f"{context.step} takes no recovery point"
        kind = _whole_cluster(context) if kind is BackupKind.PHYSICAL else kind
        region = context.facts.source_region
        removed = await self._points.remove_unfinished(context.group, _point_id(context, kind), region)
        return StepOutcome(summary=f"{removed} objects removed")

    @step("points.fill_locations")
    async def fill_locations(self, context: PlanContext) -> StepOutcome:
        """Copies the new points, and what older ones lack, to the locations that failed meanwhile."""
        missing: list[str] = []
        filled = 0
        written = context.facts.points_written
        lacking = [
            point
            for point in await self._points.points(context.group)
            if point.point_id not in written and not set(context.group.locations) <= set(point.locations)
        ]
        # The newest first, and none before what it builds on: alone it could not be restored there.
        older = [point.point_id for point in sorted(lacking, key=lambda point: len(bases_of(point)))]
        for point_id in [*written, *older]:
            if missing and point_id in older:
                break  # a location that did not take one takes no other now
            done = await self._points.fill(context.group, point_id, told_as("filling"))
            filled += len(done.complete)
            missing += [f"{point_id} is not at {name}: {reason}" for name, reason in done.dropped.items()]
        if missing:
            raise Refused("; ".join(missing))
        return StepOutcome(summary=f"{filled} copies are complete")

    @step("points.start_validation")
    async def start_validation(self, context: PlanContext) -> StepOutcome:
        """Starts a BackupValidation of the points that this run wrote, as a run of its own."""
        started: list[str] = []
        for point_id in context.facts.points_written:
            workflow_id = f"validate/{context.group.name}/{point_id}"
            await activity.client().start_workflow(
                "BackupValidation",
                {"group": context.group.name, "point_id": point_id, "requested_by": context.workflow_id},
                id=workflow_id,
                task_queue=activity.info().task_queue,
                id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
                id_reuse_policy=WorkflowIDReusePolicy.ALLOW_DUPLICATE,
                memo={GROUP_MEMO: context.group.name},
                static_summary=f"validation of {point_id}",
            )
            started.append(workflow_id)
        return StepOutcome(summary=", ".join(started) or "nothing to validate")

    @step("points.choose_validated")
    async def choose_validated(self, context: PlanContext) -> StepOutcome:
        """The named recovery point, or the newest one that was restored and found VALID. Where WAL is archived, also
        the way on: to the moment that was asked for, or, of a recovery, to its end. A recovery of several stores goes
        by a recovery set: the named one, or the newest all of whose points are validated, and beside it by the newest
        validated point of each store that this one lacks."""
        warnings: list[str] = []
        async with SetChoice(self._points, context) as sets:
            named = await sets.named()
            point, recovery = await self._point_and_way(context, named, warnings)
            chosen, said = await sets.stores(point, named, goes_on=recovery is not None)
            beside = sets.beside
        manifest = point.manifest
        age = duration(datetime.now(UTC) - manifest.finished_at)
        places = ", ".join(point.locations)
        along = "" if recovery is None else f"; WAL to {recovery.until} on timeline {recovery.timeline}"
        return StepOutcome(
            summary=f"{point.point_id}, {size(manifest.plain_bytes)}, {age} old, at {places}{along}{beside}",
            facts=Facts(
                point_id=point.point_id,
                point_finished_at=manifest.finished_at,
                point_bytes=manifest.plain_bytes,
                point_major=manifest.postgres.major if manifest.store == DataStore.POSTGRES else None,
                recovery=recovery,
                chosen_set=chosen,
                outage_began_at=context.request.outage_began_at or context.started_at,
            ),
            warnings=[*warnings, *said],
        )

    @step("points.expire")
    async def expire(self, context: PlanContext) -> StepOutcome:
        """Removes the points that the group's retention does not keep, what unfinished backups left behind, and the
        archived WAL that only removed points needed."""
        expired = await self._points.expire(context.group, datetime.now(UTC), dry_run=False)
        summary = f"{len(expired.removed)} removed, {len(expired.kept)} kept; {expired.orphans} orphans removed"
        warnings = list(expired.warnings)
        if self._targets is not None and context.group.wal is not None:
            wal = await self._targets.expire(context.group)
            summary += f"; {wal.pieces} pieces of WAL removed"
            warnings += [f"no archived WAL was removed: {wal.kept}"] if wal.kept else []
        return StepOutcome(
            summary=summary,
            facts=Facts(points_removed=sorted(expired.removed)),
            warnings=warnings,
        )

    async def _point_and_way(
        self, context: PlanContext, named: RecoverySet | None, warnings: list[str]
    ) -> tuple[RecoveryPoint, ChosenRecovery | None]:
        """The point to begin with, and the way on from it. ``named``: the set whose part it has to be."""
        kind = _fitting_kind(context)
        wanted = context.request.point_id if named is None else database_point(named, kind)
        recovery: ChosenRecovery | None = None
        if context.request.target is not None:
            point, recovery = await self._chosen(context, context.request.target, kind, wanted)
        elif wanted is not None:
            point = await self._points.point(context.group, wanted)
        else:
            found = await self._at_the_end(context, kind, warnings)
            point, recovery = found or (await self._points.newest_validated(context.group, kind), None)
        if not point.is_valid:
            state = point.verdict.state if point.verdict else "never validated"
            warnings.append(f"{point.point_id} was named by the operator and is {state}")
        store = point.manifest.store
        if context.plan != "Restore" and store != DataStore.POSTGRES:
            raise Refused(
                f"{context.plan} recovers PostgreSQL, and {point.point_id} is of {store}: put it back with "
                f"drctl restore --point {point.point_id}"
            )
        if named is not None and point.manifest_sha256 not in {each.manifest_sha256 for each in named.members}:
            raise Corrupt(f"{point.point_id} is not the point that recovery set {named.set_id} was signed with")
        return point, recovery

    async def _chosen(
        self, context: PlanContext, target: RecoveryTarget, kind: BackupKind | None, wanted: str | None = None
    ) -> tuple[RecoveryPoint, ChosenRecovery]:
        if kind is not BackupKind.PHYSICAL:
            raise BadInput(
                f"a recovery to {target} needs a physical recovery point and a folder for it: set the region's "
                "postgres.data_directory, or name one with --target-directory"
            )
        if self._targets is None:
            raise BadInput("this worker reads no WAL archive: a recovery ends where its recovery point does")
        return await self._targets.choose(context.group, target, wanted)

    async def _at_the_end(
        self, context: PlanContext, kind: BackupKind | None, warnings: list[str]
    ) -> tuple[RecoveryPoint, ChosenRecovery] | None:
        """The way to the end of the archived WAL: a lost region's group is to lose no more than it must, also where
        earlier recoveries to a moment left several ends and nobody is there to choose one."""
        if context.plan == "Restore" or context.group.wal is None or kind is not BackupKind.PHYSICAL:
            return None
        try:
            try:
                return await self._chosen(context, RecoveryTarget(latest=True), kind)
            except SeveralTimelines as error:
                record = context.facts.ownership
                timeline, why = likeliest(error.timelines, record.lineage if record is not None else None)
                warnings.append(f"the recovery follows timeline {timeline}, {why}: {error}")
            return await self._chosen(context, RecoveryTarget(latest=True, timeline=timeline), kind)
        except NotFound as error:
            warnings.append(f"the recovery ends with its recovery point: {error}")
            return None

    async def _take(self, context: PlanContext, kind: BackupKind) -> StepOutcome:
        order = BackupOrder(
            group=context.group,
            region=context.facts.source_region or context.group.home_region,
            kind=kind,
            point_id=_point_id(context, kind),
            run_id=context.run_id,
            attempt=activity.info().attempt,
            started_at=context.started_at,
            epoch=context.facts.ownership.epoch if context.facts.ownership else None,
            take_over=context.request.take_over,
        )
        try:
            taken = await self._points.take(order, told_as(f"{kind} backup"))
        except DamagedPages as error:
            raise DamagedPages(f"{await self._last_good(context.group)} {error}") from error
        self._measurements.backup_stored(kind, _sizes(taken))
        return _taken(taken)

    async def _last_good(self, group: GroupSnapshot) -> str:
        """The way back for who is told of damage at the source; first, since the server's words may be long."""
        try:
            point = await self._points.newest_validated(group, BackupKind.PHYSICAL)
        except NotFound as error:
            return f"Pages at the source are damaged, and there is no VALID base backup to go back to ({error})."
        except RecoveryError as error:
            return (
                "Pages at the source are damaged. What was backed up before stays; which VALID base backup there is "
                f"could not be read ({error}): drctl backup list --group {group.name}."
            )
        further = " --latest" if group.wal is not None else ""
        return (
            f"Pages at the source are damaged. What was backed up before stays: the newest VALID base backup is "
            f"{point.point_id}, of {point.manifest.finished_at.astimezone(UTC):%Y-%m-%d %H:%M} UTC. Have it beside the "
            f"source with: drctl restore --group {group.name} --point {point.point_id}{further} --target-directory "
            "/an/empty/folder --target-port 5433, look at what is damaged, and move over before the disk loses more."
        )


def _taken(taken: TakenPoint) -> StepOutcome:
    manifest = taken.manifest
    seconds = max((manifest.finished_at - manifest.started_at).total_seconds(), 0.001)
    written = {f"{manifest.kind}_point": manifest.point_id}
    stored = f"as {size(manifest.stored_bytes)} to {', '.join(taken.complete)}"
    if manifest.store == DataStore.SEARCH:
        search = manifest.search
        stored = (
            f"of {len(search.indices)} indices in repository {search.repository} ({size(search.new_bytes)} are new), "
            f"described at {', '.join(taken.complete)},"
        )
    warnings = [*(f"{name} was dropped: {reason}" for name, reason in taken.dropped.items()), *taken.warnings]
    if manifest.kind is BackupKind.SNAPSHOT:
        snapshot = manifest.snapshot
        stored = f"of {snapshot.instance} in {', '.join(snapshot.copies)}, described at {', '.join(taken.complete)},"
        warnings += [f"there is no copy in {region}: {reason}" for region, reason in snapshot.lacking.items()]
    return StepOutcome(
        facts=Facts.model_validate(written),
        summary=f"{manifest.point_id}: {size(manifest.plain_bytes)} {stored} at "
        f"{size(int(manifest.plain_bytes / seconds))}/s",
        warnings=warnings,
    )


def _sizes(taken: TakenPoint) -> dict[str, int]:
    """Bytes by where they are: at the locations, at RDS, or in the repository that a search engine has of its own."""
    manifest = taken.manifest
    if manifest.store == DataStore.SEARCH:
        return {f"repository {manifest.search.repository}": manifest.search.bytes}
    if manifest.kind is BackupKind.SNAPSHOT:
        return {f"RDS {region}": manifest.plain_bytes for region in manifest.snapshot.copies}
    return dict.fromkeys(taken.complete, manifest.stored_bytes)


def _fitting_kind(context: PlanContext) -> BackupKind:
    """The kind that was asked for; a physical one where the target is a place for a whole cluster."""
    request, region = context.request, context.facts.target_region
    if request.kind is not None:
        return request.kind
    if request.store not in (None, DataStore.POSTGRES):
        return kinds_of(request.store)[0]
    if request.target_database is not None:
        return BackupKind.LOGICAL
    if request.target_instance is not None:
        return BackupKind.SNAPSHOT
    if BackupKind.SNAPSHOT in context.group.backup_kinds and request.target_directory is None:
        return BackupKind.SNAPSHOT
    place = context.group.region(region).postgres if region is not None else None
    has_folder = request.target_directory is not None or (place is not None and place.data_directory is not None)
    return BackupKind.PHYSICAL if has_folder else BackupKind.LOGICAL


def _whole_cluster(context: PlanContext) -> BackupKind:
    """What stands for a whole cluster: where RDS runs it, its snapshot."""
    return BackupKind.SNAPSHOT if context.wants(BackupKind.SNAPSHOT) else BackupKind.PHYSICAL


def _point_id(context: PlanContext, kind: BackupKind) -> str:
    """Minted from what is the same for every attempt, before any of them begins."""
    return f"{context.started_at:%Y%m%dT%H%M%SZ}-{kind}-{context.effect_id[:8]}"
