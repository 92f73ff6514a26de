"""A standby's upstream: pointed at another one after its ancestry was compared, or at nobody."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, replace
from pathlib import Path

from recovery.adapters.postgres import standby_files as files
from recovery.adapters.postgres.connection import Connection, connected, literal
from recovery.adapters.postgres.host import LOG, tail
from recovery.adapters.postgres.local_server import LocalServer, Running, read_running
from recovery.adapters.postgres.upstream import Identity, identify_upstream
from recovery.adapters.postgres.wal import latest
from recovery.domain.timelines import History
from recovery.errors import Refused, Unreachable
from recovery.ports.postgres import PostgresLogin
from recovery.ports.standby import Streaming

STREAM_SECONDS = 10.0
STOP_SECONDS = 5.0
FOLLOW_SECONDS = 120.0
"""Beside its start, for all that is asked and compared before it streams: a server that stands still answers nothing,
and a fence that is asked for meanwhile waits for the end of this."""
CONFIRM_SECONDS = 2 * STOP_SECONDS + 2.0  # for all that a running server is asked while its receiver is stopped

_POLL_SECONDS = 0.02
_AGREED_SECONDS = 1.5


class NotStreaming(Unreachable):
    """It was pointed at its upstream and does not stream: that has no WAL for it any more, say."""


@dataclass(frozen=True)
class Source:
    """``primary_conninfo`` and slot as they are to be, and the login that they amount to."""

    conninfo: str
    slot: str | None
    login: PostgresLogin
    passfile: str | None


async def source_of(
    server: LocalServer, streaming: Streaming | None, host: str, port: int, present: str, slot: str
) -> Source:
    """From the configuration, or from what the server has. Raises Refused where neither says who replicates."""
    if streaming is not None:
        wanted = replace(streaming, host=host, port=port)
        passfile = await asyncio.to_thread(files.write_passfile, server.folder, wanted, server.user)
        conninfo = files.conninfo_of(wanted, passfile)
        login = PostgresLogin(host, port, wanted.user, "postgres", wanted.password, wanted.sslmode, wanted.sslrootcert)
        return Source(conninfo, wanted.slot, login, str(passfile) if passfile else None)
    if not present:
        present, slot = await asyncio.to_thread(files.read_last_source, server.folder)
    entries = files.conninfo_entries(present)
    if not entries.get("user"):
        raise Refused(
            f"{server.folder} has no primary_conninfo with a user, and none is configured: set "
            "postgres.replication_user"
        )
    login = PostgresLogin(
        host, port, entries["user"], "postgres", entries.get("password"), entries.get("sslmode", "prefer"),
        entries.get("sslrootcert"),
    )  # fmt: skip
    return Source(files.redirected(present, host, port), slot or None, login, entries.get("passfile"))


async def check_ancestry(mine: History, position: str, segment_bytes: int, source: Source, where: Path) -> Identity:
    """Asks the upstream who it is, and makes the slot there.

    Raises:
        Refused: the data here are not an ancestor of the upstream's.
        Unreachable: the upstream does not answer.
    """
    marked = {each.number for each in mine.timelines if each.mark}
    identity = await identify_upstream(
        source.login, passfile=source.passfile, marks_of=marked, segment_bytes=segment_bytes
    )
    why = mine.why_not_ancestor_of(identity.history, position)
    if why is not None:
        raise Refused(
            f"{where} must not follow {source.login.address}: {why}. Run `drctl reprotect`, which saves what diverged "
            "and rewinds or clones it."
        )
    if source.slot is not None:
        await identify_upstream(source.login, passfile=source.passfile, slot=source.slot)
    return identity


async def follow(
    server: LocalServer, host: str, port: int, streaming: Streaming | None, *, start_seconds: float
) -> None:
    """Starts it as a standby of that server, or re-points it while it runs. Returns when it streams.

    Raises:
        Refused: see ``check_ancestry``; it accepts writes; or it is incomplete.
        NotStreaming: it does not stream within 10 s; with the end of its log.
        Unreachable: it stands still.
    """
    try:
        async with asyncio.timeout(FOLLOW_SECONDS + start_seconds):
            await _follow(server, host, port, streaming, start_seconds)
    except TimeoutError:
        raise Unreachable(
            f"PostgreSQL in {server.folder} did not begin to follow {host}:{port} in time: is it frozen?"
        ) from None


async def _follow(server: LocalServer, host: str, port: int, streaming: Streaming | None, start_seconds: float) -> None:
    incomplete = await asyncio.to_thread(files.why_incomplete, server.folder)
    if incomplete is not None:
        raise Refused(incomplete)
    if not await server.runs():
        await _begin(server, host, port, streaming, start_seconds)
        await wait_until_it_streams(server, host, port)
    elif not await _repoint(server, host, port, streaming):
        await wait_until_it_streams(server, host, port)
    # Whoever started it: it was the primary once, and has what came later.
    await asyncio.to_thread(files.clear_primary_mark, server.folder)
    await asyncio.to_thread(files.forget_last_source, server.folder)


async def _begin(server: LocalServer, host: str, port: int, streaming: Streaming | None, seconds: float) -> None:
    await prepare(server, host, port, streaming)
    await server.launch(seconds)


async def prepare(server: LocalServer, host: str, port: int, streaming: Streaming | None) -> None:
    """What ``follow`` does with a stopped server before it starts it. Raises as ``check_ancestry``."""
    control = await server.control()
    position = await server.stopped_position(control)
    if position is None:
        raise Unreachable(f"the end of the WAL in {server.folder} was not found in time")
    present = await asyncio.to_thread(files.read_auto_conf, server.folder)
    source = await source_of(
        server, streaming, host, port, present.get("primary_conninfo", ""), present.get("primary_slot_name", "")
    )
    history = await server.stopped_history(control)
    await check_ancestry(history, position, control.segment_bytes, source, server.folder)
    await asyncio.to_thread(files.write_auto_conf, server.folder, settings_of(source))
    await asyncio.to_thread(files.write_signal, server.folder)


def settings_of(source: Source) -> dict[str, str]:
    """What a standby's configuration says of its upstream."""
    return {
        "primary_conninfo": source.conninfo,
        "primary_slot_name": source.slot or "",
        "recovery_target_timeline": "latest",
    }


