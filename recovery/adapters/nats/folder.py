"""Folders as the ``nats`` command writes and reads them: ``nats stream backup`` and ``nats stream restore``.

Each has a ``backup.json`` and the archive: ``stream.tar.s2``, or ``stream.arc.s2``, as newer commands call what servers
from 2.15 on send (jsm.go 0.5). These read both names, and older ones only the first, which is therefore ours.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

from recovery.adapters.nats.recovery import stored_stream
from recovery.errors import BadInput, NotFound
from recovery.ports.jetstream import ARCHIVE_NAME, DESCRIPTION_NAME, StoredStream

NEWER_ARCHIVE_NAME = "stream.arc.s2"
_READ_BYTES = 1 << 20


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
    return stored_stream(description.read_bytes()), _pieces(archive_path(folder))


async def _pieces(path: Path) -> AsyncIterator[bytes]:
    file = await asyncio.to_thread(path.open, "rb")
    try:
        while data := await asyncio.to_thread(file.read, _READ_BYTES):
            yield data
    finally:
        file.close()
