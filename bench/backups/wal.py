"""The WAL archive under a sustained write load: how old is what would be lost now?"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

from bench.backups.data import HOST, Source
from bench.backups.measuring import command
from recovery.adapters.folder import FolderStore
from recovery.adapters.postgres.wal_stream import WalStream
from recovery.backup.sealing import Sealer, generate_age_key
from recovery.backup.signing import Signer, Verifier, generate_signing_key
from recovery.backup.wal.archiver import ArchiveBudget, WalArchiver
from recovery.backup.wal.writer import ArchiveKeys
from recovery.domain.wal_progress import ArchiveState

FLUSH_SECONDS = 10.0  # the configuration's default
ALLOWED_SECONDS = 2.0  # beyond it
SCALE = 10  # of pgbench: a million accounts
CLIENTS = 4
EVERY = 0.1  # seconds between two looks
FIRST_SECONDS = 60.0  # for the first report
DATABASE = "pgbench"


@dataclass
class ArchiveLoad:
    """``lags``: seconds since the moment up to which everything was archived, looked at ten times a second;
    ``behind``: bytes of WAL that were not archived, of each report."""

    seconds: float = 0.0
    lags: list[float] = field(default_factory=list)
    behind: list[int] = field(default_factory=list)
    archived: int = 0

    @property
    def worst(self) -> float:
        return max(self.lags)

    @property
    def usual(self) -> float:
        return median(self.lags)

    @property
    def rate(self) -> float:
        """Archived bytes per second, before compression."""
        return self.archived / self.seconds


async def load(source: Source, seconds: int, folder: Path) -> ArchiveLoad:
    """``pgbench`` writes for so long, while the archiver keeps the WAL in ``folder``, compressed and encrypted."""
    await source.execute(f"CREATE DATABASE {DATABASE}", database="postgres")
    tool: list[str | Path] = [source.binaries / "pgbench", "-h", HOST, "-p", str(source.place.port), "-U", "postgres"]
    await command([*tool, "-i", "-q", "-s", str(SCALE), DATABASE], user=source.user)
    found = ArchiveLoad(seconds=seconds)
    latest: list[ArchiveState] = []
    signing = generate_signing_key()
    async with Sealer([generate_age_key().public, generate_age_key().public]) as sealer:
        keys = ArchiveKeys("shop", "bench", 1, sealer, Signer(signing.secret), Verifier([signing.public]))
        store = FolderStore("folder", folder)
        archiver = WalArchiver(keys, [store], budget=ArchiveBudget(flush_seconds=FLUSH_SECONDS))
        archiving = asyncio.create_task(archiver.run(WalStream(source.login, "bench"), latest.append))
        try:
            await _until_reported(archiving, latest)
            before = latest[-1].archived_bytes
            looking = asyncio.create_task(_look(found, latest))
            options = ["-c", str(CLIENTS), "-j", "2", "-T", str(seconds), "-n"]
            await command([*tool, *options, DATABASE], user=source.user)
            await _ended(looking)
            found.archived = latest[-1].archived_bytes - before
            if archiving.done():
                archiving.result()
        finally:
            await _ended(archiving)
            await store.close()
    await source.execute("SELECT pg_drop_replication_slot('bench')")
    return found


async def _until_reported(archiving: asyncio.Task[None], latest: list[ArchiveState]) -> None:
    async with asyncio.timeout(FIRST_SECONDS):
        while not latest or latest[-1].current_at is None:
            if archiving.done():
                archiving.result()
            await asyncio.sleep(EVERY)


async def _look(found: ArchiveLoad, latest: list[ArchiveState]) -> None:
    while True:
        state = latest[-1]
        if state.current_at is not None:
            found.lags.append((datetime.now(UTC) - state.current_at).total_seconds())
        found.behind.append(state.lag_bytes)
        await asyncio.sleep(EVERY)


async def _ended(task: asyncio.Task[None]) -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
