"""A folder as a location (``file:///var/backups``): a mounted disk, or the second store of a small installation."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import secrets
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import ParamSpec, TypeVar

from recovery.errors import BadInput, Contended, NotFound, RecoveryError, Refused, Unreachable
from recovery.ports.object_store import ObjectInfo

Arguments = ParamSpec("Arguments")
Reply = TypeVar("Reply")

LOCK = ".recovery-plans.lock"
TEMPORARY = ".writing-"
THREADS = 8
_DENIED = {errno.EACCES, errno.EPERM, errno.EROFS}


class FolderStore:
    """``recovery.ports.object_store.ObjectStore`` below ``root``, which is made when it does not exist.

    An object appears whole or not at all: it is written under a temporary name, synchronised to the disk, then linked
    or renamed. An ETag is inode, time and size of the file, since every write makes a new one.

    Conditional replacement is guarded by a lock file (flock), so all writers must be on hosts that share those locks.
    """

    def __init__(self, name: str, root: Path) -> None:
        self._name = name
        self._root = root
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix=f"folder-{name}")

    @property
    def name(self) -> str:
        return self._name

    async def put(
        self,
        key: str,
        body: bytes,
        *,
        if_absent: bool = False,
        if_match: str | None = None,
        sha256: str | None = None,
    ) -> str:
        return await self._run(self._put, key, body, if_absent, if_match)

    def _put(self, key: str, body: bytes, if_absent: bool, if_match: str | None) -> str:
        target = self._path(key)
        if if_absent and target.exists():
            raise Contended(f"{self._name}: {key} exists already")
        temporary = self._write_beside(target, body)
        try:
            etag = _etag(temporary.stat())
            if if_absent:
                os.link(temporary, target)
            elif if_match is not None:
                with self._locked(fcntl.LOCK_EX):
                    self._require_etag(target, key, if_match)
                    temporary.replace(target)
            else:
                with self._locked(fcntl.LOCK_SH):
                    temporary.replace(target)
        except FileExistsError as error:
            raise Contended(f"{self._name}: {key} exists already") from error
        finally:
            temporary.unlink(missing_ok=True)
        _sync_folder(target.parent)
        return etag

    def _write_beside(self, target: Path, body: bytes) -> Path:
        """A synchronised temporary file in the target's folder, which a concurrent deletion may prune: then again."""
        temporary = target.with_name(f"{TEMPORARY}{secrets.token_hex(8)}")
        while True:
            try:
                target.parent.mkdir(parents=True, exist_ok=True)
                stream = temporary.open("xb")
                break
            except FileNotFoundError:
                continue  # pruned between the two lines, or while its parents came to be
            except FileExistsError:
                if target.parent.exists() and not target.parent.is_dir():
                    raise  # a file stands where the folder would: no other try can mend that
        try:
            with stream:
                stream.write(body)
                stream.flush()
                os.fsync(stream.fileno())
            # The kernel's own time stamps are too coarse to tell two quick writes apart.
            os.utime(temporary, ns=(time.time_ns(), time.time_ns()))
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        return temporary

    def _require_etag(self, target: Path, key: str, expected: str) -> None:
        try:
            found = _etag(target.stat())
        except FileNotFoundError:
            found = None
        if found != expected:
            raise Contended(f"{self._name}: {key} was changed meanwhile")

    @contextmanager
    def _locked(self, mode: int) -> Iterator[None]:
        with (self._root / LOCK).open("ab") as lock:
            fcntl.flock(lock, mode)
            yield

    async def get(self, key: str) -> tuple[bytes, str]:
        return await self._run(self._get, key)

    def _get(self, key: str) -> tuple[bytes, str]:
        with self._path(key).open("rb") as stream:
            return stream.read(), _etag(os.fstat(stream.fileno()))

    async def head(self, key: str) -> ObjectInfo | None:
        try:
            return await self._run(self._head, key)
        except NotFound:
            return None

    def _head(self, key: str) -> ObjectInfo:
        return _info(key, self._path(key).stat())

    async def list(self, prefix: str) -> AsyncIterator[ObjectInfo]:
        for info in await self._run(self._list, prefix):
            yield info

    def _list(self, prefix: str) -> Sequence[ObjectInfo]:
        folder = self._root / prefix.rpartition("/")[0]
        found = []
        for parent, _, names in os.walk(folder):
            for name in names:
                path = Path(parent, name)
                key = path.relative_to(self._root).as_posix()
                if key.startswith(prefix) and not name.startswith((TEMPORARY, LOCK)):
                    try:
                        found.append(_info(key, path.stat()))
                    except FileNotFoundError:
                        continue  # deleted meanwhile
        return sorted(found, key=lambda info: info.key)

    async def folders(self, prefix: str) -> Sequence[str]:
        return await self._run(self._folders, prefix)

    def _folders(self, prefix: str) -> Sequence[str]:
        try:
            return sorted(entry.name for entry in os.scandir(self._root / prefix) if entry.is_dir())
        except (FileNotFoundError, NotADirectoryError):
            return []

    async def delete(self, keys: Sequence[str]) -> None:
        await self._run(self._delete, keys)

    def _delete(self, keys: Sequence[str]) -> None:
        folders = set()
        for key in keys:
            path = self._path(key)
            path.unlink(missing_ok=True)
            folders.add(path.parent)
        for folder in sorted(folders, key=lambda path: len(path.parts), reverse=True):
            self._prune(folder)

    def _prune(self, folder: Path) -> None:
        """Removes the folder and its parents as far as they are empty."""
        while folder != self._root:
            try:
                folder.rmdir()
            except FileNotFoundError:
                pass  # somebody else pruned it; its parents may still be ours to remove
            except OSError:
                return
            folder = folder.parent

    async def shortcomings(self) -> Sequence[str]:
        return await self._run(self._shortcomings)

    def _shortcomings(self) -> Sequence[str]:
        self._root.mkdir(parents=True, exist_ok=True)
        if not os.access(self._root, os.W_OK | os.X_OK):
            return [f"folder {self._root} cannot be written by this user: give it to the worker's user"]
        return []

    async def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _path(self, key: str) -> Path:
        parts = key.split("/")
        if any(part in ("", ".", "..") for part in parts) or parts[-1].startswith((TEMPORARY, LOCK)):
            raise BadInput(f"{key!r} is no key: expected names separated by single slashes")
        return self._root.joinpath(*parts)

    async def _run(
        self, work: Callable[Arguments, Reply], *arguments: Arguments.args, **options: Arguments.kwargs
    ) -> Reply:
        def act() -> Reply:
            try:
                self._root.mkdir(parents=True, exist_ok=True)
                return work(*arguments, **options)
            except RecoveryError:
                raise
            except OSError as error:
                raise self._explain(error) from error

        return await asyncio.get_running_loop().run_in_executor(self._threads, act)

    def _explain(self, error: OSError) -> RecoveryError:
        if isinstance(error, FileNotFoundError | NotADirectoryError | IsADirectoryError):
            return NotFound(f"location {self._name}: {error.filename} does not exist")
        words = f"location {self._name}: {error.strerror} ({error.filename or self._root})"
        return Refused(words) if error.errno in _DENIED else Unreachable(words)


def _etag(status: os.stat_result) -> str:
    return f"{status.st_ino:x}-{status.st_mtime_ns:x}-{status.st_size:x}"


def _info(key: str, status: os.stat_result) -> ObjectInfo:
    return ObjectInfo(key, status.st_size, _etag(status), datetime.fromtimestamp(status.st_mtime, UTC))


def _sync_folder(folder: Path) -> None:
    """Makes the new name itself durable."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:
        return  # deleted again already
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
