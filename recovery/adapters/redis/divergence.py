"""Saves all data of an old primary before it follows the new one, which replaces them.

A replica of nowhere refuses to stream them (``NOMASTERLINK``), and making it a primary for that would be a second one.
So the server writes its own RDB file (``BGSAVE``), and the guard, which runs on the same host, seals what it reads
there: nothing readable is written a second time.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

from recovery.adapters.diverged_folder import DivergedFolders, objects_of
from recovery.adapters.listening import Listener
from recovery.adapters.redis.connection import Connection, RedisServer, asking
from recovery.adapters.redis.replication import Replication
from recovery.domain.handover import StoreDivergence
from recovery.errors import Refused, Unreachable

SAVE_SECONDS = 600.0
POLL = 0.05
PIECE = 1 << 20  # bytes read at once


@dataclass(frozen=True)
class SavedData:
    """``bytes_beyond``: of the replication stream that the new primary lacks; None where the histories are unrelated.

    ``file`` names the sealed objects of an RDB file of ``size`` bytes.
    """

    file: str
    size: int
    keys: int
    replid: str
    offset: int
    fork: int | None
    bytes_beyond: int | None
    saved_at: str


def told(saved: SavedData) -> StoreDivergence:
    """For the report; the region is the plan's to say."""
    beyond = f"{saved.bytes_beyond} bytes of changes beyond the fork, which are in none of the owner's data"
    unknown = "how much of that the owner lacks is not known: the histories have nothing in common"
    return StoreDivergence(
        store="redis",
        region="",
        since=None if saved.fork is None else str(saved.fork),
        until=str(saved.offset),
        bytes=saved.size if saved.bytes_beyond is None else saved.bytes_beyond,
        files=[saved.file],
        saved_at=datetime.fromisoformat(saved.saved_at),
        detail=f"all {saved.keys} keys of the old primary were saved in {saved.file};"
        f" {unknown if saved.bytes_beyond is None else beyond}",
    )


async def save_data(
    server: RedisServer, listener: Listener, aside: DivergedFolders, own: Replication, new: Replication
) -> SavedData:
    """Seals ``<replication id>-<offset>.rdb`` into a folder of that name; nothing is saved twice for one state.

    Raises:
        Refused: the server does not save, or its file cannot be read from here.
        Unreachable: it does not answer, or has not finished after ten minutes; or the folder cannot be written.
    """
    name = f"{own.replid[:12]}-{own.offset}"
    if (known := await aside.about(name)) is not None:
        return SavedData(**known)
    directory, filename = await _save(server)
    pids = await listener.pids()
    fork = new.second_offset - 1 if own.replid == new.replid2 else None
    try:
        async with aside.open(name) as folder:
            with await asyncio.to_thread(_opened, pids, directory, filename) as rdb:
                await folder.store(f"{name}.rdb", _pieces(rdb))
                size = os.fstat(rdb.fileno()).st_size
            saved = SavedData(
                file=objects_of(folder.place, f"{name}.rdb"),
                size=size,
                keys=own.keys,
                replid=own.replid,
                offset=own.offset,
                fork=fork,
                bytes_beyond=None if fork is None else max(0, own.offset - fork),
                saved_at=datetime.now(UTC).isoformat(),
            )
            await folder.complete(asdict(saved))
    except OSError as error:
        raise Unreachable(f"The old primary's data cannot be saved in {aside.folder}: {error}.") from error
    return saved


async def _save(server: RedisServer) -> tuple[Path, str]:
    async with asking(server, SAVE_SECONDS, "save its data") as connection:
        directory = (await connection.run("CONFIG", "GET", "dir"))[1]
        filename = (await connection.run("CONFIG", "GET", "dbfilename"))[1]
        began = await _idle(connection)
        while int((await connection.run("TIME"))[0]) <= began:  # the time of the last save has whole seconds
            await asyncio.sleep(POLL)
        await connection.run("BGSAVE")
        if await _idle(connection) <= began:
            raise Refused(f"Redis {server} could not write its RDB file: see its log (is there room on its disk?).")
    return Path(directory), str(filename)


async def _idle(connection: Connection) -> int:
    """Waits until no child writes; returns when the last save ended, by the server's clock."""
    while True:
        now = await connection.info("persistence")
        if now["rdb_bgsave_in_progress"] == now["aof_rewrite_in_progress"] == "0":
            return int(now["rdb_last_save_time"])
        await asyncio.sleep(POLL)


def _opened(pids: list[int], directory: Path, filename: str) -> BinaryIO:
    """Through the process's own root folder: it may live in a container. A later save replaces the name, not this."""
    roots = [Path(f"/proc/{pid}/root") for pid in pids] or [Path("/")]
    source = roots[0] / directory.relative_to("/") / filename
    try:
        found = source.open("rb")
    except PermissionError as error:
        raise Refused(
            f"The old primary's data in {source} cannot be read: run the guard as root, or as the server's user."
        ) from error
    except FileNotFoundError as error:
        raise Unreachable(f"The old primary's data are not in {source}: was its server restarted meanwhile?") from error
    if found.read(5) != b"REDIS":
        found.close()
        raise Refused(f"{source} is no RDB file, so the old primary's data are not saved.")
    found.seek(0)
    return found


async def _pieces(file: BinaryIO) -> AsyncIterator[bytes]:
    while piece := await asyncio.to_thread(file.read, PIECE):
        yield piece
