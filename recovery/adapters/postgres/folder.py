"""The folders that a restore owns: claimed before the first byte, marked as unfinished, removed by their mark."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import json
import os
import pwd
import re
import shutil
import threading
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from recovery.adapters.postgres.host import INCOMPLETE, has_entries
from recovery.errors import Contended, NoSpace, NotOurs, Refused, RestoreFailed

MARKER = "recovery-plans.json"

_FULL = (errno.ENOSPC, errno.EDQUOT)
_SYNCFS_TELLS = (5, 8)  # Linux; before, it is silent about what could not be written
_LIBC = ctypes.CDLL(None, use_errno=True)


@dataclass
class RestoreMark:
    """Content of ``recovery-plans.json``: whose work a data directory is, and what else belongs to it."""

    restore_id: str
    point_id: str
    created_directory: bool  # False: an empty folder of the operator's, which stays when its content is removed
    tablespaces: list[str] = field(default_factory=list)
    complete: bool = False
    restored_bytes: int = 0
    last_commit_at: str | None = None
    notes: list[str] = field(default_factory=list)
    reached: dict[str, Any] | None = None  # ReachedPoint, of a recovery from archived WAL


def read_mark(folder: Path) -> RestoreMark | None:
    """None when the folder does not exist or is nobody's restore."""
    try:
        return RestoreMark(**json.loads((folder / MARKER).read_text()))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, TypeError) as error:
        raise Refused(
            f"{folder / MARKER} cannot be read ({error}): look at the folder and remove it yourself"
        ) from None


def write_mark(folder: Path, mark: RestoreMark) -> None:
    """Replaces the mark as a whole."""
    fresh = folder / f"{MARKER}.new"
    with fresh.open("w") as file:
        json.dump(asdict(mark), file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    fresh.rename(folder / MARKER)


class ClaimedFolder:
    """A data directory that this process alone is restoring into.

    Entering creates it (mode 0700), marks it and locks the mark; the lock ends with the process.
    Everything here blocks: call it in a thread.

    Raises:
        Contended: another process is at work there for the same restore.
    """

    def __init__(self, folder: Path, mark: RestoreMark) -> None:
        self.folder = folder
        self.mark = mark
        self._lock: int | None = None

    def claim(self) -> None:
        with no_space(self.folder):
            self.folder.parent.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(FileExistsError):
                self.folder.mkdir(mode=0o700)
                self.mark.created_directory = True
            self.folder.chmod(0o700)
            self._lock = os.open(self.folder / INCOMPLETE, os.O_CREAT | os.O_RDWR, 0o600)
            if not _locked(self._lock):
                raise Contended(f"another attempt of this restore is still at work in {self.folder}")
            write_mark(self.folder, self.mark)

    def add_tablespace(self, folder: Path, user: str | None) -> None:
        """Makes it, and notes it in the mark: never before it was found empty, for what the mark names is removed.

        Raises:
            Refused: the folder is not empty.
        """
        make_tablespace(folder, user)
        self.mark.tablespaces.append(str(folder))
        with no_space(self.folder):
            write_mark(self.folder, self.mark)

    def complete(self) -> None:
        """The folder may be started from now on."""
        self.mark.complete = True
        write_mark(self.folder, self.mark)
        (self.folder / INCOMPLETE).unlink()

    def __enter__(self) -> Self:
        self.claim()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def is_being_restored(folder: Path) -> bool:
    """Whether a live process holds the lock of an unfinished restore."""
    try:
        descriptor = os.open(folder / INCOMPLETE, os.O_RDWR)
    except OSError:
        return False
    try:
        return not _locked(descriptor)
    finally:
        os.close(descriptor)


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def remove_folder(folder: Path, restore_id: str) -> bool:
    """Removes a restored data directory with its tablespaces; the mark goes last, so that a repeated call finds it.

    Returns False when there is nothing of this restore.

    Raises:
        Refused: the folder holds data that is not of this restore.
    """
    mark = read_mark(folder)
    if mark is None:
        if folder.is_dir() and not any(entry.name != INCOMPLETE for entry in folder.iterdir()):
            (folder / INCOMPLETE).unlink(missing_ok=True)
            return False
        if folder.exists():
            raise NotOurs(f"{folder} is not the work of restore {restore_id}: nothing in it was touched")
        return False
    if mark.restore_id != restore_id:
        raise NotOurs(f"{folder} belongs to restore {mark.restore_id}, not to {restore_id}: nothing in it was touched")
    for tablespace in mark.tablespaces:
        if Path(tablespace).exists():
            shutil.rmtree(tablespace)
        with contextlib.suppress(OSError):
            Path(tablespace).parent.rmdir()  # ours when it is empty
    for entry in folder.iterdir():
        if entry.name in (MARKER, INCOMPLETE):
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()
    (folder / INCOMPLETE).unlink(missing_ok=True)
    (folder / MARKER).unlink()
    if mark.created_directory:
        folder.rmdir()
    return True


def make_tablespace(folder: Path, user: str | None) -> None:
    """Raises Refused: the folder is not empty."""
    with no_space(folder):
        refuse_filled(folder)
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)
        give_to(folder, user)


