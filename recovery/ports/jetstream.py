"""What backup and restore need of NATS JetStream."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Protocol

from recovery.domain.addresses import address_of
from recovery.domain.jetstream import JetStreamSource, StreamPart
from recovery.domain.recovery_point import BackupKind
from recovery.domain.restore_marks import attempt_mark, new_attempt
from recovery.ports.postgres import ArtefactStream, Progress

DESCRIPTION_NAME = "backup.json"
ARCHIVE_NAME = "stream.tar.s2"


def description_name(stream: str) -> str:
    """Artefact with a stream's configuration and state, named as ``nats account backup`` names its file."""
    return f"{stream}/{DESCRIPTION_NAME}"


def archive_name(stream: str) -> str:
    """Artefact with the server's own bytes, which ``nats stream restore <folder>`` reads."""
    return f"{stream}/{ARCHIVE_NAME}"


class StreamsSource(Protocol):
    """One running backup of streams. An async context manager: leaving it ends the server's snapshots."""

    @property
    def kind(self) -> BackupKind: ...

    @property
    def expected_bytes(self) -> int:
        """Size of the streams in their stores."""
        ...

    @property
    def at_once(self) -> int:
        """So many of the artefacts may be read at the same time, in their order."""
        ...

    def artefacts(self) -> AsyncIterator[ArtefactStream]:
        """First each stream's archive, then each one's description, whose content is known by then."""
        ...

    async def finish(self) -> JetStreamSource:
        """Only after all artefacts were read."""
        ...


@dataclass(frozen=True)
class StreamRestoreOptions:
    """How a stream is put back.

    ``restore_id`` was minted before the first attempt: a stream that carries it was left half restored by an earlier
    attempt, and is deleted before the next one. ``attempt`` is this one's own. ``stream`` is the name wanted; another
    one than the archive's is refused. ``replicas`` None keeps the number of the source.
    """

    restore_id: str
    attempt: str = field(default_factory=new_attempt)
    replace: bool = False  # an existing stream is deleted first, once the archive's beginning was found sound
    stream: str | None = None
    replicas: int | None = None
    keep_mark: bool = False  # until ``complete``: so that a restore of several streams can still be taken back whole
    finish_seconds: float = 3600.0  # for the server's own work after the last byte
    consumers_seconds: float = 15.0  # until the consumers of a cluster have their leaders

    @property
    def mark(self) -> str:
        """What a stream carries while this attempt restores it, and until ``complete``."""
        return attempt_mark(self.restore_id, self.attempt)


@dataclass(frozen=True)
class StoredStream:
    """A stream as it was stored: the two texts of ``backup.json``, and what our manifest adds (None for a folder that
    the ``nats`` command wrote)."""

    config: dict[str, object]
    state: dict[str, object]
    part: StreamPart | None = None


@dataclass(frozen=True)
class RestoredStream:
    stream: str
    messages: int
    first_seq: int
    last_seq: int
    consumers: list[str]  # durable ones
    archive_bytes: int
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class StreamSeen:
    """``restore_id``: of the restore that made the stream and is not completed."""

    messages: int
    first_seq: int
    last_seq: int
    restore_id: str | None = None


@dataclass(frozen=True)
class AccountSeen:
    """A server and the account as whose user we log in. ``room``: bytes that the account may still store; None:
    nothing limits it but the servers' disks."""

    host: str
    port: int
    version: str
    api_level: int
    clustered: bool
    streams: dict[str, StreamSeen]
    room: int | None = None

    @property
    def address(self) -> str:
        return address_of(self.host, self.port)


class JetStreamRecovery(Protocol):
    """Everything that backup and restore activities do with the streams of one account."""

    async def look(self) -> AccountSeen:
        """What stands there now. Raises Unreachable, SourceFailed."""
        ...

    def source(self, streams: Sequence[str] | None = None) -> AbstractAsyncContextManager[StreamsSource]:
        """Snapshots of these streams, or of all of the account's, consumers included.

        Raises, there or while artefacts are read:
            NotFound: a stream does not exist; the existing ones are named.
            SourceFailed: the server refused or ended a snapshot, or what it sent is incomplete.
            Unreachable: it did not answer, or the reader was too slow for it.
        """
        ...

    async def restore(
        self,
        stored: StoredStream,
        archive: AsyncIterator[bytes],
        options: StreamRestoreOptions,
        progress: Progress | None = None,
    ) -> RestoredStream:
        """Restores one stream with its sequences and consumers, and compares it with what was stored.

        Raises:
            Refused: it exists already and may not be replaced, would get another name, or the server is too old.
            NotOurs: another attempt of this restore was completed; that is not replaced whatever was asked for.
            Corrupt: the archive is not whole.
            RestoreFailed: the server refused it, or the restored stream differs.
            NoSpace: the server has no room for it.
            Unreachable: the server did not answer, or gave up waiting.
        On any of them, and when cancelled, what this restore made is deleted again.
        """
        ...

    async def differences(self, part: StreamPart) -> list[str]:
        """Sentences on what a restored stream lacks of its part; none where it has everything.

        A stream is there for clients as soon as it is restored: what they published since is no difference.
        Raises Unreachable, SourceFailed.
        """
        ...

    async def complete(self, stream: str, mark: str) -> bool:
        """Takes the attempt's mark away that ``keep_mark`` left; False where the stream carries none.

        Raises:
            NotOurs: it carries another restore's, or another attempt's: somebody is at work there.
            RestoreFailed: there is no such stream.
            Unreachable: the server did not answer.
        """
        ...

    async def remove_restored(self, stream: str, ours: str) -> bool:
        """Undo of a restore that was not completed, by its id, or of one attempt of it, by its mark; True when there
        was something to remove.

        Raises NotOurs where the stream does not carry the mark of it.
        """
        ...