async def _repoint(server: LocalServer, host: str, port: int, streaming: Streaming | None) -> bool:
    """True when it streams from there already."""
    async with connected(server.login, "point it at its upstream") as connection:
        state = await read_running(connection)
        if not state.in_recovery:
            raise Refused(f"PostgreSQL in {server.folder} accepts writes: it must be demoted before it can follow")
        source = await source_of(server, streaming, host, port, state.conninfo, state.slot)
        wanted = settings_of(source)
        present = {"primary_conninfo": state.conninfo, "primary_slot_name": state.slot}
        unchanged = all(wanted[name] == value for name, value in present.items())
        if unchanged and state.streams:
            return True
        position = await _position_on_disk(server, state)
        history = await server.running_history(state)
        await check_ancestry(history, position, state.segment_bytes, source, server.folder)
        if state.target_timeline != "latest":
            raise Refused(
                f"PostgreSQL in {server.folder} runs with recovery_target_timeline = {state.target_timeline!r}, with "
                "which it follows no promotion: set it to 'latest' and restart it"
            )
        await set_and_reload(connection, {name: wanted[name] for name in present})
    return False


async def _position_on_disk(server: LocalServer, state: Running) -> str:
    """While nothing is received, WAL may lie on the disk that was not replayed yet."""
    if state.streams:
        return state.position
    start = state.replayed or state.position
    return (
        latest(state.position, await server.end_of_wal(state.timeline, start, state.segment_bytes, 10.0))
        or state.position
    )


