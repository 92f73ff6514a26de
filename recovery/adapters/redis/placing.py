"""A dump where a stopped server finds it at its next start.

A server with an append-only file ignores dump.rdb. It gets the dump as that file, which may begin with one: 6.2 reads
it as it is, and from 7.0 on the server moves it into its folder of append-only files (``aofUpgradePrepare``).
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

from recovery.adapters.listening import write_durably
from recovery.adapters.postgres.folder import no_space
from recovery.adapters.process import closing
from recovery.adapters.redis.programs import RedisProgram
from recovery.adapters.redis.rdb import DumpCheck, check_readable, head_of
from recovery.backup.bounded import through
from recovery.domain.redis import RedisSource
from recovery.errors import Corrupt, NoSpace, NotOurs, Refused
from recovery.ports.redis import DumpPlace, PlacedDump, StoredDump

_SERVERS = ("redis-server", "valkey-server", "redis-check-rdb", "valkey-check-rdb")  # Debian's are one file
_MARK = ".recovery-placed.json"
_PART = ".recovery-placing"


async def place_dump(dump: StoredDump, place: DumpPlace, restore_id: str, program: RedisProgram | None) -> PlacedDump:
    """See the port. ``program``: what will start there; None: nobody knows."""
    target = _target(place)
    async with closing(dump.chunks) as chunks:
        await check_place(dump.source, place, restore_id, program)
        with no_space(place.folder):
            part = place.folder / f"{_PART}-{hashlib.sha256(restore_id.encode()).hexdigest()[:16]}"
            try:
                check = await _write(chunks, part, program)
                head = check.finish()
                if program is not None:
                    check_readable(head, program.product, program.version)
                await through(_put, part, target, place.folder, restore_id)
            except Corrupt as error:
                raise Corrupt(f"The dump is damaged: {error}.") from error
            finally:
                await through(part.unlink, missing_ok=True)
    return PlacedDump(target, head.rdb_version, check.bytes)


async def check_place(
    source: RedisSource | None, place: DumpPlace, restore_id: str, program: RedisProgram | None
) -> None:
    """See the port. ``source``: what the dump is of; None: nobody knows."""
    with no_space(place.folder):
        await asyncio.to_thread(_check_free, place, restore_id)
        await asyncio.to_thread(_check_space, place.folder, source.rdb_bytes if source else 0)
    if source is not None and program is not None:
        check_readable(head_of(source), program.product, program.version)


async def is_placed(place: DumpPlace, restore_id: str) -> bool:
    """See the port."""
    return await asyncio.to_thread(lambda: _is_ours(place, restore_id) and not _servers_in(place.folder))


async def remove_placed(place: DumpPlace, restore_id: str) -> bool:
    """See the port."""
    return await through(_remove, place, restore_id)


def _target(place: DumpPlace) -> Path:
    return place.folder / (place.append_name if place.append_only else place.dump_name)


async def _write(chunks: AsyncIterator[bytes], part: Path, program: RedisProgram | None) -> DumpCheck:
    check, known = DumpCheck(), program is None
    with await asyncio.to_thread(part.open, "wb") as file:
        async for chunk in chunks:
            check.feed(chunk)
            if not known and program is not None and (head := check.head()) is not None:
                check_readable(head, program.product, program.version)
                known = True
            await asyncio.to_thread(file.write, chunk)
        await asyncio.to_thread(file.flush)
        await asyncio.to_thread(os.fsync, file.fileno())
    return check


def _check_free(place: DumpPlace, restore_id: str) -> None:
    """Raises Refused."""
    if not place.folder.is_dir():
        raise Refused(f"{place.folder} is no folder: make it, as the server's user, and start the restore again.")
    if pids := _servers_in(place.folder):
        raise Refused(
            f"A Redis runs in {place.folder} (process {pids[0]}): stop it, or restore into the running server."
        )
    target = _target(place)
    if _is_ours(place, restore_id):
        return
    for path in (target, place.folder / place.append_name, place.folder / place.append_folder):
        if (place.append_only or path == target) and path.exists():
            raise Refused(f"{path} is there already: move it away if the point is to be restored in its place.")


def _servers_in(folder: Path) -> list[int]:
    """Processes of servers whose ``dir`` it is."""
    found = []
    wanted = folder.resolve()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                if (entry / "comm").read_text().strip() in _SERVERS and (entry / "cwd").resolve() == wanted:
                    found.append(int(entry.name))
    return found


def _check_space(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise NoSpace(f"The dump needs {needed} bytes, and {folder} has {free}.")


def _put(part: Path, target: Path, folder: Path, restore_id: str) -> None:
    """As the folder's owner: the server's user, who must replace it later."""
    owner = folder.stat()
    part.chmod(0o640)
    if os.geteuid() == 0:
        os.chown(part, owner.st_uid, owner.st_gid)
    found = part.stat()
    mark = {"restore_id": restore_id, "file": target.name, "bytes": found.st_size, "inode": found.st_ino}
    write_durably(folder / _MARK, json.dumps(mark))
    part.replace(target)
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _mark(place: DumpPlace) -> dict[str, object] | None:
    try:
        return dict(json.loads((place.folder / _MARK).read_text()))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError) as error:
        raise Refused(f"{place.folder / _MARK} cannot be read ({error}): look at the folder and remove it.") from None


def _is_ours(place: DumpPlace, restore_id: str) -> bool:
    """Whether what stands there is what this restore put there, unchanged."""
    mark, target = _mark(place), _target(place)
    if mark is None or not target.exists():
        return False
    found = target.stat()
    return mark == {
        "restore_id": restore_id,
        "file": target.name,
        "bytes": found.st_size,
        "inode": found.st_ino,
    }


def _remove(place: DumpPlace, restore_id: str) -> bool:
    mark, target = _mark(place), _target(place)
    if mark is None or mark.get("restore_id") != restore_id:
        if target.exists():
            raise NotOurs(f"{target} is not the work of restore {restore_id}: it was not touched.")
        return False
    moved = place.append_only and (place.folder / place.append_folder).exists()  # by a server from 7.0 on
    if moved or (target.exists() and (not _is_ours(place, restore_id) or _servers_in(place.folder))):
        raise NotOurs(f"A server has run on {target} since it was placed: it was not touched.")
    target.unlink(missing_ok=True)
    (place.folder / _MARK).unlink(missing_ok=True)
    return True
