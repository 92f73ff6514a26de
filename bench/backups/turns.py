"""One turn of everybody, and what is held against the limits."""

from __future__ import annotations

import argparse
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from bench import memory
from bench.backups import wal
from bench.backups.data import Source, free_port
from bench.backups.measuring import CommandFailed, Work, cost_of
from bench.backups.ours import BUCKET, FOLDER, OurWorker
from bench.backups.peers import ENCRYPTED, PLAIN, Barman, PgBackRest, Scripts, Tools, remove_restored
from bench.backups.streams import STREAM, JetStream
from bench.backups.table import MEGABYTE, Rows, Verdict
from lab.state import S3Place
from recovery.adapters.s3 import S3Store

PARTS = ("physical", "scripts", "s3", "streams", "wal", "memory")

LIMIT = "`pg_basebackup` streamed to nothing: the limit"
ZSTD = "`pg_basebackup`, `zstd -1 -T2`, to a file"
PGBACKREST, PGBACKREST_SEALED = "pgBackRest", "pgBackRest, encrypted"
OURS = "**ours**, encrypted"
RESTORED, PGBACKREST_RESTORED = "**ours**, restored", "pgBackRest, encrypted, restored"
GZIPPED, DUMPED = "`pg_basebackup -Ft -z`", "`pg_dump -Fc`, gzip, `aws s3 cp`"
OURS_S3, BARMAN = "**ours**, encrypted, to S3", "barman-cloud-backup, to S3"
STREAMS, STREAMS_COMMAND, CONSUMED = "streams: **ours**", "streams: `nats stream backup`", "streams: consumed"
STREAMS_BACK, COMMAND_BACK = "streams: **ours**, restored", "streams: `nats stream restore`"
PUBLISHED = "streams: published"


@dataclass
class Run:
    """What all parts share."""

    arguments: argparse.Namespace
    tools: Tools
    rows: Rows = field(default_factory=Rows)
    verdicts: list[Verdict] = field(default_factory=list)
    words: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    turn: int = 0

    def wants(self, part: str) -> bool:
        return part in self.arguments.only

    async def measure(self, name: str, work: Callable[[], Awaitable[Work]], *servers: int) -> None:
        cost = await cost_of(work, servers)
        self.rows[name].costs.append(cost)
        say(f"{self.turn}/{self.arguments.repetitions} {name}: {cost.seconds:.2f} s, {cost.processor:.1f} s of CPU")


def say(text: str) -> None:
    print(text, flush=True)


# PostgreSQL.


@dataclass
class Physical:
    """One turn of everybody who backs up PostgreSQL. What a turn left is removed before the next measurement."""

    run: Run
    source: Source
    ours: OurWorker
    scripts: Scripts
    pgbackrest: PgBackRest | None
    bucket: S3Place | None

    async def turn(self) -> None:
        if self.run.wants("physical"):
            await self._limits()
            await self._ours()
            await self._pgbackrest()
        if self.run.wants("scripts"):
            await self._measure(GZIPPED, self.scripts.gzipped)
            await self.scripts.clear()
        if self.bucket is not None:
            await self._to_bucket(self.bucket)

    async def _measure(self, name: str, work: Callable[[], Awaitable[Work]]) -> None:
        await self.run.measure(name, work, *self.source.pids)

    async def _limits(self) -> None:
        await self._measure(LIMIT, self.scripts.streamed)
        await self._measure(ZSTD, self.scripts.zstd)
        await self.scripts.clear()

    async def _ours(self) -> None:
        point_id = await self._backup(OURS, FOLDER)
        await self.ours.validate(point_id, self.source.folder / "scratch")
        target = self.source.own_folder("restored")
        target.rmdir()
        await self.run.measure(RESTORED, lambda: self.ours.restore(point_id, target, free_port()))
        await remove_restored(target)
        await self.ours.forget(FOLDER, point_id)

    async def _backup(self, name: str, location: str) -> str:
        taken: list[str] = []

        async def backup() -> Work:
            point_id, work = await self.ours.backup(location)
            taken.append(point_id)
            return work

        await self._measure(name, backup)
        return taken[0]

    async def _pgbackrest(self) -> None:
        pgbackrest = self.pgbackrest
        if pgbackrest is None:
            return
        for name, repository in ((PGBACKREST, PLAIN), (PGBACKREST_SEALED, ENCRYPTED)):
            await self._measure(name, lambda repository=repository: pgbackrest.backup(repository))  # type: ignore[misc]
            await pgbackrest.expire(repository)
        target = self.source.own_folder("restored")
        await self.run.measure(PGBACKREST_RESTORED, lambda: pgbackrest.restore(ENCRYPTED, target))
        await remove_restored(target)

    async def _to_bucket(self, bucket: S3Place) -> None:
        if self.run.wants("s3"):
            point_id = await self._backup(OURS_S3, BUCKET)
            await self.ours.forget(BUCKET, point_id)
            if (barman := self.run.tools.barman) is not None:
                await self._measure(BARMAN, Barman(barman, self.source, bucket).backup)
        if self.run.wants("scripts") and (aws := self.run.tools.aws) is not None:
            await self._measure(DUMPED, lambda: self.scripts.dumped(aws, bucket))
            await self.scripts.clear()
        await _empty(bucket)


