"""Recovery points at object stores: the pipeline, the catalogue and the stores' own parts put together."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import structlog

from recovery.adapters.kept_elsewhere import discard_expired, discard_orphans, discard_unfinished
from recovery.adapters.key_ring import KeyRing
from recovery.adapters.point_judge import PointJudge
from recovery.backup.bounded import for_each
from recovery.backup.catalogue import REQUEST_SECONDS, Catalogue
from recovery.backup.chains import bases_in
from recovery.backup.fill import fill_location
from recovery.backup.layout import PointIdentity, manifest_key, point_prefix
from recovery.backup.leftovers import existing_manifest, remove_leftovers
from recovery.backup.pipeline import TransferProgress, write_point
from recovery.backup.progress import noting
from recovery.backup.repair import repair_points
from recovery.backup.sets import write_set
from recovery.backup.upload import WriteBudget
from recovery.domain.group import GroupSnapshot
from recovery.domain.recovery_point import (
    BackupKind,
    CheckResult,
    DataStore,
    Manifest,
    RecoveryPoint,
    Verdict,
    VerdictState,
    kind_of,
    kinds_of,
)
from recovery.domain.recovery_set import RecoverySet, set_of
from recovery.domain.retention import plan_retention
from recovery.domain.words import duration
from recovery.errors import BadInput, Corrupt, NotFound, RecoveryError, Refused, Unreachable
from recovery.ports.object_store import ObjectStore
from recovery.ports.ownership import OwnershipStore
from recovery.ports.recovery_points import (
    BackupOrder,
    Expired,
    KeptElsewhere,
    ListedSets,
    Progress,
    Repaired,
    StorePoints,
    TakenPoint,
)

log = structlog.get_logger("recovery.points")

CLOCKS_APART = timedelta(hours=1)
"""What the clocks of a worker and of a location may differ by before somebody is told."""
ORPHAN_AGE = timedelta(hours=24)
"""Objects without a manifest are a running backup's until they are this much older than the newest object that the
locations stored; its budget is shorter."""


@dataclass
class StoredRecoveryPoints:
    """``recovery.ports.recovery_points.RecoveryPoints``. ``parts``: each store's own, by the store's name; where a kind
    is taken and proven in another way than its store's others, by the kind's.

    ``elsewhere``: by kind, of those that keep something of their points outside the locations.
    """

    stores: Callable[[GroupSnapshot], Sequence[ObjectStore]]
    keys: KeyRing
    parts: Mapping[str, StorePoints]
    ownership: OwnershipStore
    scratch_folder: Callable[[str], Path]  # by group
    budget: Callable[[str], WriteBudget]  # by group
    elsewhere: Mapping[BackupKind, KeptElsewhere] = field(default_factory=dict)

    def catalogue(self, group: GroupSnapshot) -> Catalogue:
        return Catalogue(self.stores(group), self.keys.verifier)

    async def check_source(
        self, group: GroupSnapshot, region: str, stores: Collection[DataStore] = (DataStore.POSTGRES,)
    ) -> list[CheckResult]:
        """See the port. The only store's silence raises; a location that lacks something is a failed check."""
        self.keys.signing()
        checks: list[CheckResult] = []
        for store in stores:
            try:
                for part in self._parts(group, store):
                    checks += await part.check_source(group, region)
            except RecoveryError as error:
                if len(stores) == 1:
                    raise
                checks.append(CheckResult(name=f"{region} {store}", passed=False, detail=str(error)))
        return checks + list(await asyncio.gather(*(_check_location(store) for store in self.stores(group))))

    async def take(self, order: BackupOrder, progress: Progress) -> TakenPoint:
        """See the port. A point that an earlier attempt completed is found and returned."""
        stores = self.stores(order.group)
        done = await self._existing(order)
        if done is not None:
            return done
        identity = PointIdentity(
            point_id=order.point_id,
            group=order.group.name,
            attempt=order.attempt,
            run_id=order.run_id,
            region=order.region,
            started_at=order.started_at,
            epoch=order.epoch,
        )
        await _remove_leftovers_soon(stores, order)

        def tell(state: TransferProgress) -> None:
            progress(state.plain_bytes, state.expected_bytes, state.artefact)

        part = self.part(order.kind)
        async with part.opened(order, progress) as source:
            written = await write_point(
                source,
                identity=identity,
                stores=stores,
                sealer=self.keys.sealer,
                signer=self.keys.signing(),
                progress=tell,
                check=lambda: self._same_epoch(order),
                budget=self.budget(order.group.name),
                at_once=part.at_once,
                readable=order.readable,
            )
        held = [store for store in stores if store.name in written.complete_locations]
        clocks = await asyncio.gather(*(_clock_of(store, written.manifest) for store in held))
        return TakenPoint(written.manifest, written.complete_locations, written.dropped, [w for w in clocks if w])

    async def remove_unfinished(self, group: GroupSnapshot, point_id: str, region: str | None = None) -> int:
        """See the port."""
        stores = self.stores(group)
        before = await self._count(stores, group.name, point_id)
        failed = await remove_leftovers(stores, group.name, point_id)
        left = {name: error for name, error in failed.items() if isinstance(error, Refused)}
        if left:
            log.warning("left to retention: these credentials may not delete", point=point_id, locations=sorted(left))
        kept = self._kept(point_id)
        elsewhere = await discard_unfinished(kept, stores, group, point_id, region) if kept is not None else 0
        if len(failed) > len(left):
            raise Unreachable("; ".join(f"{name}: {error}" for name, error in failed.items() if name not in left))
        return before - await self._count(stores, group.name, point_id) + elsewhere

    async def fill(self, group: GroupSnapshot, point_id: str, progress: Progress) -> TakenPoint:
        """See the port. A location that cannot give the point is passed over for the next one that holds it."""
        catalogue = self.catalogue(group)
        point = await catalogue.point(group.name, point_id)
        complete, dropped = list(point.locations), {}
        for store in self.stores(group):
            if store.name in complete:
                continue
            reason = await self._fill_from(catalogue.stores_of(point), point, store, progress)
            if reason:
                dropped[store.name] = reason
            else:
                complete.append(store.name)
        return TakenPoint(point.manifest, complete, dropped)

    @staticmethod
    async def _fill_from(
        sources: Sequence[ObjectStore], point: RecoveryPoint, store: ObjectStore, progress: Progress
    ) -> str:
        """Why no source could fill ``store``; empty when one did."""
        try:
            async with asyncio.timeout(REQUEST_SECONDS):  # one that hangs is not waited for object by object
                await existing_manifest(store, point.manifest.group, point.point_id)
        except (RecoveryError, TimeoutError) as error:
            return str(error) or f"{store.name} did not answer within {REQUEST_SECONDS:.0f} s"
        reasons: list[str] = []
        for source in sources:
            try:
                await fill_location(point, source, store, noting(progress, store.name))
                return ""
            except RecoveryError as error:
                reasons.append(str(error))
        return "; ".join(dict.fromkeys(reasons))

    async def points(self, group: GroupSnapshot, since: timedelta | None = None) -> list[RecoveryPoint]:
        """See the port."""
        return await self.catalogue(group).points(group.name, None if since is None else datetime.now(UTC) - since)

    async def point(self, group: GroupSnapshot, point_id: str) -> RecoveryPoint:
        """See the port."""
        return await self.catalogue(group).point(group.name, point_id)

    async def newest_validated(self, group: GroupSnapshot, kind: BackupKind | None = None) -> RecoveryPoint:
        """See the port."""
        return await self.catalogue(group).newest_validated(group.name, kind)

    async def unbelieved(self, group: GroupSnapshot) -> dict[str, str]:
        """See the port."""
        reasons: dict[str, list[str]] = {}
        for entry in (await self.catalogue(group).survey(group.name)).rejected:
            if entry.key == manifest_key(group.name, entry.point_id):
                reasons.setdefault(entry.point_id, []).append(f"{entry.location}: {entry.reason}")
        return {point_id: "; ".join(words) for point_id, words in reasons.items()}

    async def validate(self, group: GroupSnapshot, point_id: str, run_id: str, progress: Progress) -> Verdict:
        """See the port. Every location's bytes are checked; the restore reads from one of them."""
        began = datetime.now(UTC)
        catalogue = self.catalogue(group)
        try:
            point = await catalogue.point(group.name, point_id)
        except Corrupt as error:
            # There is no manifest that a verdict could be signed for: it is told and not stored.
            return Verdict(
                point_id=point_id,
                group=group.name,
                state=VerdictState.CORRUPT,
                reason=str(error),
                location="none",
                manifest_sha256="",
                validated_at=datetime.now(UTC),
                duration=datetime.now(UTC) - began,
                run_id=run_id,
            )
        state, reason, checks, location = await self._judge().judge(group, point, run_id, progress)
        verdict = Verdict(
            point_id=point_id,
            group=group.name,
            state=state,
            reason=reason,
            checks=checks,
            location=location,
            manifest_sha256=point.manifest_sha256,
            validated_at=datetime.now(UTC),
            duration=datetime.now(UTC) - began,
            run_id=run_id,
            restored_bytes=point.manifest.plain_bytes if state is VerdictState.VALID else 0,
        )
        await catalogue.write_verdict(verdict, self.keys.signing())
        return verdict

    async def repair(self, group: GroupSnapshot, point_id: str, progress: Progress) -> Repaired:
        """See the port."""
        catalogue = self.catalogue(group)
        point = await catalogue.point(group.name, point_id)
        members = [*await bases_in(catalogue, point), point]
        return await repair_points(
            members, self.stores(group), self.keys.verifier, noting(progress, "comparing copies")
        )

    async def expire(self, group: GroupSnapshot, now: datetime, *, dry_run: bool) -> Expired:
        """See the port."""
        catalogue = self.catalogue(group)
        # Before the points: what a backup completes meanwhile is then a point without a set, and never the reverse.
        sets = [] if dry_run else (await catalogue.sets(group.name)).sets
        survey = await catalogue.survey(group.name)
        stored = await catalogue.stored_at(survey.points)
        plan = plan_retention(survey.points, group.retention, now, stored)
        removed = {point_id: plan.reasons.get(point_id, "") for point_id in plan.remove}
        kept = {point_id: plan.reasons.get(point_id, "") for point_id in plan.keep}
        if dry_run:
            return Expired(removed, kept, len(await catalogue.orphans(group.name)), plan.warnings)
        points = {point.point_id: point for point in survey.points}
        staying = await self._remove(group, [points[point_id] for point_id in plan.remove])
        # By the locations' clocks, too: by one that runs ahead a running backup's objects would be old.
        seen = [*stored.values(), *(orphan.youngest for orphan in await catalogue.orphans(group.name))]
        before = min([now, max(seen, default=now)]) - ORPHAN_AGE
        orphans, failed = await catalogue.remove_orphans(group.name, before)
        removed_elsewhere, warnings = 0, list(plan.warnings)
        if not survey.unreachable:  # else a set's points may all be at the location that did not tell
            removed_elsewhere, left = await discard_orphans(self.elsewhere.values(), group, survey, before)
            warnings += left
            there = {*plan.keep, *staying, *(entry.point_id for entry in survey.rejected)}
            for found in sets:
                if there.isdisjoint(member.point_id for member in found.members):
                    failed |= await catalogue.remove_set(group.name, found.set_id)
        failed |= staying
        if failed:
            raise Unreachable("; ".join(f"{name}: {reason}" for name, reason in failed.items()))
        return Expired(removed, kept, sum(orphan.objects for orphan in orphans) + removed_elsewhere, warnings)

    async def write_set(
        self, group: GroupSnapshot, point_ids: Sequence[str], *, set_id: str, run_id: str, missing: Sequence[str] = ()
    ) -> tuple[RecoverySet, dict[str, str]]:
        """See the port."""
        # At the same time: a location that hangs costs its patience once, and not once for each point.
        points = await for_each(point_ids, partial(self.point, group), max(len(point_ids), 1))
        found = set_of(points, set_id=set_id, run_id=run_id, missing=missing)
        catalogue = self.catalogue(group)
        whole = [member for point in points for member in (*await bases_in(catalogue, point), point)]
        manifests = [member.manifest for member in whole]
        return found, await write_set(self.stores(group), found, manifests, self.keys.signing())

    async def sets(self, group: GroupSnapshot) -> ListedSets:
        """See the port."""
        return await self.catalogue(group).sets(group.name)

    # Parts of the above.

    async def _remove(self, group: GroupSnapshot, points: Sequence[RecoveryPoint]) -> dict[str, str]:
        """The ids of points that stay for now, since what is kept of them elsewhere could not be removed, and why."""
        failed: dict[str, str] = {}
        for point in points:
            kept = self.elsewhere.get(point.manifest.kind)
            try:
                if kept is not None:
                    await discard_expired(kept, group, point)
            except RecoveryError as error:
                failed[point.point_id] = str(error)
                continue
            await self.catalogue(group).delete_point(group.name, point.point_id)
        return failed

    def part(self, kind: BackupKind) -> StorePoints:
        """Raises BadInput: this version takes no recovery points of such a store."""
        found = self.parts.get(kind) or self.parts.get(kind.store)
        if found is None:
            raise BadInput(f"there are no recovery points of {kind.store}: expected one of {', '.join(self.parts)}")
        return found

    def _parts(self, group: GroupSnapshot, store: DataStore) -> list[StorePoints]:
        """Of the kinds that are configured, each once; where none is, whatever is asked for will say so."""
        kinds = kinds_of(store)
        found: list[StorePoints] = []
        for kind in [kind for kind in kinds if kind in group.backup_kinds] or kinds[:1]:
            if (part := self.part(kind)) not in found:
                found.append(part)
        return found

    def _kept(self, point_id: str) -> KeptElsewhere | None:
        try:
            return self.elsewhere.get(kind_of(point_id))
        except ValueError:
            return None

    def _judge(self) -> PointJudge:
        return PointJudge(self.stores, self.keys, self.part, self.scratch_folder)

    async def _existing(self, order: BackupOrder) -> TakenPoint | None:
        try:
            point = await self.catalogue(order.group).point(order.group.name, order.point_id)
        except NotFound:
            return None
        missing = [store.name for store in self.stores(order.group) if store.name not in point.locations]
        reason = "it did not have the point when an earlier attempt ended"
        return TakenPoint(point.manifest, point.locations, dict.fromkeys(missing, reason))

    async def _same_epoch(self, order: BackupOrder) -> None:
        """A backup of a region that lost the group meanwhile must not become a recovery point."""
        found = await self.ownership.read(order.group.name)
        if found is None:
            return
        record, _ = found
        if record.region != order.region or (order.epoch is not None and record.epoch != order.epoch):
            raise Refused(
                f"group {order.group.name} moved to {record.region} (epoch {record.epoch}) while it was backed up from "
                f"{order.region}: this backup is not kept. The next one is taken from {record.region}"
            )

    @staticmethod
    async def _count(stores: Sequence[ObjectStore], group: str, point_id: str) -> int:
        async def count(store: ObjectStore) -> int:
            return len([info async for info in store.list(point_prefix(group, point_id))])

        return sum(await asyncio.gather(*(count(store) for store in stores)))


