"""Which locations have a recovery point whole, which are still being filled, and what a bucket's own replication says.

A point's manifest is the last that a location gets, so one with a manifest had all of its objects once.
API: docs.aws.amazon.com/AmazonS3/latest/userguide/replication-status.html.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Collection, Sequence
from functools import partial

from recovery.backup.bounded import for_each
from recovery.backup.catalogue import REQUEST_SECONDS
from recovery.backup.layout import manifest_key, point_prefix
from recovery.backup.survey import Survey
from recovery.domain.copies import Copy, CopyState, Replication
from recovery.domain.recovery_point import RecoveryPoint
from recovery.domain.words import plural
from recovery.errors import RecoveryError
from recovery.ports.object_store import ObjectStore

AT_ONCE = 8
MOST_ASKED = 1000  # objects of one point at one location whose replication is asked for
LIST_SECONDS = 60.0  # for the names of one point's objects

Copies = dict[str, dict[str, Copy]]
"""By point id, by location."""


async def copies_of(
    stores: Sequence[ObjectStore], survey: Survey, expected: Sequence[str], replicating: Collection[str] = ()
) -> Copies:
    """Of all points of a survey, with the replication of their manifests.

    Args:
        expected: the locations at which they are to be, in their order.
        replicating: those whose bucket is to replicate. Of another one the newest manifest tells whether it does.
    """
    found: dict[str, dict[str, CopyState]] = {
        point.point_id: {
            location: _state(point, location, survey) for location in dict.fromkeys([*expected, *point.locations])
        }
        for point in survey.points
    }
    said: dict[tuple[str, str], Replication] = {}

    async def ask(store: ObjectStore) -> None:
        there = [point for point in survey.points if store.name in point.locations]
        if not there or (store.name not in replicating and await _manifest(store, there[0]) is Replication.NONE):
            return
        statuses = await for_each(there, partial(_manifest, store), AT_ONCE)
        said.update({(point.point_id, store.name): status for point, status in zip(there, statuses, strict=True)})

    await for_each(stores, ask, max(len(stores), 1))
    return {
        point_id: {location: _copy(state, said.get((point_id, location))) for location, state in at.items()}
        for point_id, at in found.items()
    }


def _copy(state: CopyState, replication: Replication | None) -> Copy:
    return Copy(state=state, replication={} if replication is None else {replication: 1})


def _state(point: RecoveryPoint, location: str, survey: Survey) -> CopyState:
    manifest = point.manifest
    if location in point.locations:
        return CopyState.DAMAGED if location in point.damaged_at else CopyState.WHOLE
    if location in survey.unreachable:
        return CopyState.UNKNOWN
    key = manifest_key(manifest.group, manifest.point_id)
    if any((each.location, each.key) == (location, key) for each in survey.rejected):
        return CopyState.DISBELIEVED
    return CopyState.FILLING if location in survey.unfinished.get(point.point_id, []) else CopyState.MISSING


async def _manifest(store: ObjectStore, point: RecoveryPoint) -> Replication:
    return await _replication(store, manifest_key(point.manifest.group, point.point_id))


async def _replication(store: ObjectStore, key: str) -> Replication:
    try:
        async with asyncio.timeout(REQUEST_SECONDS):
            info = await store.head(key)
    except (RecoveryError, TimeoutError):
        return Replication.UNKNOWN
    return Replication.UNKNOWN if info is None else Replication.of(info.replication)


async def examined(
    stores: Sequence[ObjectStore], point: RecoveryPoint, replicating: Collection[str] = ()
) -> dict[str, Copy]:
    """Of one point, by location: the names and sizes of all its objects are compared with the manifest, and the
    replication of each is asked for, of MOST_ASKED at most."""

    async def at(store: ObjectStore) -> Copy:
        try:
            async with asyncio.timeout(LIST_SECONDS):
                return await _examined(store, point, store.name in replicating)
        except (RecoveryError, TimeoutError) as error:
            return Copy(state=CopyState.UNKNOWN, detail=str(error) or f"no answer within {LIST_SECONDS:.0f} s")

    return {
        store.name: copy for store, copy in zip(stores, await for_each(stores, at, max(len(stores), 1)), strict=True)
    }


async def _examined(store: ObjectStore, point: RecoveryPoint, replicates: bool) -> Copy:
    manifest = point.manifest
    key = manifest_key(manifest.group, manifest.point_id)
    there = {info.key: info.size async for info in store.list(point_prefix(manifest.group, manifest.point_id))}
    if store.name not in point.locations:
        if key in there:
            return Copy(state=CopyState.DISBELIEVED, detail="it has another manifest")
        state = CopyState.FILLING if there else CopyState.MISSING
        return Copy(state=state, detail=f"{plural(len(there), 'object')} so far" if there else "")
    entries = [entry for artefact in manifest.artefacts for entry in artefact.objects]
    lacking = [entry for entry in entries if there.get(entry.key) != entry.size]
    if lacking:
        words = f"{len(lacking)} of {len(entries)} objects are missing or have another size"
        return Copy(state=CopyState.INCOMPLETE, detail=words)
    state = CopyState.DAMAGED if store.name in point.damaged_at else CopyState.WHOLE
    first = await _replication(store, key)
    if first is Replication.NONE and not replicates:
        return Copy(state=state)
    step = max(1, -(-len(entries) // MOST_ASKED))
    statuses = await for_each([entry.key for entry in entries[::step]], partial(_replication, store), AT_ONCE)
    return Copy(state=state, replication=dict(Counter([first, *statuses])))
