"""Where WAL comes from: one session of the streaming replication protocol on a slot of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol


@dataclass(frozen=True)
class WalServer:
    """What a server says of itself. ``position``: the LSN up to which its WAL is on its disk."""

    system_identifier: str
    timeline: int
    position: int
    segment_bytes: int


@dataclass(frozen=True)
class WalBytes:
    """WAL from ``start`` on, in the order of the stream.

    ``server_time`` is the server's clock when it sent the last of it, ``server_end`` the end of its WAL then.
    """

    start: int
    body: bytes
    server_time: datetime
    server_end: int


@dataclass(frozen=True)
class WalIdle:
    """The server has sent everything up to ``position``. ``urgent``: it waits for an answer, as when it shuts down."""

    position: int
    server_time: datetime
    urgent: bool


@dataclass(frozen=True)
class WalEnd:
    """The stream of this timeline ended: its history goes on with ``timeline`` from ``position``."""

    timeline: int
    position: int


WalEvent = WalBytes | WalIdle | WalEnd


class WalSource(Protocol):
    """Every method raises ``Unreachable`` for what a new session may mend, ``Refused`` for denied access."""

    async def identify(self) -> WalServer:
        """Opens the session. Raises also SourceFailed for a server that is no PostgreSQL of ours."""
        ...

    async def history(self, timeline: int) -> str:
        """Content of the timeline's ``.history`` file. Raises SourceFailed when the server does not have it."""
        ...

    async def take_slot(self) -> int:
        """Makes the slot when it is missing, ends the session that holds it, and returns its restart LSN.

        From that LSN on the server keeps all WAL, and it goes on doing so until ``acknowledge`` moves it.
        """
        ...

    async def start(self, timeline: int, position: int) -> None:
        """Streams ``timeline`` from ``position`` on.

        Raises:
            NotFound: the server has that WAL no more.
        """
        ...

    async def receive(self, seconds: float) -> Sequence[WalEvent]:
        """What came, as soon as something did; nothing after ``seconds``. Memory is bounded: unread WAL waits there."""
        ...

    def acknowledge(self, position: int) -> None:
        """Tells the server that WAL before ``position`` is safe: it may remove it. Never goes back."""
        ...

    async def close(self) -> None: ...
