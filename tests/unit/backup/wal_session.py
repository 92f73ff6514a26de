"""A WAL archiver at work over a server and stores in memory."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence

from recovery.backup.sealing import Opener, Sealer
from recovery.backup.signing import Verifier
from recovery.backup.wal.archiver import ArchiveBudget, WalArchiver
from recovery.backup.wal.location import StorePatience
from recovery.backup.wal.reader import LineageReader, WalArchive, readers_of
from recovery.backup.wal.writer import ArchiveKeys
from recovery.domain.timelines import lsn_order
from recovery.domain.wal_archive import Branch, segment_file
from recovery.domain.wal_progress import ArchiveState
from tests.fakes.object_store import MemoryStore
from tests.fakes.points import signer
from tests.fakes.wal import SEGMENT, FakeServer, FakeWal

PATIENCE = StorePatience(attempt_seconds=2.0, whole_seconds=2.0)
QUICK = ArchiveBudget(flush_seconds=0.05, patience=PATIENCE)
NEVER = ArchiveBudget(flush_seconds=3600.0, patience=PATIENCE)


class Session:
    """One running session and the states that it reported."""

    def __init__(self, task: asyncio.Task[None], states: list[ArchiveState]) -> None:
        self.task = task
        self.states = states

    async def until(self, condition: Callable[[ArchiveState], bool]) -> ArchiveState:
        async with asyncio.timeout(20):
            while not (self.states and condition(self.states[-1])):
                if self.task.done():
                    self.task.result()
                await asyncio.sleep(0.005)
        return self.states[-1]

    async def archived(self, position: int) -> ArchiveState:
        return await self.until(lambda state: lsn_order(state.archived) >= position)


@contextlib.asynccontextmanager
async def running(
    server: FakeServer,
    stores: Sequence[MemoryStore],
    sealer: Sealer,
    *,
    optional: Sequence[str] = (),
    budget: ArchiveBudget = QUICK,
    epoch: int = 7,
    source: FakeWal | None = None,
) -> AsyncIterator[Session]:
    keys = ArchiveKeys("shop", "run-1", epoch, sealer, signer(), Verifier([signer().public_key]))
    states: list[ArchiveState] = []
    archiver = WalArchiver(keys, stores, optional=optional, budget=budget)
    source = source or FakeWal(server)
    task = asyncio.create_task(archiver.run(source, states.append))
    try:
        yield Session(task, states)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert source.closed


def archive(store: MemoryStore, opener: Opener | None = None) -> WalArchive:
    return WalArchive(store, "shop", "7000", Verifier([signer().public_key]), opener)


async def readers(stores: Sequence[MemoryStore], opener: Opener, branch: Branch) -> list[LineageReader]:
    """One per location, of what it lists now."""
    archives = [archive(store, opener) for store in stores]
    return readers_of([(each, await each.timelines()) for each in archives], branch)


async def everything(reader: LineageReader, timeline: int, start: int, end: int) -> bytes:
    """The segments from ``start`` to ``end`` as a recovery gets them."""
    names = [segment_file(timeline, at, SEGMENT) for at in range(start, end, SEGMENT)]
    return b"".join([await reader.fetch(name) for name in names])