async def _check_location(store: ObjectStore) -> CheckResult:
    """One that hangs must not keep the others from being written to: it is told like one that lacks something."""
    try:
        async with asyncio.timeout(REQUEST_SECONDS):
            lacking = list(await store.shortcomings())
    except (RecoveryError, TimeoutError) as error:
        lacking = [str(error) or f"it did not answer within {REQUEST_SECONDS:.0f} s"]
    return CheckResult(name=f"location {store.name}", passed=not lacking, detail="; ".join(lacking))


async def _clock_of(store: ObjectStore, manifest: Manifest) -> str:
    """A warning where this worker's clock and the location's cannot both be right; no answer is no news."""
    key = manifest_key(manifest.group, manifest.point_id)
    try:
        async with asyncio.timeout(REQUEST_SECONDS):
            info = await store.head(key)
    except (RecoveryError, TimeoutError):
        return ""
    apart = manifest.finished_at - info.modified if info is not None else timedelta()
    if abs(apart) <= CLOCKS_APART:
        return ""
    return (
        f"the clock of this worker is {duration(abs(apart))} {'ahead of' if apart > timedelta() else 'behind'} that of "
        f"{store.name}: mend the one that is wrong, and take another backup. Points are named by the worker's, which "
        "tells the newest one where no position in a log does (Redis, search)"
    )


async def _remove_leftovers_soon(stores: Sequence[ObjectStore], order: BackupOrder) -> None:
    """Of attempts whose worker was lost. A location that does not answer keeps them: retention finds them later."""

    async def clean(store: ObjectStore) -> None:
        try:
            async with asyncio.timeout(REQUEST_SECONDS):
                failed = await remove_leftovers([store], order.group.name, order.point_id)
        except TimeoutError:
            failed = {store.name: Unreachable(f"no answer within {REQUEST_SECONDS:.0f} s")}
        if failed:
            reasons = {name: str(error) for name, error in failed.items()}
            log.warning("an earlier attempt's objects were not removed", point=order.point_id, **reasons)

    await asyncio.gather(*(clean(store) for store in stores))
