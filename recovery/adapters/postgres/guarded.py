"""PostgreSQL as its guard drives it, on the guard's own host.

    GuardedPostgres(
        place: PostgresPlace,               # host, port, data_directory, run_as
        login: PostgresLogin,               # a superuser, as seen from this host
        *,
        binaries: PostgresBinaries | None = None,
        strength: Strength = Strength.GUARD,
        replication: Streaming | None = None,   # how it streams; host and port come from ``Upstream``
        settings: Mapping[str, str] | None = None,  # on the command line when we start it; default: as last time
        start_seconds: float = 60.0,
        promote_seconds: float = 30.0,
    )

It implements ``GuardedStore`` with two additions: ``start(owner=True)`` and ``promote(epoch, owner=True)``, for a
directory that was a primary when it ended: only the guard whose region still owns the group may say so (the server
crashed, the host was restarted). ``promote`` starts a stopped server itself; a directory that was the primary of epoch
N is promoted for N and N+1 without ``owner``.

Things to know:

- After a promotion ``standby.signal`` stands there again, so a postmaster that restarts its own server (a backend was
  killed) comes back as a standby. ``observe`` then says STANDBY; ``promote`` with the same epoch makes it primary.
- ``observe`` says STALE of a stopped directory that was a primary when it ended. Whether it was replaced, the guard
  knows from the record. It says STOPPED of a stopped standby.
- ``demote`` raises ``Unreachable`` where a process could not be killed within a second: call it again.
- ``replication=None`` keeps the server's own ``primary_conninfo`` and changes host and port in it.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import asyncpg

from recovery.adapters.postgres import standby_files as files
from recovery.adapters.postgres.acknowledging import Acknowledging
from recovery.adapters.postgres.binaries import PostgresBinaries
from recovery.adapters.postgres.connection import Connection, connected
from recovery.adapters.postgres.demotion import kill_tree
from recovery.adapters.postgres.following import follow, set_and_reload
from recovery.adapters.postgres.local_server import LocalServer, Running, read_running
from recovery.adapters.postgres.ordered_end import end_in_order
from recovery.adapters.postgres.refusal import let_clients_in
from recovery.adapters.postgres.rejoin_folders import forget_old
from recovery.domain.guarding import Promotion, StoreRole, StoreState
from recovery.domain.ownership import Strength
from recovery.domain.timelines import lsn_order
from recovery.errors import Contended, RecoveryError, Refused, RestoreFailed, Unreachable
from recovery.ports.guard import Emergency, Upstream
from recovery.ports.postgres import PostgresLogin, PostgresPlace
from recovery.ports.standby import Streaming

OBSERVE_SECONDS = 1.8
KILL_SECONDS = 0.9
POSITION_SECONDS = 0.3  # after a kill was confirmed, for the end of its WAL

_POLL_SECONDS = 0.01

# What the next reload would bring, in effect or not.
_NAMES_IN_FILES = (
    "SELECT setting FROM pg_file_settings WHERE name = 'synchronous_standby_names' ORDER BY seqno DESC LIMIT 1"
)


class GuardedPostgres(Acknowledging):
    """``GuardedStore`` of one data directory. One caller at a time for what changes it; ``observe`` at any time."""

    store = "postgres"

    def __init__(
        self,
        place: PostgresPlace,
        login: PostgresLogin,
        *,
        binaries: PostgresBinaries | None = None,
        strength: Strength = Strength.GUARD,
        replication: Streaming | None = None,
        settings: Mapping[str, str] | None = None,
        start_seconds: float = 60.0,
        promote_seconds: float = 30.0,
    ) -> None:
        self.strength = strength
        super().__init__(LocalServer(place, login, binaries=binaries, settings=settings), replication)
        self._start_seconds = start_seconds
        self._promote_seconds = promote_seconds
        self._seen_primary: Running | None = None  # as last seen
        self._lag: float | None = None
        self._heard: float | None = None  # by time.monotonic()
        self._stopped_at: tuple[int, str | None] | None = None  # mtime of the control file, position

    @property
    def _folder(self) -> Path:
        return self.server.folder

    def emergency(self) -> Emergency:
        """What the companion needs: the directory, resolved, and its owner (uid, gid) where it is there."""
        folder = self._folder.resolve()
        owner = list(files.owner_of(folder)) if folder.exists() else None
        return Emergency(self.store, "postgres", {"data_directory": str(folder), "owner": owner})

    # Looking.

    async def observe(self) -> StoreState:
        """See ``GuardedStore``."""
        try:
            async with asyncio.timeout(OBSERVE_SECONDS + 0.2):
                state = await (self._observe_running() if await self.server.runs() else self._observe_stopped())
                mark = await asyncio.to_thread(files.read_primary_mark, self._folder)
                return state.model_copy(update={"primary_of": mark.epoch if mark else None})
        except (RecoveryError, OSError, TimeoutError) as error:
            return self._state(StoreRole.UNREACHABLE, detail=str(error) or "it did not answer in time")

    async def _observe_running(self) -> StoreState:
        state = await self.server.ask("say what it is", OBSERVE_SECONDS)
        detail = ""
        history = None
        try:
            history = str(await self.server.running_history(state))
        except Refused as error:
            detail = str(error)
        order = lsn_order(state.position)
        if not state.in_recovery:
            self._seen_primary = state
            return self._state(StoreRole.PRIMARY, state.position, order, state.timeline, history, detail=detail)
        self._upstream_seen, self._received_seen = state.conninfo, state.streams
        self._remember_lag(state)
        if not state.streams:
            detail = f"it receives nothing. {detail}".strip()
        found = self._state(StoreRole.STANDBY, state.position, order, state.timeline, history, detail=detail)
        return found.model_copy(update={"receives": state.streams})

    def _remember_lag(self, state: Running) -> None:
        if state.lag_seconds is not None:
            self._lag = state.lag_seconds
        if state.heard_seconds_ago is not None:
            self._heard = time.monotonic() - max(0.0, state.heard_seconds_ago)

    async def _observe_stopped(self) -> StoreState:
        incomplete = await asyncio.to_thread(files.why_incomplete, self._folder)
        if incomplete is not None:
            return self._state(StoreRole.STALE, detail=incomplete)
        if not await asyncio.to_thread((self._folder / "PG_VERSION").exists):
            return self._state(StoreRole.STOPPED, detail=f"{self._folder} holds no PostgreSQL")
        control = await self.server.control()
        changed = (await asyncio.to_thread((self._folder / "global/pg_control").stat)).st_mtime_ns
        if self._stopped_at is None or self._stopped_at[0] != changed:
            try:
                self._stopped_at = (changed, await self.server.stopped_position(control, seconds=1.0))
            except RestoreFailed as error:
                return self._state(StoreRole.STALE, timeline=control.timeline, detail=str(error))
        position = self._stopped_at[1]
        history = str(await self.server.stopped_history(control))
        role = StoreRole.STALE if control.was_primary else StoreRole.STOPPED
        return self._state(
            role,
            position,
            lsn_order(position) if position else None,
            control.timeline,
            history,
            detail=f"stopped; pg_controldata says: {control.state}",
        )

    def _state(
        self,
        role: StoreRole,
        position: str | None = None,
        order: int | None = None,
        timeline: int | None = None,
        history: str | None = None,
        *,
        detail: str = "",
    ) -> StoreState:
        standby = role is StoreRole.STANDBY
        return StoreState(
            store=self.store,
            role=role,
            strength=self.strength,
            position=position,
            order=order,
            timeline=timeline,
            history=history,
            lag_seconds=self._lag if standby else None,
            heard_seconds_ago=time.monotonic() - self._heard if standby and self._heard is not None else None,
            detail=detail,
        )

    # Changing.

    async def secure(self) -> None:
        """See ``GuardedStore``. Raises Refused when there is no data directory, or it is another user's."""
        await asyncio.to_thread(files.write_signal, self._folder)

    async def start(self, *, owner: bool = False) -> None:
        """Starts it as a standby; does nothing where it runs.

        Raises:
            Refused: it was a primary when it ended and ``owner`` does not say that its region still owns the group; or
                an interrupted restore, rewind or clone left it incomplete.
            Unreachable: it was started and is not ready yet.
            RestoreFailed: it ended; with the end of its log.
        """
        if await self.server.runs():
            await self._ready()
            return
        incomplete = await asyncio.to_thread(files.why_incomplete, self._folder)
        if incomplete is not None:
            raise Refused(incomplete)
        control = await self.server.control()
        if control.was_primary and not owner:
            mark = await asyncio.to_thread(files.read_primary_mark, self._folder)
            epoch = f" of epoch {mark.epoch}" if mark else ""
            raise Refused(
                f"{self._folder} was a primary{epoch} when it ended ({control.state}): it stays off until its data "
                "were looked at. Run `drctl reprotect`."
            )
        await self.secure()
        await self.server.launch(self._start_seconds)

    async def _ready(self) -> None:
        deadline = time.monotonic() + self._start_seconds
        while True:
            try:
                await self.server.ask("say whether it is ready", 2.0)
            except Unreachable:
                if time.monotonic() > deadline:
                    raise
                await asyncio.sleep(0.05)
            else:
                return

    async def promote(self, epoch: int, *, owner: bool = False) -> Promotion:
        """Makes it accept writes. Idempotent by the epoch; starts it first where it does not run.

        Raises:
            Refused: it was the primary of an older epoch, so that it may lack what came later.
            Unreachable: it did not answer, or has more WAL to replay than ``promote_seconds`` are enough for.
        """
        return await self.promote_if(epoch, lambda: None, owner=owner)

    async def promote_if(self, epoch: int, permitted: Callable[[], str | None], *, owner: bool = False) -> Promotion:
        """See ``BoundPromotion`` and ``promote``."""
        mark = await asyncio.to_thread(files.read_primary_mark, self._folder)
        if mark is not None and mark.epoch not in (epoch, epoch - 1) and not owner:
            raise Refused(
                f"{self._folder} was the primary of epoch {mark.epoch} and has followed nobody since: it may lack what "
                f"was written in the epochs up to {epoch - 1}. Run `drctl reprotect`."
            )
        if not await self.server.runs():
            await self.start(owner=owner or mark is not None or await self._never_served())
        await self.secure()
        try:
            async with asyncio.timeout(self._promote_seconds), connected(self.server.login, "promote it") as connection:
                return await self._promote(connection, epoch, mark, permitted)
        except TimeoutError:
            raise Unreachable(
                f"PostgreSQL in {self._folder} was not promoted within {self._promote_seconds:g} s: it still replays"
            ) from None

    async def _never_served(self) -> bool:
        """A new directory of initdb was never under a guard, and no one else can have taken it over."""
        return not await asyncio.to_thread((self._folder / files.TIMELINES).exists)

    async def _promote(
        self, connection: Connection, epoch: int, mark: files.PrimaryMark | None, permitted: Callable[[], str | None]
    ) -> Promotion:
        await let_clients_in(connection)
        state = await read_running(connection)
        if not state.in_recovery:
            note = ""
            if mark is None or mark.epoch != epoch:
                await asyncio.to_thread(files.write_primary_mark, self._folder, epoch, None)
                note = "it accepted writes already when it was put under guard"
            self._seen_primary = state
            return self._promotion(epoch, state, mark.before if mark else None, already=True, note=note)
        note = ""
        names = state.synchronous or await connection.fetchval(_NAMES_IN_FILES)
        if names:
            await set_and_reload(connection, {"synchronous_standby_names": ""})
            note = f"synchronous_standby_names was {names!r} and is empty now: its members follow nobody yet"
        before = state.position
        await asyncio.to_thread(files.write_primary_mark, self._folder, epoch, before)
        if (
            reason := permitted()
        ) is not None:  # the connection is there: a server that is killed from now on is not met
            raise Contended(f"PostgreSQL in {self._folder} must not become primary: {reason}")
        with contextlib.suppress(asyncpg.ObjectNotInPrerequisiteStateError):  # promoted in this moment
            await connection.execute("SELECT pg_promote(false)")
        while await connection.fetchval("SELECT pg_is_in_recovery()"):
            await asyncio.sleep(_POLL_SECONDS)
        await self.secure()  # the promotion took it away
        state = await read_running(connection)
        with contextlib.suppress(Refused):
            await self.server.running_history(state)  # keeps the new timeline's mark, for copies that are made later
        self._seen_primary = state
        return self._promotion(epoch, state, before, note=note)

    def _promotion(
        self, epoch: int, state: Running, before: str | None, *, already: bool = False, note: str = ""
    ) -> Promotion:
        return Promotion(
            store=self.store,
            epoch=epoch,
            at=datetime.now(UTC),
            position=state.position,
            timeline=state.timeline,
            before=before,
            already=already,
            note=note,
        )

    async def demote(self) -> str | None:
        """SIGKILL to all of it. Confirmed within a second; then up to 0.3 s are spent on the end of its WAL.

        Raises:
            Unreachable: a process is left that does not die (its disk hangs).
        """
        if not await asyncio.to_thread(self._folder.exists):
            return None  # not made yet, or put aside for a rewind: no server can work there
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(0.1):  # it stands there since the promotion; never wait for a hanging disk
                await self.secure()
        left = await asyncio.to_thread(kill_tree, self._folder, KILL_SECONDS)
        if left:
            raise Unreachable(f"processes {left} of the PostgreSQL in {self._folder} do not die: is its disk hanging?")
        await self.secure()
        seen = self._seen_primary
        if seen is None:
            return None
        try:
            async with asyncio.timeout(POSITION_SECONDS):
                return await self.server.end_of_wal(seen.timeline, seen.position, seen.segment_bytes, POSITION_SECONDS)
        except (RecoveryError, OSError, TimeoutError):
            return None

    async def end_in_order(self, seconds: float) -> str:
        """See ``GuardedStore`` and ``ordered_end``."""
        await self.secure()
        return await end_in_order(self.server, seconds)

    async def follow(self, upstream: Upstream) -> StoreState:
        """See ``GuardedStore`` and ``following``."""
        await self.secure()
        await follow(self.server, upstream.host, upstream.port, self._replication, start_seconds=self._start_seconds)
        await asyncio.to_thread(forget_old, self._folder)
        return await self.observe()

    async def catch_up(self, upstream: Upstream, position: str, seconds: float) -> None:
        """See ``recovery.guard.acknowledging.Acknowledged``."""
        streaming = replace(self._replication, slot=None) if self._replication is not None else None
        await follow(self.server, upstream.host, upstream.port, streaming, start_seconds=self._start_seconds)
        await self.wait_for(position, seconds)

    async def wait_for(self, position: str, seconds: float) -> str:
        """See ``Catching``: everything up to ``position`` was received, and is replayed by a promotion."""
        wanted = lsn_order(position)
        deadline = time.monotonic() + seconds
        while True:
            state = await self.server.ask("say what it received", max(0.5, deadline - time.monotonic()))
            if lsn_order(state.position) >= wanted:
                return state.position
            if time.monotonic() > deadline:
                raise Unreachable(
                    f"PostgreSQL in {self._folder} has {state.position} of {position} after {seconds:g} s "
                    f"(its receiver: {state.receiver or 'none'})"
                )
            await asyncio.sleep(0.05)
