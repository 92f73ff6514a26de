"""One PostgreSQL of this machine, running or not: what it is, how far it came, whose history it has."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import pwd
import shlex
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from recovery.adapters.postgres import standby_files as files
from recovery.adapters.postgres.binaries import PostgresBinaries
from recovery.adapters.postgres.connection import Connection, connected
from recovery.adapters.postgres.host import (
    LOG,
    LocalPostgresHost,
    postmaster_of,
    read_major,
    runs_in,
    tail,
    wait_until_ready,
)
from recovery.adapters.postgres.wal import (
    Control,
    check_wal_is_whole,
    end_of_wal,
    file_reader,
    latest,
    local_history,
    read_control,
    record_end,
)
from recovery.adapters.process import clean_environment, run
from recovery.domain.timelines import History, lsn_order, lsn_text
from recovery.errors import RestoreFailed, Unreachable
from recovery.ports.postgres import PostgresLogin, PostgresPlace

_NOWHERE = "0/0"

_STATE = """
SELECT pg_is_in_recovery() AS in_recovery, system.system_identifier::text AS system_identifier,
       init.bytes_per_wal_segment AS segment_bytes,
       CASE WHEN pg_is_in_recovery()
            THEN greatest(checkpoint.timeline_id, recovery.min_recovery_end_timeline, receiver.received_tli)
            ELSE ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::int END AS timeline,
       CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END::text AS replayed,
       CASE WHEN pg_is_in_recovery() THEN pg_last_wal_receive_lsn() END::text AS received,
       receiver.status AS receiver, receiver.sender_host AS sender_host, receiver.sender_port AS sender_port,
       receiver.pid AS receiver_pid,
       receiver.last_msg_send_time <> receiver.last_msg_receipt_time AS heard_anything,
       receiver.latest_end_lsn::text AS announced,
       extract(epoch FROM clock_timestamp() - receiver.last_msg_receipt_time)::float8 AS heard,
       extract(epoch FROM clock_timestamp() - coalesce(pg_last_xact_replay_timestamp(), pg_postmaster_start_time())
           )::float8 AS replay_age,
       current_setting('primary_conninfo') AS conninfo, current_setting('primary_slot_name') AS slot,
       current_setting('recovery_target_timeline') AS target_timeline,
       current_setting('synchronous_standby_names') AS synchronous
FROM pg_control_system() system, pg_control_init() init, pg_control_checkpoint() checkpoint,
     pg_control_recovery() recovery LEFT JOIN pg_stat_wal_receiver receiver ON true
