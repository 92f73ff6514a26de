"""The WAL that an old primary wrote after the fork: put aside, and read for the transactions that it committed."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from recovery.adapters.postgres.diverged_transactions import TransactionReader, name_relations
from recovery.adapters.postgres.local_server import LocalServer
from recovery.adapters.postgres.upstream import identify_upstream
from recovery.adapters.postgres.wal import Control, segment_name
from recovery.adapters.process import Child, clean_environment
from recovery.domain.divergence import Divergence, SavedFile
from recovery.domain.timelines import History, lsn_order, lsn_text
from recovery.errors import RecoveryError, Refused, RestoreFailed
from recovery.ports.postgres import PostgresLogin
from recovery.ports.standby import DivergenceSink

_CHUNK = 1 << 20


@dataclass(frozen=True)
class _Stretch:
    """WAL of one timeline after the fork."""

    timeline: int
    begin: int
    end: int


async def save_divergence(
    server: LocalServer, upstream: PostgresLogin, sink: DivergenceSink, *, effect_id: str
) -> Divergence:
    """See ``PostgresStandbys.save_divergence``."""
    control = await server.control()
    if control.was_primary and await server.runs():
        raise Refused(f"PostgreSQL in {server.folder} runs: it must be stopped before its diverged WAL can be saved")
    # A running standby may follow already, and only another store of its region waits; one that diverged gets nothing
    # more. What is on the disk is all there is to know of both.
    history = await server.stopped_history(control)
    end = await server.stopped_position(control)
    if end is None:
        raise RestoreFailed(f"the end of the WAL in {server.folder} was not found in time: nothing may be wiped there")
    marked = {each.number for each in history.timelines if each.mark}
    theirs = await identify_upstream(upstream, marks_of=marked, segment_bytes=control.segment_bytes)
    fork = history.fork_from(theirs.history)
    if fork is None:
        raise Refused(
            f"{server.folder} and PostgreSQL at {upstream.address} have no common ancestor ({history}; "
            f"{theirs.history}): this is another database cluster"
        )
    if lsn_order(end) <= lsn_order(fork):
        found = _nothing(effect_id, history, end, sink)
    else:
        found = await _save(server, control, history, lsn_order(fork), lsn_order(end), sink, effect_id)
    return await _listed(server, found, _stretches(history, lsn_order(found.fork_lsn), lsn_order(end)), upstream)


def _nothing(effect_id: str, history: History, end: str, sink: DivergenceSink) -> Divergence:
    return Divergence(
        effect_id=effect_id,
        system_identifier=history.system_identifier,
        timeline=history.timeline,
        fork_lsn=end,
        end_lsn=end,
        bytes=0,
        place=sink.place,
    )


def _stretches(history: History, fork: int, end: int) -> list[_Stretch]:
    found = []
    begin = 0
    for each in history.timelines:
        left = min(end, lsn_order(each.left_at)) if each.left_at else end
        if left > fork:
            found.append(_Stretch(each.number, max(begin, fork), left))
        begin = left
    return [stretch for stretch in found if stretch.end > stretch.begin]


async def _save(
    server: LocalServer, control: Control, history: History, fork: int, end: int, sink: DivergenceSink, effect_id: str
) -> Divergence:
    names: list[str] = []
    for stretch in _stretches(history, fork, end):
        if stretch.timeline > 1:
            names.append(f"{stretch.timeline:08X}.history")
        size = control.segment_bytes
        begin = stretch.begin - stretch.begin % size
        names += [segment_name(stretch.timeline, position, size) for position in range(begin, stretch.end, size)]
    files = [await _put_aside(server.folder / "pg_wal" / name, sink) for name in names]
    return _nothing(effect_id, history, lsn_text(end), sink).model_copy(
        update={"fork_lsn": lsn_text(fork), "bytes": end - fork, "files": files}
    )


async def _put_aside(path: Path, sink: DivergenceSink) -> SavedFile:
    digest = hashlib.sha256()
    size = 0

    async def chunks() -> AsyncIterator[bytes]:
        nonlocal size
        with await asyncio.to_thread(path.open, "rb") as file:
            while chunk := await asyncio.to_thread(file.read, _CHUNK):
                digest.update(chunk)
                size += len(chunk)
                yield chunk

    try:
        await sink.store(path.name, chunks())
    except FileNotFoundError:
        if await asyncio.to_thread(path.exists):
            raise
        raise RestoreFailed(
            f"{path} holds WAL that was written after the fork, and it is missing: what it held cannot be saved. "
            "Nothing may be wiped there before you looked at it."
        ) from None
    return SavedFile(name=path.name, size=size, sha256=digest.hexdigest())


async def _listed(
    server: LocalServer, found: Divergence, stretches: list[_Stretch], upstream: PostgresLogin
) -> Divergence:
    reader = TransactionReader()
    for stretch in stretches:
        await _read_records(server, stretch, reader)
    notes = list(found.notes)
    try:
        names = await name_relations(reader.filenodes, upstream)
    except RecoveryError as error:
        names = {}
        notes.append(f"names of relations are not known: {error}")
    return found.model_copy(update={**reader.summary(names), "notes": notes})


async def _read_records(server: LocalServer, stretch: _Stretch, reader: TransactionReader) -> None:
    """Raises RestoreFailed when pg_waldump cannot read to the end."""
    tool = await server.host.binaries.tool(await server.major(), "pg_waldump")
    arguments: list[str | Path] = [
        tool, "--path", server.folder / "pg_wal", "--timeline", str(stretch.timeline),
        "--start", lsn_text(stretch.begin), "--end", lsn_text(stretch.end),
    ]  # fmt: skip
    environment = clean_environment() | {"TZ": "UTC"}
    async with Child(arguments, run_as=server.user, environment=environment) as child:
        rest = b""
        async for chunk in child.chunks():
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                reader.read(line.decode(errors="replace"))
            await asyncio.sleep(0)
        code = await child.wait()
    if code != 0 and "could not find a valid record" not in child.stderr:
        raise RestoreFailed(
            f"WAL from {lsn_text(stretch.begin)} to {lsn_text(stretch.end)} in {server.folder} cannot be read: "
            f"{child.stderr}. Nothing may be wiped there."
        )
