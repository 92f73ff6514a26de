"""The folder through which a recovering server gets its WAL, asked by the very command that PostgreSQL runs."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

from recovery.adapters.postgres.feeding import FEED, WalFeed
from recovery.errors import Corrupt, NotFound, RecoveryError

SEGMENT = 16 << 20
NAMES = [f"0000000100000000000000{number:02X}" for number in range(3, 8)]


class Archived:
    """Some files; ``asked`` in order, ``failure`` instead of an answer."""

    def __init__(self, *names: str) -> None:
        self.files = {name: f"WAL of {name}".encode() for name in names}
        self.asked: list[str] = []
        self.failure: RecoveryError | None = None
        self.hold = asyncio.Event()
        self.hold.set()

    async def fetch(self, name: str) -> bytes:
        self.asked.append(name)
        await self.hold.wait()
        if self.failure is not None:
            raise self.failure
        if name not in self.files:
            raise NotFound(name)
        return self.files[name]


@contextlib.asynccontextmanager
async def feeding(folder: Path, archived: Archived) -> AsyncIterator[WalFeed]:
    async with WalFeed(folder, archived.fetch, SEGMENT, None) as feed:
        yield feed
    assert not (folder / FEED).exists()


async def asking(feed: WalFeed, folder: Path, name: str) -> int:
    """As PostgreSQL does, in its data directory."""
    command = feed.command.replace("%f", name).replace("%p", "pg_wal/RECOVERYXLOG").replace("%%", "%")
    process = await asyncio.create_subprocess_shell(command, cwd=folder)
    async with asyncio.timeout(20):
        return await process.wait()


def made(folder: Path) -> Path:
    (folder / "pg_wal").mkdir(parents=True)
    return folder


async def test_files_come_as_they_are_asked_for_and_the_next_ones_ahead(tmp_path: Path) -> None:
    folder, archived = made(tmp_path / "it's 50% data"), Archived(*NAMES)
    async with feeding(folder, archived) as feed:
        for name in NAMES:
            assert await asking(feed, folder, name) == 0
            taken = folder / "pg_wal" / "RECOVERYXLOG"
            assert taken.read_bytes() == archived.files[name]
            assert not (folder / FEED / "have" / name).exists(), "it was moved"
        assert set(NAMES) <= set(archived.asked)
        assert len(archived.asked) == len(set(archived.asked)), "what was fetched ahead is not fetched again"
        assert await asking(feed, folder, "00000002.history") == 1, "there is none"
        assert await asking(feed, folder, "000000010000000000000009") == 1
        assert feed.failure is None


async def test_a_file_that_is_on_its_way_is_waited_for(tmp_path: Path) -> None:
    folder, archived = made(tmp_path / "data"), Archived(*NAMES[:2])
    async with feeding(folder, archived) as feed:
        archived.hold.clear()
        first = asyncio.create_task(asking(feed, folder, NAMES[0]))
        async with asyncio.timeout(20):
            while NAMES[2] not in archived.asked:
                await asyncio.sleep(0.01)
        following = [asyncio.create_task(asking(feed, folder, name)) for name in (NAMES[1], NAMES[2])]
        await asyncio.sleep(0.1)
        archived.hold.set()
        assert [await first, *[await each for each in following]] == [0, 0, 1]


async def test_damage_stops_the_recovery_instead_of_ending_it(tmp_path: Path) -> None:
    folder, archived = made(tmp_path / "data"), Archived()
    archived.failure = Corrupt("object x differs from its record")
    async with feeding(folder, archived) as feed:
        assert await asking(feed, folder, NAMES[0]) == 126
        assert feed.failure is archived.failure


async def test_without_the_worker_the_command_ends(tmp_path: Path) -> None:
    folder, archived = made(tmp_path / "data"), Archived(*NAMES)
    archived.hold.clear()
    async with feeding(folder, archived) as feed:
        of_another = asyncio.create_subprocess_shell(
            feed.command.replace("%f", NAMES[0]).replace("%p", "x").rpartition(" ")[0] + " 999999999", cwd=folder
        )
        process = await of_another
        async with asyncio.timeout(20):
            assert await process.wait() == 126
        waiting = asyncio.create_task(asking(feed, folder, NAMES[1]))
        await asyncio.sleep(0.1)
    assert await waiting == 126, "its feed is gone"
