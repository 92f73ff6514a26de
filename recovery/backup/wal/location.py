"""One location's part in a WAL archive: immutable names, equal content accepted, other content refused."""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from recovery.backup.sealing import SealedChunk
from recovery.backup.signing import Verifier
from recovery.backup.wal import layout
from recovery.backup.wal.records import HistoryRecord, PieceRecord, read_history, read_piece
from recovery.domain.wal_archive import Branch, WalPiece
from recovery.errors import Contended, NotOurs, RecoveryError, Unreachable
from recovery.ports.object_store import ObjectStore

FIRST_PAUSE = 0.1
LONGEST_PAUSE = 5.0
PERMANENT_ATTEMPTS = 3  # "access denied" may be a policy on its way, but not for long
_T = TypeVar("_T")


@dataclass(frozen=True)
class StorePatience:
    """``attempt_seconds`` for one request, ``whole_seconds`` for one piece at one location with all its retries."""

    attempt_seconds: float = 30.0
    whole_seconds: float = 300.0


class ArchiveLocation:
    """Reads and writes one server's archive at one location."""

    def __init__(
        self, store: ObjectStore, prefix: str, verifier: Verifier, patience: StorePatience | None = None
    ) -> None:
        self.store = store
        self._prefix = prefix
        self._verifier = verifier
        self._patience = patience or StorePatience()

    @property
    def name(self) -> str:
        return self.store.name

    async def put_history(self, record: HistoryRecord, body: bytes) -> None:
        """Stores a timeline's record unless an equal one is there, and reads back what then stands there.

        Raises:
            NotOurs: another history is archived under this name.
        """
        key = layout.history_key(self._prefix, record.branch.folder)
        there = await self._persist(lambda: self._get(key))
        if there is None:
            await self._persist(lambda: self._put_or_leave(key, body))
            there = await self._persist(lambda: self._get(key))
        if there is None:
            raise Unreachable(f"{self.name} took {key} and does not have it")
        found = read_history(there, self._verifier, prefix=self._prefix, folder=record.branch.folder)
        if (found.branch, found.segment_bytes) != (record.branch, record.segment_bytes):
            raise NotOurs(
                f"{self.name} holds another history as {key} ({found.branch}, segments of {found.segment_bytes} bytes) "
                f"than this server has ({record.branch}, {record.segment_bytes}): nothing was overwritten"
            )

    async def put_piece(self, branch: Branch, record: PieceRecord, body: bytes, sealed: SealedChunk) -> None:
        """Stores object and record unless an equal piece is archived already.

        Raises:
            NotOurs: other WAL is archived under this name.
        """
        key = layout.piece_key(self._prefix, branch, record.piece)
        await self._persist(lambda: self._put_or_leave(record.object, sealed.body, sealed.sha256))
        if await self._persist(lambda: self._put_or_leave(key, body)):
            return
        there = await self.piece_record(branch, record.piece)
        if there.plain_sha256 != record.plain_sha256:
            raise NotOurs(self.differs(branch, record.piece))

    def differs(self, branch: Branch, piece: WalPiece) -> str:
        """The sentence for WAL that is not the archived one."""
        return (
            f"{self.name} holds other WAL of timeline {branch.timeline} from {piece.range} than this server sends: two "
            "servers were promoted to the same timeline, or one was restored and started over. Nothing was "
            "overwritten. Stop the wrong one; the right one needs a promotion of its own and a new base backup."
        )

    async def piece_record(self, branch: Branch, piece: WalPiece) -> PieceRecord:
        """Raises NotFound, Corrupt, WrongKey."""
        key = layout.piece_key(self._prefix, branch, piece)
        body, _ = await self._persist(lambda: self.store.get(key))
        return read_piece(body, self._verifier, prefix=self._prefix, branch=branch, piece=piece)

    async def agrees(self, branch: Branch, piece: WalPiece, plain: bytes) -> bool:
        """Whether the archived piece is exactly these bytes."""
        record = await self.piece_record(branch, piece)
        return record.plain_sha256 == await asyncio.to_thread(lambda: hashlib.sha256(plain).hexdigest())

    async def pieces_since(self, branch: Branch, position: int) -> list[WalPiece]:
        """Those of a branch around ``position`` and after it: the folders of 4 GiB from the last one before it on.

        Stray objects are passed over: they stop no archive.
        """
        prefix = layout.pieces_prefix(self._prefix, branch)
        folders = [name for name in await self._persist(lambda: self.store.folders(prefix)) if layout.is_folder(name)]
        reached = [name for name in folders if int(name, 16) <= position >> 32]
        # A piece never crosses a folder's end, but the range that holds the position may begin where it does.
        first = reached[-2:][0] if reached else ""
        found: list[WalPiece] = []
        for folder in folders:
            if folder >= first:
                named = [layout.piece_of(info.key) async for info in self.store.list(f"{prefix}{folder}/")]
                found += [piece for piece in named if piece is not None]
        return found

    async def _put_or_leave(self, key: str, body: bytes, sha256: str | None = None) -> bool:
        try:
            await self.store.put(key, body, if_absent=True, sha256=sha256)
        except Contended:
            return False
        return True

    async def _get(self, key: str) -> bytes | None:
        if await self.store.head(key) is None:
            return None
        return (await self.store.get(key))[0]

    async def _persist(self, request: Callable[[], Awaitable[_T]]) -> _T:
        """The answer of a request, tried again while that may help."""
        deadline = _now() + self._patience.whole_seconds
        pause, attempt = FIRST_PAUSE, 0
        while True:
            attempt += 1
            try:
                async with asyncio.timeout(self._patience.attempt_seconds):
                    return await request()
            except TimeoutError as error:
                failure: RecoveryError = Unreachable(
                    f"location {self.name} did not answer within {self._patience.attempt_seconds:g} s"
                )
                failure.__cause__ = error
            except RecoveryError as error:
                failure = error
            last = not failure.retryable and attempt >= PERMANENT_ATTEMPTS
            if last or _now() + pause >= deadline:
                raise failure
            await asyncio.sleep(pause * random.uniform(0.7, 1.3))
            pause = min(2 * pause, LONGEST_PAUSE)


def _now() -> float:
    return asyncio.get_running_loop().time()
