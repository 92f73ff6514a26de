"""A folder for what diverged, sealed as recovery points are: what an old primary alone acknowledged is the users' data.

It holds WAL, a Redis's data, or the messages of a stream. Each file is cut into chunks, and each chunk is one object,
``<name>.<number>.zst.age``: a complete age file around one zstd frame. By hand:
``for o in <name>.*.zst.age; do age -d -i key.txt "$o" | zstd -dc; done > <name>``. ``index.json`` names the objects in
their order, with sizes and checksums. Only the folder's owner may enter it.
"""

from __future__ import annotations

import asyncio
import contextlib
import glob
import hashlib
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from recovery.adapters.listening import write_durably
from recovery.backup.chunking import fixed_chunks
from recovery.backup.sealing import CHUNK_BYTES, Opener, Sealer
from recovery.domain.divergence import SealedFile, SealedFiles
from recovery.domain.recovery_point import StoredObject
from recovery.errors import Corrupt, NotFound, Refused

INDEX = "index.json"
SUFFIX = ".diverged"
ENDING = ".zst.age"


def diverged_beside(data_directory: Path) -> Path:
    """Where the diverged WAL of a data directory is put aside: beside it, on the same disk; a folder for each run."""
    return data_directory.with_name(f"{data_directory.name}{SUFFIX}")


def diverged_below(state_folder: Path, store: str, group: str) -> Path:
    """Where a region's guard, which keeps its state in ``state_folder``, puts aside what only its own store holds."""
    return state_folder / "divergence" / f"{store}-{group}"


def objects_of(place: str, name: str) -> str:
    """All objects of one file, for a report."""
    return f"{place}/{name}.*{ENDING}"


class SealedFolder:
    """``DivergenceSink`` of a folder. Blocking work is done in threads and in the sealer's processes.

    Args:
        folder: of one run, or of one return; made with mode 700 when the first file comes.
        sealer: knows public keys only: what is stored here is not opened here.
    """

    def __init__(self, folder: Path, sealer: Sealer) -> None:
        self._folder = folder
        self._sealer = sealer

    @property
    def place(self) -> str:
        return str(self._folder)

    async def store(self, name: str, content: AsyncIterator[bytes]) -> None:
        """See the port. Raises OSError as it is, and Unreachable where the sealer was closed."""
        await asyncio.to_thread(self._folder.mkdir, mode=0o700, parents=True, exist_ok=True)
        digest, size, objects = hashlib.sha256(), 0, list[StoredObject]()
        async for chunk in fixed_chunks(content, CHUNK_BYTES):
            await asyncio.to_thread(digest.update, chunk)
            size += len(chunk)
            sealed = await self._sealer.seal(chunk)
            key = f"{name}.{len(objects):06}{ENDING}"
            await asyncio.to_thread(_write, self._folder / key, sealed.body)
            objects.append(StoredObject(key=key, size=sealed.size, sha256=sealed.sha256, plain_size=sealed.plain_size))
        file = SealedFile(name=name, size=size, sha256=digest.hexdigest(), objects=objects)
        await asyncio.to_thread(self._note, file)

    async def complete(self, about: dict[str, Any]) -> None:
        """Everything is stored; ``about`` (JSON) is what there is to tell of it, also to one who comes again."""
        await asyncio.to_thread(self._complete, about)

    def _complete(self, about: dict[str, Any]) -> None:
        self._write_index(read_index(self._folder).model_copy(update={"about": about}))

    def _note(self, file: SealedFile) -> None:
        known = read_index(self._folder) if (self._folder / INDEX).exists() else SealedFiles(saved_at=datetime.now(UTC))
        others = [each for each in known.files if each.name != file.name]
        files = sorted([*others, file], key=lambda each: each.name)
        self._write_index(SealedFiles(saved_at=known.saved_at, files=files))
        kept = {entry.key for entry in file.objects}
        for path in self._folder.glob(f"{glob.escape(file.name)}.*{ENDING}"):  # of an interrupted try that was longer
            if path.name not in kept:
                path.unlink()

    def _write_index(self, index: SealedFiles) -> None:
        """With it all objects before it are on the disk, under their names."""
        write_durably(self._folder / INDEX, index.model_dump_json(indent=1))


