"""Reads recovery points: objects fetched in parallel, checked before they are decrypted, given out in order."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from itertools import islice

from recovery.backup.bounded import for_each
from recovery.backup.fill import sha256_hex
from recovery.backup.readable import decompressed
from recovery.backup.sealing import Opener
from recovery.domain.recovery_point import Artefact, CheckResult, Manifest, StoredObject
from recovery.errors import BadInput, Corrupt, NotFound, RecoveryError, Transient, Unreachable, WrongKey
from recovery.ports.object_store import ObjectStore

PARALLEL = 4  # objects on their way at once; each takes at most its stored and its plain size in memory
TRIES = 3
PAUSE = 0.3  # seconds before the second try, twice as long before the third
OBJECT_SECONDS = 60.0  # for the download of one object
SHORT_SECONDS = 15.0  # the same on the first try, when another location has it too
NAMED_FAILURES = 3

Progress = Callable[[int, int], None]


class ObjectReader:
    """Gets single objects from the first location that has them intact.

    Args:
        stores: tried in this order; a location that does not answer goes to the end of it. With one store, nothing
            else is ever tried: a validation must judge exactly one location.
    """

    def __init__(self, stores: Sequence[ObjectStore], opener: Opener | None) -> None:
        if not stores:
            raise BadInput("a recovery point needs at least one location to be read from")
        self._stores = list(stores)
        self._opener = opener

    async def plain(self, entry: StoredObject, *, sealed: bool = True) -> bytes:
        """Size, SHA-256, decryption, decompression and plain size are checked in this order, at each location.

        Raises:
            Corrupt: no location has it intact.
            Unreachable: a location that may have it does not answer.
            WrongKey: no identity at hand opens it. Never of one that is not ``sealed``.
        """
        failures: dict[str, RecoveryError] = {}
        for attempt in range(1, TRIES + 1):
            for store in [store for store in self._stores if not _is_final(failures.get(store.name))]:
                try:
                    return await self._from(store, entry, sealed, first=attempt == 1)
                except WrongKey:
                    raise
                except RecoveryError as error:
                    failures[store.name] = error
                    if error.retryable:
                        self._prefer_others(store)
            if all(map(_is_final, failures.values())):
                break
            if attempt < TRIES:
                await asyncio.sleep(PAUSE * attempt)
        for failure in failures.values():
            if failure.retryable:
                raise failure
        raise Corrupt("; ".join(str(failure) for failure in failures.values()))

    async def _from(self, store: ObjectStore, entry: StoredObject, sealed: bool, first: bool) -> bytes:
        """One try at one location, short at first where there is another location to turn to."""
        limit = SHORT_SECONDS if first and len(self._stores) > 1 else OBJECT_SECONDS
        try:
            async with asyncio.timeout(limit):
                body, _ = await store.get(entry.key)
        except NotFound as error:
            raise Corrupt(f"object {entry.key} is missing at {store.name}") from error
        except TimeoutError as error:
            raise Unreachable(f"{store.name} did not deliver {entry.key} within {limit:g} s") from error
        try:
            if not sealed:
                return await decompressed(entry, body)
            if self._opener is None:
                raise WrongKey(f"object {entry.key} is encrypted, and no identity was given")
            return await self._opener.open(entry, body)
        except Corrupt as error:
            raise Corrupt(f"{store.name}: {error}") from error

    def _prefer_others(self, store: ObjectStore) -> None:
        if len(self._stores) > 1 and self._stores[0] is store:
            self._stores.append(self._stores.pop(0))


def _is_final(failure: RecoveryError | None) -> bool:
    return failure is not None and not failure.retryable


class StoredPointReader:
    """A recovery point opened for reading (``recovery.ports.postgres.PointReader``)."""

    def __init__(
        self,
        manifest: Manifest,
        objects: ObjectReader,
        parallel: int = PARALLEL,
        bases: Sequence[StoredPointReader] = (),
    ) -> None:
        self.manifest = manifest
        self.bases = bases
        self._objects = objects
        self._parallel = parallel

    async def stream(self, artefact: str, progress: Progress | None = None) -> AsyncIterator[bytes]:
        """The artefact's bytes, one chunk per object.

        Args:
            progress: called with (plain bytes given out, plain bytes of the artefact).

        Raises:
            NotFound: the point has no such artefact; those it has are named.
            Corrupt, Unreachable, WrongKey: see ``ObjectReader.plain``.
        """
        wanted = self._artefact(artefact)
        entries = iter(wanted.objects)
        ahead = deque(self._start(islice(entries, self._parallel), wanted.sealed))
        done = 0
        try:
            while ahead:
                plain = await ahead[0]
                ahead.popleft()
                ahead.extend(self._start(islice(entries, 1), wanted.sealed))
                yield plain
                done += len(plain)
                del plain
                if progress is not None:
                    progress(done, wanted.plain_size)
        finally:
            for task in ahead:
                task.cancel()
            await asyncio.gather(*ahead, return_exceptions=True)

    def _start(self, entries: Iterable[StoredObject], sealed: bool) -> list[asyncio.Task[bytes]]:
        return [asyncio.ensure_future(self._objects.plain(entry, sealed=sealed)) for entry in entries]

    def _artefact(self, name: str) -> Artefact:
        try:
            return self.manifest.artefact(name)
        except KeyError as error:
            known = ", ".join(artefact.name for artefact in self.manifest.artefacts)
            raise NotFound(f"recovery point {self.manifest.point_id} has no {name!r}: it has {known}") from error


def open_point(
    stores: ObjectStore | Sequence[ObjectStore],
    manifest: Manifest,
    opener: Opener | None,
    parallel: int = PARALLEL,
    bases: Sequence[StoredPointReader] = (),
) -> StoredPointReader:
    """Opens a point whose manifest the catalogue verified.

    Args:
        stores: locations that hold the point. Give exactly one for a validation; a restore takes an object that is
            missing or corrupt at one location from the next.
        opener: None for artefacts that are not sealed.
        parallel: objects in memory at once.
        bases: of an incremental base backup, the points that it needs, the full one first.
    """
    chosen = list(stores) if isinstance(stores, Sequence) else [stores]
    return StoredPointReader(manifest, ObjectReader(chosen, opener), parallel, bases)


async def check_key(manifest: Manifest, opener: Opener, stores: ObjectStore | Sequence[ObjectStore]) -> None:
    """Says a wrong key before anything is downloaded in bulk: opens the smallest object of the point.

    Raises:
        WrongKey: none of the identities is one that the point was encrypted for; both sides are named.
        Corrupt, Unreachable: the smallest object cannot be read.
    """
    if not set(opener.recipients) & set(manifest.recipients):
        raise WrongKey(
            f"recovery point {manifest.point_id} is encrypted for {', '.join(manifest.recipients)}; "
            f"the keys at hand are of {', '.join(opener.recipients)}. Give the identity of one of the former."
        )
    entries = [entry for artefact in manifest.artefacts if artefact.sealed for entry in artefact.objects]
    if entries:
        chosen = list(stores) if isinstance(stores, Sequence) else [stores]
        await ObjectReader(chosen, opener).plain(min(entries, key=lambda entry: entry.size))


async def verify_objects(
    store: ObjectStore, manifest: Manifest, progress: Progress | None = None, parallel: int = PARALLEL
) -> list[CheckResult]:
    """Downloads every object from exactly this location and compares size and SHA-256, without any key.

    Args:
        progress: called with (stored bytes checked, stored bytes in all).

    Returns:
        One result per artefact, in the manifest's order.

    Raises:
        Unreachable: the location does not answer: that is no verdict about the point.
    """
    done = 0

    async def check(entry: StoredObject) -> str:
        nonlocal done
        fault = await _object_fault(store, entry)
        done += entry.size
        if progress is not None:
            progress(done, manifest.stored_bytes)
        return fault

    results = []
    for artefact in manifest.artefacts:
        began = time.monotonic()
        faults = [fault for fault in await for_each(artefact.objects, check, parallel) if fault]
        results.append(_artefact_result(artefact, faults, time.monotonic() - began))
    return results


def _artefact_result(artefact: Artefact, faults: list[str], seconds: float) -> CheckResult:
    size = sum(entry.size for entry in artefact.objects)
    detail = f"{len(artefact.objects)} objects, {size} bytes: sizes and SHA-256 are those of the manifest"
    if faults:
        more = f" and {len(faults) - NAMED_FAILURES} more" if len(faults) > NAMED_FAILURES else ""
        detail = f"{len(faults)} of {len(artefact.objects)} objects: {'; '.join(faults[:NAMED_FAILURES])}{more}"
    return CheckResult(name=f"objects {artefact.name}", passed=not faults, detail=detail, seconds=round(seconds, 3))


async def fetched(store: ObjectStore, key: str) -> tuple[bytes, str] | None:
    """Body and ETag of an object at one location, None where it is missing. Asked again after a passing failure.

    Raises:
        Unreachable: the location did not deliver it.
        Refused: it denies access.
    """
    for attempt in range(1, TRIES + 1):
        try:
            async with asyncio.timeout(OBJECT_SECONDS):
                return await store.get(key)
        except NotFound:
            return None
        except (Transient, TimeoutError) as error:
            if attempt == TRIES:
                raise Unreachable(f"{store.name} did not deliver {key}: {error or 'no answer'}") from error
        await asyncio.sleep(PAUSE * attempt)
    raise AssertionError("the last try returns or raises")


async def _object_fault(store: ObjectStore, entry: StoredObject) -> str:
    """What is wrong with a stored object; empty when nothing is."""
    there = await fetched(store, entry.key)
    if there is None:
        return f"{entry.key} is missing"
    body, _ = there
    if len(body) != entry.size:
        return f"{entry.key} has {len(body)} bytes instead of {entry.size}"
    if await asyncio.to_thread(sha256_hex, body) != entry.sha256:
        return f"{entry.key} has another SHA-256 than the manifest says"
    return ""
