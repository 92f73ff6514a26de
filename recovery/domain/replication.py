"""How far standbys are behind, and what their slots keep: the words of the replication monitor."""

from __future__ import annotations

from datetime import datetime

from pydantic import Field

from recovery.domain.base import Model


def standby_slot(region: str) -> str:
    """Slot and application name of a region's standby: letters, digits and underscores, as PostgreSQL wants them."""
    return "standby_" + "".join(letter if letter.isalnum() else "_" for letter in region.lower())


class StandbyConnection(Model):
    """One row of ``pg_stat_replication``: a standby as its upstream sees it. Lags are None while PostgreSQL knows none.

    ``lag_seconds`` is PostgreSQL's ``replay_lag`` where the standby is behind, and 0 where it replayed everything.
    """

    application_name: str
    client_address: str | None = None
    state: str
    sync_state: str = "async"
    sent_lsn: str | None = None
    write_lsn: str | None = None
    flush_lsn: str | None = None
    replay_lsn: str | None = None
    lag_bytes: int | None = None  # current LSN - replayed LSN
    unflushed_bytes: int | None = None  # current LSN - flushed LSN: what a failover now would lose
    lag_seconds: float | None = None
    reply_age_seconds: float | None = None  # since the standby's last message


class SlotState(Model):
    """One replication slot."""

    name: str
    physical: bool = True
    active: bool
    temporary: bool = False
    restart_lsn: str | None = None
    retained_bytes: int | None = None  # WAL that it keeps the server from removing
    wal_status: str | None = None  # reserved, extended, unreserved or lost
    safe_wal_bytes: int | None = None  # that may still be written before it could be lost


class ReplicationState(Model):
    """Replication of one server. ``position``: its current LSN (primary), or what it received (standby)."""

    in_recovery: bool
    position: str
    timeline: int
    standbys: list[StandbyConnection] = Field(default_factory=list)
    slots: list[SlotState] = Field(default_factory=list)
    receiving: bool | None = None  # a standby's receiver streams; None on a primary
    upstream: str | None = None  # host:port that the receiver is connected to
    lag_seconds: float | None = None  # of a standby: 0 when all that was received is replayed
    heard_seconds_ago: float | None = None  # of a standby: since its upstream's last message
    replay_bytes: int | None = None  # of a standby: received and not replayed
    synchronous_standby_names: str = ""
    at: datetime


class WriteProbe(Model):
    """What a write through the heartbeat table showed."""

    written: bool
    seconds: float
    in_recovery: bool | None = None  # None: not even that was answered
    epoch: int | None = None  # the highest that stood in the table before
    position: str | None = None  # LSN after the commit
    local_only: bool = False  # the server did not wait for its synchronous standbys (WARNING 01000)
    reason: str = ""


class Drained(Model):
    """Client sessions of the old side. ``why_not_refused``: why new ones could come meanwhile; empty: none could."""

    found: int
    terminated: int
    left: int
    seconds: float
    why_not_refused: str = ""
