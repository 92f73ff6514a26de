"""What is found out about a recovery point: its bytes at every location, and a restore from one of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import structlog

from recovery.adapters.key_ring import KeyRing
from recovery.backup.catalogue import REQUEST_SECONDS, Catalogue
from recovery.backup.chains import bases_in, open_proven_bases
from recovery.backup.documents import read_manifest
from recovery.backup.layout import manifest_key
from recovery.backup.leftovers import existing_manifest
from recovery.backup.progress import noting
from recovery.backup.reader import StoredPointReader, check_key, open_point, verify_objects
from recovery.domain.group import GroupSnapshot
from recovery.domain.recovery_point import NO_LOCATION, BackupKind, CheckResult, RecoveryPoint, VerdictState
from recovery.errors import Corrupt, RecoveryError, Refused, Unreachable, WrongKey
from recovery.ports.object_store import ObjectStore
from recovery.ports.recovery_points import Progress, StorePoints

log = structlog.get_logger("recovery.points")


@dataclass
class PointJudge:
    """``part``: a store's own, by the kind of point; ``scratch_folder``: by group."""

    stores: Callable[[GroupSnapshot], Sequence[ObjectStore]]
    keys: KeyRing
    part: Callable[[BackupKind], StorePoints]
    scratch_folder: Callable[[str], Path]

    def catalogue(self, group: GroupSnapshot) -> Catalogue:
        return Catalogue(self.stores(group), self.keys.verifier)

    async def judge(
        self, group: GroupSnapshot, point: RecoveryPoint, run_id: str, progress: Progress
    ) -> tuple[VerdictState, str, list[CheckResult], str]:
        """State, reason, checks, and the location that was judged, or ``NO_LOCATION``."""
        stores = self.catalogue(group).stores_of(point)
        try:  # before the objects are downloaded in bulk
            await check_key(point.manifest, self.keys.opening(), stores)
        except WrongKey as error:
            return VerdictState.FAILED, str(error), [], NO_LOCATION
        except (Corrupt, Unreachable, Refused):
            log.info("the smallest object cannot be read: the check of all objects says why", point=point.point_id)
        bad_manifests, silent = await self._manifests_elsewhere(group, point)
        if bad_manifests:
            location, reason = next(iter(bad_manifests.items()))
            return VerdictState.CORRUPT, f"at {location}: {reason}", [], location
        checks: list[CheckResult] = []
        intact: list[ObjectStore] = []
        for store in stores:
            try:
                found = await verify_objects(store, point.manifest, noting(progress, f"checking {store.name}"))
            except (Unreachable, Refused) as error:
                silent.append(f"{store.name} did not answer: {error}")
                continue
            checks += [check.model_copy(update={"name": f"{store.name}: {check.name}"}) for check in found]
            bad = [check.detail for check in found if not check.passed]
            if bad:
                return VerdictState.CORRUPT, f"at {store.name}: {'; '.join(bad)}", checks, store.name
            intact.append(store)
        if not intact:
            return VerdictState.FAILED, "; ".join(silent) or "no location holds it", checks, NO_LOCATION
        try:
            bases, more = await self._proven_bases(group, point, silent, progress)
        except Corrupt as error:
            return VerdictState.CORRUPT, str(error), checks, intact[0].name
        except RecoveryError as error:
            return VerdictState.FAILED, str(error), checks, NO_LOCATION
        checks += more
        state, reason, more = await self._restored(group, point, intact[0], bases, run_id, progress)
        lost_elsewhere = state is VerdictState.CORRUPT and point.manifest.kind is BackupKind.SNAPSHOT
        location = NO_LOCATION if lost_elsewhere else intact[0].name  # the locations hold a snapshot's manifest only
        return state, "; ".join([reason, *silent] if reason else silent), checks + more, location

    async def _proven_bases(
        self, group: GroupSnapshot, point: RecoveryPoint, silent: list[str], progress: Progress
    ) -> tuple[list[StoredPointReader], list[CheckResult]]:
        """``silent`` gets the locations that did not answer. Raises Corrupt, and what else stands in the way."""
        catalogue = self.catalogue(group)
        bases = await bases_in(catalogue, point)
        for base in bases:
            bad, unheard = await self._manifests_elsewhere(group, base)
            for location, reason in bad.items():
                raise Corrupt(f"{base.point_id}, which it builds on, at {location}: {reason}")
            silent += [words for words in unheard if words not in silent]
        return await open_proven_bases(catalogue, bases, self.keys.opening(), progress)

    async def _manifests_elsewhere(
        self, group: GroupSnapshot, point: RecoveryPoint
    ) -> tuple[dict[str, str], list[str]]:
        """Manifests of the point that are not believed, by location, and the locations that did not answer."""
        bad: dict[str, str] = {}
        silent: list[str] = []
        for store in self.stores(group):
            if store.name in point.locations:
                continue
            key = manifest_key(group.name, point.point_id)
            try:
                async with asyncio.timeout(REQUEST_SECONDS):
                    body = await existing_manifest(store, group.name, point.point_id)
                if body is None:
                    continue
                there = read_manifest(body, self.keys.verifier, group=group.name, point_id=point.point_id)
                if there.digest != point.manifest_sha256:
                    bad[store.name] = f"{key} is another manifest than the one at {', '.join(point.locations)}"
            except (Corrupt, WrongKey) as error:
                bad[store.name] = f"{key}: {error}"
            except (RecoveryError, TimeoutError) as error:
                silent.append(f"{store.name} did not answer: {error}")
        return bad, silent

    async def _restored(
        self,
        group: GroupSnapshot,
        point: RecoveryPoint,
        store: ObjectStore,
        bases: Sequence[StoredPointReader],
        run_id: str,
        progress: Progress,
    ) -> tuple[VerdictState, str, list[CheckResult]]:
        scratch_folder = self.scratch_folder(group.name)
        scratch_folder.mkdir(parents=True, exist_ok=True)
        return await self.part(point.manifest.kind).validate(
            group,
            open_point(store, point.manifest, self.keys.opening(), bases=bases),
            scratch_folder,
            noting(progress, f"restoring from {store.name}"),
            run_id,
        )
