"""Folders as the ``nats`` command writes and reads them: ``nats stream backup``, ``nats account backup``, and restores.

Each has a ``backup.json`` and the archive: ``stream.tar.s2``, or ``stream.arc.s2``, as newer commands call what servers
from 2.15 on send (jsm.go 0.5). These read both names, and older ones only the first, which is therefore ours. A backup
of an account is a folder of such folders, one for each stream.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from recovery.adapters.nats.archive import ArchiveCheck, ArchiveHead
from recovery.adapters.nats.recovery import stored_stream
from recovery.adapters.nats.stream_state import check_server
from recovery.domain.words import listed
from recovery.errors import BadInput, Corrupt, NotFound, RecoveryError, Refused
from recovery.ports.jetstream import (
    ARCHIVE_NAME,
    DESCRIPTION_NAME,
    AccountSeen,
    JetStreamRecovery,
    RestoredStream,
    StoredStream,
    StreamRestoreOptions,
)

NEWER_ARCHIVE_NAME = "stream.arc.s2"
_READ_BYTES = 1 << 20


@dataclass(frozen=True)
class StreamFolder:
    """A stream's backup that was read to its end: the archive is whole, and of the same moment as its description."""

    path: Path
    stored: StoredStream
    head: ArchiveHead
    archive_bytes: int

    @property
    def stream(self) -> str:
        return str(self.stored.config["name"])

    @property
    def replicas(self) -> int:
        return int(str(self.stored.config.get("num_replicas") or 1))


def archive_path(folder: Path) -> Path:
    """Raises NotFound where the folder has no archive, BadInput where it has two."""
    found = [path for path in (folder / ARCHIVE_NAME, folder / NEWER_ARCHIVE_NAME) if path.is_file()]
    if not found:
        raise NotFound(f"{folder} has no {ARCHIVE_NAME} and no {NEWER_ARCHIVE_NAME}: it is no backup of a stream.")
    if len(found) > 1:
        raise BadInput(f"{folder} has both {ARCHIVE_NAME} and {NEWER_ARCHIVE_NAME}: remove the one that is not meant.")
    return found[0]


def read_folder(folder: Path) -> tuple[StoredStream, AsyncIterator[bytes]]:
    """What ``JetStreamRecovery.restore`` needs.

    Raises NotFound, BadInput, and Corrupt for a description that is none: the ``nats`` command leaves an empty one
    behind when its backup failed.
    """
    description = folder / DESCRIPTION_NAME
    if not description.is_file():
        raise NotFound(f"{folder} has no {DESCRIPTION_NAME}: it is no backup of a stream.")
    try:
        stored = stored_stream(description.read_bytes())
    except Corrupt as error:
        raise Corrupt(f"{description}: {error}") from error
    return stored, _pieces(archive_path(folder))


async def read_folders(folder: Path, streams: Collection[str] = ()) -> list[StreamFolder]:
    """The backup of one stream, or those within the folder, as ``nats account backup`` leaves them.

    Args:
        streams: only these of them; none: all.

    Raises:
        NotFound: the folder, a file or a stream is missing. BadInput: two folders hold the same stream.
        Corrupt: an archive or a description is damaged, incomplete, or the two are not of one backup.
    """
    found: dict[str, StreamFolder] = {}
    for path in await asyncio.to_thread(_folders_in, folder, streams):
        each = await _checked(path)
        if each.stream in found:
            raise BadInput(f"{found[each.stream].path} and {each.path} are both of stream {each.stream}: name one.")
        found[each.stream] = each
    for stream in streams:
        if stream not in found:
            known = listed(list(found)) or "none of those that were asked for"
            raise NotFound(f"{folder} has no backup of stream {stream}: it has {known}.")
    return [each for name, each in found.items() if not streams or name in streams]


async def restore_folders(
    recovery: JetStreamRecovery,
    folders: Sequence[StreamFolder],
    options: StreamRestoreOptions,
    begun: Callable[[StreamFolder], None] = lambda folder: None,
) -> list[RestoredStream]:
    """One after the other; each is complete when the next begins.

    Raises like ``JetStreamRecovery.restore``. What can be refused is refused before the first stream is touched, and an
    error later on names those that are there by then.
    """
    _demand_taken(await recovery.look(), folders, options)
    done: list[RestoredStream] = []
    for folder in folders:
        begun(folder)
        try:
            done.append(await recovery.restore(*read_folder(folder.path), options))
        except RecoveryError as error:
            if not done:
                raise
            names = listed([each.stream for each in done])
            raise type(error)(f"{error} Restored before it, and left as they are: {names}.") from error
    return done


def _demand_taken(seen: AccountSeen, folders: Sequence[StreamFolder], options: StreamRestoreOptions) -> None:
    """Raises Refused."""
    for folder in folders:
        check_server(folder.stored.config, folder.head, None, seen.version, seen.api_level)
        if (options.replicas or folder.replicas) > 1 and not seen.clustered:
            raise Refused(
                f"Stream {folder.stream} had {folder.replicas} replicas, and NATS {seen.address} is a single server: "
                "say --replicas 1."
            )
    there = [folder.stream for folder in folders if folder.stream in seen.streams]
    if there and not options.replace:
        said = listed([f"{name} ({seen.streams[name].messages} messages)" for name in there])
        raise Refused(
            f"NATS {seen.address} has {said} already: say --replace to delete and restore what has that name."
        )


def _folders_in(folder: Path, streams: Collection[str]) -> list[Path]:
    """Raises NotFound."""
    if not folder.is_dir():
        raise NotFound(f"{folder} is no folder on this machine.")
    if (folder / DESCRIPTION_NAME).exists() or _has_archive(folder):
        return [folder]
    paths = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    if not paths:
        raise NotFound(f"{folder} has no {DESCRIPTION_NAME}, and no folder with one: it is no backup of streams.")
    return [path for path in paths if not streams or path.name in streams]


def _has_archive(folder: Path) -> bool:
    return any((folder / name).exists() for name in (ARCHIVE_NAME, NEWER_ARCHIVE_NAME))


async def _checked(folder: Path) -> StreamFolder:
    """Reads all of it, before anything is deleted for its sake."""
    stored, archive = read_folder(folder)
    check = ArchiveCheck()
    try:
        async for piece in archive:
            check.feed(piece)
        head = await asyncio.to_thread(check.finish)
    except Corrupt as error:
        raise Corrupt(f"{archive_path(folder)} is damaged or incomplete: {error}.") from error
    for name in ("messages", "first_seq", "last_seq"):
        if head.state is not None and int(head.state.get(name, -1)) != int(str(stored.state[name])):
            raise Corrupt(
                f"{folder} holds files of two backups: its archive says {name} {head.state.get(name)}, and "
                f"{DESCRIPTION_NAME} {stored.state[name]}."
            )
    return StreamFolder(folder, stored, head, check.bytes)


async def _pieces(path: Path) -> AsyncIterator[bytes]:
    file = await asyncio.to_thread(path.open, "rb")
    try:
        while data := await asyncio.to_thread(file.read, _READ_BYTES):
            yield data
    finally:
        file.close()
