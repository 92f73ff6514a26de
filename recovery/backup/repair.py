"""Writes damaged or missing objects of a recovery point anew, from a location that holds them as its manifest says.

The signed manifest is the judge: only bytes with its sizes and SHA-256 are written. Every object is found intact
somewhere before the first one is written, and each is written only where still the very thing stands that was found
wanting (``If-Match``, or ``If-None-Match`` where nothing was).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from recovery.backup.bounded import for_each
from recovery.backup.documents import read_manifest
from recovery.backup.fill import sha256_hex
from recovery.backup.layout import manifest_key
from recovery.backup.reader import PARALLEL, fetched
from recovery.backup.signing import Verifier
from recovery.domain.recovery_point import RecoveryPoint, StoredObject
from recovery.errors import Contended, Corrupt, RecoveryError, Unreachable, WrongKey
from recovery.ports.object_store import ObjectStore
from recovery.ports.recovery_points import Repaired

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class _Copy:
    """One object at one location; ``etag`` of what is there, None where nothing is."""

    store: ObjectStore
    etag: str | None
    sound: bool


async def repair_point(
    point: RecoveryPoint, stores: Sequence[ObjectStore], verifier: Verifier, progress: Progress | None = None
) -> Repaired:
    """Makes all copies of a point sound, as far as they can be. Idempotent.

    Args:
        point: as the catalogue believes it.
        stores: all of the group's locations. One that holds no manifest of the point is left to ``fill_location``; one
            whose manifest is damaged gets it anew, after its objects. A manifest that is somebody's word (its signature
            is right, or of an unknown key) is never replaced.
        progress: called with (stored bytes looked at, stored bytes in all).

    Raises:
        Corrupt: an object is intact nowhere. Nothing was written.
        Unreachable: no location answers.
    """
    repair = _Repair(point, verifier, progress)
    return await repair.run(stores)


async def repair_points(
    points: Sequence[RecoveryPoint], stores: Sequence[ObjectStore], verifier: Verifier, progress: Progress | None = None
) -> Repaired:
    """A point and all that it builds on, as one. Arguments and errors are those of :func:`repair_point`."""
    written: dict[str, list[str]] = {}
    left: dict[str, str] = {}
    for point in points:
        done = await repair_point(point, stores, verifier, progress)
        for name, keys in done.written.items():
            written.setdefault(name, []).extend(keys)
        left |= done.left
    return Repaired(written, left)


class _Repair:
    def __init__(self, point: RecoveryPoint, verifier: Verifier, progress: Progress | None) -> None:
        self._point = point
        self._verifier = verifier
        self._progress = progress
        self._looked_at = 0
        self._written: dict[str, list[str]] = {}
        self._left: dict[str, str] = {}

    async def run(self, stores: Sequence[ObjectStore]) -> Repaired:
        manifest = self._point.manifest
        manifests = [copy for store in stores if (copy := await self._manifest_at(store)) is not None]
        holding = [copy.store for copy in manifests]
        entries = [entry for artefact in manifest.artefacts for entry in artefact.objects]
        found = await for_each(entries, lambda entry: self._look(entry, holding), PARALLEL)
        lost = [entry.key for entry, copies in zip(entries, found, strict=True) if not _sound(copies)]
        if lost and self._left:
            raise Unreachable("; ".join(self._left.values()))
        if lost:
            more = f" and {len(lost) - 1} more" if len(lost) > 1 else ""
            raise Corrupt(f"no location holds {lost[0]}{more} intact: {self._point.point_id} cannot be repaired")
        for entry, copies in zip(entries, found, strict=True):
            for damaged in [copy for copy in copies if not copy.sound]:
                await self._write(entry, _sound(copies), damaged)
        await self._mend_manifests(manifests)
        return Repaired(self._written, self._left)

    async def _manifest_at(self, store: ObjectStore) -> _Copy | None:
        """None where the location holds no manifest, none that may be replaced, or does not answer."""
        key = manifest_key(self._point.manifest.group, self._point.point_id)
        try:
            there = await fetched(store, key)
            if there is None:
                return None
            body, etag = there
            try:
                self._verifier.verify(body)
            except Corrupt:
                return _Copy(store, etag, sound=False)
            if self._is_ours(body):
                return _Copy(store, etag, sound=True)
            self._left[store.name] = f"{store.name} holds another manifest under the id {self._point.point_id}"
        except WrongKey as error:
            self._left[store.name] = f"{store.name}: {key}: {error}"
        except RecoveryError as error:
            self._left[store.name] = str(error)
        return None

    def _is_ours(self, body: bytes) -> bool:
        manifest = self._point.manifest
        try:
            found = read_manifest(body, self._verifier, group=manifest.group, point_id=manifest.point_id)
        except (Corrupt, WrongKey):
            return False
        return found.digest == self._point.manifest_sha256

    async def _look(self, entry: StoredObject, stores: Sequence[ObjectStore]) -> list[_Copy]:
        """The object at every location that answers."""
        copies = []
        for store in stores:
            if store.name in self._left:
                continue
            try:
                there = await fetched(store, entry.key)
            except RecoveryError as error:
                self._left[store.name] = str(error)
                continue
            sound = there is not None and await _is_right(there[0], entry)
            copies.append(_Copy(store, None if there is None else there[1], sound))
        self._looked_at += entry.size
        if self._progress is not None:
            self._progress(self._looked_at, self._point.manifest.stored_bytes)
        return copies

    async def _write(self, entry: StoredObject, sources: Sequence[ObjectStore], damaged: _Copy) -> None:
        if damaged.store.name in self._left:
            return
        try:
            body = await _from_first(entry, sources)
            await self._put(damaged, entry.key, body, entry)
        except RecoveryError as error:
            self._left[damaged.store.name] = str(error)

    async def _put(self, damaged: _Copy, key: str, body: bytes, entry: StoredObject | None) -> None:
        sha256 = entry.sha256 if entry is not None else None
        try:
            if damaged.etag is None:
                await damaged.store.put(key, body, if_absent=True, sha256=sha256)
            else:
                await damaged.store.put(key, body, if_match=damaged.etag, sha256=sha256)
        except Contended:
            there = await fetched(damaged.store, key)
            if there is None or there[0] != body:  # else another repair was quicker
                raise
        self._written.setdefault(damaged.store.name, []).append(key)

    async def _mend_manifests(self, manifests: Sequence[_Copy]) -> None:
        """Last: a location whose manifest is damaged does not count before its objects are right."""
        key = manifest_key(self._point.manifest.group, self._point.point_id)
        for damaged in [copy for copy in manifests if not copy.sound and copy.store.name not in self._left]:
            try:
                body = await self._good_manifest([copy.store for copy in manifests if copy.sound])
                await self._put(damaged, key, body, None)
            except RecoveryError as error:
                self._left[damaged.store.name] = str(error)

    async def _good_manifest(self, stores: Sequence[ObjectStore]) -> bytes:
        key = manifest_key(self._point.manifest.group, self._point.point_id)
        for store in stores:
            there = await fetched(store, key)
            if there is not None and self._is_ours(there[0]):
                return there[0]
        raise Corrupt(f"no location holds the manifest of {self._point.point_id} any more")


def _sound(copies: Sequence[_Copy]) -> list[ObjectStore]:
    return [copy.store for copy in copies if copy.sound]


async def _from_first(entry: StoredObject, sources: Sequence[ObjectStore]) -> bytes:
    """Read and checked again: between the look and the write it may have been damaged or have gone."""
    reasons: list[str] = []
    for source in sources:
        try:
            there = await fetched(source, entry.key)
        except RecoveryError as error:
            reasons.append(str(error))
            continue
        if there is not None and await _is_right(there[0], entry):
            return there[0]
        reasons.append(f"{entry.key} at {source.name} is not intact any more")
    raise Corrupt("; ".join(reasons))


async def _is_right(body: bytes, entry: StoredObject) -> bool:
    return len(body) == entry.size and await asyncio.to_thread(sha256_hex, body) == entry.sha256
