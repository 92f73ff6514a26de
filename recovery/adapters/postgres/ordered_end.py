"""The planned end of a primary: a fast shutdown that sends all to its standbys and never waits for a frozen one.

On SIGINT PostgreSQL ends the clients' sessions, writes the shutdown checkpoint (its last record), and waits until every
connected standby has all of it. A standby that is frozen would hold it for wal_sender_timeout (60 s).
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time

from recovery.adapters.postgres.connection import Connection, connected
from recovery.adapters.postgres.demotion import kill_tree, walsenders
from recovery.adapters.postgres.local_server import LocalServer
from recovery.adapters.postgres.wal import Control
from recovery.errors import RecoveryError, RestoreFailed, Unreachable

STILL_SECONDS = 1.0  # a walsender whose position does not move for so long is a frozen standby's

FOLLOWING_SECONDS = 3.0
"""So long a standby is waited for that streams and does not follow the newest timeline yet: one that comes from the
former timeline counts as streaming for a moment, and would be asked to come back when nobody is there any more."""

_POLL_SECONDS = 0.02


async def end_in_order(server: LocalServer, seconds: float) -> str:
    """Ends it and returns the LSN after its last record. ``standby.signal`` is the caller's.

    A checkpoint before it, while clients still write, makes the one of the shutdown short. The final position is known
    once the shutdown checkpoint is written; walsenders that stand still then, or are left when the time is over, are
    killed: whether a standby has everything is for its own side to compare with that position.

    Raises:
        Unreachable: no standby streams (it is as it was), or the shutdown checkpoint was not written within
            ``seconds`` (it was killed: nothing is lost that its disk has, but nothing is known of its standbys).
    """
    if not await server.runs():
        return await _final(server)
    deadline = time.monotonic() + seconds
    await _prepare(server, seconds / 2)
    await server.signal_postmaster(signal.SIGINT)
    moved: dict[int, tuple[str, float]] = {}
    while await server.runs():
        now = time.monotonic()
        if now > deadline or await _only_frozen_standbys_left(server, moved, now):
            break
        await asyncio.sleep(_POLL_SECONDS)
    left = await asyncio.to_thread(kill_tree, server.folder, 0.9)
    if left:
        raise Unreachable(f"processes {left} of the PostgreSQL in {server.folder} do not die: is its disk hanging?")
    return await _final(server, f" within {seconds:g} s")


async def _prepare(server: LocalServer, seconds: float) -> None:
    """Raises Unreachable while nothing was changed."""
    ready = False
    try:
        async with asyncio.timeout(seconds), connected(server.login, "prepare its end") as connection:
            ready = await _standbys_stream(server, connection)
            await connection.execute("CHECKPOINT")
            with contextlib.suppress(TimeoutError):  # frozen: its own side will say what it lacks
                async with asyncio.timeout(FOLLOWING_SECONDS):
                    await _some_standby_follows(connection)
    except TimeoutError:
        if not ready:
            raise Unreachable(
                f"PostgreSQL at {server.login.address} did not answer within {seconds:g} s: it was left as it is"
            ) from None


async def _standbys_stream(server: LocalServer, connection: Connection) -> bool:
    """Raises Unreachable where a primary has none."""
    if not await connection.fetchval("SELECT pg_is_in_recovery()"):
        streaming = await connection.fetchval(
            "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming' AND application_name <> $1",
            "recovery-plans",
        )
        if not streaming:
            raise Unreachable(
                f"no standby streams from PostgreSQL at {server.login.address}: an end in order would give its last "
                "writes to nobody. It was left as it is."
            )
    return True


async def _some_standby_follows(connection: Connection) -> None:
    """Until a standby has a record of the newest timeline, the checkpoint's; at once where this is no primary."""
    if await connection.fetchval("SELECT pg_is_in_recovery()"):
        return
    written = await connection.fetchval("SELECT pg_current_wal_flush_lsn()::text")
    while not await connection.fetchval(
        "SELECT count(*) FROM pg_stat_replication"
        " WHERE state = 'streaming' AND application_name <> $1 AND flush_lsn >= $2::text::pg_lsn",
        "recovery-plans",
        written,
    ):
        await asyncio.sleep(_POLL_SECONDS)


async def _only_frozen_standbys_left(server: LocalServer, moved: dict[int, tuple[str, float]], now: float) -> bool:
    """Whether the shutdown checkpoint is written and no walsender moved for a second."""
    found = await asyncio.to_thread(walsenders, server.folder)
    for pid, title in found.items():
        if pid not in moved or moved[pid][0] != title:
            moved[pid] = (title, now)
    if not found or any(now - moved[pid][1] < STILL_SECONDS for pid in found):
        return False
    return (await server.control()).ended_in_order


async def _final(server: LocalServer, within: str = "") -> str:
    control: Control = await server.control()
    if control.was_primary and not control.ended_in_order:
        raise Unreachable(
            f"PostgreSQL in {server.folder} did not end in order{within} and was killed ({control.state}): its "
            "standbys may lack its last writes."
        )
    try:
        position = await server.stopped_position(control)
    except RecoveryError as error:
        raise RestoreFailed(
            f"PostgreSQL in {server.folder} ended, and its last position cannot be read: {error}"
        ) from error
    if position is None:
        raise RestoreFailed(f"PostgreSQL in {server.folder} ended, and its last position cannot be read")
    return position
