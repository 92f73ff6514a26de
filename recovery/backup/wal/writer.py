"""Puts histories and pieces of WAL to all locations: required ones are waited for, optional ones may miss some."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass

from recovery.backup.sealing import Sealer
from recovery.backup.signing import Signer, Verifier
from recovery.backup.wal import layout
from recovery.backup.wal.location import ArchiveLocation, StorePatience
from recovery.backup.wal.records import HistoryRecord, PieceRecord, sign_record
from recovery.backup.wal.units import CutPiece
from recovery.domain.wal_archive import Branch
from recovery.errors import NotOurs, RecoveryError
from recovery.ports.object_store import ObjectStore
from recovery.ports.wal import WalServer

OPTIONAL_UPLOADS = 2  # pieces on their way to an optional location at once: those that come meanwhile are missed
OPTIONAL_PATIENCE = StorePatience(attempt_seconds=20.0, whole_seconds=20.0)


@dataclass(frozen=True)
class ArchiveKeys:
    """Who writes, and how: all of it stays the caller's to close. ``verifier`` must trust the signer's key."""

    group: str
    run_id: str
    epoch: int
    sealer: Sealer
    signer: Signer
    verifier: Verifier


class ArchiveWriter:
    """Writes one server's archive.

    Args:
        optional: names of stores that nobody waits for. ``behind`` says what they missed; a fill mends it.
    """

    def __init__(
        self,
        keys: ArchiveKeys,
        server: WalServer,
        stores: Sequence[ObjectStore],
        optional: Collection[str],
        patience: StorePatience,
    ) -> None:
        self._keys, self._server = keys, server
        self._prefix = layout.archive_prefix(keys.group, server.system_identifier)
        self.required = [
            ArchiveLocation(store, self._prefix, keys.verifier, patience)
            for store in stores
            if store.name not in optional
        ]
        self._optional = [
            ArchiveLocation(store, self._prefix, keys.verifier, OPTIONAL_PATIENCE)
            for store in stores
            if store.name in optional
        ]
        self._in_flight = dict.fromkeys(optional, 0)
        self._side: set[asyncio.Task[None]] = set()
        self.behind: dict[str, str] = {}

    async def put_history(self, branch: Branch, text: str) -> None:
        """Returns when every required location has the timeline's record, read back. Raises NotOurs."""
        server, keys = self._server, self._keys
        record = HistoryRecord(
            group=keys.group, system_identifier=server.system_identifier, timeline=branch.timeline, history=text,
            segment_bytes=server.segment_bytes, epoch=keys.epoch,
        )  # fmt: skip
        body = sign_record(record, keys.signer)
        await self._everywhere(
            lambda location: location.put_history(record, body), f"the history of timeline {branch.timeline}"
        )

    async def put_piece(self, branch: Branch, cut: CutPiece) -> None:
        """Returns when every required location has the piece. Raises NotOurs, Unreachable, Refused."""
        digest, sealed = await asyncio.gather(
            asyncio.to_thread(lambda: hashlib.sha256(cut.body).hexdigest()), self._keys.sealer.seal(cut.body)
        )
        record = PieceRecord(
            group=self._keys.group, system_identifier=self._server.system_identifier, branch=branch.folder,
            start=cut.piece.start, end=cut.piece.end, epoch=cut.piece.epoch, size=sealed.size, sha256=sealed.sha256,
            object=layout.object_key(self._prefix, branch, cut.piece, sealed.sha256), plain_sha256=digest,
            written_at=cut.written_at, run_id=self._keys.run_id,
        )  # fmt: skip
        body = sign_record(record, self._keys.signer)
        await self._everywhere(
            lambda location: location.put_piece(branch, record, body, sealed), f"WAL from {cut.piece.range}"
        )

    async def _everywhere(self, put: Callable[[ArchiveLocation], Awaitable[None]], what: str) -> None:
        for location in self._optional:
            if self._in_flight[location.name] >= OPTIONAL_UPLOADS:
                self.behind[location.name] = f"it is slower than the WAL: it misses {what} and perhaps more"
                continue
            self._in_flight[location.name] += 1
            task = asyncio.ensure_future(self._tolerantly(location, put, what))
            self._side.add(task)
            task.add_done_callback(self._side.discard)

        async def required(location: ArchiveLocation) -> RecoveryError | None:
            try:
                await put(location)
            except NotOurs:
                raise  # no other location must get it
            except RecoveryError as error:
                # The others are to have it all the same: by that the next session sees which one does not take it.
                return error
            return None

        try:
            async with asyncio.TaskGroup() as uploads:
                tasks = [uploads.create_task(required(location)) for location in self.required]
        except BaseExceptionGroup as group:
            raise first_of(group) from group
        for failure in (task.result() for task in tasks):
            if failure is not None:
                raise failure

    async def _tolerantly(
        self, location: ArchiveLocation, put: Callable[[ArchiveLocation], Awaitable[None]], what: str
    ) -> None:
        try:
            await put(location)
        except RecoveryError as error:
            self.behind[location.name] = f"it misses {what} and perhaps more: {error}"
        finally:
            self._in_flight[location.name] -= 1

    async def close(self) -> None:
        """Stops uploads that nobody waits for."""
        for task in list(self._side):
            task.cancel()
        await asyncio.gather(*self._side, return_exceptions=True)


def first_of(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The one error that ended the others."""
    found = group.exceptions[0]
    return first_of(found) if isinstance(found, BaseExceptionGroup) else found
