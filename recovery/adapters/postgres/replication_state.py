"""Replication as servers tell it, a write probe that never hangs, and slots."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from datetime import UTC, datetime

import asyncpg

from recovery.adapters.postgres.canary import OWN_SCHEMA, SCHEMA
from recovery.adapters.postgres.connection import CONNECTION_FAILURES, Connection, connected, open_connection, words_of
from recovery.adapters.postgres.local_server import Running, read_running
from recovery.domain.replication import ReplicationState, SlotState, StandbyConnection, WriteProbe
from recovery.domain.timelines import lsn_order
from recovery.errors import Unreachable
from recovery.ports.postgres import PostgresLogin

TABLE = f"{SCHEMA}.heartbeat"

_POLL_SECONDS = 0.05
_MARGIN_SECONDS = 0.2  # what the server's own time limits leave of ours

SETUP = f"""
    {OWN_SCHEMA}
    CREATE TABLE IF NOT EXISTS {TABLE} (
        vantage text PRIMARY KEY, epoch bigint, beat bigint NOT NULL DEFAULT 1,
        written_at timestamptz NOT NULL DEFAULT clock_timestamp()
    ) WITH (fillfactor = 50);
    COMMENT ON TABLE {TABLE} IS 'One row per vantage point: written by its probe, with the epoch that it knew.';
"""

# A cascading standby has walsenders, too; its lags count from what it received itself.
_STANDBYS = """
SELECT application_name, host(client_addr) AS address, state, sync_state, sent_lsn::text AS sent,
       write_lsn::text AS written, flush_lsn::text AS flushed, replay_lsn::text AS replayed,
       pg_wal_lsn_diff($1::text::pg_lsn, replay_lsn)::int8 AS behind,
       pg_wal_lsn_diff($1::text::pg_lsn, flush_lsn)::int8 AS unflushed,
       extract(epoch FROM replay_lag)::float8 AS lag,
       extract(epoch FROM clock_timestamp() - reply_time)::float8 AS reply_age
FROM pg_stat_replication ORDER BY application_name, pid
"""

_SLOTS = """
SELECT slot_name::text AS name, slot_type, active, temporary, restart_lsn::text AS restart, wal_status,
       pg_wal_lsn_diff($1::text::pg_lsn, restart_lsn)::int8 AS retained, safe_wal_size
