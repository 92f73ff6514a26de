"""A base backup's archive written out as files, straight from the chunks in which it arrives.

PostgreSQL sends ustar archives (POSIX.1, pax, "ustar Interchange Format") of folders and regular files, and of links
for tablespaces, which name the source's folders and are left out. Whatever else one holds is refused. The standard
library reads the headers; its extraction would copy every byte several times, and follows links that appear meanwhile.
"""

from __future__ import annotations

import errno
import os
import pwd
import stat
import tarfile
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from recovery.errors import NoSpace, RestoreFailed

_FULL = (errno.ENOSPC, errno.EDQUOT)
_FILES = (tarfile.REGTYPE, tarfile.AREGTYPE)


class Unpacking:
    """One archive on its way into an existing folder. Everything here blocks; ``close`` may be called by any thread.

    Members are created relative to folders that are held open, never through a link, and belong to ``user`` (None: to
    us) before anything is in them.

    Args:
        name: of the archive, for sentences.
        excluded: whether a member of this path is left out.
    """

    def __init__(self, folder: Path, name: str, user: str | None, excluded: Callable[[str], bool]) -> None:
        self._folder = folder
        self._name = name
        self._excluded = excluded
        entry = pwd.getpwnam(user) if user is not None else None
        self._owner = (entry.pw_uid, entry.pw_gid) if entry is not None else None
        self._lock = threading.Lock()
        self._closed = False
        self._root = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        self._parent: tuple[list[str], int] = ([], os.dup(self._root))  # the last member's
        self._header = bytearray()
        self._file: int | None = None  # None while a member is left out
        self._left = 0  # of the member's content
        self._padding = 0  # after it
        self._ended = False

    def write(self, chunk: bytes) -> None:
        """Takes the archive's next bytes.

        Raises:
            NoSpace: the disk is full.
            RestoreFailed: they are no archive, or one that holds what is refused, or cannot be written.
        """
        with self._lock:
            if self._closed:
                raise RestoreFailed(f"{self._name} is not unpacked any more")
            try:
                self._take(memoryview(chunk))
            except OSError as error:
                if error.errno in _FULL:
                    raise NoSpace(
                        f"the disk of {self._folder} became full during the restore, and the target was removed again"
                    ) from error
                raise self._failed(error.strerror or str(error)) from error

    def finish(self) -> None:
        """Raises RestoreFailed: the archive's end did not arrive."""
        if not self._ended or self._header:
            raise self._failed("it ends too early")

    def close(self) -> None:
        """Waits for the chunk that is being written. No other is written afterwards."""
        with self._lock:
            if not self._closed:
                self._closed = True
                for descriptor in (self._root, self._parent[1], *([] if self._file is None else [self._file])):
                    os.close(descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _failed(self, why: str) -> RestoreFailed:
        return RestoreFailed(f"{self._name} could not be unpacked into {self._folder}: {why}")

    def _take(self, view: memoryview) -> None:
        while view:
            if self._left:
                part = view[: self._left]
                self._left -= len(part)
                if self._file is not None:
                    _write_all(self._file, part)
                    if not self._left:
                        self._end_of_file()
            elif self._padding:
                part = view[: self._padding]
                self._padding -= len(part)
            else:
                part = view[: tarfile.BLOCKSIZE - len(self._header)]
                self._header += part
                if len(self._header) == tarfile.BLOCKSIZE:
                    self._begin(bytes(self._header))
                    self._header.clear()
            view = view[len(part) :]

    def _begin(self, header: bytes) -> None:
        if not any(header):
            self._ended = True
            return
        if self._ended:
            raise self._failed("something comes after its end")
        try:
            member = tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape")
        except tarfile.HeaderError as error:
            raise self._failed(f"it is damaged ({error})") from error
        if member.size < 0:  # base-256 numbers, GNU's extension, have a sign
            raise self._failed(f"it is damaged (its member {member.name!r} has a negative size)")
        parts = [part for part in member.name.split("/") if part not in ("", ".")]
        if member.name.startswith("/") or ".." in parts:
            raise self._failed(f"its member {member.name!r} would lead out of the folder")
        self._left = member.size if member.type in _FILES else 0
        self._padding = -self._left % tarfile.BLOCKSIZE
        if not parts or self._excluded("/".join(parts)):
            return
        mode = member.mode & 0o777
        if member.type == tarfile.DIRTYPE:
            os.fchmod(self._enter(parts), mode)
        elif member.type in _FILES:
            self._file = self._create(parts, mode)
            if not self._left:
                self._end_of_file()
        else:
            raise self._failed(f"its member {member.name!r} is neither a file nor a folder")

    def _enter(self, parts: list[str]) -> int:
        """A descriptor of the folder, which is made where it is missing. It is kept until another one is entered."""
        if self._parent[0] == parts:
            return self._parent[1]
        here = os.dup(self._root)
        try:
            for part in parts:
                there = self._step(part, here)
                os.close(here)
                here = there
        except BaseException:
            os.close(here)
            raise
        os.close(self._parent[1])
        self._parent = (parts, here)
        return here

    def _step(self, part: str, within: int) -> int:
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
        try:
            return os.open(part, flags, dir_fd=within)
        except FileNotFoundError:
            os.mkdir(part, 0o700, dir_fd=within)
        made = os.open(part, flags, dir_fd=within)
        self._give(made)
        return made

    def _create(self, parts: list[str], mode: int) -> int:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        within = self._enter(parts[:-1])
        try:
            made = os.open(parts[-1], flags, 0o600, dir_fd=within)
        except FileExistsError:  # twice in the archive: the later one counts
            os.unlink(parts[-1], dir_fd=within)
            made = os.open(parts[-1], flags, 0o600, dir_fd=within)
        self._give(made)
        if mode != stat.S_IRUSR | stat.S_IWUSR:
            os.fchmod(made, mode)
        return made

    def _give(self, descriptor: int) -> None:
        if self._owner is not None:
            os.fchown(descriptor, *self._owner)

    def _end_of_file(self) -> None:
        assert self._file is not None
        done, self._file = self._file, None
        os.close(done)


def _write_all(descriptor: int, data: memoryview) -> None:
    while data:
        data = data[os.write(descriptor, data) :]