async def _empty(bucket: S3Place) -> None:
    store = S3Store("bucket", **s3_arguments(bucket), versioning_required=False)
    try:
        await store.delete([found.key async for found in store.list("")])
    finally:
        await store.close()


def s3_arguments(bucket: S3Place) -> dict[str, Any]:
    return {
        "bucket": bucket.bucket,
        "endpoint_url": bucket.endpoint,
        "access_key": bucket.access_key,
        "secret_key": bucket.secret_key,
    }


async def prepared(run: Run, source: Source) -> PgBackRest | None:
    """pgBackRest, where it is here and knows this server."""
    program = run.tools.pgbackrest
    if program is None or not run.wants("physical"):
        return None
    made = PgBackRest(program, source, source.own_folder("pgbackrest"))
    try:
        await made.prepare()
    except CommandFailed as error:
        run.left_out.append(f"pgBackRest is left out, since it cannot back up PostgreSQL {source.major}: {error}")
        return None
    return made


def judge_physical(rows: Rows) -> list[Verdict]:
    found = rows.ratio("backup beside pgBackRest, both encrypted", OURS, PGBACKREST_SEALED, 0.75)
    found += rows.ratio("backup beside `pg_basebackup`, `zstd -1 -T2`", OURS, ZSTD, 1.15)
    found += rows.ratio("restore beside pgBackRest's", RESTORED, PGBACKREST_RESTORED, 0.95)
    if rows.measured(OURS, PGBACKREST_SEALED):
        share = rows[OURS].processor / rows[PGBACKREST_SEALED].processor
        found.append(Verdict("processor time of a backup beside pgBackRest's, with the server's", share, 1.0, " x"))
    return found


# JetStream.


async def streams_turn(run: Run, server: JetStream, ours: OurWorker) -> None:
    """Each restores what it backed up; afterwards the stream stands as before."""
    messages, nats = run.arguments.messages, run.tools.nats
    taken: list[str] = []

    async def backup() -> Work:
        point_id, work = await ours.backup_streams([STREAM])
        taken.append(point_id)
        return work

    async def restored(name: str, work: Callable[[], Awaitable[Work]]) -> None:
        await server.remove()
        await run.measure(name, work, server.pid)
        await server.holds(messages)

    if nats is not None:
        await run.measure(STREAMS_COMMAND, lambda: server.backup_with(nats), server.pid)
        await restored(COMMAND_BACK, lambda: server.restore_with(nats))
    await run.measure(STREAMS, backup, server.pid)
    await run.measure(CONSUMED, lambda: server.consume(messages), server.pid)
    await restored(PUBLISHED, server.publish)
    await restored(STREAMS_BACK, lambda: ours.restore_streams(taken[0]))
    await ours.forget(FOLDER, taken[0])


def judge_streams(rows: Rows) -> list[Verdict]:
    found = rows.ratio("streams: backup faster than consuming one by one", STREAMS, CONSUMED, 30, inverse=True)
    found += rows.ratio("streams: restore faster than publishing one by one", STREAMS_BACK, PUBLISHED, 15, inverse=True)
    found += rows.ratio("streams: backup beside the `nats` command", STREAMS, STREAMS_COMMAND, 1.2)
    return found + rows.ratio("streams: restore beside the `nats` command", STREAMS_BACK, COMMAND_BACK, 1.2)


# WAL and memory.


async def archive(run: Run, source: Source) -> None:
    await source.archive_with("/bin/true")
    say(f"WAL: pgbench writes for {run.arguments.wal_seconds} s")
    found = await wal.load(source, run.arguments.wal_seconds, source.folder / "wal")
    run.verdicts.append(
        Verdict("WAL: age of what is archived, at worst", found.worst, wal.FLUSH_SECONDS + wal.ALLOWED_SECONDS, " s")
    )
    run.words.append(
        f"WAL: {found.rate / MEGABYTE:.1f} MB a second for {found.seconds:.0f} s; age of what is archived: "
        f"{found.usual:.2f} s at median, {found.worst:.2f} s at worst; {max(found.behind) / MEGABYTE:.1f} MB behind at "
        f"most, {found.behind[-1] / MEGABYTE:.1f} MB at the end."
    )


async def peak_memory(run: Run) -> None:
    megabytes = max(10, run.arguments.size // MEGABYTE)
    say(f"memory: a whole worker with a database of {megabytes} MB")
    peaks = await memory.measure(megabytes)
    phases = ", ".join(f"{phase} {peak.worker:.0f} MB" for phase, peak in peaks.items())
    run.words.append(f"Memory of a worker with its helper processes: {phases}.")
    worst = max(peak.worker for peak in peaks.values())
    run.verdicts.append(Verdict("memory of a worker with its helper processes", worst, memory.MOST, " MB"))