async def set_and_reload(connection: Connection, settings: dict[str, str]) -> None:
    """Raises Refused when a setting does not take effect within 5 s."""
    for name, value in settings.items():
        await connection.execute(f"ALTER SYSTEM SET {name} = {literal(value)}")
    await connection.execute("SELECT pg_reload_conf()")
    deadline = time.monotonic() + STOP_SECONDS
    for name, value in settings.items():
        while (found := await connection.fetchval("SELECT current_setting($1)", name)) != value:
            if time.monotonic() > deadline:
                raise Refused(
                    f"{name} stays {found!r} after it was set: it is given on the server's command line. Remove it "
                    "there."
                )
            await asyncio.sleep(_POLL_SECONDS)


async def wait_until_it_streams(server: LocalServer, host: str, port: int, seconds: float = STREAM_SECONDS) -> Running:
    """Raises NotStreaming with the end of the log."""
    deadline = time.monotonic() + seconds
    receiver, since = None, time.monotonic()
    async with connected(server.login, "see whether it streams") as connection:
        while True:
            state = await read_running(connection)
            if state.receiver_pid != receiver:
                receiver, since = state.receiver_pid, time.monotonic()
            # An upstream that is idle at a segment's begin sends nothing at first; one that refuses ends the receiver.
            agreed = state.streams or (state.receiver == "streaming" and time.monotonic() > since + _AGREED_SECONDS)
            if agreed and files.same_server(state.conninfo, host, port):
                return state
            if time.monotonic() > deadline:
                words = await tail(server.folder / LOG)
                raise NotStreaming(
                    f"PostgreSQL in {server.folder} does not stream from {host}:{port} after {seconds:g} s. The end of "
                    f"its log: {words or '(not kept in the data directory)'}"
                )
            await asyncio.sleep(_POLL_SECONDS)


async def stop_receiving(server: LocalServer) -> str:
    """Takes the upstream away and waits until the receiver is gone; whoever starts it again starts it without one.

    Raises:
        Unreachable: the server does not answer, or the receiver does not end (it is frozen, say) within 5 s.
        Refused: it accepts writes, or the setting is given on its command line.
    """
    if not await server.runs():
        control = await server.control()
        await asyncio.to_thread(_detach, server.folder)
        position = await server.stopped_position(control)
        if position is None:
            raise Unreachable(f"the end of the WAL in {server.folder} was not found in time")
        if not await server.runs():  # else it was started meanwhile, and may have read the file as it was
            return position
    try:
        async with asyncio.timeout(CONFIRM_SECONDS), connected(server.login, "stop its receiver") as connection:
            state = await _without_receiver(connection, server.folder)
    except TimeoutError:
        raise Unreachable(
            f"PostgreSQL in {server.folder} does not answer (it is frozen, say): whether it receives is not known"
        ) from None
    # After its own restart it may have more on its disk, and acknowledged, than it has replayed yet.
    return state.position if state.received is not None else await _position_on_disk(server, state)


async def _without_receiver(connection: Connection, folder: Path) -> Running:
    state = await read_running(connection)
    if not state.in_recovery:
        raise Refused(f"PostgreSQL in {folder} accepts writes: it is no standby")
    if state.conninfo:
        await asyncio.to_thread(files.write_last_source, folder, state.conninfo, state.slot)
    await set_and_reload(connection, {"primary_conninfo": ""})
    deadline = time.monotonic() + STOP_SECONDS
    while (pid := await connection.fetchval("SELECT pid FROM pg_stat_wal_receiver")) is not None:
        if time.monotonic() > deadline:
            raise Unreachable(f"the receiver of PostgreSQL in {folder} (process {pid}) does not end")
        await connection.execute("SELECT pg_terminate_backend($1)", pid)
        await asyncio.sleep(_POLL_SECONDS)
    return await read_running(connection)


def _detach(folder: Path) -> None:
    """Of a stopped server: what a service manager starts from now on is a standby of nobody."""
    present = files.read_auto_conf(folder)
    if present.get("primary_conninfo"):
        files.write_last_source(folder, present["primary_conninfo"], present.get("primary_slot_name", ""))
    files.write_auto_conf(folder, {"primary_conninfo": ""})