"""


@dataclass(frozen=True)
class Running:
    """What a server that answers says of itself."""

    in_recovery: bool
    system_identifier: str
    segment_bytes: int
    timeline: int
    replayed: str | None  # of a primary: its current LSN
    received: str | None
    receiver: str | None  # status of the receiver; None: there is none
    receiver_pid: int | None
    heard_anything: bool  # the receiver says "streaming" before its upstream agreed; both times are equal until then
    sender: tuple[str, int] | None
    announced: str | None  # the upstream's own position, as of its last message
    heard_seconds_ago: float | None
    replay_age: float | None
    conninfo: str
    slot: str
    target_timeline: str
    synchronous: str

    @property
    def position(self) -> str:
        """Of a primary its current LSN, of a standby what it has on its disk as far as it knows."""
        return latest(self.replayed, self.received) or _NOWHERE

    @property
    def streams(self) -> bool:
        """Its upstream sends."""
        return self.receiver == "streaming" and self.heard_anything

    @property
    def lag_seconds(self) -> float | None:
        """Behind the upstream; None while nothing is received."""
        if not self.in_recovery or not self.streams:
            return None
        known = latest(self.received, self.announced)
        if known is None or (self.replayed is not None and lsn_order(self.replayed) >= lsn_order(known)):
            return 0.0
        return self.replay_age


async def read_running(connection: Connection) -> Running:
    """Needs a superuser, or a role with pg_monitor. Raises what the driver raises."""
    row = await connection.fetchrow(_STATE)
    assert row is not None
    sender = (str(row["sender_host"]), int(row["sender_port"])) if row["sender_host"] else None
    return Running(
        in_recovery=row["in_recovery"],
        system_identifier=row["system_identifier"],
        segment_bytes=row["segment_bytes"],
        timeline=row["timeline"],
        replayed=row["replayed"],
        received=row["received"],
        receiver=row["receiver"],
        receiver_pid=row["receiver_pid"],
        heard_anything=bool(row["heard_anything"]),
        sender=sender,
        announced=row["announced"],
        heard_seconds_ago=row["heard"] if row["heard_anything"] else None,
        replay_age=row["replay_age"],
        conninfo=row["conninfo"],
        slot=row["slot"],
        target_timeline=row["target_timeline"],
        synchronous=row["synchronous"],
    )


class LocalServer:
    """A data directory with the programs and the login that go with it. The guard and ``rejoin`` both use it."""

    def __init__(
        self,
        place: PostgresPlace,
        login: PostgresLogin,
        *,
        binaries: PostgresBinaries | None = None,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        self.place = place
        self.login = login
        self.host = LocalPostgresHost(binaries, run_as=place.run_as)
        self._settings = settings

    @property
    def folder(self) -> Path:
        return self.place.data_directory

    @property
    def user(self) -> str | None:
        """The operating-system user of the server's programs: the directory's owner; None: our own."""
        if os.geteuid() == 0:
            for folder in (self.folder, files.work_folder(self.folder)):
                with contextlib.suppress(FileNotFoundError, KeyError):
                    owner = folder.stat().st_uid
                    if owner != 0:
                        return pwd.getpwuid(owner).pw_name
        return self.host.user_for(self.place)

    async def runs(self) -> bool:
        """Whether any process of it is left."""
        return await asyncio.to_thread(runs_in, self.folder)

    async def major(self) -> int:
        return await asyncio.to_thread(read_major, self.folder)

    async def control(self) -> Control:
        return await read_control(self.host.binaries, await self.major(), self.folder, self.user)

    async def ask(self, what: str, timeout: float = 5.0) -> Running:
        """Raises Unreachable, Refused."""
        try:
            async with asyncio.timeout(timeout), connected(self.login, what) as connection:
                return await read_running(connection)
        except TimeoutError:
            raise Unreachable(
                f"PostgreSQL at {self.login.address} did not answer within {timeout:g} s when asked to {what}"
            ) from None

    async def history_of(
        self, system_identifier: str, timeline: int, segment_bytes: int, *, exact: bool = False
    ) -> History:
        """Its history; marks of timelines are kept from when their WAL was still there. Raises Refused."""

        def read() -> History:
            known = files.read_timeline_marks(self.folder)
            history = local_history(self.folder, system_identifier, timeline, segment_bytes, known, exact=exact)
            marks = {each.number: each.mark for each in history.timelines if each.mark}
            if marks != {number: known[number] for number in marks if number in known}:
                files.write_timeline_marks(self.folder, known | marks)
            return history

        return await asyncio.to_thread(read)

    async def running_history(self, state: Running) -> History:
        return await self.history_of(
            state.system_identifier, state.timeline, state.segment_bytes, exact=not state.in_recovery
        )

    async def stopped_history(self, control: Control) -> History:
        return await self.history_of(control.system_identifier, control.timeline, control.segment_bytes)

    async def stopped_position(self, control: Control, *, seconds: float = 30.0) -> str | None:
        """Where the WAL of a stopped server ends; None when that cannot be told in so many seconds.

        Raises:
            RestoreFailed: a segment of a former primary's is missing.
        """
        if control.ended_in_order:
            read = file_reader(self.folder, control.timeline, control.segment_bytes)
            position = lsn_order(control.checkpoint)
            end = await asyncio.to_thread(record_end, read, position, control.segment_bytes)
            if end is not None:
                return lsn_text(end)
        start = latest(control.redo, control.minimum_recovery) or control.redo
        if control.was_primary:
            await asyncio.to_thread(check_wal_is_whole, self.folder, control.timeline, start, control.segment_bytes)
        else:
            later = await self._end_on_a_later_timeline(control, start, seconds)
            if later is not None:
                return later
        return latest(start, await self.end_of_wal(control.timeline, start, control.segment_bytes, seconds))

    async def _end_on_a_later_timeline(self, control: Control, start: str, seconds: float) -> str | None:
        """Of a standby: its control file names the timeline of its last checkpoint, or of the last page that it wrote,
        and it may have followed a promotion since. None where it has no WAL of a later one.
        """
        history = await self.stopped_history(control)
        for before, each in reversed(list(itertools.pairwise(history.timelines))):
            if each.number <= control.timeline:
                break
            begin = latest(start, before.left_at) or start
            end = await self.end_of_wal(each.number, begin, control.segment_bytes, seconds)
            if end is not None and lsn_order(end) > lsn_order(begin):
                return end
        return None

    async def end_of_wal(self, timeline: int, start: str, segment_bytes: int, seconds: float) -> str | None:
        """See ``wal.end_of_wal``."""
        return await end_of_wal(
            self.host.binaries,
            await self.major(),
            self.folder,
            timeline=timeline,
            start=start,
            segment_bytes=segment_bytes,
            run_as=self.user,
            seconds=seconds,
        )

    async def launch(self, seconds: float) -> None:
        """Starts it with ``settings`` on its command line (default: those of its last start), and waits.

        Raises:
            RestoreFailed: it ended, or was not ready in time; with the end of its log.
        """
        tool = await self.host.binaries.tool(await self.major(), "pg_ctl")
        log = self.folder / LOG
        offset = await asyncio.to_thread(lambda: log.stat().st_size if log.exists() else 0)
        await self.host.forget_dead_postmaster(self.place)
        arguments: list[str | Path] = [tool, "-D", self.folder, "-l", log, "-W", "-s"]
        options = await asyncio.to_thread(self._options)
        if options:
            arguments += ["-o", options]
        environment = clean_environment()
        del environment["PGAPPNAME"]  # it would be its receiver's name at the upstream, too
        done = await run([*arguments, "start"], run_as=self.user, environment=environment, timeout=60)
        if done.code != 0:
            words = done.stderr or done.stdout or await tail(log, offset)
            raise RestoreFailed(f"PostgreSQL in {self.folder} did not start: {words}")
        await wait_until_ready(self.folder, timeout=seconds, log_offset=offset)

    def _options(self) -> str:
        if self._settings is not None:
            return " ".join(f"-c {shlex.quote(f'{name}={value}')}" for name, value in self._settings.items())
        try:
            words = shlex.split((self.folder / "postmaster.opts").read_text())
        except (OSError, ValueError):
            return ""
        given = [after for before, after in itertools.pairwise(words) if before == "-c"]
        return " ".join(f"-c {shlex.quote(setting)}" for setting in given)

    async def signal_postmaster(self, number: signal.Signals) -> bool:
        """False when there is none."""
        pid = await asyncio.to_thread(postmaster_of, self.folder)
        if pid is None:
            return False
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            return False
        return True
