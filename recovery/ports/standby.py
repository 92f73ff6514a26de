"""PostgreSQL standbys as plans need them on a region's worker: watched, compared, made again, drained.

``PostgresStandbys`` is implemented by ``recovery.adapters.postgres.standbys.LocalStandbys``, whose constructor takes
what ``LocalPostgresHost`` takes: ``LocalStandbys(binaries: PostgresBinaries | None = None, *, run_as: str | None)``.
All methods are idempotent, bounded in time and cancellable.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

from recovery.domain.divergence import Divergence
from recovery.domain.replication import Drained, ReplicationState, WriteProbe
from recovery.domain.timelines import History
from recovery.ports.postgres import PostgresLogin, PostgresPlace, Progress

Refusing = Literal["never", "standby", "always"]
"""Which servers refuse new clients while they are drained."""


class DivergenceSink(Protocol):
    """Where what diverged is put aside, sealed: ``recovery.adapters.diverged_folder.SealedFolder``."""

    @property
    def place(self) -> str:
        """For the report: a path or a location with its prefix."""
        ...

    async def store(self, name: str, content: AsyncIterator[bytes]) -> None:
        """Keeps one file whole, or raises. The same name comes again with the same bytes when a step is repeated."""
        ...


@dataclass(frozen=True)
class Streaming:
    """How a standby streams from its upstream: goes into ``primary_conninfo``.

    ``password`` is written to a passfile beside the data directory (mode 0600, the server's user), never elsewhere.
    With ``passfile`` an existing one is named instead, which must be readable for the server's user.
    """

    host: str
    port: int
    user: str
    password: str | None = field(default=None, repr=False)
    passfile: Path | None = None
    slot: str | None = None
    application_name: str | None = None
    sslmode: str = "prefer"
    sslrootcert: str | None = None
    options: Mapping[str, str] = field(default_factory=dict)  # more of libpq's, keepalives_idle say


@dataclass(frozen=True)
class RejoinOptions:
    """How an old primary becomes a standby again.

    ``effect_id`` was minted before the first attempt: a repeated call finds its own work. ``method`` "auto" rewinds
    where that is possible and clones otherwise. ``start``: whether the standby is started at the end; it is always
    left with ``standby.signal``. ``settings`` are given on the command line at that start (port, listen_addresses).
    """

    effect_id: str
    streaming: Streaming
    method: Literal["auto", "rewind", "clone"] = "auto"
    keep_old: bool = False  # of a clone: keep the replaced data after the new ones stream
    start: bool = True
    start_timeout: float = 120.0
    settings: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Rejoined:
    """What ``rejoin`` did. ``method`` "follow": the data were an ancestor of the upstream's and are followed as is."""

    method: Literal["follow", "rewind", "clone"]
    seconds: float
    streaming: bool
    position: str | None = None
    why_not_rewind: str = ""  # why the other way was taken
    already: bool = False
    notes: list[str] = field(default_factory=list)


class PostgresStandbys(Protocol):
    """All methods raise ``Unreachable`` when a server does not answer, ``Refused`` when it or a rule forbids."""

    async def replication_state(self, login: PostgresLogin, *, timeout: float = 5.0) -> ReplicationState:
        """Primary or standby: connected standbys, slots, and its own receiver."""
        ...

    async def history(self, login: PostgresLogin, *, timeout: float = 5.0) -> History:
        """Its ancestry, over the replication protocol (``IDENTIFY_SYSTEM``, ``TIMELINE_HISTORY``)."""
        ...

    async def write_probe(
        self, login: PostgresLogin, *, vantage: str, epoch: int | None = None, timeout: float = 5.0
    ) -> WriteProbe:
        """One row per vantage in ``recovery_plans.heartbeat``, with the epoch. Never longer than ``timeout`` seconds;
        raises nothing but bugs and cancellation: what failed is in ``reason``."""
        ...

    async def has_received(self, login: PostgresLogin, lsn: str) -> bool:
        """Whether the standby (or primary) has WAL up to ``lsn`` on its disk."""
        ...

    async def wait_until_replayed(self, login: PostgresLogin, lsn: str, seconds: float) -> str:
        """Returns the replayed LSN, at least ``lsn``; Unreachable with how far it came when ``seconds`` are over."""
        ...

    async def save_divergence(
        self, place: PostgresPlace, upstream: PostgresLogin, sink: DivergenceSink, *, effect_id: str
    ) -> Divergence:
        """Puts aside the WAL that a stopped old primary wrote after the fork, and lists its transactions.

        Of a standby that runs, too: where it follows already, nothing diverged.

        ``upstream``: the new primary; its user may replicate. Changes nothing in the directory.

        Raises:
            Refused: the server in ``place`` runs as a primary, or it has no common ancestor with the upstream.
            RestoreFailed: WAL after the fork is missing or cannot be read; nothing may be wiped then.
        """
        ...

    async def rejoin(
        self,
        place: PostgresPlace,
        upstream: PostgresLogin,
        options: RejoinOptions,
        progress: Progress | None = None,
    ) -> Rejoined:
        """Makes the stopped server in ``place`` a standby of ``upstream`` (a superuser's login there, for pg_rewind).

        A directory whose rewind or clone was interrupted is marked as incomplete, is started by nobody, and is
        completed by the next call.
        """
        ...

    async def create_slots(self, login: PostgresLogin, names: Sequence[str]) -> list[str]:
        """Physical slots that keep WAL from now on. Returns those that did not exist before."""
        ...

    async def drop_slots(self, login: PostgresLogin, names: Sequence[str]) -> list[str]:
        """Returns those that existed. One in use is ended first."""
        ...

    async def drain(
        self, login: PostgresLogin, *, grace: float = 30.0, keep_users: Sequence[str] = (), refuse: Refusing = "never"
    ) -> Drained:
        """Waits until clients left by themselves, and terminates the rest after ``grace`` seconds.

        Replication and our own sessions are not clients. ``refuse``: whether new ones are refused meanwhile. A server
        that accepts writes has a right to them under a guard ("standby"), and is left alone then; without one
        ("always") it goes on refusing until it is rejoined or promoted again.
        """
        ...
