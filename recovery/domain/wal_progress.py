"""How far a group's WAL archiver is: what its heartbeats carry, and what it says of the group's servers."""

from __future__ import annotations

from datetime import datetime, timedelta

from pydantic import Field

from recovery.domain.base import Model, Recorded


class WalOrder(Model):
    """A session of the archiver: at ``region``, which owns the group under ``epoch`` (0: nobody ever claimed it).

    ``region`` None: the group's WAL is not archived. ``failed``: so many sessions before this one failed.
    """

    group: str
    region: str | None = None
    queue: str = ""
    control_queue: str = ""
    epoch: int = 0
    run_id: str = ""
    failed: int = 0


class HeldWal(Model):
    """WAL that a slot holds at its server. ``state``: pg_replication_slots.wal_status; ``safe_bytes``: what may be
    written before the server gives the slot up, None without such a limit."""

    retained_bytes: int
    state: str = "reserved"
    safe_bytes: int | None = None


class ArchiveState(Recorded):
    """How far an archiver is.

    Up to ``archived`` (LSN) everything is at each required location, without a gap since the session began. What was
    committed before ``current_at`` (the server's clock) is archived: its age is the achieved RPO. ``gap``: what the
    server removed before it could be archived, so that a new base backup is needed. ``behind``: locations that miss
    pieces of this session, with the reason.
    """

    system_identifier: str
    timeline: int
    archived: str
    server_position: str
    lag_bytes: int
    current_at: datetime | None = None
    gap: str | None = None
    behind: dict[str, str] = Field(default_factory=dict)
    pieces: int = 0
    archived_bytes: int = 0


class WalProgress(ArchiveState):
    """How far a session at ``region`` is.

    ``standbys``: region -> the LSN from which on its slot keeps WAL, or why there is none.
    """

    region: str
    epoch: int
    held: HeldWal | None = None
    standbys: dict[str, str] = Field(default_factory=dict)

    def age(self, now: datetime) -> timedelta | None:
        """The achieved RPO, if the server were lost now; None while nothing is known."""
        return None if self.current_at is None else max(now - self.current_at, timedelta())
