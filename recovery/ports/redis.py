"""What backup, validation and restore need of Redis and Valkey."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from recovery.domain.addresses import address_of
from recovery.domain.recovery_point import BackupKind, CheckResult, VerdictState
from recovery.domain.redis import Product, RedisSource, Way
from recovery.domain.restore_marks import attempt_mark, new_attempt
from recovery.ports.postgres import ArtefactStream, Progress

DUMP_NAME = "dump.rdb"
"""The artefact: what ``redis-server --dbfilename dump.rdb`` loads at its start."""


class DumpSource(Protocol):
    """One running backup of a Redis. An async context manager: leaving it ends the synchronisation."""

    @property
    def kind(self) -> BackupKind: ...

    @property
    def expected_bytes(self) -> int:
        """What the data take in the server's memory: a dump is smaller as a rule."""
        ...

    def artefacts(self) -> AsyncIterator[ArtefactStream]:
        """The dump."""
        ...

    async def finish(self) -> RedisSource:
        """Only after the dump was read."""
        ...


@dataclass(frozen=True)
class StoredDump:
    """A dump as it was stored, read once; ``source`` is None for one that others made."""

    chunks: AsyncIterator[bytes]
    source: RedisSource | None = None


@dataclass(frozen=True)
class DumpPlace:
    """Where a stopped server of this host finds its data when it starts: its ``dir`` and what else its configuration
    says. With ``append_only`` it ignores dump.rdb, and gets the dump as the beginning of its append-only file.

    ``program``: the redis-server that is to start there; without it the one at hand tells what can be read.
    """

    folder: Path
    append_only: bool = False
    dump_name: str = DUMP_NAME
    append_name: str = "appendonly.aof"
    append_folder: str = "appendonlydir"  # from 7.0 on
    program: Path | None = None


@dataclass(frozen=True)
class PlacedDump:
    path: Path
    rdb_version: int
    bytes: int


@dataclass(frozen=True)
class RedisRestoreOptions:
    """How a dump is put into a running server.

    ``restore_id`` was minted before the first attempt: what an earlier attempt with it left is overwritten.
    ``attempt`` is this one's own.
    """

    restore_id: str
    way: Way = "replicate"
    attempt: str = field(default_factory=new_attempt)
    replace: bool = False  # what the server holds is deleted, once the dump was loaded elsewhere and found sound
    keep_mark: bool = False  # until ``complete``: so that the restore can still be taken back
    load_seconds: float = 3600.0  # until the scratch server has loaded the dump
    silence_seconds: float = 60.0  # without any progress

    @property
    def mark(self) -> str:
        """What the server carries while this attempt restores into it, and until ``complete``."""
        return attempt_mark(self.restore_id, self.attempt)


@dataclass(frozen=True)
class RestoredRedis:
    """``keys`` by number of the database, without those that expired meanwhile."""

    keys: dict[int, int]
    functions: list[str]
    rdb_version: int
    bytes: int
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class RedisSeen:
    """A server as it stands. ``restore_id``: of the restore that is at work there and was not completed."""

    host: str
    port: int
    product: Product
    version: str
    rdb_version: int  # the newest that it reads
    is_primary: bool
    clustered: bool
    keys: dict[int, int]  # without our marks
    functions: list[str] | None  # names of libraries; None: it has none (6.2), or we may not ask
    max_memory: int  # bytes, 0: no limit
    used_memory: int
    restore_id: str | None = None  # None, too, where we may not read keys

    @property
    def address(self) -> str:
        return address_of(self.host, self.port)

    @property
    def is_empty(self) -> bool:
        return not self.functions and not any(self.keys.values())


class RedisRecovery(Protocol):
    """Everything that backup, validation and restore activities do with one Redis."""

    async def look(self) -> RedisSeen:
        """Raises Unreachable, Refused."""
        ...

    def source(self) -> AbstractAsyncContextManager[DumpSource]:
        """A full synchronisation from a replica, where one follows closely, else from the primary.

        Raises, there or while the dump is read:
            Refused: the login may not do that.
            SourceFailed: the server refused or ended it, or what it sent is no whole dump.
            Unreachable: no server answered, or it fell silent.
        """
        ...

    async def check_place(self, source: RedisSource, place: DumpPlace, restore_id: str) -> None:
        """Raises what ``place`` would raise, as far as it is known before. Changes nothing."""
        ...

    async def place(self, dump: StoredDump, place: DumpPlace, restore_id: str) -> PlacedDump:
        """Puts the dump where a stopped server loads it at its next start.

        Raises:
            Refused: a server runs there, other data are there, or the server would be too old for it.
            Corrupt: the dump is not whole.
            NoSpace: the disk is full.
        On any of them, and when cancelled, nothing stays behind.
        """
        ...

    async def is_placed(self, place: DumpPlace, restore_id: str) -> bool:
        """Whether the file stands there as this restore put it, and no server took it yet."""
        ...

    async def remove_placed(self, place: DumpPlace, restore_id: str) -> bool:
        """Undo of ``place`` before a server ran there; True when there was something to remove.

        Raises NotOurs: it is no more what was placed.
        """
        ...

    async def check_target(
        self, source: RedisSource, options: RedisRestoreOptions, scratch_folder: Path
    ) -> list[CheckResult]:
        """What ``restore`` needs of the server, its guard and this machine. Changes nothing, raises nothing."""
        ...

    async def restore(
        self, dump: StoredDump, options: RedisRestoreOptions, scratch_folder: Path, progress: Progress | None = None
    ) -> RestoredRedis:
        """Puts the dump into the running server, by way of a scratch server in ``scratch_folder``.

        Raises:
            NotOurs: another attempt of this restore was completed there: that is not replaced, whatever was asked for.
            Refused: the server holds data and may not be replaced, is a replica, or is too old for the dump; or its
                guard does not say that it may be written into.
            Corrupt: the dump is not whole.
            NoSpace: its memory or our disk is too small.
            NotFound: no redis-server is installed here.
            RestoreFailed: the server refused it, or what it has then differs.
            Unreachable: it did not answer, or made no progress.
        On any of them, and when cancelled, what this attempt brought is deleted again, and nothing of another one.
        """
        ...

    async def complete(self, ours: str) -> bool:
        """Takes the mark away that ``keep_mark`` left, of a restore by its id, or of one attempt by its mark. For some
        hours the server says so: no attempt of that restore begins there again, and True is the answer once more.
        False where there is no mark: what was restored is gone, or is others' for long.

        Raises NotOurs, Unreachable; Refused where a guard does not say that it may be written into.
        """
        ...

    async def remove_restored(self, ours: str) -> bool:
        """Undo of a restore that was not completed, by its id, or of one attempt of it, by its mark; True when there
        was something to remove.

        Raises NotOurs where the server carries another mark; Refused as ``complete``.
        """
        ...

    async def validate(
        self, dump: StoredDump, scratch_folder: Path, progress: Progress | None = None
    ) -> tuple[VerdictState, str, list[CheckResult]]:
        """Loads it into a scratch server and compares. Raises nothing but cancellation and bugs."""
        ...