def refuse_filled(tablespace: Path) -> None:
    """Raises Refused: the tablespace's folder is not empty. It may be in use without its data directory beside it."""
    if has_entries(tablespace):
        raise Refused(f"the tablespace's folder {tablespace} is not empty: empty it yourself or name another folder")


def link_tablespaces(data_directory: Path, spaces: Mapping[str, Path], user: str | None) -> None:
    """``spaces``: oid -> folder."""
    for oid, folder in spaces.items():
        link = data_directory / "pg_tblspc" / oid
        link.symlink_to(folder)
        give_to(link, user)


class FileSystems:
    """The file systems of some folders. Open it before anything is written there: failures since then are told.

    ``sync`` blocks, for ever on a disk that hangs, and is called by one thread at a time. ``close`` may be called by
    any thread, and does not wait: a ``sync`` that is under way closes what it uses when it ends.
    """

    def __init__(self, folders: Iterable[Path]) -> None:
        self._lock = threading.Lock()  # never held while a disk is waited for
        self._syncing = self._closing = False
        self._open = {
            folder.stat().st_dev: os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            for folder in {each.stat().st_dev: each for each in folders}.values()
        }

    def sync(self) -> None:
        """Returns when all that was written there, names included, is on the disk: ``syncfs(2)``.

        Raises:
            NoSpace: a disk is full, which some file systems find out only now.
            RestoreFailed: something could not be written.
        """
        with self._lock:
            self._syncing = True
        try:
            for descriptor in self._open.values():
                if _LIBC.syncfs(descriptor) != 0:
                    number = ctypes.get_errno()
                    kind = NoSpace if number in _FULL else RestoreFailed
                    raise kind(f"the restored files could not be written to the disk: {os.strerror(number)}")
        finally:
            with self._lock:
                self._syncing = False
                self._end()

    def close(self) -> None:
        with self._lock:
            self._closing = True
            self._end()

    def _end(self) -> None:
        if self._closing and not self._syncing:
            for descriptor in self._open.values():
                os.close(descriptor)
            self._open.clear()


def syncfs_tells_failures() -> bool:
    """Whether this kernel's ``syncfs`` does."""
    found = re.match(r"(\d+)\.(\d+)", os.uname().release)
    return found is not None and (int(found[1]), int(found[2])) >= _SYNCFS_TELLS


def sync_files(folder: Path) -> None:
    """Returns when the files that stand in ``folder`` itself, and their names, are on the disk."""
    for path in (*(entry for entry in folder.iterdir() if entry.is_file()), folder):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def give_to(path: Path, user: str | None) -> None:
    """Makes ``user`` the owner of one file or folder; does nothing for None."""
    if user is not None:
        entry = pwd.getpwnam(user)
        os.chown(path, entry.pw_uid, entry.pw_gid, follow_symlinks=False)


@contextlib.contextmanager
def no_space(folder: Path) -> Iterator[None]:
    """Raises NoSpace for the operating system's "no space left", Refused for denied access."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise NoSpace(f"the disk of {folder} is full: free some space or name another folder") from error
        if isinstance(error, PermissionError):
            raise Refused(f"{folder} cannot be written to: {error.strerror}") from error
        raise
