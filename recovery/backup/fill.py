"""Completes a location that was dropped during a backup from one that holds the point."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from enum import Enum, auto

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
    only when its SHA-256 is right. Only one that is damaged there is overwritten: for all others credentials are enough
    that may add objects and not overwrite any.

    Returns:
        How many objects were copied.

    Raises:
        Corrupt: an object of ``from_store`` differs from the manifest.
        NotFound: ``from_store`` does not hold the point any more.
        Contended: ``to_store`` holds another manifest under this point id, or got another object meanwhile.
        Refused: an object is damaged there, and may not be overwritten.
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
        await put_once(to_store, key, body)
    return copied


async def _copy_objects(
    point: RecoveryPoint, from_store: ObjectStore, to_store: ObjectStore, progress: Progress | None
) -> int:
    entries = [entry for artefact in point.manifest.artefacts for entry in artefact.objects]
    done = copied = 0

    async def copy(entry: StoredObject) -> None:
        nonlocal done, copied
        there = await _state(to_store, entry)
        if there is not _There.SOUND:
            body = await _checked(from_store, entry)
            if there is _There.DAMAGED:
                await to_store.put(entry.key, body, sha256=entry.sha256)
            else:
                await put_once(to_store, entry.key, body, sha256=entry.sha256)
            copied += 1
        done += entry.size
        if progress is not None:
            progress(done, point.manifest.stored_bytes)

    await for_each(entries, copy, COPIES)
    return copied


class _There(Enum):
    """What a location has of an object."""

    ABSENT = auto()
    DAMAGED = auto()
    SOUND = auto()


async def _state(store: ObjectStore, entry: StoredObject) -> _There:
    info = await store.head(entry.key)
    if info is None:
        return _There.ABSENT
    if info.size != entry.size:
        return _There.DAMAGED
    try:
        body, _ = await store.get(entry.key)
    except RecoveryError:
        return _There.DAMAGED  # listed and not readable, as after a crash of the store: it is written anew
    sound = await asyncio.to_thread(sha256_hex, body) == entry.sha256
    return _There.SOUND if sound else _There.DAMAGED


async def _checked(store: ObjectStore, entry: StoredObject) -> bytes:
    """Raises Corrupt."""
    try:
        body, _ = await store.get(entry.key)
    except NotFound as error:
        raise Corrupt(f"object {entry.key} is missing at {store.name}") from error
    if len(body) != entry.size or await asyncio.to_thread(sha256_hex, body) != entry.sha256:
        raise Corrupt(f"object {entry.key} at {store.name} differs from the manifest")
    return body


def sha256_hex(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()