FROM pg_replication_slots ORDER BY slot_name
"""


async def read_replication(login: PostgresLogin, *, timeout: float = 5.0) -> ReplicationState:
    """``pg_stat_replication``, slots, and the server's own receiver. Needs pg_monitor.

    Raises:
        Unreachable: no answer within ``timeout`` seconds.
    """
    try:
        async with asyncio.timeout(timeout), connected(login, "read its replication state") as connection:
            state = await read_running(connection)
            standbys = await connection.fetch(_STANDBYS, state.position)
            slots = await connection.fetch(_SLOTS, state.position)
    except TimeoutError:
        raise Unreachable(
            f"PostgreSQL at {login.address} did not tell its replication state within {timeout:g} s"
        ) from None
    return ReplicationState(
        in_recovery=state.in_recovery,
        position=state.position,
        timeline=state.timeline,
        standbys=[_standby(row) for row in standbys],
        slots=[_slot(row) for row in slots],
        receiving=state.streams if state.in_recovery else None,
        upstream=f"{state.sender[0]}:{state.sender[1]}" if state.sender else None,
        lag_seconds=state.lag_seconds,
        heard_seconds_ago=state.heard_seconds_ago,
        replay_bytes=_unreplayed(state),
        synchronous_standby_names=state.synchronous,
        at=datetime.now(UTC),
    )


def _unreplayed(state: Running) -> int | None:
    if not state.in_recovery or state.replayed is None:
        return None
    return max(0, lsn_order(state.position) - lsn_order(state.replayed))


def _standby(row: asyncpg.Record) -> StandbyConnection:
    behind = row["behind"]
    lag = row["lag"]
    if behind is not None and behind <= 0:
        lag = 0.0  # PostgreSQL shows the last lag that it measured until it is idle for a while
    return StandbyConnection(
        application_name=row["application_name"],
        client_address=row["address"],
        state=row["state"],
        sync_state=row["sync_state"],
        sent_lsn=row["sent"],
        write_lsn=row["written"],
        flush_lsn=row["flushed"],
        replay_lsn=row["replayed"],
        lag_bytes=None if behind is None else max(0, behind),
        unflushed_bytes=None if row["unflushed"] is None else max(0, row["unflushed"]),
        lag_seconds=lag,
        reply_age_seconds=row["reply_age"],
    )


def _slot(row: asyncpg.Record) -> SlotState:
    return SlotState(
        name=row["name"],
        physical=row["slot_type"] == "physical",
        active=row["active"],
        temporary=row["temporary"],
        restart_lsn=row["restart"],
        retained_bytes=row["retained"],
        wal_status=row["wal_status"],
        safe_wal_bytes=row["safe_wal_size"],
    )


async def write_probe(
    login: PostgresLogin, *, vantage: str, epoch: int | None = None, timeout: float = 5.0
) -> WriteProbe:
    """One row of ``recovery_plans.heartbeat`` written and committed. Ends within ``timeout`` seconds, come what may.

    The commit waits for synchronous standbys as any client's would. It is cut off by closing the connection: a
    cancelled commit would be told as done. Raises nothing but bugs and cancellation.
    """
    began = time.monotonic()
    seen = _Seen()
    try:
        connection = await open_connection(login, timeout=timeout)
    except CONNECTION_FAILURES as error:
        reason = f"no answer within {timeout:g} s" if isinstance(error, TimeoutError) else words_of(error)
        return WriteProbe(written=False, seconds=time.monotonic() - began, reason=reason)
    left = max(0.0, timeout - (time.monotonic() - began))
    task = asyncio.create_task(_probe(connection, vantage, epoch, left, seen))
    try:
        await asyncio.wait({task}, timeout=left)
        answered = task.done()
    finally:
        connection.terminate()  # before the task ends: a cancelled query would have its commit told as done
        task.cancel()
        [failure] = await asyncio.gather(task, return_exceptions=True)
    reason = "" if seen.written else "it is a standby: it accepts no writes"
    if not answered:
        reason = f"no answer within {timeout:g} s"
    elif isinstance(failure, CONNECTION_FAILURES):
        reason = words_of(failure)
    elif failure is not None:
        raise failure
    if seen.local_only:
        reason = "the commit did not wait for the synchronous standbys"
    return WriteProbe(
        written=seen.written,
        seconds=time.monotonic() - began,
        in_recovery=seen.in_recovery,
        epoch=seen.epoch,
        position=seen.position,
        local_only=seen.local_only,
        reason=reason,
    )


class _Seen:
    written = False
    in_recovery: bool | None = None
    epoch: int | None = None
    position: str | None = None
    local_only = False


async def _probe(connection: Connection, vantage: str, epoch: int | None, timeout: float, seen: _Seen) -> None:
    def warned(_: object, message: asyncpg.PostgresLogMessage) -> None:
        seen.local_only = seen.local_only or message.sqlstate == "01000"

    connection.add_log_listener(warned)
    limit = max(100, round((timeout - _MARGIN_SECONDS) * 1000))
    await connection.execute(f"SET statement_timeout = {limit}; SET lock_timeout = {limit}")
    seen.in_recovery = await connection.fetchval("SELECT pg_is_in_recovery()")
    if seen.in_recovery:
        if await connection.fetchval("SELECT to_regclass($1)", TABLE) is not None:
            seen.epoch = await connection.fetchval(f"SELECT max(epoch) FROM {TABLE}")
        return
    if await connection.fetchval("SELECT to_regclass($1)", TABLE) is None:
        await connection.execute(SETUP)
    seen.epoch = await connection.fetchval(f"SELECT max(epoch) FROM {TABLE}")
    await connection.execute(
        f"INSERT INTO {TABLE} AS row (vantage, epoch) VALUES ($1, $2) ON CONFLICT (vantage) DO UPDATE "
        "SET epoch = coalesce(excluded.epoch, row.epoch), beat = row.beat + 1, written_at = clock_timestamp()",
        vantage,
        epoch,
    )
    seen.written = not seen.local_only
    seen.position = str(await connection.fetchval("SELECT pg_current_wal_lsn()::text"))


# Positions.


async def has_received(login: PostgresLogin, lsn: str) -> bool:
    """Whether WAL up to ``lsn`` is on its disk (a standby), or was written (a primary)."""
    async with connected(login, "say what it received") as connection:
        return lsn_order((await read_running(connection)).position) >= lsn_order(lsn)


async def wait_until_replayed(login: PostgresLogin, lsn: str, seconds: float) -> str:
    """Returns the replayed LSN once it is at least ``lsn``.

    Raises:
        Unreachable: not within ``seconds``; with how far it came.
    """
    wanted = lsn_order(lsn)
    deadline = time.monotonic() + seconds
    found = "nothing"
    async with connected(login, "wait until it replayed") as connection:
        while True:
            state = await read_running(connection)
            found = state.replayed or found
            if state.replayed is not None and lsn_order(state.replayed) >= wanted:
                return state.replayed
            if time.monotonic() > deadline:
                raise Unreachable(
                    f"PostgreSQL at {login.address} replayed {found} of {lsn} within {seconds:g} s "
                    f"(received: {state.received}, receiver: {state.receiver or 'none'})"
                )
            await asyncio.sleep(_POLL_SECONDS)


# Slots.


async def create_slots(login: PostgresLogin, names: Sequence[str]) -> list[str]:
    """Physical slots that reserve WAL at once. Returns those that were made."""
    made = []
    async with connected(login, "create replication slots") as connection:
        for name in names:
            try:
                await connection.execute("SELECT pg_create_physical_replication_slot($1, true)", name)
                made.append(name)
            except asyncpg.DuplicateObjectError:
                continue
    return made


async def drop_slots(login: PostgresLogin, names: Sequence[str]) -> list[str]:
    """Returns those that existed. Their sessions are ended first.

    Raises:
        Unreachable: a session would not end within 5 s.
    """
    dropped = []
    async with connected(login, "drop replication slots") as connection:
        for name in names:
            if await _drop(connection, name):
                dropped.append(name)
    return dropped


async def _drop(connection: Connection, name: str) -> bool:
    deadline = time.monotonic() + 5
    while True:
        try:
            await connection.execute("SELECT pg_drop_replication_slot($1)", name)
            return True
        except asyncpg.UndefinedObjectError:
            return False
        except asyncpg.ObjectInUseError:
            if time.monotonic() > deadline:
                raise Unreachable(f"replication slot {name} is in use, and its session does not end") from None
            await connection.execute(
                "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = $1", name
            )
            await asyncio.sleep(_POLL_SECONDS)
