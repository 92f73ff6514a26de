"""What a recovery point of JetStream streams came from, and what a restored stream is held against."""

from __future__ import annotations

import hashlib
from datetime import datetime

from pydantic import Field

from recovery.domain.base import Recorded


class ConsumerPosition(Recorded):
    """Between which stream sequences a consumer stood while its stream's snapshot was taken.

    ``handled``: everything up to it was acknowledged (or, where nothing is acknowledged, delivered). The snapshot's
    own position lies between the two, and is one number for a consumer that rested.
    """

    handled: int
    handled_after: int
    delivered_after: int


class StreamPart(Recorded):
    """One stream of a recovery point, as its snapshot says.

    The snapshot ends at ``last_seq``. Its stream may drop messages by its own limits while it is read, so the archive
    holds between ``at_least`` and ``messages`` messages, and begins between ``first_seq`` and ``first_seq_after``.
    """

    stream: str
    created_at: str = ""  # RFC 3339 with nanoseconds: a stream that was deleted and made anew has another
    storage: str  # file or memory
    replicas: int
    retention: str
    archive_format: int  # 1: tar of the file store, up to 2.14; 2: NATSARC1, from 2.15
    server_version: str  # of the server that wrote the archive
    messages: int
    at_least: int
    bytes: int  # in the stream's store
    archive_bytes: int
    first_seq: int
    first_seq_after: int
    last_seq: int
    last_at: str | None = None  # RFC 3339 with nanoseconds, the server's clock: the newest message of the archive
    consumers: dict[str, ConsumerPosition] = Field(default_factory=dict)  # durable ones
    began_at: datetime
    finished_at: datetime


class JetStreamSource(Recorded):
    """The account (of one NATS server or cluster) that a point's streams came from.

    Streams are each consistent in themselves, and not with one another: ``began_at`` of the first and ``finished_at``
    of the last part are the window.
    """

    server_version: str
    api_level: int
    cluster: str | None = None
    domain: str | None = None
    streams: list[StreamPart]
    notes: list[str] = Field(default_factory=list)

    @property
    def identity(self) -> str:
        """What retention and order keep apart. An account has no id that survives its server, so it is that of the
        streams as they were made: one that was lost and made anew, empty, never pushes out what was saved before."""
        made = sorted(f"{part.stream} {part.created_at}" for part in self.streams)
        return hashlib.sha256("\n".join(made).encode()).hexdigest()[:16]

    @property
    def position(self) -> tuple[int, int] | None:
        """The sum of the last sequences, which only grow."""
        return (0, sum(part.last_seq for part in self.streams))

    @property
    def held_until(self) -> datetime | None:
        """What was acknowledged before this moment is in the point; None where it has no stream."""
        return min((part.began_at for part in self.streams), default=None)

    @property
    def window(self) -> tuple[datetime, datetime] | None:
        """When the first of its snapshots began, and the last one ended."""
        if not self.streams:
            return None
        return min(part.began_at for part in self.streams), max(part.finished_at for part in self.streams)

    def part(self, stream: str) -> StreamPart:
        """Raises KeyError."""
        for part in self.streams:
            if part.stream == stream:
                return part
        raise KeyError(stream)
