"""Writes a recovery point by streaming: source, chunks, sealing in threads, upload to every location at once.

There is no local spool, and memory is bounded by ``WriteBudget.window`` chunks whatever the size of the database. The
manifest is written last and only where there is none yet: what has no manifest does not exist.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

from recovery import __version__
from recovery.backup.bounded import finish_within, unless
from recovery.backup.chunking import fixed_chunks
from recovery.backup.documents import SignedManifest, sign_manifest
from recovery.backup.layout import PointIdentity, manifest_key, object_key, point_prefix
from recovery.backup.leftovers import delete_prefix, existing_manifest, lost_race, missing_objects
from recovery.backup.readable import compressed
from recovery.backup.sealing import Sealer
from recovery.backup.signing import Signer
from recovery.backup.upload import LocationUpload, PaceKeeper, WriteBudget
from recovery.domain.recovery_point import Artefact, Manifest, StoredObject
from recovery.errors import Contended, RecoveryError, Transient, Unreachable
from recovery.ports.object_store import ObjectStore
from recovery.ports.postgres import ArtefactStream, BackupSource

Check = Callable[[], Awaitable[None]]
SETTLE_SECONDS = 5.0  # for uploads on their way when a write fails; a healthy one needs a fraction of this


@dataclass(frozen=True)
class TransferProgress:
    """State of a write: for a heartbeat or a progress bar.

    Sizes in bytes; ``expected_bytes`` and ``plain_bytes`` before compression (expected is 0 when unknown),
    ``stored_bytes`` after it, ``locations`` what each location holds. ``bytes_per_second`` is of plain bytes, since
    the beginning.
    """

    artefact: str
    plain_bytes: int
    stored_bytes: int
    expected_bytes: int
    objects: int
    seconds: float
    locations: dict[str, int] = field(default_factory=dict)
    dropped: dict[str, str] = field(default_factory=dict)

    @property
    def bytes_per_second(self) -> float:
        return self.plain_bytes / self.seconds if self.seconds > 0 else 0.0


@dataclass(frozen=True)
class WrittenPoint:
    """What exists now. ``dropped`` locations hold no manifest; ``fill_location`` completes them afterwards."""

    manifest: Manifest
    manifest_sha256: str
    complete_locations: list[str]
    dropped: dict[str, str]


async def write_point(
    source: BackupSource,
    *,
    identity: PointIdentity,
    stores: Sequence[ObjectStore],
    sealer: Sealer,
    signer: Signer,
    progress: Callable[[TransferProgress], None] | None = None,
    check: Check | None = None,
    budget: WriteBudget | None = None,
    at_once: int = 1,
    readable: Collection[str] = (),
) -> WrittenPoint:
    """Backs ``source`` (already entered) up to all ``stores``.

    Args:
        at_once: artefacts that are read at the same time, where the source allows it; each holds up to one chunk more
            than ``budget.window`` counts.
        readable: names of artefacts that are compressed only, for later backups to read without a private key.
        progress: called about once per object, from the event loop; must not block.
        check: called before the manifest is written; raises when the point must not come into being, for example
            because the group's epoch changed. Also called every ``budget.check_seconds`` meanwhile: then only what is
            permanent ends the backup.

    Raises:
        Unreachable: no location is left; the reasons are named.
        Contended: another attempt completed this point first. Look the point up instead of writing it again.
        RecoveryError: whatever ``source`` or ``check`` raised.

    In every case but success, cancellation included, what this attempt wrote is removed again, and no location is left
    with a manifest of it.
    """
    write = _Write(source, identity, list(stores), sealer, signer, progress, budget or WriteBudget(), at_once, readable)
    try:
        return await write.run(check)
    except BaseException:
        await finish_within(write.budget.cleanup_seconds, write.remove())
        raise


class _Write:
    """The state of one attempt."""

    def __init__(
        self,
        source: BackupSource,
        identity: PointIdentity,
        stores: list[ObjectStore],
        sealer: Sealer,
        signer: Signer,
        progress: Callable[[TransferProgress], None] | None,
        budget: WriteBudget,
        at_once: int,
        readable: Collection[str],
    ) -> None:
        self.budget = budget
        self._readable = readable
        self._at_once = at_once
        self._source = source
        self._identity = identity
        self._sealer = sealer
        self._signer = signer
        self._progress = progress
        # One order for all attempts: two that race meet at the same location first.
        self._uploads = [LocationUpload(store, budget) for store in sorted(stores, key=lambda store: store.name)]
        self._window = asyncio.Semaphore(budget.window)
        self._began = time.monotonic()
        self._plain = self._stored = self._objects = 0
        self._signed: SignedManifest | None = None

    @property
    def _live(self) -> list[LocationUpload]:
        return [upload for upload in self._uploads if upload.dropped is None]

    @property
    def _dropped(self) -> dict[str, str]:
        return {upload.name: upload.dropped for upload in self._uploads if upload.dropped is not None}

    async def run(self, check: Check | None) -> WrittenPoint:
        await self._refuse_existing()
        async with _running(PaceKeeper(self._uploads, self.budget).watch()):
            artefacts = await unless(self._refusal_of(check), self._write_artefacts())
        manifest = await self._describe(artefacts)
        if check is not None:
            await check()
        self._signed = sign_manifest(manifest, self._signer)
        complete, dropped = await self._publish(self._signed), self._dropped
        for upload in self._uploads:
            await upload.settle(0)
        return WrittenPoint(manifest, self._signed.digest, complete, dropped)

    async def _refusal_of(self, check: Check | None) -> None:
        """Never returns. Hours of a base backup are not spent on what will be refused at its end."""
        while True:
            await asyncio.sleep(self.budget.check_seconds)
            with contextlib.suppress(Transient):  # who cannot be asked now is asked again, and before the manifest
                if check is not None:
                    await check()

    async def _refuse_existing(self) -> None:
        """A point that an earlier attempt completed is not written a second time, however late this attempt starts."""
        await asyncio.gather(*(self._refuse_existing_at(upload) for upload in self._uploads))
        self._require_location()

    async def _refuse_existing_at(self, upload: LocationUpload) -> None:
        """A location that cannot be asked now may answer later: its uploads decide about it."""
        identity = self._identity
        try:
            async with asyncio.timeout(self.budget.attempt_seconds):
                body = await existing_manifest(upload.store, identity.group, identity.point_id)
        except (RecoveryError, TimeoutError):
            return
        if body is not None:
            raise lost_race(identity.point_id, upload.name)

    async def _write_artefacts(self) -> list[Artefact]:
        """In the source's order. Where only one is read at once, the next is asked for after the end of the last."""
        slots = asyncio.Semaphore(self._at_once)
        running: list[asyncio.Task[Artefact]] = []

        async def write(stream: ArtefactStream) -> Artefact:
            try:
                return await self._write_artefact(stream)
            finally:
                slots.release()

        streams = self._source.artefacts()
        try:
            while True:
                await slots.acquire()
                for task in running:
                    if task.done():
                        task.result()
                stream = await anext(streams, None)
                if stream is None:
                    return list(await asyncio.gather(*running))
                running.append(asyncio.create_task(write(stream)))
        except BaseException:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)
            raise

    async def _write_artefact(self, stream: ArtefactStream) -> Artefact:
        objects: dict[int, StoredObject] = {}
        tasks: set[asyncio.Task[None]] = set()
        try:
            index = 0
            async with (
                _closing(stream.chunks()) as buffers,
                _closing(fixed_chunks(buffers, self.budget.chunk_bytes)) as chunks,
            ):
                async for chunk in chunks:
                    await self._window.acquire()
                    _raise_failed(tasks)
                    task = asyncio.ensure_future(self._write_chunk(stream.name, index, [chunk], objects))
                    del chunk
                    tasks.add(task)
                    index += 1
            await asyncio.gather(*tasks)
        except BaseException:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            raise
        written = [objects[number] for number in range(index)]
        return Artefact(name=stream.name, objects=written, sealed=stream.name not in self._readable)

    async def _write_chunk(
        self, artefact: str, index: int, chunk: list[bytes], objects: dict[int, StoredObject]
    ) -> None:
        """Seals one chunk and stores it everywhere. The chunk comes in a list, so that it is freed once sealed."""
        try:
            seal = compressed if artefact in self._readable else self._sealer.seal
            sealed = await seal(chunk.pop(), self.budget.compression_level)
            key = object_key(self._identity, artefact, index, sealed=artefact not in self._readable)
            self._plain += sealed.plain_size
            self._stored += sealed.size
            self._require_location()
            await asyncio.gather(*(upload.put(key, sealed.body, sealed.sha256) for upload in self._live))
            self._require_location()
            objects[index] = StoredObject(key=key, size=sealed.size, sha256=sealed.sha256, plain_size=sealed.plain_size)
            self._objects += 1
            self._report(artefact)
        finally:
            self._window.release()

    def _require_location(self) -> None:
        if not self._live:
            reasons = "; ".join(f"{name}: {reason}" for name, reason in self._dropped.items())
            raise Unreachable(f"no backup location is left. {reasons}")

    def _report(self, artefact: str) -> None:
        if self._progress is None:
            return
        self._progress(
            TransferProgress(
                artefact=artefact,
                plain_bytes=self._plain,
                stored_bytes=self._stored,
                expected_bytes=self._source.expected_bytes,
                objects=self._objects,
                seconds=time.monotonic() - self._began,
                locations={upload.name: upload.uploaded_bytes for upload in self._uploads},
                dropped=self._dropped,
            )
        )

    async def _describe(self, artefacts: list[Artefact]) -> Manifest:
        identity = self._identity
        return Manifest(
            point_id=identity.point_id,
            group=identity.group,
            store=self._source.kind.store,
            kind=self._source.kind,
            started_at=identity.started_at,
            source=await self._source.finish(),
            finished_at=datetime.now(UTC),
            source_region=identity.region,
            artefacts=artefacts,
            recipients=self._sealer.recipients,
            tools={"recovery-plans": __version__, **{name: version(name) for name in ("cryptography", "zstandard")}},
            run_id=identity.run_id,
            attempt=identity.attempt,
            epoch=identity.epoch,
        )

    async def _publish(self, signed: SignedManifest) -> list[str]:
        """The manifest at one location after the other, the decisive first; names of those that hold the point now."""
        complete = []
        for upload in self._live:
            await self._require_objects(upload, signed.manifest)
            if upload.dropped is None:
                await self._put_manifest(upload, signed)
            if upload.dropped is None:
                await self._require_objects(upload, signed.manifest)
            if upload.dropped is None:
                complete.append(upload.name)
        self._require_location()
        return complete

    async def _put_manifest(self, upload: LocationUpload, signed: SignedManifest) -> None:
        key = manifest_key(self._identity.group, self._identity.point_id)
        try:
            await upload.put_manifest(key, signed.body)
        except Contended as error:
            raise lost_race(self._identity.point_id, upload.name) from error

    async def _require_objects(self, upload: LocationUpload, manifest: Manifest) -> None:
        """A location where objects of ours are missing is dropped. A clean-up that took us for dead removes them.

        Looked at before and after the manifest is put, because such a clean-up looks for a manifest after its removal.
        """
        objects = {entry.key: entry.size for artefact in manifest.artefacts for entry in artefact.objects}
        prefix = f"{point_prefix(manifest.group, manifest.point_id)}{self._identity.folder}/"
        try:
            async with asyncio.timeout(self.budget.object_seconds):
                missing = await missing_objects(upload.store, objects, prefix)
                if missing:
                    await self._withdraw(upload)
                    upload.drop(f"{len(missing)} of {len(objects)} objects are missing there, {missing[0]} for one")
        except (RecoveryError, TimeoutError) as error:
            upload.drop(str(error) or f"{upload.name} did not list its objects in time")

    async def remove(self) -> None:
        """Everything that this attempt wrote, at all locations. Locations that do not answer keep their objects,
        which ``remove_leftovers`` and retention find later; no manifest names them."""
        await asyncio.gather(
            *(upload.settle(min(SETTLE_SECONDS, self.budget.cleanup_seconds / 4)) for upload in self._uploads)
        )
        outcomes = await asyncio.gather(*(self._remove_at(upload) for upload in self._uploads), return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, BaseException) and not isinstance(outcome, RecoveryError):
                raise outcome

    async def _remove_at(self, upload: LocationUpload) -> None:
        await self._withdraw(upload)
        prefix = point_prefix(self._identity.group, self._identity.point_id)
        await delete_prefix(upload.store, f"{prefix}{self._identity.folder}/")

    async def _withdraw(self, upload: LocationUpload) -> None:
        """Deletes the manifest there when it is this attempt's."""
        if self._signed is None:
            return
        identity = self._identity
        if await existing_manifest(upload.store, identity.group, identity.point_id) == self._signed.body:
            await upload.store.delete([manifest_key(identity.group, identity.point_id)])


def _raise_failed(tasks: set[asyncio.Task[None]]) -> None:
    """Forgets nothing: a finished task is looked at once, so that a failure ends the source at the next chunk."""
    for task in [task for task in tasks if task.done()]:
        tasks.discard(task)
        task.result()


@contextlib.asynccontextmanager
async def _running(work: Any) -> AsyncIterator[None]:
    """Runs a coroutine beside the block and ends it with the block."""
    task = asyncio.ensure_future(work)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait({task})


@contextlib.asynccontextmanager
async def _closing(stream: AsyncIterator[bytes]) -> AsyncIterator[AsyncIterator[bytes]]:
    """Closes an asynchronous generator when the block is left early; other iterators have nothing to close."""
    try:
        yield stream
    finally:
        if isinstance(stream, AsyncGenerator):
            await stream.aclose()
