"""Removes what unfinished attempts left behind, and never an object that a manifest speaks for."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence

from recovery.backup.layout import manifest_key, point_prefix
from recovery.errors import Contended, NotFound, RecoveryError
from recovery.ports.object_store import ObjectStore

DELETE_BATCH = 1000


async def delete_prefix(store: ObjectStore, prefix: str, keep: Sequence[str] = ()) -> int:
    """Deletes all objects below a prefix except those below one of ``keep``. Returns how many."""
    count = 0
    batch: list[str] = []
    async for info in store.list(prefix):
        if any(info.key.startswith(kept) for kept in keep):
            continue
        batch.append(info.key)
        if len(batch) == DELETE_BATCH:
            await store.delete(batch)
            count, batch = count + len(batch), []
    if batch:
        await store.delete(batch)
    return count + len(batch)


async def remove_leftovers(
    stores: Sequence[ObjectStore], group: str, point_id: str, keep_attempt: str | None = None
) -> dict[str, RecoveryError]:
    """Removes the objects of all attempts of a point except ``keep_attempt`` and those that its manifest names.

    Idempotent; meant for what a killed worker left behind. A manifest that is there, signed by whomever, protects its
    objects: an existing recovery point is never touched.

    Args:
        keep_attempt: a folder name (``PointIdentity.folder``), or None to keep only what a manifest names.

    Returns:
        What could not be cleaned: location and reason (Refused: it may not delete). Empty when all is done.
    """
    outcomes = await asyncio.gather(
        *(_clean_location(store, group, point_id, keep_attempt) for store in stores), return_exceptions=True
    )
    failed: dict[str, RecoveryError] = {}
    for store, outcome in zip(stores, outcomes, strict=True):
        if isinstance(outcome, RecoveryError):
            failed[store.name] = outcome
        elif isinstance(outcome, BaseException):
            raise outcome
    return failed


async def _clean_location(store: ObjectStore, group: str, point_id: str, keep_attempt: str | None) -> None:
    prefix = point_prefix(group, point_id)
    keep = [f"{prefix}{keep_attempt}/"] if keep_attempt else []
    named = await _named_folders(store, group, point_id)
    if named is not None:
        await delete_prefix(store, prefix, [*keep, *named, manifest_key(group, point_id), f"{prefix}verdicts/"])
        return
    await delete_prefix(store, prefix, [*keep, manifest_key(group, point_id)])
    await _withdraw_if_incomplete(store, group, point_id, keep)


async def _withdraw_if_incomplete(store: ObjectStore, group: str, point_id: str, keep: list[str]) -> None:
    """A writer that was thought dead may have put its manifest while its objects were being removed.

    It checks its objects after its manifest, we look for a manifest after the removal: one of the two sees the other.
    """
    named = await _named_folders(store, group, point_id)
    if not named:
        return
    body, _ = await store.get(manifest_key(group, point_id))
    missing = await missing_objects(store, _objects(body), point_prefix(group, point_id))
    if missing:
        await store.delete([manifest_key(group, point_id)])
        await delete_prefix(store, point_prefix(group, point_id), keep)


async def missing_objects(store: ObjectStore, objects: dict[str, int], prefix: str) -> list[str]:
    """Keys that are absent below ``prefix`` or have another size than ``objects`` says."""
    found = {info.key: info.size async for info in store.list(prefix)}
    return [key for key, size in objects.items() if found.get(key) != size]


async def _named_folders(store: ObjectStore, group: str, point_id: str) -> list[str] | None:
    """Folders that the stored manifest names; the whole point when it cannot be read; None without a manifest."""
    try:
        body, _ = await store.get(manifest_key(group, point_id))
    except NotFound:
        return None
    try:
        return sorted({key.rpartition("/")[0] + "/" for key in _objects(body)})
    except (ValueError, KeyError, TypeError):
        return [point_prefix(group, point_id)]


def _objects(body: bytes) -> dict[str, int]:
    artefacts = json.loads(body)["payload"]["artefacts"]
    return {entry["key"]: entry["size"] for artefact in artefacts for entry in artefact["objects"]}


async def existing_manifest(store: ObjectStore, group: str, point_id: str) -> bytes | None:
    try:
        return (await store.get(manifest_key(group, point_id)))[0]
    except NotFound:
        return None


def lost_race(point_id: str, name: str) -> Contended:
    return Contended(f"recovery point {point_id} was completed by another attempt (its manifest is at {name})")