@dataclass(frozen=True)
class DivergedFolders:
    """What one guard puts aside of one store: a folder below ``folder`` for each return.

    ``recipients`` are age public keys. The thread that seals lives only while something is put aside.
    """

    folder: Path
    recipients: tuple[str, ...]

    async def about(self, name: str) -> dict[str, Any] | None:
        """What ``complete`` was told of that folder; None where there is none, or it did not come to its end.

        Raises Corrupt.
        """
        with contextlib.suppress(NotFound):
            return (await asyncio.to_thread(read_index, self.folder / name)).about
        return None

    @contextlib.asynccontextmanager
    async def open(self, name: str) -> AsyncIterator[SealedFolder]:
        """Raises BadInput where ``recipients`` are none: nothing is put aside readable."""
        async with Sealer(list(self.recipients), threads=1) as sealer:
            yield SealedFolder(self.folder / name, sealer)


def read_index(folder: Path) -> SealedFiles:
    """What was put aside in one run, or at one return. Blocks.

    Raises:
        NotFound: nothing was put aside there. Corrupt: its index cannot be read.
    """
    try:
        return SealedFiles.model_validate_json((folder / INDEX).read_bytes())
    except FileNotFoundError:
        raise NotFound(f"{folder} holds nothing that was put aside: it has no {INDEX}") from None
    except ValidationError as error:
        raise Corrupt(f"{folder / INDEX} cannot be read: {error.error_count()} mistakes") from None


def runs_below(folder: Path) -> list[Path]:
    """The folders of all runs that put something aside, oldest first. Blocks.

    Raises Refused where this user may not look.
    """
    try:
        found = [each for each in folder.iterdir() if (each / INDEX).is_file()] if folder.is_dir() else []
    except PermissionError as error:
        raise Refused(f"{error.filename} cannot be read by this user: ask as its owner, or as root") from None
    return sorted(found, key=lambda each: (each / INDEX).stat().st_mtime)


async def open_diverged(folder: Path, opener: Opener, target: Path) -> list[Path]:
    """Opens what was put aside in ``folder`` into ``target``: files of ``pg_wal``, an RDB file, or messages as JSON.

    Raises:
        Refused: a file of that name is there already.
        NotFound: ``folder`` holds nothing, or lacks an object.
        Corrupt, WrongKey: an object is not what was stored, or no key at hand opens it.
    """
    index = await asyncio.to_thread(read_index, folder)
    await asyncio.to_thread(target.mkdir, mode=0o700, parents=True, exist_ok=True)
    if taken := [file.name for file in index.files if (target / file.name).exists()]:
        raise Refused(f"{target} has {', '.join(taken[:3])} already: name an empty folder")
    return [await _open(folder, file, opener, target / file.name) for file in index.files]


async def _open(folder: Path, file: SealedFile, opener: Opener, target: Path) -> Path:
    fresh = target.with_name(f"{target.name}.new")
    digest = hashlib.sha256()
    descriptor = os.open(fresh, os.O_CREAT | os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as out:
        for entry in file.objects:
            try:
                body = await asyncio.to_thread((folder / entry.key).read_bytes)
            except FileNotFoundError:
                raise NotFound(f"{folder / entry.key} is missing: {file.name} cannot be opened as a whole") from None
            plain = await opener.open(entry, body)
            digest.update(plain)
            await asyncio.to_thread(out.write, plain)
    if digest.hexdigest() != file.sha256:
        raise Corrupt(f"{file.name} in {folder} is not what was put aside: its SHA-256 is {digest.hexdigest()}")
    await asyncio.to_thread(fresh.rename, target)
    return target


def _write(path: Path, body: bytes) -> None:
    """As a whole or not at all, for its owner's eyes only, flushed."""
    fresh = path.with_name(f"{path.name}.new")
    descriptor = os.open(fresh, os.O_CREAT | os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(body)
        file.flush()
        os.fsync(file.fileno())
    fresh.rename(path)
