"""Completes a location that was dropped during a backup from one that holds the point."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable

from recovery.backup.bounded import for_each
from recovery.backup.layout import manifest_key, verdicts_prefix
from recovery.backup.leftovers import existing_manifest
from recovery.backup.once import put_once
from recovery.domain.recovery_point import RecoveryPoint, StoredObject
from recovery.errors import Contended, Corrupt, NotFound, RecoveryError
from recovery.ports.object_store import ObjectStore

COPIES = 4  # objects on their way at once, each in memory whole
Progress = Callable[[int, int], None]


async def fill_location(
    point: RecoveryPoint, from_store: ObjectStore, to_store: ObjectStore, progress: Progress | None = None
) -> int:
    """Copies what ``to_store`` lacks of a complete point: objects, verdicts, and the manifest last. Idempotent.

    Every object is checked against the manifest on its way; one that ``to_store`` has already is read back and kept
    only when its SHA-256 is right.

    Returns:
        How many objects were copied.

    Raises:
        Corrupt: an object of ``from_store`` differs from the manifest.
        NotFound: ``from_store`` does not hold the point any more.
        Contended: ``to_store`` holds another manifest under this point id.
    """
    manifest = point.manifest
    key = manifest_key(manifest.group, manifest.point_id)
    body, _ = await from_store.get(key)
    there = await existing_manifest(to_store, manifest.group, manifest.point_id)
    if there is not None and there != body:
        raise Contended(f"{to_store.name} holds another recovery point under the id {manifest.point_id}")
    copied = await _copy_objects(point, from_store, to_store, progress)
    async for info in from_store.list(verdicts_prefix(manifest.group, manifest.point_id)):
        verdict, _ = await from_store.get(info.key)
        await put_once(to_store, info.key, verdict)
    if there is None:
        await to_store.put(key, body, if_absent=True)
    return copied


async def _copy_objects(
    point: RecoveryPoint, from_store: ObjectStore, to_store: ObjectStore, progress: Progress | None
) -> int:
    entries = [entry for artefact in point.manifest.artefacts for entry in artefact.objects]
    done = copied = 0

    async def copy(entry: StoredObject) -> None:
        nonlocal done, copied
        if not await _is_there(to_store, entry):
            await _copy(from_store, to_store, entry)
            copied += 1
        done += entry.size
        if progress is not None:
            progress(done, point.manifest.stored_bytes)

    await for_each(entries, copy, COPIES)
    return copied


async def _is_there(store: ObjectStore, entry: StoredObject) -> bool:
    info = await store.head(entry.key)
    if info is None or info.size != entry.size:
        return False
    try:
        body, _ = await store.get(entry.key)
    except RecoveryError:
        return False  # listed and not readable, as after a crash of the store: it is written anew
    return await asyncio.to_thread(sha256_hex, body) == entry.sha256


async def _copy(from_store: ObjectStore, to_store: ObjectStore, entry: StoredObject) -> None:
    try:
        body, _ = await from_store.get(entry.key)
    except NotFound as error:
        raise Corrupt(f"object {entry.key} is missing at {from_store.name}") from error
    if len(body) != entry.size or await asyncio.to_thread(sha256_hex, body) != entry.sha256:
        raise Corrupt(f"object {entry.key} at {from_store.name} differs from the manifest")
    await to_store.put(entry.key, body, sha256=entry.sha256)


def sha256_hex(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()
